"""Executes one notebook in a process of its own; `runner` starts it and reads what it reports.

The first line of standard input is the job (JSON); standard input then stays open for as long as
the runner lives. Every line of standard output is one JSON message.
"""

import json
import os
import re
import resource
import shutil
import sys
import tempfile
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path

import papermill
import psutil
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError

# A busy machine needs longer than papermill's minute until a kernel answers.
KERNEL_START_SECONDS = 300


def main() -> None:
    """Execute the job on standard input and report: cells as they start, then how it ended."""
    job = json.loads(sys.stdin.readline())
    # The messages get a private copy of standard output; whatever else prints goes to the log.
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    engine = _engine(lambda message: print(json.dumps(message), file=channel))
    started = time.monotonic()
    error = None
    with tempfile.TemporaryDirectory(prefix="medrobust-") as private:
        threading.Thread(target=_die_with_the_runner, args=(private,), daemon=True).start()
        own_kernel(Path(private))
        try:
            _execute(job, engine)
        except Exception as caught:  # whatever it was, the runner must hear of it
            error = caught
    end = {"seconds": time.monotonic() - started, "peak_mb": _peak_mb(), "error": None}
    if error is not None:
        end |= _describe(error)
    print(json.dumps(end), file=channel)


def _execute(job: dict, engine: str) -> None:
    # papermill fills in braces in paths; doubled ones stand for themselves
    paths = [job[key].replace("{", "{{").replace("}", "}}") for key in ("notebook", "executed")]
    papermill.execute_notebook(
        *paths,
        parameters=job["parameters"],
        engine_name=engine,
        kernel_name="python3",
        language="python",
        progress_bar=False,
        start_timeout=KERNEL_START_SECONDS,
        cwd=str(Path(job["notebook"]).parent),
    )


def _engine(report) -> str:
    """Register a papermill engine that reports each cell as it starts, and return its name.

    Cells are counted as in the source notebook: papermill's added cell counts for none.
    """

    class Reporting(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man, *args, **kwargs):
            cells = nb_man.nb.cells
            own = ["injected-parameters" not in cell.metadata.get("tags", []) for cell in cells]
            begin = nb_man.cell_start

            def cell_start(cell, cell_index=None, **more):
                source = cell.source.strip().splitlines() or [""]
                number = sum(own[: cell_index + 1])
                report({"cell": number, "of": sum(own), "line": source[0]})
                return begin(cell, cell_index, **more)

            nb_man.cell_start = cell_start
            return super().execute_managed_notebook(nb_man, *args, **kwargs)

    papermill_engines.register("reporting", Reporting)
    return "reporting"


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
    os.environ["JUPYTER_PATH"] = str(folder)
    os.environ["JUPYTER_DATA_DIR"] = str(folder / "data")
    os.environ["JUPYTER_CONFIG_DIR"] = str(folder / "config")
    os.environ["JUPYTER_RUNTIME_DIR"] = str(folder / "runtime")
    os.environ["IPYTHONDIR"] = str(folder / "ipython")


def _die_with_the_runner(private: str) -> None:
    """End the kernel and this process when standard input closes: the runner stopped or died."""
    while os.read(0, 1):
        pass
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    shutil.rmtree(private, ignore_errors=True)
    os._exit(1)


def _describe(error: Exception) -> dict:
    """The error in one line and its traceback, without terminal colours."""
    if isinstance(error, PapermillExecutionError):
        line, trace = f"{error.ename}: {error.evalue}", "\n".join(error.traceback)
    else:
        line = f"{type(error).__name__}: {error}"
        trace = "".join(traceback.format_exception(error))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", trace)
    return {"error": " ".join(line.split())[:500], "traceback": plain}


def _peak_mb() -> float:
    """Most memory that the kernel held at once, in MB (it has ended by now)."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # macOS counts bytes


if __name__ == "__main__":
    main()
