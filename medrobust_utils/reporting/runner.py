"""Runs notebooks in batches: each in its own process, several at a time, none of them twice."""

import csv
import fcntl
import io
import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..core.errors import RunError
from ..core.storage import write_atomic
from . import results
from .planning import Run
from .progress import Display

SECONDS_TO_STOP = 15
PATH_VARIABLES = ("MEDROBUST_DATA", "MEDROBUST_WEIGHTS", "MEDROBUST_HOME")
SUMMARY_COLUMNS = ("notebook", "run", "status", "seconds", "peak_mb", "parameters", "error")


@dataclass(frozen=True)
class Outcome:
    """How a run ended: "done", "kept" (finished earlier), "failed" or "stopped"."""

    run: Run
    status: str
    seconds: float | None = None
    peak_mb: float | None = None
    error: str = ""


def is_complete(folder: Path) -> bool:
    """Whether ``folder`` holds the record of a finished run."""
    try:
        return results.read(folder / "result.json")["status"] == "complete"
    except RunError:
        return False


def run_batch(runs: Sequence[Run], jobs: int = 1, stream: IO[str] | None = None) -> list[Outcome]:
    """Run all ``runs``, ``jobs`` at a time, and return one outcome per run, in their order.

    A failure stops none of the others. On Ctrl-C the running notebooks are ended and the outcome
    of what is unfinished is "stopped"; the same call later goes on from there.
    """
    batch = _Batch(runs, jobs, stream or sys.stdout)
    threads = [threading.Thread(target=batch.work, daemon=True) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads):
            threads[0].join(0.1)
            threads[-1].join(0.1)
    except KeyboardInterrupt:
        batch.stop()
        for thread in threads:
            thread.join(SECONDS_TO_STOP)
    batch.display.clear()
    return [batch.outcomes.get(run.folder, Outcome(run, "stopped")) for run in runs]


class _Batch:
    """The queue that the worker threads share, and what became of each run."""

    def __init__(self, runs: Sequence[Run], jobs: int, stream: IO[str]):
        self.queue = deque(runs)
        self.total = len(runs)
        self.display = Display(stream)
        self.outcomes: dict[Path, Outcome] = {}
        self.environment = _environment(jobs)
        self.children: set[subprocess.Popen] = set()
        self.stopping = threading.Event()

    def work(self) -> None:
        """Take runs from the queue until it is empty; one thread of several."""
        waiting = False
        while not self.stopping.is_set():
            try:
                run = self.queue.popleft()
            except IndexError:
                return
            outcome = self._attempt(run)
            if outcome is None:  # another runner has it: the others first, then look again
                if not waiting:
                    self.display.line(f"{run}: another runner is at it, waiting")
                waiting = True
                self.queue.append(run)
                self.stopping.wait(1)
                continue
            self.outcomes[run.folder] = outcome
            self.display.done(run.folder)
            if not self.stopping.is_set():
                self.display.line(f"[{len(self.outcomes)}/{self.total}] {_sentence(outcome)}")

    def _attempt(self, run: Run) -> Outcome | None:
        """Run it, keep it as it is when it was finished, or None when another runner holds it."""
        try:
            with _locked(run.folder) as lock:
                if lock is None:
                    return None
                if is_complete(run.folder):
                    return Outcome(run, "kept")
                return self._execute(run, lock)
        except Exception as error:  # a full disk, say: it must not take the other runs along
            return Outcome(run, "failed", error=f"{type(error).__name__}: {error}")

    def _execute(self, run: Run, lock: int) -> Outcome:
        """Start the notebook's process, follow its messages, and judge what it left behind."""
        log = run.folder / "log.txt"
        for stale in ("result.json", "failure.txt"):
            (run.folder / stale).unlink(missing_ok=True)
        with log.open("w") as stderr:
            child = subprocess.Popen(
                [sys.executable, "-m", "medrobust_utils.reporting.execution"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=self.environment,
                pass_fds=(lock,),  # the lock lasts as long as the child, even if we are killed
                start_new_session=True,  # Ctrl-C reaches the runner alone, which ends the child
            )
            self.children.add(child)
            if self.stopping.is_set():
                child.stdin.close()
            last, end = self._follow(run, child)
            self.children.discard(child)
        if not log.stat().st_size:
            log.unlink()
        return self._judge(run, last, end, child.returncode)

    def _follow(self, run: Run, child: subprocess.Popen) -> tuple[dict, dict | None]:
        """Hand the child its job and read its messages: the last cell begun, and the end."""
        last, end = {}, None
        job = {
            "notebook": str(run.notebook.path.resolve()),
            "executed": str(run.folder / "executed.ipynb"),
            "parameters": run.parameters,
        }
        with suppress(OSError, ValueError):  # it died at once, or we were stopped meanwhile
            child.stdin.write(json.dumps(job) + "\n")
            child.stdin.flush()
        for line in child.stdout:
            message = json.loads(line)
            if "cell" in message:
                last = message
                self.display.update(run.folder, f"{run}: cell {message['cell']}/{message['of']}")
            else:
                end = message
        child.wait()
        for pipe in (child.stdin, child.stdout):
            _close(pipe)
        return last, end

    def _judge(self, run: Run, last: dict, end: dict | None, code: int) -> Outcome:
        """Turn the end of a process into an outcome, and leave a failure.txt where it failed."""
        if self.stopping.is_set() and (end is None or end["error"]):
            return Outcome(run, "stopped")
        if end is None:
            end = {"error": f"the notebook's process ended with status {code}; see log.txt"}
        if not end["error"] and not is_complete(run.folder):
            end["error"] = "the notebook ended without a complete result.json"
            last = {}
        numbers = (end.get("seconds"), end.get("peak_mb"))
        if not end["error"]:
            return Outcome(run, "done", *numbers)
        where = f'cell {last["cell"]}/{last["of"]} "{last["line"]}": ' if last else ""
        error = where + end["error"]
        (run.folder / "failure.txt").write_text(f"{run}: {error}\n\n{end.get('traceback', '')}")
        return Outcome(run, "failed", *numbers, error)

    def stop(self) -> None:
        """End all children: each one ends itself and its kernel when its input closes."""
        self.stopping.set()
        for child in list(self.children):
            _close(child.stdin)


@contextmanager
def _locked(folder: Path) -> Iterator[int | None]:
    """Hold the run's lock file while the block runs; gives None when another process holds it.

    The system itself releases the lock when its holders have died, so none is ever stale.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        except OSError:
            pass  # some mounted drives know no locks: better to run than to refuse
        yield handle
    finally:
        os.close(handle)


def _environment(jobs: int) -> dict[str, str]:
    """The children's environment: threads shared out, folders absolute, figures drawn inline."""
    environment = dict(os.environ)
    threads = str(max(1, _cores() // jobs))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        environment.setdefault(name, threads)
    for name in PATH_VARIABLES:  # notebooks run in their own folder
        if environment.get(name):
            environment[name] = str(Path(environment[name]).expanduser().resolve())
    environment.pop("MPLBACKEND", None)  # Agg would keep the figures out of the notebook
    environment["MEDROBUST_HEADLESS"] = "1"
    environment["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    return environment


def _cores() -> int:
    """Cores this process may use, which in a container are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _close(pipe: IO[str]) -> None:
    with suppress(OSError):  # what was still to be written has no reader any more
        pipe.close()


def _sentence(outcome: Outcome) -> str:
    seconds = f" in {outcome.seconds:.0f} s" if outcome.seconds is not None else ""
    if outcome.status == "failed":
        return f"{outcome.run}: FAILED{seconds}: {outcome.error}\n  {outcome.run.folder}"
    if outcome.status == "kept":
        return f"{outcome.run}: finished earlier, kept"
    return f"{outcome.run}: {outcome.status}{seconds}"


def write_summary(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write one CSV line per run; the file is replaced as a whole."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(SUMMARY_COLUMNS)
    for o in outcomes:
        numbers = ["" if n is None else f"{n:.1f}" for n in (o.seconds, o.peak_mb)]
        values = {name: value for name, value in o.run.parameters.items() if name != "OUT"}
        row = [o.run.notebook.name, o.run.id, o.status, *numbers, json.dumps(values), o.error]
        writer.writerow(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.getvalue().encode())
