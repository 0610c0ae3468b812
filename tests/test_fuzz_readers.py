"""Readers of hostile trees: a true data set or a documented error, and nothing else."""

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
    counts = dict(fuzzing.fuzz(EXAMPLES))
    assert counts.keys() == small_trees.BUILDERS.keys()
    read, refused = (sum(one[key] for one in counts.values()) for key in ("read", "refused"))
    assert read + refused > EXAMPLES * 3 // 4
    assert read and refused, "mutations that always or never hurt test nothing"


def test_every_reader_of_the_kit_is_fuzzed():
    others = {"chestmnist", "dermamnist", "retinamnist", "pneumoniamnist"}  # read as breastmnist is
    assert set(data.READERS) - others == set(small_trees.BUILDERS) - {"own"}


FILE = "The IQ-OTHNCCD lung cancer dataset/Normal cases/Normal case (2).jpg"


NO_IMAGES = (
    hostile.fifo,
    hostile.directory,
    hostile.symlink_to_itself,
    hostile.bomb,
    hostile.text_bomb,
    hostile.sixteen_bit,
    hostile.wide_numbers,
)


@pytest.mark.parametrize("mutation", NO_IMAGES)
def test_what_no_image_is_is_refused_by_name(tmp_path, mutation):
    small_trees.iq_othnccd(tmp_path)
    mutation(tmp_path / FILE, np.random.default_rng(0))
    with fuzzing.deadline(10), pytest.raises(DataError, match=r"Normal case \(2\)"):
        data.READERS["iq_othnccd"](tmp_path, 16)


def test_no_other_program_is_called_for_an_image(tmp_path, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.jpg", "EPS")  # Pillow gives EPS to Ghostscript
    monkeypatch.setattr("subprocess.check_call", None)
    monkeypatch.setattr("subprocess.Popen", None)
    with pytest.raises(DataError, match="cannot be read as an image"):
        decoding.open_image(tmp_path / "x.jpg", "RGB")
