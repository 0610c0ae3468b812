"""Whether somebody can click: asked of real kernels, as people and as programs start them."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import tiny
from jupyter_client.manager import start_new_kernel

from medrobust_utils.core import env

# Asked plainly, from another thread (as a widget's work runs), and under each variable.
ASK = """import json, os
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch
from medrobust_utils.env import headless

def under(**names):
    with patch.dict(os.environ, names):
        return headless()

print("SEEN" + json.dumps({
    "plain": headless(),
    "thread": ThreadPoolExecutor(1).submit(headless).result(),
    "CI": under(CI="true"),
    "forced": under(MEDROBUST_HEADLESS="1", VOILA_KERNEL_ID="x"),
    "voila": under(VOILA_KERNEL_ID="x", CI="true"),
}) + "END")"""

PERSON = {"plain": False, "thread": False, "CI": True, "forced": True, "voila": False}
PROGRAM = {**PERSON, "plain": True, "thread": True}


def seen(text: str) -> dict:
    return json.loads(text.partition("SEEN")[2].partition("END")[0])


@pytest.fixture(autouse=True)
def bare(tmp_path, monkeypatch):
    """Neither this run's variables nor the user's Jupyter settings reach the kernels."""
    for name in ("CI", "MEDROBUST_HEADLESS", "VOILA_KERNEL_ID"):
        monkeypatch.delenv(name, raising=False)
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHONPATH", str(Path(env.__file__).parents[1]))


def test_a_person_at_the_keyboard_can_click():
    said = []
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        client.execute_interactive(
            ASK,
            allow_stdin=True,
            timeout=600,
            stdin_hook=lambda message: None,
            output_hook=lambda message: said.append(message["content"].get("text", "")),
        )
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert seen("".join(said)) == PERSON


@pytest.mark.parametrize(
    "command",
    [
        ["papermill", "--log-level", "ERROR", "--kernel", "python3", "ask.ipynb", "done.ipynb"],
        ["nbconvert", "--to", "notebook", "--execute", "ask.ipynb", "--output", "done.ipynb"],
    ],
)
def test_nobody_can_click_while_a_program_executes(tmp_path, command):
    tiny.notebook(tmp_path, "ask", ASK)
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    book = nbformat.read(tmp_path / "done.ipynb", as_version=4)
    assert seen(book.cells[-1].outputs[0].text) == PROGRAM


def test_nobody_can_click_in_a_script():
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True)
    assert seen(done.stdout) == {key: True for key in PERSON}, done.stderr
