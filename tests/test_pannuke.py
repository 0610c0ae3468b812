"""PanNuke in both layouts, a chunk at a time; pixels without one clear kind are ignored."""

import hashlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from medrobust_utils.core.errors import DataError
from medrobust_utils.core.losses import IGNORED
from medrobust_utils.data import pannuke, split_official
from medrobust_utils.data.splits import leaks

SIDE = 40
COUNTS = (18, 5, 7)  # the first fold takes two chunks
# Class of a pixel that has a label in this channel alone; the channels as the publisher lists them.
CHANNEL = {
    "neoplastic": 0,
    "inflammatory": 1,
    "connective": 2,
    "dead": 3,
    "epithelial": 4,
    "background": 5,
}
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
        types = np.array(["Breast", "Colon"])[np.arange(count) % 2]
        np.save((root / "pannuke" / layout[0].format(number)).with_name("types.npy"), types)
    return root


@pytest.fixture
def root(tmp_path):
    return write(tmp_path)


def test_the_publishers_layout(root):
    data = pannuke.read(root, SIDE)
    assert data.segmentation and not data.synthetic and not data.complete
    assert data.images.shape == (30, SIDE, SIDE, 3) and data.images.dtype == np.uint8
    assert data.targets.shape == (30, SIDE, SIDE) and data.targets.dtype == np.uint8
    assert data.parts == ("fold1",) * 18 + ("fold2",) * 5 + ("fold3",) * 7
    assert data.ids[0] == "fold1_0000" and data.ids[-1] == "fold3_0006"
    assert len(np.unique(data.groups)) == 30 and data.subjects is None
    row = 0
    for number, count in enumerate(COUNTS, 1):
        made = fold(number, count)
        for image, kinds in zip(made.images, made.kinds, strict=True):
            assert (data.images[row] == image).all()
            channels = np.array([CHANNEL[name] for name in data.classes], np.uint8)
            clear = np.ones((SIDE, SIDE), bool)
            clear[0, :2] = False
            assert (channels[data.targets[row][clear]] == kinds[clear]).all()
            assert (data.targets[row][~clear] == IGNORED).all()
            row += 1
    assert row == 30


def test_what_it_counts(root):
    census = pannuke.read(root, SIDE).census
    assert census["pixels_overlapping"] == census["pixels_unlabelled"] == 30
    assert census["images_per_part"] == {"fold1": 18, "fold2": 5, "fold3": 7}
    assert census["images_per_tissue"] == {"Breast": 9 + 3 + 4, "Colon": 9 + 2 + 3}
    assert census["images_per_class"] == dict.fromkeys(pannuke.CLASSES, 30)
    kinds = [fold(number, count).kinds for number, count in enumerate(COUNTS, 1)]
    kinds = np.concatenate(kinds).reshape(30, -1)[:, 2:]
    for name, share in census["pixel_shares"].items():
        assert share == pytest.approx((kinds == CHANNEL[name]).mean())


def test_the_copy_on_kaggle_is_the_same_set(root, tmp_path):
    published = pannuke.read(root, 24)
    other = write(tmp_path / "kaggle", KAGGLE)
    (other / "pannuke" / "__MACOSX").mkdir()
    (other / "pannuke" / "read me.txt").write_text("about")
    for path in other.rglob("images.npy"):
        np.save(path, np.load(path).astype(np.uint8))
    data = pannuke.read(other, 24)
    assert data.checksum == published.checksum and data.ids == published.ids
    assert data.census == published.census and data.parts == published.parts


def test_images_are_resized_like_files_and_labels_by_the_nearest_pixel(root):
    data, whole = pannuke.read(root, 24), pannuke.read(root, SIDE)
    image = Image.fromarray(fold(2, 5).images[3].astype(np.uint8))
    smaller = image.resize((24, 24), Image.Resampling.BICUBIC, reducing_gap=3.0)
    assert (data.images[21] == np.asarray(smaller)).all()
    at = ((np.arange(24) + 0.5) * SIDE / 24).astype(int)
    assert (data.targets == whole.targets[:, at][:, :, at]).all()


def test_a_whole_set_is_known_by_its_counts(root, monkeypatch):
    monkeypatch.setattr(pannuke, "COMPLETE", COUNTS)
    assert pannuke.read(root, SIDE).complete
    monkeypatch.setattr(pannuke, "COMPLETE", (18, 7, 5))
    assert not pannuke.read(root, SIDE).complete


def test_folds_are_put_in_the_order_of_their_numbers(root):
    (root / "pannuke/Fold 2").rename(root / "pannuke/Fold 10")
    parts = pannuke.read(root, SIDE).parts
    assert list(dict.fromkeys(parts)) == ["fold1", "fold3", "fold10"]


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
    data = pannuke.read(root, SIDE)
    assert data.census["near_duplicate_pairs"] == 3
    split = split_official(data, seed=0)
    assert split.train.tolist() == [i for i in range(18) if i not in (4, 9)]
    assert split.val.tolist() == [19, 20, 21, 22] and split.test.tolist() == list(range(23, 30))
    assert leaks(data, split) == 0


def test_exact_copies_go_with_their_tissue(root):
    path = root / "pannuke/Fold 1/images/fold1/images.npy"
    images, masks = np.load(path), np.load(root / "pannuke/Fold 1/masks/fold1/masks.npy")
    images[3] = images[2]
    masks[3] = masks[2]
    np.save(path, images)
    np.save(root / "pannuke/Fold 1/masks/fold1/masks.npy", masks)
    data = pannuke.read(root, SIDE)
    assert data.census["exact_duplicates_removed"] == 1 and "fold1_0003" not in data.ids
    assert data.census["images_per_tissue"] == {"Breast": 16, "Colon": 13}
    assert data.census["pixels_overlapping"] == 29


def test_the_cache_is_used_and_changed_arrays_are_converted_again(root, monkeypatch):
    first = pannuke.read(root, SIDE)
    with monkeypatch.context() as patch:
        patch.setattr(pannuke, "_convert", lambda *a: pytest.fail("converted again"))
        assert pannuke.read(root, SIDE).checksum == first.checksum
    path = root / "pannuke/Fold 3/masks/fold3/masks.npy"
    np.save(path, np.flip(np.load(path), 1))
    changed = pannuke.read(root, SIDE)
    assert (changed.targets[23:] == first.targets[23:, ::-1]).all()
    assert changed.checksum != first.checksum


def test_an_interrupted_conversion_leaves_nothing(root, home, monkeypatch):
    calls = []

    def fails_late(label_map, size):
        calls.append(size)
        if len(calls) > 20:
            raise KeyboardInterrupt
        return label_map

    with monkeypatch.context() as patch:
        patch.setattr(pannuke, "nearest", fails_late)
        with pytest.raises(KeyboardInterrupt):
            pannuke.read(root, SIDE)
    assert not list((home / "decoded").glob("*"))
    assert len(pannuke.read(root, SIDE)) == 30


def edit(name, change):
    """Damage: rewrite one array of the second fold."""

    def damage(root):
        (path,) = (root / "pannuke/Fold 2").rglob(f"{name}.npy")
        np.save(path, change(np.load(path)), allow_pickle=True)

    return damage


def put(value):
    def change(array):
        array[3, 2, 2, 0] = value
        return array

    return change


def missing(root):
    (root / "pannuke/Fold 2/masks/fold2/masks.npy").unlink()


def twice(root):
    write(root, ("Part {}/Images/images.npy", "Part {}/Masks/masks.npy"), (3,))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (edit("images", lambda a: a[:, :30]), r"images.npy: has the shape \(5, 30, 40, 3\)"),
        (edit("masks", lambda a: a[:4]), r"masks.npy: has the shape \(4, .*5 images"),
        (edit("types", lambda a: np.arange(5)), "types.npy: holds int64, no names of tissues"),
        (edit("images", put(256)), "images.npy: images 0 to 4 hold values from 0.0 to 256.0; 0 to"),
        (edit("images", lambda a: a / 255), "images.npy: .*as if divided by 255"),
        (edit("masks", put(np.nan)), "masks.npy: images 0 to 4 .* nan"),
        (missing, "Fold 2: holds 0 files masks.npy"),
        (twice, "Part 1: .*Fold 1.*same fold"),
    ],
)
def test_damage_is_named_with_a_remedy(root, home, damage, message):
    damage(root)
    with pytest.raises(DataError, match=message):
        pannuke.read(root, SIDE)
    assert not list(home.glob("decoded/*"))


def test_pictures_are_told_apart_before_they_are_made_smaller(root):
    data = pannuke.read(root, 24)
    hashes = Path(data.images.base.filename).with_name("hashes.json").read_text()
    pixels = fold(1, 18).images[0].astype(np.uint8)
    digest = hashlib.sha256(repr((SIDE, SIDE)).encode() + pixels.tobytes()).hexdigest()
    assert hashes.startswith(f'["{digest}"')
