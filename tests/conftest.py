"""Shared by all tests: a private home, one thread, and small trees in the publishers' layouts."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may wait for a network; read when the hub is imported

import browsing
import pytest
import small_trees
import torch

from medrobust_utils.data.phantoms import phantom_set

torch.set_num_threads(1)  # small tensors: threads only get in each other's way


UNSEEN = pytest.StashKey[int]()  # how many tests want a browser that is not there
LONG = ("test_notebooks_smoke.py", "test_browser.py")  # begun first, so that none is waited for


def pytest_collection_modifyitems(config, items):
    """Leave the browser's tests out where there is none; `pytest_terminal_summary` says so.

    Under ``pytest -n`` each worker collects for itself, and the terminal is its parent's: a worker
    sends the number along, and `pytest_testnodedown` takes it in.
    """
    items.sort(key=lambda item: item.path.name not in LONG)
    unseen = [item for item in items if item.path.name == "test_browser.py"]
    if unseen and browsing.find() is None:
        config.stash[UNSEEN] = len(unseen)
        if hasattr(config, "workeroutput"):
            config.workeroutput["unseen"] = len(unseen)
        config.hook.pytest_deselected(items=unseen)
        items[:] = [item for item in items if item not in unseen]


@pytest.hookimpl(optionalhook=True)  # pytest-xdist calls it
def pytest_testnodedown(node):
    """What a worker left out; every worker leaves out the same."""
    count = getattr(node, "workeroutput", {}).get("unseen")
    if count:
        node.config.stash[UNSEEN] = count


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter, config):
    """Nobody shall take a run without a browser for a complete one."""
    if UNSEEN in config.stash:
        terminalreporter.section("NOT RUN", red=True)
        count = config.stash[UNSEEN]
        terminalreporter.line(f"{count} tests of tests/test_browser.py. {browsing.REMEDY}")


@pytest.fixture(scope="session", autouse=True)
def session_home(tmp_path_factory):
    """Fixtures wider than a test never touch the user's own caches either."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDROBUST_HOME", str(tmp_path_factory.mktemp("session")))
        yield


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    """Caches of a test go to a folder of its own."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("MEDROBUST_HOME", str(folder))
    monkeypatch.delenv("MEDROBUST_WEIGHTS", raising=False)
    return folder


@pytest.fixture(scope="session")
def skin():
    """140 dermatoscopy phantoms, 7 classes."""
    return phantom_set("dermatoscopy7", 140, size=32)


@pytest.fixture(scope="session")
def chest():
    """120 chest phantoms, multi-label."""
    return phantom_set("chest", 120, size=32)


@pytest.fixture
def ham_root(tmp_path):
    """HAM10000's layout with 60 phantoms, two images a lesion."""
    small_trees.ham10000(tmp_path, 60)
    return tmp_path
