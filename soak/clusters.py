"""Batches on a local cluster of which a part is lost at a random moment, seed by seed.

``lose`` starts a scheduler and two workers, sends a batch there, and kills with -9 a worker, each
worker that takes a run up, the scheduler or the client; or it interrupts the client, or a notebook
eats more memory than there is. The system's lock works, is missing, or sees no other machine. The
batch ends as docs/cluster.md says; no process is left; the same command then ends it, here, with
the rows of an undisturbed one and no finished run done again.
"""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import psutil
import stages
import test_cluster
import tiny
import torch

from medrobust_utils.reporting import cluster, planning, runner

VICTIMS = ("a worker", "every worker", "the scheduler", "the client", "Ctrl-C", "memory")
SAID = {  # exit status, and what the last lines say
    "a worker": (0, "4 done"),
    "every worker": (1, "its worker was lost each time"),
    "the scheduler": (130, "stopped"),
    "the client": (-signal.SIGKILL, ""),
    "Ctrl-C": (130, "stopped"),
    "memory": (1, "1 failed"),
}
LOSSES = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}  # two workers, not four
STEP = "import os, time\nprint(SEED, file=open(NAME, 'a'))\ntime.sleep(0.3)"
EAT = stages.EAT.replace('os.environ.get("EAT")', "os.path.exists(NAME + '-eat')")


def left(folder: Path) -> list[str]:
    """Processes that were started for ``folder`` and are still there."""
    found = psutil.process_iter(["cmdline"])
    lines = [" ".join(process.info["cmdline"] or ()) for process in found]
    return [line for line in lines if str(folder) in line]


def lose(seed: int, folder: Path) -> int:
    """One batch that loses a part; how many of its four runs it had finished.

    Raises:
        AssertionError: if the batch ended otherwise than documented, or with other rows.
    """
    draw, victim = random.Random(seed), VICTIMS[seed % len(VICTIMS)]
    lock = draw.choice(["sound", *test_cluster.FLOCKS])
    if lock != "sound":
        patch = f"import filelock\n{test_cluster.FLOCKS[lock]}\nfilelock.FileLock.acquire = acquire"
        (folder / "sitecustomize.py").write_text(patch)
    path = tiny.notebook(folder, "slow", STEP, EAT, *["time.sleep(0.3)"] * 4, test_cluster.SUM)
    given = [("SEED", "0,1,2,3"), ("NAME", str(folder / "begun"))]
    (folder / "begun-eat").write_text("") if victim == "memory" else None
    command = [*test_cluster.RUN, str(path), "--out", str(folder / "out")]
    command += [word for name, values in given for word in ("-p", name, values)]
    places = {"PYTHONPATH": f"{folder}{os.pathsep}{os.environ['PYTHONPATH']}"}
    with test_cluster.started(folder, **LOSSES | places) as local:
        client = subprocess.Popen(
            [*command, "--scheduler", str(local.file)],
            env=os.environ | places,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        while not any((folder / "out").rglob(".lease")) and client.poll() is None:
            time.sleep(0.05)
        time.sleep(draw.uniform(0, 2))
        hurt(victim, local, client, draw, folder)
        said, _ = client.communicate(timeout=180)
        status, words = SAID[victim]
        assert client.returncode == status and words in said, (
            f"{victim}: {client.returncode} {said}"
        )
        if victim == "the client":  # its running notebooks go on
            runs = planning.plan([path], None, given, folder / "out")
            again = cluster.run_batch(runs, str(local.file), {}, folder / "out", io.StringIO())
            assert {one.status for one in again} <= {"done", "skipped"}, again
    deadline = time.monotonic() + 20
    while (found := left(folder)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not found, f"{victim}: {found} is left"
    (folder / "begun-eat").unlink(missing_ok=True)
    finished = sum(map(runner.is_complete, (folder / "out" / "slow").iterdir()))
    begun = len((folder / "begun").read_text().split())
    done = subprocess.run([*command, "--jobs", "2"], env=os.environ | places, capture_output=True)
    assert done.returncode == 0, f"{victim}: {done.stdout} {done.stderr}"
    assert len((folder / "begun").read_text().split()) == begun + 4 - finished, "done again"
    for run in planning.plan([path], None, given, folder / "out"):
        torch.manual_seed(run.parameters["SEED"])
        wanted = [repr(float(torch.randn(999).exp().sum()))]
        rows = json.loads((run.folder / "result.json").read_text())["warnings"]
        assert rows == wanted, f"{victim}: {run} has other rows"
    return finished


def hurt(victim: str, local, client: subprocess.Popen, draw: random.Random, folder: Path) -> None:
    """Take away what ``victim`` names."""
    if victim == "a worker":
        test_cluster.kill(draw.choice(local.workers))
    elif victim == "the scheduler":
        local.scheduler.kill()
    elif victim == "the client":
        client.kill()
    elif victim == "Ctrl-C":
        client.send_signal(signal.SIGINT)
    while victim == "every worker" and client.poll() is None:
        if any((folder / "out").rglob(".lease")):
            for worker in filter(lambda one: one.poll() is None, local.workers):
                test_cluster.kill(worker)
            local.add_workers(2)
        time.sleep(0.1)


def overhead(workers: int, seconds: float = 20, each: int = 2) -> dict[str, float]:
    """What a run takes above its ``seconds`` of sleep: on ``workers`` of a cluster, and locally.

    Seconds of the wall clock for each of the ``each`` runs that a worker does one after another.
    """
    from distributed import LocalCluster

    how = {"threads_per_worker": 1, "memory_limit": 0, "dashboard_address": ":0"}
    found = {"runs": workers * each}
    with tempfile.TemporaryDirectory() as scratch:
        path = tiny.notebook(
            Path(scratch), "sleeps", f"import time; time.sleep({seconds})", tiny.SAVE
        )
        seeds = ("SEED", ",".join(map(str, range(workers * each))))
        for kind in ("cluster", "local"):
            out = Path(scratch, kind)
            runs = planning.plan([path], None, [seeds], out)
            with LocalCluster(workers, **how) if kind == "cluster" else nullcontext() as there:
                begun = time.monotonic()
                if there:
                    outcomes = cluster.run_batch(
                        runs, there.scheduler_address, {}, out, io.StringIO()
                    )
                else:
                    outcomes = runner.run_batch(runs, workers, io.StringIO())
                assert {one.status for one in outcomes} == {"done"}, outcomes
                found[kind] = round((time.monotonic() - begun) / each - seconds, 1)
    return found
