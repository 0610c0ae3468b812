"""Shared by all tests: a private home, one thread, and small trees in the publishers' layouts."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may wait for a network; read when the hub is imported

import browsing
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

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
def ham_root(tmp_path, skin):
    """HAM10000's layout with 60 phantoms, two images a lesion."""
    folder = tmp_path / "ham10000"
    names = [f"ISIC_{i:07d}" for i in range(60)]
    for i, name in enumerate(names):
        part = folder / f"HAM10000_images_part_{1 + i // 30}"
        part.mkdir(parents=True, exist_ok=True)
        Image.fromarray(skin.images[i]).resize((40, 30)).save(part / f"{name}.jpg", quality=95)
    labels = [skin.classes[k] for k in skin.targets[np.arange(60) // 2 * 2]]
    table = {"lesion_id": [f"HAM_{i // 2:07d}" for i in range(60)], "image_id": names, "dx": labels}
    pd.DataFrame(table).to_csv(folder / "HAM10000_metadata.csv", index=False)
    return tmp_path


@pytest.fixture
def nih_root(tmp_path, chest):
    """ChestX-ray14's layout with 60 phantoms, three images a patient, and the official lists."""
    folder = tmp_path / "nih_chestxray14"
    names = [f"{i // 3:08d}_{i % 3:03d}.png" for i in range(60)]
    for i, name in enumerate(names):
        part = folder / f"images_{1 + i // 30:03d}" / "images"
        part.mkdir(parents=True, exist_ok=True)
        Image.fromarray(chest.images[i][:, :, 0]).save(part / name)
    labels = ["|".join(np.array(chest.classes)[row.astype(bool)]) for row in chest.targets[:60]]
    table = {"Image Index": names, "Finding Labels": labels, "Patient ID": np.arange(60) // 3}
    pd.DataFrame(table).to_csv(folder / "Data_Entry_2017_v2020.csv", index=False)
    (folder / "train_val_list.txt").write_text("\n".join(names[:45]) + "\n")
    (folder / "test_list.txt").write_text("\n".join(names[45:]) + "\n")
    return tmp_path
