"""Runs a batch on the workers of a Dask cluster that somebody else has started.

A run is one task, and on a worker what it is in the local runner: a child process that ends when
its standard input closes. Results lie on a shared disk: no state of the cluster is needed.
"""

import json
import os
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import IO, Any

from ..core.errors import RunError, in_words
from ..core.storage import fingerprint, write_atomic
from . import runner
from .planning import Run

NANNY = (*runner.THREADS, "MALLOC_TRIM_THRESHOLD_")  # Dask sets these in a worker to its own ends
CLIENT_SECONDS = 30  # to find the scheduler, and a first worker
REFUSAL = "Nothing was started, for these workers differ from this machine:"
_BATCHES: dict[str, dict] = {}  # on a worker: the children of each batch
_AT_WORK: Counter = Counter()  # on a worker: attempts that have not ended, by batch
_ENDED: set[str] = set()  # on a worker: batches that were stopped


@dataclass(frozen=True)
class Batch:
    """What a worker has to know of the batch."""

    token: str
    variables: Mapping[str, str]
    proof: Path
    identity: Mapping[str, Any]
    slots: Mapping[str, int]


def run_batch(
    runs: Sequence[Run],
    scheduler: str,
    resources: Mapping[str, float],
    out: Path,
    stream: IO[str] | None = None,
) -> list[runner.Outcome]:
    """What ``runner.run_batch`` does, on the workers of ``scheduler``.

    ``scheduler`` is an address or the file that it wrote; ``resources``, as ``{"GPU": 1}``, is what
    each run takes of its worker alone; ``out`` holds the runs' folders, on a disk that all share.

    Raises:
        RunError: if there is no scheduler or worker, or a worker differs from this machine.
    """
    try:
        from distributed import Client
    except ImportError:
        raise RunError("--scheduler needs Dask: pip install 'medrobust[cluster]'.") from None
    place = {"scheduler_file" if Path(scheduler).is_file() else "address": scheduler}
    token = uuid.uuid4().hex
    proof = out.resolve() / f".shared-{token}"
    proof.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(proof, token.encode())
    absolute, names = runner.surroundings(os.environ, 1), (*NANNY, *runner.FOLDERS)
    variables = {name: absolute[name] for name in names if os.environ.get(name)}
    try:
        try:
            client = Client(**place, timeout=CLIENT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise RunError(f"There is no scheduler at {scheduler}: {in_words(error)}") from error
        with client:
            batch = Batch(token, variables, proof, identity(variables), _slots(client, resources))
            answers = client.run(differences, batch, on_error="return")
            if wrong := [f"  {worker}: {said}" for worker, said in answers.items() if said]:
                raise RunError("\n".join([REFUSAL, *wrong]))
            return _run(client, batch, runs, resources, stream or sys.stdout)
    finally:
        proof.unlink(missing_ok=True)


def _run(
    client: Any, batch: Batch, runs: Sequence[Run], resources: Mapping[str, float], stream: IO[str]
) -> list[runner.Outcome]:
    """Submit what is unfinished and follow it; on Ctrl-C, end it wherever it is."""
    executor = client.get_executor(pure=False, resources=dict(resources))
    futures = [Future() for _ in runs]
    for run, future in zip(runs, futures, strict=True):
        if runner.is_complete(run.folder):
            future.set_result(runner.Outcome(run, "skipped"))
        else:
            task = executor.submit(attempt, run, batch)
            task.add_done_callback(partial(_judge, run, future))

    def stop() -> None:
        with suppress(OSError, RuntimeError):  # the scheduler may be gone
            executor.shutdown(wait=False)  # a queued task is cancelled, a running one cannot be
            while any(client.run(end, batch.token, on_error="ignore").values()):
                pass

    return runner.follow(runs, futures, stop, stream)


def _judge(run: Run, future: Future, task: Future) -> None:
    """Hand a task's outcome on to ``future``, or make one of what has happened to it."""
    from distributed import KilledWorker

    error = None if task.cancelled() else task.exception()
    if task.cancelled():  # so are all when the scheduler is lost: what is finished is kept
        outcome = runner.Outcome(run, "stopped")
    elif error is None:
        outcome = task.result()
    else:
        said = in_words(error)
        if isinstance(error, KilledWorker):
            said = f"its worker was lost each time, lastly {error.last_worker.address}; see its log"
        outcome = runner.Outcome(run, "failed", error=said)
    future.set_result(outcome)


def _slots(client: Any, resources: Mapping[str, float]) -> dict[str, int]:
    """How many runs each host can have at a time, by the workers that are there."""
    try:
        client.wait_for_workers(1, timeout=CLIENT_SECONDS)
    except TimeoutError:
        raise RunError("The scheduler has no workers yet: start them first.") from None
    slots = Counter()
    for worker in client.scheduler_info(n_workers=-1)["workers"].values():
        has = worker.get("resources", {})
        fits = [has.get(name, 0) // number for name, number in resources.items()]
        slots[worker["host"]] += int(min([worker["nthreads"], *fits]))
    if not any(slots.values()):
        wanted = ", ".join(f"{name}={number}" for name, number in resources.items())
        raise RunError(f"No worker has {wanted}: start them with --resources '{wanted}'.")
    return dict(slots)


@cache
def _software() -> dict[str, Any]:
    """Versions and commit, told by a process of its own: torch must not hold a worker's memory."""
    code = "import json; from medrobust_utils.core import env; print(json.dumps(env.provenance()))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if said.returncode:
        return {"medrobust": said.stderr.strip().rpartition("\n")[2]}
    found = json.loads(said.stdout)
    names = ("git_commit", "package_version", "python", "platform")
    return found["versions"] | {name: found[name] for name in names}


def identity(variables: Mapping[str, str]) -> dict[str, Any]:
    """What must be the same on all machines for their rows to belong into one table."""
    folder = variables.get("MEDROBUST_DATA", "")
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else None
    return _software() | {"data folder": names and fingerprint(names)}


def differences(batch: Batch) -> str:
    """On a worker: in what it differs from the client, as a sentence; "" if in nothing."""
    mine, wanted = identity(batch.variables), batch.identity.items()
    found = [f"{k} is {mine.get(k)}, not {value}" for k, value in wanted if mine.get(k) != value]
    with suppress(OSError):
        os.listdir(batch.proof.parent)  # NFS looks anew
    if not batch.proof.exists():
        found.append(f"{batch.proof.parent} is not the client's: results need a shared disk")
    return "; ".join(found)


def attempt(run: Run, batch: Batch) -> runner.Outcome:
    """On a worker: run one notebook in a process of its own, unless it was finished."""
    from distributed import get_worker

    worker = get_worker()
    if differs := differences(batch):  # it came after the batch was started
        return runner.Outcome(run, "failed", error=f"the worker differs: {differs}")
    own = {name: value for name, value in os.environ.items() if name not in NANNY}
    host = worker.address.rpartition("://")[2].rpartition(":")[0].strip("[]")
    jobs = max(1, batch.slots.get(host, worker.state.nthreads))
    environment = runner.surroundings(own | batch.variables, jobs)
    _AT_WORK[batch.token] += 1
    try:
        if batch.token in _ENDED:
            return runner.Outcome(run, "stopped")
        outcome = runner.attempt(run, environment, _BATCHES.setdefault(batch.token, {}))
        return replace(outcome, worker=str(worker.name))
    finally:
        _AT_WORK[batch.token] -= 1


def end(token: str) -> int:
    """On a worker: end what runs of a batch; returns how many attempts have not ended yet."""
    _ENDED.add(token)  # for attempts that are about to begin
    runner.end(_BATCHES.get(token, {}))
    return _AT_WORK[token]
