"""Splits keep patients and lesions together, and near duplicates with them."""

from dataclasses import replace

import numpy as np
import pytest

from medrobust_utils.data import split_by_group
from medrobust_utils.data.single_label import copy_per_label
from medrobust_utils.data.splits import (
    Split,
    check_split,
    drop_duplicates,
    join_groups,
    near_duplicates,
)
from medrobust_utils.errors import DataError


def grouped(images, size=2):
    return replace(images, groups=np.arange(len(images)) // size)


def test_no_group_on_both_sides_and_nothing_lost(skin):
    data = grouped(skin)
    split = split_by_group(data, seed=3)
    assert sorted([*split.train, *split.val]) == list(range(len(data)))
    assert not np.intersect1d(data.groups[split.train], data.groups[split.val]).size
    assert 0.1 < len(split.val) / len(data) < 0.3


def test_a_split_belongs_to_its_seed(skin):
    data = grouped(skin)
    assert (split_by_group(data, seed=1).val == split_by_group(data, seed=1).val).all()
    assert set(split_by_group(data, seed=1).val) != set(split_by_group(data, seed=2).val)


def test_classes_reach_both_sides(skin):
    split = split_by_group(skin, seed=0)
    common = [k for k, n in enumerate(np.bincount(skin.targets)) if n >= 10]
    assert set(common) <= set(skin.targets[split.val]) & set(skin.targets[split.train])


def test_a_leaking_or_empty_split_is_refused(skin):
    data = grouped(skin)
    with pytest.raises(DataError, match="1 patients or lesions lie on both sides"):
        check_split(data, Split(np.arange(3), np.arange(3, 10)))
    with pytest.raises(DataError, match="0 validation"):
        check_split(data, Split(np.arange(3), np.arange(0)))
    with pytest.raises(DataError, match="fewer than 5 groups"):
        split_by_group(replace(skin, groups=np.zeros(len(skin), int)), seed=0)


def test_duplicates_and_contradictions_are_counted():
    keep, census = drop_duplicates(list("abacbd"), np.array([0, 1, 0, 2, 2, 3]))
    assert list(keep) == [0, 3, 5]
    assert census == {"exact_duplicates_removed": 1, "contradictory_labels_dropped": 2}
    keep, census = drop_duplicates(list("aa"), np.array([[1, 0], [1, 1]], np.uint8))
    assert not len(keep) and census["contradictory_labels_dropped"] == 2


def test_near_duplicates_join_their_groups():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 64, 64, 3), np.uint8)
    images[4] = np.clip(images[0].astype(int) + 20, 0, 255)  # the same picture, brighter
    pairs = near_duplicates(images)
    assert pairs.tolist() == [[0], [4]]
    groups = join_groups(np.array([7, 7, 8, 9, 10, 10]), pairs)
    assert groups[0] == groups[1] == groups[4] == groups[5]
    assert len({groups[0], groups[2], groups[3]}) == 3


def test_pairs_are_found_across_blocks():
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (2100, 48, 48, 1), np.uint8)
    images[2099] = images[5]
    assert near_duplicates(images).tolist() == [[5], [2099]]


def test_a_chain_of_near_duplicates_too_large_to_split_is_refused(skin):
    groups = np.arange(len(skin))
    groups[: len(skin) // 2] = 0
    with pytest.raises(DataError, match="too large to split"):
        for seed in range(5):  # the giant falls to validation for one seed or another
            split_by_group(replace(skin, groups=groups), seed=seed)


def test_one_copy_a_label_keeps_the_split_and_the_patients(chest):
    data = grouped(chest, 3)
    split = split_by_group(data, seed=0)
    copies, carried = copy_per_label(data, split)
    assert len(copies) == data.targets.sum() == len(carried.train) + len(carried.val)
    assert not np.intersect1d(copies.groups[carried.train], copies.groups[carried.val]).size
    for row in (0, len(copies) // 2, len(copies) - 1):
        original = data.ids.index(copies.ids[row].split("#")[0])
        assert (copies.images[row] == data.images[original]).all()
        assert data.targets[original, copies.targets[row]] == 1
        assert (row in carried.val) == (original in split.val)
    with pytest.raises(DataError, match="one label an image already"):
        copy_per_label(copies, carried)
