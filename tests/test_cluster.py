"""Batches on a real local cluster: spread, refused, and gone on with whatever is killed."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

import psutil
import pytest
import tiny

from medrobust_utils.core.errors import RunError
from medrobust_utils.core.storage import Lease
from medrobust_utils.reporting import cluster, planning, runner

RUN = [sys.executable, "-m", "medrobust_utils", "run"]
QUIET = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}  # a task loses one worker, not four
MINE = ["OMP_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_", "CUDA_VISIBLE_DEVICES"]
SHOW = f"import os\nmine = [os.environ.get(name, '') for name in {MINE}]\nprint(*mine, sep='|')"
WAIT = (
    "import os, time\nif not os.path.exists(NAME + '-gate'):\n"
    "    pipe = open(NAME, 'w')\n    print('here', file=pipe, flush=True)\n"
    "    while not os.path.exists(NAME + '-go'): time.sleep(0.05)"
)
SUM = tiny.SAVE.replace(
    "Path(OUT",
    "import torch; torch.manual_seed(SEED)\n"
    "record['warnings'] = [repr(float(torch.randn(999).exp().sum()))]\nPath(OUT",
)


def kill(process):
    """End a process and all of its own, as the loss of its node would."""
    for one in [*psutil.Process(process.pid).children(recursive=True), process]:
        one.kill()
    process.wait()


class Local:
    """A scheduler and workers with a GPU each (faked), in processes of their own."""

    def __init__(self, folder, workers=2, **variables):
        self.file = folder / "dask.json"
        self.surroundings = os.environ | QUIET | variables
        for name in MINE:
            self.surroundings.pop(name, None)
        options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
        self.scheduler = self.start("scheduler", *options)
        self.folder, self.workers = folder, []
        self.add_workers(workers)

    def add_workers(self, count):
        """More of them, each with a GPU of its own."""
        options = ["--host", "127.0.0.1", "--nthreads", "1", "--no-dashboard"]
        options += ["--memory-limit", "400 MB", "--resources", "GPU=1", "--death-timeout", "60"]
        options += ["--local-directory", str(self.folder)]
        for index in range(len(self.workers), len(self.workers) + count):
            self.surroundings["CUDA_VISIBLE_DEVICES"] = str(index)
            self.workers.append(self.start("worker", "--name", f"w{index}", *options))

    def start(self, what, *options):
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}"]
        command += ["--scheduler-file", str(self.file), *options]
        output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, env=self.surroundings, **output)

    def wait(self):
        """Until the scheduler has all of the workers."""
        from distributed import Client

        while not self.file.exists():
            assert self.scheduler.poll() is None
            os.sched_yield()
        with Client(scheduler_file=str(self.file), timeout=120, set_as_default=False) as client:
            client.wait_for_workers(len(self.workers), timeout=120)
        return self

    def end(self):
        for process in (*self.workers, self.scheduler):
            if process.poll() is None:
                kill(process)


@contextmanager
def started(folder, **options):
    local = Local(folder, **options)
    with ExitStack() as stack:
        stack.callback(local.end)
        yield local.wait()


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    with started(tmp_path_factory.mktemp("cluster")) as local:
        yield local


def statuses(out):
    return [row["status"] for row in csv.DictReader((out / "summary.csv").open())]


def client(local, path, out, pipe, *more):
    """The command, with what it says to a pipe; Ctrl-C is not ignored."""
    command = [*RUN, str(path), "-p", "NAME", str(pipe), "--out", str(out), *more]
    victim = subprocess.Popen(
        [*command, "--scheduler", str(local.file), "--resource", "GPU=1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )

    def release():
        """A reader who waits for a notebook that never came is let go."""
        victim.wait()
        with suppress(OSError):
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))

    threading.Thread(target=release, daemon=True).start()
    return victim


def test_rows_equal_a_local_run_and_workers_share_the_node(local, tmp_path, monkeypatch):
    cores = len(os.sched_getaffinity(0))
    for name in MINE:
        monkeypatch.delenv(name, raising=False)
    path, said = tiny.notebook(tmp_path, "tiny", SHOW, SUM), io.StringIO()
    plans = [planning.plan([path], None, [("SEED", "0,1,2,3")], tmp_path / o) for o in "ab"]
    here = runner.run_batch(plans[0], 2, io.StringIO())
    there = cluster.run_batch(plans[1], str(local.file), {"GPU": 1}, tmp_path / "b", said)
    assert [o.status for o in (*here, *there)] == ["done"] * 8, there
    assert {o.worker for o in there} == {"w0", "w1"} and "at w1: done in" in said.getvalue()
    rows = [
        [json.loads((r.folder / "result.json").read_text())["warnings"] for r in p] for p in plans
    ]
    assert rows[0] == rows[1]
    for outcome in there:
        text = (outcome.run.folder / "executed.ipynb").read_text()
        kept = runner.ALLOCATOR["MALLOC_TRIM_THRESHOLD_"]  # the kit's own, not Dask's
        assert f"{max(1, cores // 2)}|{kept}|{outcome.worker[1]}\\n" in text
    again = cluster.run_batch(plans[1], str(local.file), {"GPU": 1}, tmp_path / "b", said)
    assert [o.status for o in again] == ["skipped"] * 4
    assert not list((tmp_path / "b").glob(".shared-*")) and not list(tmp_path.rglob(".lease"))


def test_other_software_or_disk_is_refused_before_anything_starts(local, tmp_path, monkeypatch):
    runs = planning.plan([tiny.notebook(tmp_path, "tiny", tiny.SAVE)], out=tmp_path / "out")
    ours = cluster.identity({})
    monkeypatch.setattr(cluster, "identity", lambda _: ours | {"git_commit": "another"})
    with pytest.raises(RunError, match="(?s)Nothing was started.*git_commit is .*, not another"):
        cluster.run_batch(runs, str(local.file), {}, tmp_path / "out")
    with pytest.raises(RunError, match="No worker has TPU=1"):
        cluster.run_batch(runs, str(local.file), {"TPU": 1}, tmp_path / "out")
    assert not runs[0].folder.exists()
    batch = cluster.Batch("x", {}, tmp_path / "gone" / "file", {}, {})
    assert "results need a shared disk" in cluster.differences(batch)


def test_a_worker_s_memory_limit_does_not_end_a_notebook_that_needs_more(local, tmp_path):
    path = tiny.notebook(tmp_path, "eats", "block = b'x' * 600_000_000", tiny.SAVE)
    runs = planning.plan([path], out=tmp_path)
    (outcome,) = cluster.run_batch(runs, str(local.file), {}, tmp_path, io.StringIO())
    assert outcome.status == "done" and outcome.peak_mb > 550


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "client killed"])
def test_a_client_that_ends_leaves_no_run_half_done(local, tmp_path, how):
    path, pipe, out = (
        tiny.notebook(tmp_path, "slow", WAIT, tiny.SAVE),
        tmp_path / "p",
        tmp_path / "o",
    )
    os.mkfifo(pipe)
    victim = client(local, path, out, pipe)
    with pipe.open() as kernel:
        assert kernel.readline() == "here\n", victim.poll() and victim.communicate()[0]
        victim.send_signal(how)
        printed, _ = victim.communicate()
        if how == signal.SIGKILL:
            (tmp_path / "p-go").touch()  # its run goes on to the end
        assert kernel.read() == "", "the notebook ended"
    if how == signal.SIGINT:
        assert victim.returncode == 130 and "1 stopped" in printed, printed
    (tmp_path / "p-gate").touch()
    again = client(local, path, out, pipe)
    printed, _ = again.communicate()
    assert again.returncode == 0, printed
    assert statuses(out)[0] in ("done", "skipped")


def test_another_worker_takes_over_what_a_lost_one_had_with_the_same_rows(tmp_path):
    path, pipe = tiny.notebook(tmp_path, "slow", WAIT, SUM), tmp_path / "p"
    os.mkfifo(pipe)
    with started(tmp_path, **{name: "3" for name in QUIET}) as local:
        command = client(local, path, tmp_path / "there", pipe)
        with pipe.open() as kernel:
            assert kernel.readline() == "here\n", command.poll() and command.communicate()[0]
            (tmp_path / "p-gate").touch()  # the second time, nobody waits
            (lease,) = (tmp_path / "there").rglob(".lease")
            holder = psutil.Process(int(lease.read_text().split()[1]))
            places = [psutil.Process(worker.pid) in holder.parents() for worker in local.workers]
            kill(local.workers[places.index(True)])
            assert kernel.read() == "", "the notebook ends with its worker"
        printed, _ = command.communicate()
    assert command.returncode == 0 and f"at w{places.index(False)}: done" in printed, printed
    rows = []
    for place in ("here", "there"):
        (run,) = planning.plan([path], None, [("NAME", str(pipe))], tmp_path / place)
        (outcome,) = runner.run_batch([run], 1, io.StringIO())
        assert outcome.status == {"here": "done", "there": "skipped"}[place]
        rows.append(json.loads((run.folder / "result.json").read_text())["warnings"])
    assert rows[0] == rows[1]


@pytest.mark.parametrize("lost", ["worker", "scheduler"])
def test_what_is_lost_in_mid_run_costs_no_finished_run(tmp_path, lost):
    path, pipe, out = (
        tiny.notebook(tmp_path, "slow", WAIT, tiny.SAVE),
        tmp_path / "p",
        tmp_path / "o",
    )
    os.mkfifo(pipe)
    with started(tmp_path, workers=1) as local:
        local.surroundings.update(QUIET)
        victim = client(local, path, out, pipe)
        with pipe.open() as kernel:
            assert kernel.readline() == "here\n", victim.poll() and victim.communicate()[0]
            if lost == "worker":
                kill_only = [local.workers[0], *psutil.Process(local.workers[0].pid).children()]
                for process in kill_only:
                    process.kill()  # the notebook's own process is not touched
            else:
                local.scheduler.kill()
            assert kernel.read() == "", "the notebook ends with its worker"
        printed, _ = victim.communicate()
    if lost == "worker":
        assert victim.returncode == 1 and "its worker was lost each time" in printed, printed
    else:
        assert victim.returncode == 130 and "1 stopped" in printed, printed
    (tmp_path / "p-gate").touch()
    runs = planning.plan([path], None, [("NAME", str(pipe))], out)
    assert [o.status for o in runner.run_batch(runs, 1, io.StringIO())] == ["done"]


FLOCKS = {
    "missing": "def acquire(self, *a, **k): raise OSError(38, 'no locks')",
    "blind": "def acquire(self, *a, **k): pass",
}


@pytest.mark.parametrize("flock", FLOCKS.values(), ids=FLOCKS)
def test_where_flock_does_not_hold_the_lease_does(tmp_path, monkeypatch, flock):
    lines = f"import filelock\n{flock}\nfilelock.FileLock.acquire = acquire"
    (tmp_path / "sitecustomize.py").write_text(lines)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    count = "print('executed', file=open(NAME, 'a'))"
    path = tiny.notebook(tmp_path, "tiny", count, tiny.SAVE)
    runs = planning.plan([path], None, [("NAME", str(tmp_path / "count"))], tmp_path)
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(runner.run_batch, [runs, runs], [1, 1], [io.StringIO()] * 2))
    assert [outcome.status for outcomes in both for outcome in outcomes] == ["done", "done"]
    assert (tmp_path / "count").read_text() == "executed\n"


@pytest.mark.parametrize("holder", ["another-host 7 1.0 x", f"{os.uname().nodename} 1 0.0 x", ""])
def test_a_lease_whose_holder_is_gone_is_taken_over(tmp_path, holder):
    path = tmp_path / ".lease"
    path.write_text(holder)
    if not holder.startswith(os.uname().nodename):
        os.utime(path, (1, 1))  # renewed by nobody for long
    lease = Lease(path, lost=lambda: None)
    lease.acquire()
    assert path.read_text() == lease.token
    lease.release()
    assert not list(tmp_path.iterdir())
