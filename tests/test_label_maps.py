"""CoNSeP: fields are cut into patches, and label maps are read with the class of every pixel."""

from pathlib import Path

import numpy as np
import pytest
import small_trees
from PIL import Image
from scipy.io import savemat

from medrobust_utils.core.errors import DataError
from medrobust_utils.data import nuclei

SIDE = small_trees.SIDE
# What the publisher's numbers 0 to 7 are called here.
MEANING = ("background", "other", "inflammatory", "epithelial", "neoplastic") + ("connective",) * 3


@pytest.fixture
def root(tmp_path):
    """Four training and two test tiles of two patches each."""
    small_trees.consep(tmp_path)
    return tmp_path


def label_path(root, name):
    return root / f"consep_patches/{name.split('_')[0]}/labels/{name}.png"


def labels(root, name):
    return np.asarray(Image.open(label_path(root, name)))


def test_consep_is_a_segmentation_set_by_tile_with_the_publishers_classes(root):
    data = nuclei.consep(root, SIDE)
    assert data.segmentation and not data.multi_label and not data.synthetic and not data.complete
    assert data.images.shape == (12, SIDE, SIDE, 3)
    assert data.parts == ("train",) * 8 + ("test",) * 4
    assert (data.subjects == np.repeat(np.arange(6), 2)).all()
    assert (np.unique(data.groups, return_inverse=True)[1] == data.subjects).all()
    assert data.census["images_per_part"] == {"test": 4, "train": 8}
    assert data.census["images_per_class"] == dict.fromkeys(nuclei.CONSEP, 12)
    names = np.array(MEANING)[[labels(root, name) for name in data.ids]]
    assert (np.array(data.classes)[data.targets[:]] == names).all()
    assert data.census["pixel_shares"]["connective"] == (names == "connective").mean()
    assert data.census["pixels_overlapping"] == data.census["pixels_unlabelled"] == 0


def test_a_palette_gives_numbers_and_no_colours(root):
    before = nuclei.consep(root, SIDE)
    image = Image.fromarray(labels(root, "train_1_r00"))
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    image.save(label_path(root, "train_1_r00"))
    assert image.mode == "P" and (nuclei.consep(root, SIDE).targets == before.targets).all()


DAMAGE = {
    r"label values \[8\]": lambda path: Image.fromarray(np.eye(SIDE, dtype="u1") * 8).save(path),
    "train_3_r00.png: its label map": Path.unlink,
    "32 x 30 pixels": lambda path: Image.new("L", (SIDE, 30)).save(path),
    "mode RGB": lambda path: Image.new("RGB", (SIDE, SIDE)).save(path),
}


@pytest.mark.parametrize("said", DAMAGE)
def test_a_label_map_that_does_not_fit_is_named(root, said):
    DAMAGE[said](label_path(root, "train_3_r00"))
    with pytest.raises(DataError, match=f"train_3_r00.*{said}|{said}"):
        nuclei.consep(root, SIDE)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Two training fields and one to test on, of noise, in the publisher's layout."""
    monkeypatch.setattr(nuclei, "FIELDS", {"train": 2, "test": 1})
    rng = np.random.default_rng(0)
    for part, number in (("train", 1), ("train", 2), ("test", 1)):
        place = tmp_path / "source" / "CoNSeP" / part.title()
        for what in ("Images", "Labels"):
            (place / what).mkdir(parents=True, exist_ok=True)
        field = Image.fromarray(rng.integers(0, 256, (250, 250, 3), np.uint8))
        field.resize((1000, 1000)).save(place / "Images" / f"{part}_{number}.png")
        kinds = rng.integers(0, 8, (1000, 1000)).astype(float)
        savemat(place / "Labels" / f"{part}_{number}.mat", {"type_map": kinds})
    return tmp_path


def test_sixteen_patches_a_field_show_its_pixels(published):
    nuclei.cut(published / "source", published / "consep_patches")
    data = nuclei.consep(published, 256)
    assert len(data) == 48 and data.census["images_per_part"] == {"test": 16, "train": 32}
    field = np.asarray(Image.open(published / "source/CoNSeP/Train/Images/train_2.png"))
    assert (data.images[data.ids.index("train_2_r31")] == field[744:, 256:512]).all()


FIELDS = {
    "Test/Labels/test_1.mat": Path.unlink,
    "Train/Labels/train_1.mat": lambda p: savemat(p, {"type_map": np.full((1000, 1000), 9.0)}),
    "Train/Labels/train_2.mat": lambda p: savemat(p, {"type_map": np.zeros((999, 1000))}),
    "Train/Images/train_1.png": Path.unlink,
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_that_is_not_whole_leaves_nothing(published, name):
    FIELDS[name](published / "source/CoNSeP" / name)
    with pytest.raises(DataError, match=f"{Path(name).name}|holds 1 fields"):
        nuclei.cut(published / "source", published / "consep_patches")
    assert sorted(path.name for path in published.iterdir()) == ["source"]
