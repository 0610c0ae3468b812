"""Runs notebooks in batches: each in a process of its own, several at a time, none of them twice.

A thread starts a child for each run (this module as a script) and waits for it. The child holds the
run's lock, has papermill execute the notebook, and ends with its kernel when its standard input
closes: when the runner stops it, or is no more, whatever killed it.
"""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import filelock
import papermill
import psutil
from jupyter_client.provisioning import local_provisioner
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from ..core.errors import RunError, in_words
from ..core.storage import Lease, write_atomic
from . import results
from .planning import Run

KERNEL_START_SECONDS = 300  # a busy machine needs longer than papermill's minute
LEASE = ".lease"  # in the folder of a run that is at work, on whichever machine
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# so that glibc keeps what a step frees for the next one; docs/performance.md has what that brings
ALLOCATOR = dict(MALLOC_MMAP_MAX_="0", MALLOC_TRIM_THRESHOLD_="9" * 11, MALLOC_TOP_PAD_="9" * 8)
FOLDERS = ("MEDROBUST_DATA", "MEDROBUST_WEIGHTS", "MEDROBUST_HOME")
STOPPED = 3  # the exit status of a child whose runner has gone
ADDED = {"injected-parameters", "papermill-error-cell-tag"}  # tags of papermill's own cells


@dataclass(frozen=True)
class Outcome:
    """How a run ended: "done", "skipped" (finished earlier), "failed" or "stopped"."""

    run: Run
    status: str
    seconds: float = 0.0
    peak_mb: float = 0.0
    error: str = ""
    worker: str = ""  # the one of a cluster that ran it


def is_complete(folder: Path) -> bool:
    """Whether ``folder`` holds the record of a finished run."""
    with suppress(RunError):
        return results.read(folder)["status"] == "complete"
    return False


def run_batch(runs: Sequence[Run], jobs: int = 1, stream: IO[str] | None = None) -> list[Outcome]:
    """Run all ``runs``, ``jobs`` at a time, and return one outcome per run, in their order.

    A failure stops none of the others. On Ctrl-C the running notebooks are ended and the outcome
    of what is unfinished is "stopped"; the same call later goes on from there.
    """
    children = {}
    with ThreadPoolExecutor(jobs) as pool:
        environment = surroundings(os.environ, jobs)
        futures = [pool.submit(attempt, run, environment, children) for run in runs]

        def stop() -> None:
            pool.shutdown(wait=False, cancel_futures=True)
            while any(future.running() for future in futures):
                end(children)
                wait(futures, 0.1)

        return follow(runs, futures, stop, stream or sys.stdout)


def follow(
    runs: Sequence[Run], futures: Sequence[Future], stop: Callable[[], None], stream: IO[str]
) -> list[Outcome]:
    """Tell of each outcome as it comes, wherever it is made, and call ``stop`` on Ctrl-C."""
    outcomes, pending = {}, dict(zip(futures, runs, strict=True))
    bar = tqdm(total=len(runs), file=stream, disable=None, dynamic_ncols=True, leave=False)
    try:
        while pending:
            for future in wait(pending, 1, FIRST_COMPLETED).done:
                run = pending.pop(future)
                if future.cancelled():
                    continue
                outcome = outcomes[run.folder] = future.result()
                end = f"{outcome.status} in {outcome.seconds:.0f} s"
                if outcome.error:
                    end = f"FAILED: {outcome.error}\n  {run.folder}"
                place = f" at {outcome.worker}" if outcome.worker else ""
                bar.write(f"[{len(outcomes)}/{len(runs)}] {run}{place}: {end}", stream)
                bar.update()
            if not bar.disable:
                running = [run for run in pending.values() if (run.folder / LEASE).exists()]
                cells = [f"{run}: {last_cell(run.folder)[0]}" for run in running]
                bar.set_description_str(" | ".join(cells))
    except KeyboardInterrupt:
        stop()
    finally:
        bar.close()
    return [outcomes.get(run.folder, Outcome(run, "stopped")) for run in runs]


def end(children: Mapping[Path, subprocess.Popen]) -> None:
    """Close the standard input of ``children``: each ends with its kernel."""
    for child in list(children.values()):
        with suppress(OSError):
            child.stdin.close()


def attempt(run: Run, environment: dict, children: dict) -> Outcome:
    """Have a child execute the run, unless it was finished, and judge what the child left."""
    begun, log = time.monotonic(), run.folder / "log.txt"
    try:
        if is_complete(run.folder):
            return Outcome(run, "skipped")
        run.folder.mkdir(parents=True, exist_ok=True)
        with log.open("a+", errors="replace") as output, _child(run, environment, output) as child:
            children[run.folder] = child
            _, status, usage = os.wait4(child.pid, 0)  # its kernel's memory is in it
            child.returncode = os.waitstatus_to_exitcode(status)
            output.seek(0)
            said = output.read()
        if child.returncode == STOPPED:
            return Outcome(run, "stopped")
        error, trace = _failure(run.folder, child.returncode, said)
        if error:
            with suppress(OSError):  # the disk may be full
                (run.folder / "failure.txt").write_text(f"{run}: {error}\n\n{trace}")
        if not said:
            log.unlink(missing_ok=True)
        peak = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)  # macOS: bytes
        seconds = time.monotonic() - begun
        return Outcome(run, "failed" if error else "done", seconds, peak, error)
    except Exception as error:  # a full disk, say: it must not take the other runs along
        return Outcome(run, "failed", error=in_words(error))
    finally:
        children.pop(run.folder, None)


def _failure(folder: Path, code: int, log: str) -> tuple[str, str]:
    """The error in one line, "" if there is none, and the traceback of a run that has ended."""
    if not code:
        missing = "the notebook ended without a complete result.json"
        return "" if is_complete(folder) else missing, log
    where, outputs = last_cell(folder)
    raised = [output for output in outputs if output["output_type"] == "error"]
    if raised:
        error = f"{raised[-1]['ename']}: {raised[-1]['evalue']}"
        log = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(raised[-1]["traceback"]))  # no colours
    elif code > 0 and log:
        error = log.strip().rpartition("\n")[2]
    else:
        error = f"the notebook's process {_ended(code, folder)}"
    return " ".join(f"{where}{error}".split())[:500], log


def surroundings(variables: Mapping[str, str], jobs: int) -> dict[str, str]:
    """A child's variables: the cores shared by ``jobs``, folders absolute, figures inline."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    environment = dict.fromkeys(THREADS, str(max(1, cores // jobs))) | ALLOCATOR | variables
    for name in FOLDERS:
        if environment.get(name):  # notebooks run in their own folder
            environment[name] = str(Path(environment[name]).expanduser().resolve())
    environment.pop("MPLBACKEND", None)  # Agg would keep the figures out of the notebook
    return environment | {"MEDROBUST_HEADLESS": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}


def _child(run: Run, environment: dict, output: IO[str]) -> subprocess.Popen:
    """Start the child, which says what goes wrong in ``output``."""
    job = json.dumps([str(run.notebook.resolve()), str(run.folder), run.parameters])
    # In a session of its own: Ctrl-C reaches the runner alone, which ends the child.
    how = {"stdin": subprocess.PIPE, "stdout": output, "stderr": output, "start_new_session": True}
    return subprocess.Popen([sys.executable, "-m", __name__, job], **how, env=environment)


def last_cell(folder: Path) -> tuple[str, list]:
    """`cell 3/9 "its first line": ` of the last cell begun, and its outputs, as papermill saved."""
    with suppress(OSError, ValueError, IndexError):  # no copy yet, half a copy, no cell yet
        cells = json.loads((folder / "executed.ipynb").read_text("utf-8"))["cells"]
        cells = [c for c in cells if not ADDED.intersection(c["metadata"].get("tags", []))]
        begun = [c for c in cells if c["metadata"].get("papermill", {}).get("start_time")]
        line = "".join(begun[-1]["source"]).strip().partition("\n")[0]
        return f'cell {len(begun)}/{len(cells)} "{line}": ', begun[-1].get("outputs", [])
    return "", []


def write_summary(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write one CSV line per run; the file is replaced as a whole."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("notebook", "run", "status", "seconds", "peak_mb", "parameters", "error"))
    for o in outcomes:
        numbers = [f"{number:.1f}" if number else "" for number in (o.seconds, o.peak_mb)]
        values = json.dumps({k: v for k, v in o.run.parameters.items() if k != "OUT"})
        row = (o.run.notebook.stem, o.run.folder.name, o.status, *numbers, values, o.error)
        writer.writerow(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.getvalue().encode())


def main(notebook: str, folder: str, parameters: dict) -> None:
    """What the child does: hold the run's lock, and have papermill execute the notebook."""
    kernels, launch = [], local_provisioner.launch_kernel

    def launch_and_keep(*args: object, **kwargs: object) -> subprocess.Popen:
        kernels.append(launch(*args, **kwargs))
        return kernels[-1]

    local_provisioner.launch_kernel = launch_and_keep  # its exit status says what it died of
    braces = str.maketrans({"{": "{{", "}": "}}"})  # single ones are papermill's to fill in
    paths = notebook.translate(braces), f"{folder}/executed.ipynb".translate(braces)
    options = {"kernel_name": "python3", "language": "python", "progress_bar": False}
    options |= {"cwd": str(Path(notebook).parent), "start_timeout": KERNEL_START_SECONDS}
    with tempfile.TemporaryDirectory(prefix="medrobust-", ignore_cleanup_errors=True) as private:
        lease = Lease(Path(folder, LEASE), lost=lambda: _end(private, lease))
        threading.Thread(target=_end_with_the_runner, args=[private, lease], daemon=True).start()
        with suppress(OSError):  # where memory runs out, the system ends this process's kernel
            Path("/proc/self/oom_score_adj").write_text("500")
        lock = filelock.FileLock(f"{folder}/.lock")  # the system frees it when its holder dies
        with suppress(OSError, NotImplementedError):  # some mounted drives know no locks
            lock.acquire()
        try:
            lease.acquire()  # flock may be missing, or hold on this machine alone
            if is_complete(Path(folder)):  # another runner had the lock until now
                return
            os.ftruncate(1, 0)
            for stale in ("result.json", "failure.txt", "executed.ipynb"):
                Path(folder, stale).unlink(missing_ok=True)
            own_kernel(Path(private))
            papermill.execute_notebook(*paths, parameters, **options)
        except PapermillExecutionError:
            sys.exit(1)  # the executed copy has it
        except DeadKernelError:
            sys.exit(f"DeadKernelError: the kernel {_ended(kernels[-1].poll(), Path(folder))}")
        except OSError as error:
            sys.exit(in_words(error))
        finally:
            lease.release()


def own_kernel(folder: Path) -> None:
    """Make `python3` mean this interpreter, whatever kernels and settings the user has.

    What Jupyter and the kernel write goes to ``folder`` too, so that parallel kernels do not wait
    for one history database. The process's environment is changed for good.
    """
    spec = folder / "kernels" / "python3"
    spec.mkdir(parents=True)
    quiet = "--Application.log_level=40"  # errors only; warnings would fill every log.txt
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", quiet]
    content = {"argv": command, "display_name": "Python 3", "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(content))
    os.environ |= {"JUPYTER_PATH": str(folder), "IPYTHONDIR": str(folder / "ipython")}
    os.environ |= {f"JUPYTER_{k}_DIR": str(folder / k) for k in ("DATA", "CONFIG", "RUNTIME")}


def _end_with_the_runner(private: str, lease: Lease) -> None:
    """End the kernel and this process when standard input closes: the runner stopped or died."""
    while os.read(0, 1):
        pass
    _end(private, lease)


def _end(private: str, lease: Lease) -> None:
    """End this process with all of its own, and leave nothing behind but what was saved."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    lease.release()
    shutil.rmtree(private, ignore_errors=True)
    os._exit(STOPPED)


def _ended(code: int, folder: Path) -> str:
    """What ended a process, and what room it had: it may have run out of either."""
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    free = [f"{psutil.virtual_memory().available >> 20} MB of memory"]
    for place in filter(os.path.isdir, (folder, os.environ.get("MEDROBUST_HOME") or Path.home())):
        free.append(f"{psutil.disk_usage(place).free >> 20} MB of disk at {place}")
    return f"{how}; free now: {', '.join(free)}"


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
