"""PanNuke in both layouts, a chunk at a time; pixels without one clear kind are ignored."""

from types import SimpleNamespace

import numpy as np
import pytest

from medrobust_utils.core.errors import DataError
from medrobust_utils.core.losses import IGNORED
from medrobust_utils.data import nuclei, split_official
from medrobust_utils.data.splits import leaks

SIDE = 40
COUNTS = (18, 5, 7)  # the first fold takes two chunks
# The channels as the publisher lists them.
KINDS = "neoplastic", "inflammatory", "connective", "dead", "epithelial", "background"
PUBLISHED = "Fold {0}/images/fold{0}/images.npy", "Fold {0}/masks/fold{0}/masks.npy"
KAGGLE = "Part {0}/Images/images.npy", "Part {0}/Masks/masks.npy"


def fold(number, count):
    """Noise as pictures; squares of one kind, the first two pixels without and with two labels."""
    rng = np.random.default_rng(number)
    images = np.kron(rng.integers(0, 256, (count, 20, 20, 3)), np.ones((1, 2, 2, 1)))
    kinds = np.kron(rng.integers(0, 6, (count, 8, 8)), np.ones((1, 5, 5), int))
    kinds[:, 5:10, :30] = np.arange(6).repeat(5)  # every kind in every image
    masks = (kinds[..., None] == np.arange(6)) * rng.integers(1, 900, (count, SIDE, SIDE, 1))
    masks = masks.astype(np.float64)
    masks[:, 0, 0] = 0
    masks[:, 0, 1, 3], masks[:, 0, 1, 4] = 7, 12
    return SimpleNamespace(images=images, masks=masks, kinds=kinds)


def write(root, layout=PUBLISHED, counts=COUNTS):
    for number, count in enumerate(counts, 1):
        made = fold(number, count)
        for path, array in zip(layout, (made.images, made.masks), strict=True):
            path = root / "pannuke" / path.format(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, array)
    return root


@pytest.fixture
def root(tmp_path):
    return write(tmp_path)


def test_the_publishers_layout(root):
    data = nuclei.pannuke(root, SIDE)
    assert data.segmentation and not data.synthetic and not data.complete
    assert data.images.shape == (30, SIDE, SIDE, 3) and data.images.dtype == np.uint8
    assert data.parts == ("fold1",) * 18 + ("fold2",) * 5 + ("fold3",) * 7
    assert data.ids[0] == "fold1_0000" and data.ids[-1] == "fold3_0006"
    assert len(np.unique(data.groups)) == 30 and data.subjects is None
    made = [fold(number, count) for number, count in enumerate(COUNTS, 1)]
    kinds = np.concatenate([one.kinds for one in made])
    assert (data.images[:] == np.concatenate([one.images for one in made])).all()
    channels = np.array([KINDS.index(name) for name in data.classes])
    clear = np.ones((SIDE, SIDE), bool)
    clear[0, :2] = False
    assert (channels[data.targets[:, clear]] == kinds[:, clear]).all()
    assert (data.targets[:, ~clear] == IGNORED).all()
    census = data.census
    assert census["pixels_overlapping"] == census["pixels_unlabelled"] == 30
    assert census["images_per_part"] == {"fold1": 18, "fold2": 5, "fold3": 7}


def test_the_copy_on_kaggle_is_the_same_set(root, tmp_path):
    published = nuclei.pannuke(root, 24)
    other = write(tmp_path / "kaggle", KAGGLE)
    (other / "pannuke" / "__MACOSX").mkdir()
    (other / "pannuke" / "read me.txt").write_text("about")
    for path in other.rglob("images.npy"):
        np.save(path, np.load(path).astype(np.uint8))
    data = nuclei.pannuke(other, 24)
    assert data.checksum == published.checksum and data.ids == published.ids
    assert data.census == published.census and data.parts == published.parts
    write(other.parent, KAGGLE, (3,))
    with pytest.raises(DataError, match="Part 1: .*same fold"):
        nuclei.pannuke(root, 24)


def test_the_folds_are_the_split_and_near_duplicates_leave_it(root):
    path = root / "pannuke/Fold 1/images/fold1/images.npy"
    images, later = np.load(path), fold(3, 7).images
    images[4] = np.clip(later[2] + 6, 0, 255)
    images[9] = np.clip(fold(2, 5).images[1] + 6, 0, 255)
    np.save(path, images)
    second = root / "pannuke/Fold 2/images/fold2/images.npy"
    validation = np.load(second)
    validation[0] = np.clip(later[5] + 6, 0, 255)
    np.save(second, validation)
    data = nuclei.pannuke(root, SIDE)
    assert data.census["near_duplicate_pairs"] == 3
    split = split_official(data, seed=0)
    assert split.train.tolist() == [i for i in range(18) if i not in (4, 9)]
    assert split.val.tolist() == [19, 20, 21, 22] and split.test.tolist() == list(range(23, 30))
    assert leaks(data, split) == 0


def with_pixel(array, value):
    array[3, 2, 2, 0] = value
    return array


DAMAGE = [
    ("images", lambda a: a[:, :30]),
    ("images", lambda a: with_pixel(a, 256)),
    ("images", lambda a: a / 255),
    ("masks", lambda a: a[:4]),
    ("masks", lambda a: with_pixel(a, np.nan)),
]


@pytest.mark.parametrize(("name", "change"), DAMAGE)
def test_damage_is_named_and_leaves_no_cache_of_pictures(root, home, name, change):
    (path,) = (root / "pannuke/Fold 2").rglob(f"{name}.npy")
    np.save(path, change(np.load(path)))
    with pytest.raises(DataError, match=rf"Fold 2.*{name}\.npy"):
        nuclei.pannuke(root, SIDE)
    path.unlink()
    with pytest.raises(DataError, match="Fold 2"):
        nuclei.pannuke(root, SIDE)
    assert not list(home.glob("decoded/*.partial-*"))
