"""Label maps from files: the class of every pixel, damage by name, patches kept by tile."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medrobust_utils.core.errors import DataError
from medrobust_utils.core.losses import IGNORED
from medrobust_utils.data import decoding, masks, nuclei
from medrobust_utils.data.masks import OVERLAPPING, settle

SIDE = 40
# What the publisher's numbers 0 to 7 are called here.
MEANING = ("background", "other", "inflammatory", "epithelial", "neoplastic") + ("connective",) * 3


def values(number):
    """A label map of its own for each number, in the publisher's values, with all of them."""
    squares = np.random.default_rng(number).permutation(np.arange(64) % 8).astype(np.uint8)
    return np.kron(squares.reshape(8, 8), np.ones((5, 5), np.uint8))


def picture(number):
    pixels = np.random.default_rng(1000 + number).integers(0, 256, (20, 20, 3), np.uint8)
    return Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.NEAREST)


@pytest.fixture
def root(tmp_path):
    """CoNSeP's layout: five training and two test tiles of two patches each."""
    number = 0
    for part, tiles in (("train", 5), ("test", 2)):
        for kind in ("images", "labels"):
            (tmp_path / "consep_patches" / part / kind).mkdir(parents=True)
        for tile in range(1, tiles + 1):
            for column in range(2):
                name = f"{part}_{tile}_r0{column}"
                picture(number).save(tmp_path / f"consep_patches/{part}/images/{name}.jpg")
                save(tmp_path, name, values(number))
                number += 1
    return tmp_path


def label_path(root, name):
    return root / f"consep_patches/{name.split('_')[0]}/labels/{name}.png"


def save(root, name, array):
    Image.fromarray(array).save(label_path(root, name))


def test_consep_is_a_segmentation_set_by_tile(root):
    data = nuclei.consep(root, SIDE)
    assert data.segmentation and not data.multi_label and not data.synthetic and not data.complete
    assert data.images.shape == (14, SIDE, SIDE, 3) and data.targets.shape == (14, SIDE, SIDE)
    assert data.ids[:3] == ("train_1_r00", "train_1_r01", "train_2_r00")
    assert data.parts == ("train",) * 10 + ("test",) * 4
    assert (data.subjects == np.repeat(np.arange(7), 2)).all()
    assert (np.unique(data.groups, return_inverse=True)[1] == data.subjects).all()
    assert data.census["images_per_part"] == {"test": 4, "train": 10}
    assert data.census["images_per_class"] == dict.fromkeys(nuclei.CONSEP, 14)


def test_every_value_of_the_publisher_gets_its_class(root):
    data = nuclei.consep(root, SIDE)
    for row in (0, 13):
        names = np.array(MEANING)[values(row)]
        assert (np.array(data.classes)[data.targets[row]] == names).all()
    shares = data.census["pixel_shares"]
    assert shares == {name: (3 if name == "connective" else 1) / 8 for name in nuclei.CONSEP}
    assert data.census["pixels_overlapping"] == data.census["pixels_unlabelled"] == 0


def test_a_palette_gives_numbers_and_no_colours(root):
    before = nuclei.consep(root, SIDE)
    image = Image.fromarray(values(0))
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    image.save(label_path(root, "train_1_r00"))
    assert image.mode == "P" and (nuclei.consep(root, SIDE).targets == before.targets).all()


def test_label_maps_are_read_once_and_again_when_changed(root, monkeypatch):
    first = nuclei.consep(root, SIDE)
    monkeypatch.setattr(decoding, "decode", lambda *a: pytest.fail("decoded the images again"))
    with monkeypatch.context() as patch:
        patch.setattr(masks, "_classes", lambda *a: pytest.fail("read the labels again"))
        assert nuclei.consep(root, SIDE).checksum == first.checksum
    save(root, "test_2_r01", np.roll(values(13), 7, 0))
    changed = nuclei.consep(root, SIDE)
    assert (changed.targets[:13] == first.targets[:13]).all()
    assert (changed.targets[13] == np.roll(first.targets[13], 7, 0)).all()
    monkeypatch.setattr(nuclei, "MEANING", {**nuclei.MEANING, 0: 5, 1: 0})  # other maps
    again = nuclei.consep(root, SIDE)
    assert ((again.targets == 0) == (changed.targets == 5)).all()
    assert len({one.checksum for one in (first, changed, again)}) == 3


DAMAGE = {
    r"label values \[8\]": lambda path: Image.fromarray(values(4) + 1).save(path),
    "train_3_r00.jpg: its label map": Path.unlink,
    "40 x 30 pixels": lambda path: Image.fromarray(values(4)[:30]).save(path),
    "mode RGB": lambda path: Image.new("RGB", (SIDE, SIDE)).save(path),
}


@pytest.mark.parametrize("said", DAMAGE)
def test_a_label_map_that_does_not_fit_is_named(root, said):
    DAMAGE[said](label_path(root, "train_3_r00"))
    with pytest.raises(DataError, match=f"train_3_r00.*{said}|{said}"):
        nuclei.consep(root, SIDE)


def test_overlapping_pixels_are_counted_and_ignored():
    maps = np.array([[[0, 1, OVERLAPPING]], [[IGNORED, OVERLAPPING, 0]]], np.uint8)
    targets, census = settle("set", maps, ("a", "b"))
    assert targets.tolist() == [[[0, 1, IGNORED]], [[IGNORED, IGNORED, 0]]]
    assert (census["pixels_overlapping"], census["pixels_unlabelled"]) == (2, 1)
    assert census["pixel_shares"] == {"a": 2 / 3, "b": 1 / 3}
