"""Splits keep patients and lesions together, and near duplicates with them."""

from dataclasses import replace

import numpy as np
import pytest

from medrobust_utils.core.errors import DataError
from medrobust_utils.data import (
    ImageSet,
    split_by_group,
    split_by_image,
    split_like_datta,
    split_official,
    split_three_ways,
)
from medrobust_utils.data.duplicates import join_groups, near_duplicates
from medrobust_utils.data.imageset import take
from medrobust_utils.data.splits import Split, check_split, leaks
from medrobust_utils.data.views import copy_per_label


def grouped(images, size=2):
    return replace(images, groups=np.arange(len(images)) // size)


def made(name, targets, classes, groups, **more):
    """A set of black images, of which a split sees all but the images."""
    n, side = len(targets), targets.shape[1] if targets.ndim == 3 else 1
    more |= {"synthetic": True, "complete": True, "checksum": "none"}
    images, ids = np.zeros((n, side, side, 3), np.uint8), tuple(map(str, range(n)))
    return ImageSet(name, images, targets, classes, groups, ids, **more)


def test_a_leaking_or_empty_split_is_refused(skin):
    data = grouped(skin)
    with pytest.raises(DataError, match="1 patients or lesions lie on both sides"):
        check_split(data, Split(np.arange(3), np.arange(3, 10)))
    with pytest.raises(DataError, match="0 validation"):
        check_split(data, Split(np.arange(3), np.arange(0)))
    with pytest.raises(DataError, match="fewer than 5 groups"):
        split_by_group(replace(skin, groups=np.zeros(len(skin), int)), seed=0)
    with pytest.raises(DataError, match="too large to split"):  # a chain of near duplicates
        chained = np.maximum(np.arange(len(skin)), len(skin) // 2)
        for seed in range(5):  # the giant falls to validation for one seed or another
            split_by_group(replace(skin, groups=chained), seed=seed)


def test_near_duplicates_join_their_groups_however_far_apart():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2100, 48, 48, 1), np.uint8)
    images[2099] = np.clip(images[5].astype(int) + 20, 0, 255)  # the same picture, brighter
    pairs, alike = near_duplicates(images)
    assert pairs.tolist() == [[5], [2099]]
    groups, _ = join_groups(np.arange(2100) // 2, pairs, alike)
    assert groups[4] == groups[5] == groups[2099] == groups[2098] and len({*groups}) == 1049


def test_one_copy_a_label_keeps_the_split_and_the_patients(chest):
    data = grouped(chest, 3)
    split = split_by_group(data, seed=0)
    assert sorted([*split.train, *split.val]) == list(range(len(data)))
    assert not np.intersect1d(data.groups[split.train], data.groups[split.val]).size
    copies, carried = copy_per_label(data, split)
    assert len(copies) == data.targets.sum() == len(carried.train) + len(carried.val)
    for row in range(len(copies)):
        original = data.ids.index(copies.ids[row].split("#")[0])
        assert (copies.images[row] == data.images[original]).all()
        assert data.targets[original, copies.targets[row]] == 1
        assert copies.groups[row] == data.groups[original]
        assert (row in carried.val) == (original in split.val)
    with pytest.raises(DataError, match="one label an image already"):
        copy_per_label(copies, carried)


# HAM10000 (Tschandl et al. 2018): lesions with one to six images, and the classes of all images
# and of those whose lesion has one image, as its metadata file counts them.
LESIONS = {1: 5514, 2: 1423, 3: 490, 4: 34, 5: 5, 6: 4}
CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
ALONE = (151, 175, 440, 39, 230, 4415, 64)
ALL = (327, 514, 1099, 115, 1113, 6705, 142)
DATTA = (23, 26, 66, 6, 34, 663, 10)  # test images that the notebooks print


@pytest.fixture(scope="module")
def ham():
    """HAM10000's sizes of lesions and classes, in no order, with an image of one pixel."""
    sizes = np.repeat(list(LESIONS), list(LESIONS.values()))
    lesions = np.repeat(np.arange(len(sizes)), sizes)
    rng = np.random.default_rng(0)
    alone = rng.permutation(np.repeat(range(7), ALONE))
    rest = np.sort(np.repeat(range(7), np.subtract(ALL, ALONE)))  # a lesion is of one class
    shuffled = rng.permutation(len(lesions))
    targets, lesions = np.concatenate([alone, rest])[shuffled], lesions[shuffled]
    return made("ham-like", targets, CLASSES, lesions, subjects=lesions)


def test_dattas_split_is_828_images_of_lesions_with_one_image(ham):
    split = split_like_datta(ham, seed=0)
    assert len(split.test) == 828 and len(split.train) == 9187
    assert (split.val == split.test).all()  # the epoch is chosen on what is reported
    assert sorted([*split.train, *split.test]) == list(range(10_015))
    images_of = np.bincount(ham.subjects)
    assert (images_of[ham.subjects[split.test]] == 1).all()
    counts = np.bincount(ham.targets[split.test], minlength=7)
    assert np.abs(counts - DATTA).max() <= 1  # scikit-learn draws which class rounds up
    assert leaks(ham, split) == 0


def test_near_duplicates_leak_out_of_dattas_split_and_are_counted(ham):
    split = split_like_datta(ham, seed=0)
    pairs = np.stack([split.test[:5], split.train[:5]])  # five test images with a double
    joined = replace(ham, groups=join_groups(ham.groups, pairs, np.ones(5))[0])
    assert leaks(joined, split) == 5
    same = split_like_datta(joined, seed=0)  # the publisher's lesions decide, not the groups
    assert (same.test == split.test).all()


def check_three_ways(data, cut, shares):
    """Every image on one side, in order, in the shares of the protocol, drawn by the seed."""
    split, again, other = (cut(data, seed=seed) for seed in (4, 4, 5))
    assert sorted(np.concatenate(split)) == list(range(len(data)))
    assert all((np.diff(side) > 0).all() for side in split)
    assert [len(side) / len(data) for side in split] == pytest.approx(shares, abs=0.02)
    assert all((a == b).all() for a, b in zip(split, again, strict=True))
    assert set(split.test) != set(other.test) and set(split.val) != set(other.val)
    whole = np.bincount(data.targets, minlength=7) / len(data)
    for side in split:
        counts = np.bincount(data.targets[side], minlength=7)
        assert counts / len(side) == pytest.approx(whole, abs=0.03)
    return split


def test_the_honest_split_parts_three_ways_by_group_and_class(ham):
    data = take(ham, np.flatnonzero(ham.groups % 12 == 0))  # all would take scikit-learn seconds
    split = check_three_ways(data, split_three_ways, [0.72, 0.08, 0.2])
    sides = [set(data.groups[side].tolist()) for side in split]
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
    assert leaks(data, split) == 0


def test_a_split_by_image_keeps_classes_and_ignores_groups(ham):
    split = check_three_ways(ham, split_by_image, [0.7, 0.1, 0.2])
    apart = replace(ham, groups=np.arange(len(ham)))
    same = split_by_image(apart, seed=4)
    assert all((a == b).all() for a, b in zip(split, same, strict=True))
    assert leaks(apart, split) == 0 and leaks(ham, split) > 500


def test_sets_that_cannot_be_split_so_are_refused(skin, ham):
    with pytest.raises(DataError, match="no lesion numbers.*HAM10000"):
        split_like_datta(skin, seed=0)
    with pytest.raises(DataError, match="0 images .*too few"):
        split_like_datta(replace(skin, subjects=np.arange(140) // 2), seed=0)
    rare = np.flatnonzero((ham.targets == 3) & (ham.subjects < 5514))[:1]
    with pytest.raises(DataError, match="a share of every class"):
        split_like_datta(take(ham, np.append(np.flatnonzero(ham.targets != 3), rare)), seed=0)
    with pytest.raises(DataError, match="fewer than 10 groups"):
        split_three_ways(replace(skin, groups=np.arange(140) // 14), seed=0)


CHOICES = "background", "common", "rare"


def tiles(parts, per_tile=4, rare=()):
    """Label maps of 2 x 2 pixels, a tile for each of ``parts``; ``rare`` tiles show class 2."""
    targets = np.zeros((len(parts) * per_tile, 2, 2), np.uint8)
    targets[:, 0, 0] = 1
    for tile in rare:
        targets[tile * per_tile : tile * per_tile + 2, 1, 1] = 2
    groups = np.arange(len(targets)) // per_tile
    return made("tiles", targets, CHOICES, groups, parts=tuple(np.repeat(parts, per_tile)))


def tiles_of(data, rows):
    return sorted({int(group) for group in data.groups[rows]})


@pytest.mark.parametrize("seed", range(4))
def test_the_publishers_test_part_is_the_test_side(seed):
    data = tiles(["test"] * 3 + ["train"] * 10 + ["test"], rare=(1, 4, 12))
    split = split_official(data, seed=seed)
    assert tiles_of(data, split.test) == [0, 1, 2, 13] and len(split.test) == 16
    assert sorted(np.concatenate(split)) == list(range(len(data)))
    assert not set(tiles_of(data, split.train)) & set(tiles_of(data, split.val))
    assert len(tiles_of(data, split.val)) == 2  # one in five
    # Two of ten tiles show the rare class: one of them chooses the epoch, whatever the seed.
    assert sum(tile in tiles_of(data, split.val) for tile in (4, 12)) == 1


def test_the_publishers_folds_are_the_three_sides():
    data = tiles(["fold1", "fold2", "fold1", "fold3", "fold2"])
    split = split_official(data, seed=0)
    assert [tiles_of(data, side) for side in split] == [[0, 2], [1, 4], [3]]
    joined = replace(data, groups=np.array([0, 1, 2, 0, 2]).repeat(4))
    with pytest.raises(DataError, match="leaves 0 training"):  # both are near duplicates
        split_official(joined, seed=0)
    joined = replace(data, groups=np.array([0, 1, 2, 1, 3]).repeat(4))
    split = split_official(joined, seed=0)
    assert split.val.tolist() == list(range(16, 20)) and split.test.tolist() == list(range(12, 16))
    assert len(split.train) == 8 and leaks(joined, split) == 0


@pytest.mark.parametrize(
    "parts", [["train"] * 9, ["fold1"] * 5 + ["fold2"] * 4, ["train", "val", "test"] * 3, None]
)
def test_parts_that_are_no_split_are_refused(parts):
    data = tiles(parts) if parts else replace(tiles(["train"] * 9), parts=None)
    with pytest.raises(DataError, match="tiles comes in the parts .*or use split_three_ways"):
        split_official(data, seed=0)


def test_label_maps_are_split_three_ways_by_tile_with_every_class():
    data = tiles(["any"] * 30, rare=(3, 11, 12, 25, 29))
    for seed in range(4):
        split = split_three_ways(data, seed=seed, val_folds=4)
        assert sorted(np.concatenate(split)) == list(range(len(data)))
        sides = [tiles_of(data, side) for side in split]
        assert sum(map(len, sides)) == 30 and [len(side) for side in sides] == [18, 6, 6]
        assert all(all(data.class_counts(side).values()) for side in split)
