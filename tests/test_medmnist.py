"""MedMNIST+: sizes, parts, labels; arrays that are read in pieces, and none that runs code."""

import numpy as np
import pytest
import small_trees

from medrobust_utils import data
from medrobust_utils.core.errors import DataError
from medrobust_utils.data import loading, medmnist


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDROBUST_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", medmnist.SETS)
def test_every_set_is_read_as_published(root, name):
    content, kind = small_trees.medmnist(root, name), medmnist.SETS[name]
    found = data.load(name, size=28)
    assert found.name == name and found.classes == kind.classes and not found.synthetic
    assert found.images.shape == (34, 28, 28, kind.channels) and found.subjects is None
    assert found.parts == ("train",) * 20 + ("val",) * 6 + ("test",) * 8
    pixels = np.concatenate([content[f"{part}_images"] for part in medmnist.PARTS])
    labels = np.concatenate([content[f"{part}_labels"] for part in medmnist.PARTS])
    np.testing.assert_array_equal(found.images[:].reshape(pixels.shape), pixels)
    np.testing.assert_array_equal(found.targets.reshape(labels.shape), labels)
    assert found.multi_label == kind.several
    assert found.ids[20] == "val_00000" and not found.complete


@pytest.mark.parametrize(("size", "taken"), [(28, 28), (48, 64), (64, 64), (96, 64)])
def test_the_smallest_file_with_enough_pixels_is_read(root, size, taken):
    for side in (28, 64):
        small_trees.medmnist(root, "pneumoniamnist", side)
    found = data.load("pneumoniamnist", size=size)
    assert found.census["pixels_a_side_in_the_file"] == taken
    assert found.images.shape[1:] == (size, size, 1)


def test_what_is_not_as_published_is_named_and_leaves_no_cache(root, home):
    content, path = small_trees.medmnist(root, "breastmnist"), root / "medmnist/breastmnist.npz"
    whole = path.read_bytes()
    for part in (b"", whole[:100], whole[: len(whole) // 2], b"\0" * 500):
        path.write_bytes(part)
        with pytest.raises(DataError, match="breastmnist.npz"):
            data.load("breastmnist", size=28)
    for member, value in (
        ("val_labels", np.full((6, 1), 2, np.uint8)),
        ("val_images", np.zeros((5, 28, 28), np.uint8)),
        ("val_images", np.zeros((6, 28, 28))),
        ("test_images", None),
    ):
        others = {name: array for name, array in content.items() if name != member}
        np.savez(path, **others | ({} if value is None else {member: value}))
        with pytest.raises(DataError, match=member):
            data.load("breastmnist", size=28)
    assert not list((home / "decoded").glob("*partial*"))
    with pytest.raises(DataError, match=r"data_download.sh retinamnist"):
        data.load("retinamnist", size=28)


@pytest.mark.parametrize("somebody", [True, False])
def test_a_lesson_shows_real_images_in_colab_and_phantoms_where_a_program_runs(
    root, monkeypatch, somebody
):
    """Someone in Colab meets real images; no batch, test or rig ever asks the network for them."""
    asked = []
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab")
    monkeypatch.setenv("MEDROBUST_HOME", str(root))
    monkeypatch.setattr(loading.env, "headless", lambda: not somebody)

    def arrive(dataset, folder, file):
        asked.append(file)
        small_trees.medmnist(folder, dataset.name)

    monkeypatch.setattr(loading, "download_set", arrive)
    found = data.lesson("phantom-dermatoscopy7", size=32, phantoms=14)
    assert asked == (["dermamnist.npz"] if somebody else [])
    assert (len(found), len(found.classes), found.synthetic) == (14, 7, not somebody)


def test_a_lesson_goes_on_with_phantoms_where_the_download_fails(root, monkeypatch):
    def fail(*_):
        raise DataError("zenodo.org does not answer.")

    monkeypatch.setattr(loading.env, "on_colab", lambda: True)
    monkeypatch.setattr(loading, "download_set", fail)
    with pytest.warns(UserWarning, match="zenodo"):
        assert data.lesson("phantom-fundus", size=32, phantoms=10).synthetic
