"""`python -m medrobust_utils explore` as a process of its own."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

SECONDS = 600  # ends a wait for what never comes


class Server:
    """A running server.

    Attributes:
        url: the page's address, token included.
        process: the command (psutil).
        temporary: what the process takes for the system's temporary folder.
        said: the file with all it printed.
    """

    def __init__(self, process, url, temporary, said):
        self.process, self.url, self.temporary, self.said = process, url, temporary, said


@contextmanager
def started(project, *arguments, **surroundings):
    """Serve the explorer of the folder ``project`` on a free port, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="served-") as folder:
        temporary = Path(folder) / "tmp"
        temporary.mkdir()
        said = Path(folder) / "said.txt"
        known = {**os.environ, **surroundings, "TMPDIR": temporary, "PYTHONUNBUFFERED": "1"}
        known = {name: str(value) for name, value in known.items() if value != ""}
        command = [sys.executable, "-m", "medrobust_utils", "explore", "--no-browser"]
        command += ["--port", "0", *map(str, arguments)]
        with open(said, "w") as file:
            process = psutil.Popen(
                command,
                cwd=project,
                env=known,
                stdout=file,
                stderr=file,
                # what runs in the background may have been told to ignore Ctrl-C
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        try:
            yield Server(process, _address(process, said), temporary, said)
        finally:
            with suppress(psutil.NoSuchProcess):  # a test may have ended it
                process.terminate()
                process.wait(SECONDS)


def _address(process, said):
    while not (found := re.search(r"http://\S+", said.read_text())):
        try:
            process.wait(0.1)
        except (psutil.TimeoutExpired, subprocess.TimeoutExpired):
            continue
        raise AssertionError(f"the server has ended: {said.read_text()}")
    return found[0]
