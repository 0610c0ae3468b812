"""CoNSeP's fields as published become the patches that the reader knows."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from medrobust_utils.core.errors import DataError
from medrobust_utils.data import nuclei


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Two training fields and one to test on, in the publisher's layout, without structure."""
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


def test_sixteen_patches_a_field_show_its_pixels_and_kinds(published):
    nuclei.cut(published / "source", published / "consep_patches")
    data = nuclei.consep(published, 256)
    assert len(data) == 48 and data.census["images_per_part"] == {"test": 16, "train": 32}
    field = np.asarray(Image.open(published / "source/CoNSeP/Train/Images/train_2.png"))
    row = data.ids.index("train_2_r31")
    assert (data.images[row] == field[744:, 256:512]).all()


DAMAGE = {
    "Test/Labels/test_1.mat": Path.unlink,
    "Train/Labels/train_1.mat": lambda p: savemat(p, {"type_map": np.full((1000, 1000), 9.0)}),
    "Train/Labels/train_2.mat": lambda p: savemat(p, {"type_map": np.zeros((999, 1000))}),
    "Train/Images/train_1.png": Path.unlink,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_field_that_is_not_whole_leaves_nothing(published, name):
    DAMAGE[name](published / "source/CoNSeP" / name)
    with pytest.raises(DataError, match=f"{Path(name).name}|holds 1 fields"):
        nuclei.cut(published / "source", published / "consep_patches")
    assert sorted(path.name for path in published.iterdir()) == ["source"]
