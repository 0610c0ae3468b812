"""The explorer's server: whom it serves what, what it refuses, and what it leaves behind."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from html import unescape
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import psutil
import pytest
import served
import tiny

from medrobust_utils.__main__ import main
from medrobust_utils.core.errors import ProtocolError, RunError
from medrobust_utils.explorer import serving

SHOW = """import json, os, sys
seen = {"out": OUT, "seed": SEED, "folder": os.getcwd(), "python": sys.executable,
        "surroundings": dict(os.environ)}
print("BEGIN" + json.dumps(seen) + "END")"""


def tag(path, place, *tags):
    book = nbformat.read(path, as_version=4)
    book.cells[place].metadata["tags"] = list(tags)
    nbformat.write(book, path)


@pytest.fixture
def project(tmp_path):
    """A project whose explorer prints what it sees; one of its two cells is the page's."""
    root = tmp_path / "pro{j}ect"
    (root / "notebooks").mkdir(parents=True)
    (root / "pyproject.toml").touch()
    own = 'SEED: int = 0  # random seed\nPAPER: str = ""  # which\nOUT: str = ""  # folder'
    cells = ("print('not ' + 'served')", SHOW)
    path = tiny.notebook(root / "notebooks", serving.NAME, *cells, parameters=own)
    tag(path, 3, "app")
    return root


def fetch(url, **headers):
    """Status and text of an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return answer.status, unescape(answer.read().decode())
    except urllib.error.HTTPError as error:
        return error.code, ""


def test_the_page_has_the_apps_cells_with_their_parameters_and_nothing_from_outside(
    project, tmp_path
):
    out = tmp_path / "my views"
    surroundings = {"CI": "1", "MEDROBUST_HEADLESS": "1"}
    given = ("--out", out, "-p", "SEED", "7")
    with served.started(project, *given, **surroundings) as server:
        status, text = fetch(server.url)
        assert status == 200
        seen = json.loads(re.search("BEGIN(.*)END", text)[1])
        listening = [c.laddr.ip for c in server.process.net_connections() if c.status == "LISTEN"]
    assert (seen["out"], seen["seed"]) == (str(out), 7)
    assert seen["folder"] == str(project / "notebooks")
    assert seen["python"] == sys.executable
    assert not surroundings.keys() & seen["surroundings"].keys()
    assert seen["surroundings"]["SERVER_SOFTWARE"].startswith("voila/")
    assert "not served" not in text
    assert "getcwd" not in text, "the page shows code"
    assert serving.TITLE in text
    assert not re.findall(r'<(?:script[^>]*src|link rel="stylesheet"[^>]*href)="https?:', text)
    assert set(listening) == {"127.0.0.1"}
    assert not out.exists(), "the server itself writes nothing"


def test_only_who_knows_the_token_is_let_in_and_no_other_site(project):
    with served.started(project) as server:
        bare = server.url.partition("?")[0]
        assert "BEGIN" not in fetch(bare)[1]
        assert "BEGIN" not in fetch(f"{bare}?token=guessed")[1]
        assert fetch(server.url, Host="elsewhere.example")[0] == 403
        assert server.process.children() == [], "a stranger started a kernel"
        assert fetch(server.url, Host=f"localhost:{urlsplit(bare).port}")[0] == 200


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_it_ends_cleanly_and_leaves_nothing(project, name):
    before = set(project.rglob("*"))
    with served.started(project) as server:
        fetch(server.url)
        (kernel,) = server.process.children()
        server.process.send_signal(getattr(signal, name))
        assert server.process.wait(served.SECONDS) == 0
        assert psutil.wait_procs([kernel], timeout=served.SECONDS)[1] == []
        assert list(server.temporary.iterdir()) == []
        assert "Traceback" not in server.said.read_text()
    assert set(project.rglob("*")) == before


def test_a_port_that_is_taken_does_not_matter(project):
    with served.started(project) as first:
        port = urlsplit(first.url).port
        with served.started(project, "--port", port) as second:
            assert urlsplit(second.url).port != port
            assert fetch(second.url)[0] == 200


def test_what_cannot_be_served_is_refused_before_it_opens(project, tmp_path):
    def book(*given, root=project):
        return serving.app_notebook(root, given, project / "results" / serving.NAME / "app")

    tags = [cell.metadata.get("tags") for cell in book(("PAPER", "2_attentive_cnn")).cells[2:]]
    assert tags == [["parameters"], ["injected-parameters"], ["app"]]
    for given, error, words in (
        (("SEED", "1,2"), RunError, "one value"),
        (("SEDE", "1"), ProtocolError, "SEED: int = 0  random seed"),
        (("PAPER", "2_attentive"), ProtocolError, "no paper '2_attentive'"),
        (("ATTACK", "pgd"), ProtocolError, "ATTACK is chosen on the page"),
    ):
        with pytest.raises(error, match=words):
            book(given)
    with pytest.raises(RunError, match="project's folder"):
        book(root=tmp_path)
    tag(project / "notebooks" / f"{serving.NAME}.ipynb", 3)
    with pytest.raises(RunError, match="tagged app"):
        book()


def test_what_fails_is_a_sentence_on_the_page_and_a_traceback_in_the_terminal(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    path = tiny.notebook(tmp_path / "notebooks", serving.NAME, "raise ValueError('s' + 'ecret')")
    tag(path, 2, "app")
    with served.started(tmp_path) as server:
        text = fetch(server.url)[1]
        assert "secret" in server.said.read_text()
        assert fetch(server.url)[0] == 200, "the server goes on"
    assert serving.FAILED in text
    assert "secret" not in text and "Traceback" not in text


def test_without_a_browser_its_tests_are_said_to_be_missing():
    command = [sys.executable, "-m", "pytest", "tests/test_browser.py", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-n", "1"],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "CHROMIUM": "/no/browser"},
        capture_output=True,
        text=True,
    )
    assert re.search(r"= NOT RUN =+\n[1-9]\d* tests of tests/test_browser.py", done.stdout)


def test_without_voila_the_command_says_how_to_get_it(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    monkeypatch.setitem(sys.modules, "voila", None)
    assert main(["explore"]) == 2
    assert "pip install 'medrobust[app]'" in capsys.readouterr().err
