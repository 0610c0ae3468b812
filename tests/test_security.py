"""No file runs code: every place that loads one is given a trap, and the source is searched."""

import ast
import io
import json
import os
import pickle
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import hostile
import keras_weights as weights
import numpy as np
import pytest
import small_trees
import test_training
import torch

import medrobust_utils
from medrobust_utils import data, models
from medrobust_utils.core import storage
from medrobust_utils.core.errors import DataError, RunError
from medrobust_utils.training import cards

PACKAGE = Path(medrobust_utils.__file__).parent


@pytest.fixture(autouse=True)
def trap(tmp_path, monkeypatch):
    """Traps spring in the working folder of the test; none may."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield
    assert not Path(hostile.Trap.marker).exists(), "code in a file was run"


def pickles() -> dict[str, bytes]:
    """A trap in every wrapping that somebody might unpickle."""
    bare, packed, zipped, old = (io.BytesIO() for _ in range(4))
    array = np.array([hostile.Trap()], object)
    np.save(bare, array, allow_pickle=True)
    np.savez(packed, identity=array, logits=np.zeros(1))
    torch.save(dict.fromkeys(("model", "best", "identity"), hostile.Trap()), zipped)
    torch.save(hostile.Trap(), old, _use_new_zipfile_serialization=False)
    return {
        "pickle": pickle.dumps(hostile.Trap()),
        "npy": bare.getvalue(),
        "npz": packed.getvalue(),
        "torch": zipped.getvalue(),
        "torch of old": old.getvalue(),
    }


KINDS = tuple(pickles())


def test_the_traps_are_live():
    """Each would spring if it were unpickled; without this the tests below prove nothing."""
    loaders = {
        "pickle": pickle.load,
        "npy": lambda file: np.load(file, allow_pickle=True),
        "npz": lambda file: np.load(file, allow_pickle=True)["identity"],
        "torch": lambda file: torch.load(file, weights_only=False),
    }
    for kind, content in pickles().items():
        loaders[kind.split()[0]](io.BytesIO(content))
        assert Path(hostile.Trap.marker).is_dir(), kind
        os.rmdir(hostile.Trap.marker)


@pytest.mark.parametrize("kind", KINDS)
def test_no_checkpoint_runs_code(skin, tmp_path, kind):
    (tmp_path / "checkpoint.pt").write_bytes(pickles()[kind])
    with pytest.raises(RunError, match=r"checkpoint\.pt: cannot be read.*Delete its folder"):
        test_training.fit(skin, tmp_path)
    with pytest.raises(RunError, match=r"checkpoint\.pt: cannot be read"):
        cards.weights(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_no_weights_file_runs_code(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("MEDROBUST_WEIGHTS", str(tmp_path))
    (tmp_path / "resnet18.safetensors").write_bytes(pickles()[kind])
    with pytest.raises(DataError, match="resnet18.safetensors: cannot be read as safetensors"):
        models.build("resnet18", 2, start="imagenet")


@pytest.mark.parametrize("kind", KINDS)
def test_no_kept_array_runs_code(tmp_path, kind):
    path = tmp_path / "kept.npz"
    path.write_bytes(pickles()[kind])
    with pytest.raises(RunError, match=r"kept\.npz: cannot be read.*Delete it"):
        storage.cached_arrays(path, dict)


ARRAYS = {
    "pannuke": ("images.npy", "masks.npy"),
    "breastmnist": ("train_images.npy", "val_labels.npy"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("reader", "name"), [(r, n) for r in ARRAYS for n in ARRAYS[r]])
def test_no_array_of_a_data_set_runs_code(tmp_path, kind, reader, name):
    small_trees.BUILDERS[reader](tmp_path)
    if reader == "pannuke":
        next((tmp_path / "pannuke/Fold 2").rglob(name)).write_bytes(pickles()[kind])
    else:  # a member of an archive
        with zipfile.ZipFile(tmp_path / "medmnist/breastmnist.npz", "a") as file:
            file.writestr(name, pickles()[kind])
    with pytest.raises(DataError, match=name.removesuffix(".npy")):
        data.READERS[reader](tmp_path, 16)


CACHES = [
    ("iq_othnccd", "images.npy"),
    ("iq_othnccd", "hashes.npy"),
    ("iq_othnccd", "near_duplicates*"),
    ("pannuke", "labels.npy"),
    ("consep", "labels-*.npy"),
]


@pytest.mark.parametrize(("reader", "name"), CACHES)
def test_no_cache_runs_code_and_a_damaged_one_is_refused_with_a_remedy(
    tmp_path, home, reader, name
):
    small_trees.BUILDERS[reader](tmp_path)
    data.READERS[reader](tmp_path, 16)
    (path,) = home.glob(f"decoded/{reader}-*/{name}")
    for content in (*pickles().values(), b"", b"{", b"PK", b"\x93NUMPY\x01\x00"):
        path.write_bytes(content)
        with pytest.raises(DataError, match="[Dd]elete"):
            data.READERS[reader](tmp_path, 16)


@pytest.mark.parametrize("missing", ["model", "optimiser", "history", "random", "precision"])
def test_a_checkpoint_that_lacks_a_part_is_refused(skin, tmp_path, missing):
    test_training.fit(skin, tmp_path, dict(test_training.SETTINGS, epochs=1))
    path = tmp_path / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    del state[missing]
    torch.save(state, path)
    with pytest.raises(RunError, match=r"checkpoint\.pt: .*Delete its folder"):
        test_training.fit(skin, tmp_path, dict(test_training.SETTINGS, epochs=1))


def test_a_model_of_shards_reads_no_file_elsewhere(tmp_path):
    """The list of shards comes from a package; it may not name files of the machine."""
    np.zeros(4, "<f4").tofile(tmp_path / "outside")
    folder = tmp_path / "model"
    folder.mkdir()
    entry = {"paths": ["../outside"], "weights": [{"name": "a", "shape": [4]}]}
    (folder / "model.json").write_text(json.dumps({"weightsManifest": [entry]}))
    with pytest.raises(DataError, match=r"model\.json: cannot be read as a model"):
        weights.read_tensors(folder)


# Calls that run what a file holds, or write where it says, unless a keyword forbids it; ruff knows
# the others (pickle, eval, exec, shells, yaml.load, tarfile's extractall).
NEEDS = {
    r"^(np|numpy)\.load$|(^|\.)read_array$": ("allow_pickle", False),
    r"^torch\.load$": ("weights_only", True),
    r"\btar\.extract$": ("filter", "data"),
    r"joblib|unpack_archive|torch\.(jit|package|hub)\.load$": ("nothing makes it safe", True),
}
RUFF = [sys.executable, "-m", "ruff", "check", "--isolated", "--preview", "--no-cache"]
RUFF += ["--select", "S102,S202,S301,S302,S307,S403,S506,S602,S605"]


def dangers(source: str) -> list[str]:
    """Calls in ``source`` that could run what a file says, by `NEEDS`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {key.arg: getattr(key.value, "value", None) for key in node.keywords}
            for pattern, (key, value) in NEEDS.items():
                if re.search(pattern, name) and given.get(key, ...) != value:
                    found.append(f"line {node.lineno}: {name}")
    return found


def test_nothing_in_the_source_or_the_notebooks_could_run_a_file():
    places = [PACKAGE, PACKAGE.parent / "benchmarks", PACKAGE.parent / "notebooks"]
    done = subprocess.run([*RUFF, *places], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    found = {path: dangers(path.read_text("utf-8")) for at in places for path in at.rglob("*.py")}
    assert len(found) > 80
    for path in places[2].glob("*.ipynb"):
        for number, cell in enumerate(json.loads(path.read_text("utf-8"))["cells"]):
            lines = "".join(cell["source"]).splitlines()
            code = "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))
            found[f"{path}, cell {number}"] = cell["cell_type"] == "code" and dangers(code)
    assert not {path: calls for path, calls in found.items() if calls}


def test_the_search_finds_what_could_run_code_and_nothing_else():
    for line in ("np.load(path)", "torch.load(p, weights_only=False)", "joblib.load(path)"):
        assert dangers(line)
    assert not dangers("np.load(p, allow_pickle=False); tar.extract(m, f, filter='data')")
    for line in ("import pickle", "pandas.read_pickle(p)", "eval(text)", "yaml.load(text)"):
        imported = f"import yaml, pandas\n{line}\n"
        assert subprocess.run([*RUFF, "-"], input=imported.encode(), capture_output=True).returncode
