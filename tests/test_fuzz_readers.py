"""Readers of hostile trees: a true data set or a documented error, and nothing else."""

import os

import fuzzing
import hostile
import numpy as np
import pytest
import small_trees
from PIL import Image

from medrobust_utils import data
from medrobust_utils.core.errors import DataError
from medrobust_utils.data import decoding

EXAMPLES = 48  # `make soak` reads far more


def test_every_mutated_tree_is_read_truly_or_refused_by_name():
    counts = fuzzing.fuzz(EXAMPLES)
    assert counts.keys() == small_trees.BUILDERS.keys()
    assert sum(one["mutated"] for one in counts.values()) > EXAMPLES * 3 // 4
    read, refused = (sum(one[key] for one in counts.values()) for key in ("read", "refused"))
    assert read and refused, "mutations that always or never hurt test nothing"
    assert all(one["mutated"] == one["read"] + one["refused"] for one in counts.values())


def test_every_reader_of_the_kit_is_fuzzed():
    others = {"chestmnist", "dermamnist", "retinamnist", "pneumoniamnist"}  # read as breastmnist is
    assert set(data.READERS) - others == set(small_trees.BUILDERS) - {"own"}


FILE = "The IQ-OTHNCCD lung cancer dataset/Normal cases/Normal case (2).jpg"


@pytest.mark.parametrize(
    ("mutation", "message"),
    [
        (hostile.fifo, "or no file"),
        (hostile.directory, "or no file"),
        (hostile.symlink_to_itself, "or no file"),
        (hostile.bomb, "cannot be read as an image"),
        (hostile.text_bomb, "cannot be read as an image"),
        (hostile.sixteen_bit, "more than 8 bits"),
        (hostile.wide_numbers, "more than 8 bits"),
    ],
)
def test_what_no_image_is_is_refused_by_name(tmp_path, mutation, message):
    small_trees.iq_othnccd(tmp_path)
    mutation(tmp_path / FILE, np.random.default_rng(0))
    with fuzzing.deadline(10), pytest.raises(DataError, match=rf"Normal case \(2\).*{message}"):
        data.READERS["iq_othnccd"](tmp_path, 16)


def test_no_other_program_is_called_for_an_image(tmp_path, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.jpg", "EPS")  # Pillow gives EPS to Ghostscript
    monkeypatch.setattr("subprocess.check_call", None)
    monkeypatch.setattr("subprocess.Popen", None)
    with pytest.raises(DataError, match="cannot be read as an image"):
        decoding.open_image(tmp_path / "x.jpg", "RGB")


def test_a_name_that_is_no_utf8_is_read(tmp_path):
    small_trees.iq_othnccd(tmp_path)
    path = tmp_path / FILE
    path.rename(os.fsdecode(os.fsencode(path.parent) + b"/Normal \xff.jpg"))
    assert len(data.READERS["iq_othnccd"](tmp_path, 16)) == 12


@pytest.mark.parametrize("cells", ["1,", ",1"], ids=["in front", "behind"])
def test_lines_longer_than_the_heading_are_refused(tmp_path, cells):
    small_trees.retinopathy(tmp_path)
    table = tmp_path / "diabetic_retinopathy/trainLabels.csv"
    first, *lines = table.read_text().splitlines()
    longer = [cells + line if cells.endswith(",") else line + cells for line in lines]
    table.write_text("\n".join([first, *longer]))
    with pytest.raises(DataError, match="trainLabels.csv: cannot be read as CSV"):
        data.READERS["retinopathy"](tmp_path, 16)


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_a_patch_of_the_same_name_in_both_parts_is_refused(tmp_path, kind):
    small_trees.consep(tmp_path)
    name = f"{kind}/test_1_r00.png"
    folder = tmp_path / "consep_patches"
    (folder / "train" / name).write_bytes((folder / "test" / name).read_bytes())
    with pytest.raises(DataError, match=r"test_1_r00\.png: the same name also lies at"):
        data.READERS["consep"](tmp_path, 16)


@pytest.mark.parametrize("name", ["hashes.npy", "images.npy", "near_duplicates*"])
@pytest.mark.parametrize("content", [b"", b"{", b'PK', b"\x93NUMPY\x01\x00"])
def test_a_damaged_cache_is_refused_with_a_remedy(tmp_path, home, name, content):
    small_trees.iq_othnccd(tmp_path)
    data.READERS["iq_othnccd"](tmp_path, 16)
    (path,) = home.glob(f"decoded/*/{name}")
    path.write_bytes(content)
    with pytest.raises(DataError, match="Delete .*decoded.* and run again|Delete this folder"):
        data.READERS["iq_othnccd"](tmp_path, 16)
