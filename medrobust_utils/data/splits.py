"""Honest splits: patients, lesions and near duplicates on one side, nothing counted twice."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np

from ..core.errors import DataError
from .imageset import ImageSet


class Split(NamedTuple):
    """Indices of the training and the validation images, disjoint and sorted."""

    train: np.ndarray
    val: np.ndarray


class ThreeWay(NamedTuple):
    """Indices of the images to train on, to choose the epoch by, and to report on; sorted.

    In an honest split the three are disjoint and no group lies in two of them; Datta's split
    chooses the epoch on the very images it reports (``val`` equals ``test``).
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def split_by_group(data: ImageSet, *, seed: int, folds: int = 5) -> Split:
    """Stratified split that keeps every group on one side; validation is one fold of ``folds``.

    Multi-label and segmentation sets are stratified by the rarest class each image shows, so
    that small classes reach both sides.

    Raises:
        DataError: if there are too few groups, or a side would be empty.
    """
    return _one_fold(data, np.arange(len(data)), seed, folds)


def split_three_ways(data: ImageSet, *, seed: int, val_folds: int = 10) -> ThreeWay:
    """An honest split: a fifth to report on, a part of the rest to choose the epoch by.

    Stratified and by group like ``split_by_group``, whose errors it raises.

    Args:
        val_folds: the rest is cut into so many folds and one of them chooses the epoch: 10 make
            72, 8 and 20 % of the images, 8 make 70, 10 and 20 %.
    """
    rest, test = _one_fold(data, np.arange(len(data)), seed, 5)
    train, val = _one_fold(data, rest, seed, val_folds)
    return ThreeWay(train, val, test)


def split_by_image(data: ImageSet, *, seed: int) -> ThreeWay:
    """70 % of the images to train on, 10 % to choose the epoch by, 20 % to report on, by class.

    Groups are ignored, as in a paper that says nothing of patients: slices of one patient, near
    duplicates and, where they were kept, exact copies fall on both sides. ``leaks`` counts them.

    Raises:
        DataError: if a class has too few images for three parts.
    """
    rest, test = _stratified(data, np.arange(len(data)), 0.2, seed)
    train, val = _stratified(data, rest, 0.1 / 0.8, seed)
    return ThreeWay(np.sort(train), val, test)


def split_like_datta(data: ImageSet, *, seed: int, share: float = 0.15) -> ThreeWay:
    """The split of Datta et al. 2021: 15 % of the lesions that have a single image, by class.

    All other images are trained on, and the test images also choose the epoch. The publisher's
    lesions decide, so a near duplicate may lie on the other side (count them with ``leaks``), and
    four in five lesions with one image are nevi: a harder line to beat, and an easier test
    than the whole set.

    Raises:
        DataError: if the set does not say which images show the same lesion, or has too few
            lesions with one image to draw from every class.
    """
    if data.subjects is None:
        raise DataError(f"{data.name} has no lesion numbers; this split needs HAM10000.")
    _, which, sizes = np.unique(data.subjects, return_inverse=True, return_counts=True)
    _, test = _stratified(data, np.flatnonzero(sizes[which] == 1), share, seed)
    return ThreeWay(np.setdiff1d(np.arange(len(data)), test), test, test)


def _stratified(data: ImageSet, rows: np.ndarray, share: float, seed: int) -> Split:
    """The rest of ``rows``, unsorted, and a ``share`` of every class, sorted."""
    from sklearn.model_selection import train_test_split  # slow to import

    try:
        rest, side = train_test_split(
            rows, test_size=share, stratify=data.targets[rows], random_state=seed
        )
    except ValueError as error:  # too few in all, or a class with a single one
        raise DataError(
            f"{data.name}: {len(rows)} images (lesions with one image) are too few to draw a share "
            f"of every class ({error}). Bring more images, or split by group."
        ) from error
    return Split(rest, np.sort(side))


def split_official(data: ImageSet, *, seed: int) -> ThreeWay:
    """The publisher's own split; images that share a group with a later side are left out.

    The test images stay. A training image that is a near duplicate of a test image, or shows its
    patient or tile, is left out, and so is one that validation shows. Count them as the images
    that lie on no side.

    Args:
        data: a set with ``parts``: ``train`` and ``test``, of which a fifth of the training
            images, by group and class like ``split_by_group``, chooses the epoch; or three
            parts in the order train, validation, test (``fold1``, ``fold2``, ``fold3``).

    Raises:
        DataError: if the parts are of neither kind, or a side would be empty.
    """
    names = sorted(set(data.parts or ()))
    sides = {name: np.flatnonzero(np.array(data.parts) == name) for name in names}

    def without(rows: np.ndarray, *others: np.ndarray) -> np.ndarray:
        return rows[~np.isin(data.groups[rows], data.groups[np.concatenate(others)])]

    if names == ["test", "train"]:
        rest = without(sides["train"], sides["test"])
        split = ThreeWay(*_one_fold(data, rest, seed, 5), sides["test"])
    elif len(names) == 3 and "train" not in names:
        train, val, test = sides.values()
        val = without(val, test)
        split = ThreeWay(without(train, val, test), val, test)
    else:
        raise DataError(
            f"{data.name} comes in the parts {names}; a split of the publisher needs train and "
            "test, or three folds. Bring the others, or use split_three_ways."
        )
    check_split(data, Split(split.train, split.val))
    return split


def leaks(data: ImageSet, split: ThreeWay) -> int:
    """How many test images show a patient, lesion or near duplicate that training saw."""
    return int(np.isin(data.groups[split.test], data.groups[split.train]).sum())


def _one_fold(data: ImageSet, among: np.ndarray, seed: int, folds: int) -> Split:
    """Split the images ``among`` so that one fold of ``folds`` is validation."""
    groups, strata = data.groups[among], data.targets[among]
    if len(np.unique(groups)) < folds:
        raise DataError(
            f"{data.name}: fewer than {folds} groups (patients, lesions) to split. "
            "Bring more images."
        )
    if data.multi_label or data.segmentation:
        shown = data.shown(among)
        rarity = shown * (len(shown) - shown.sum(0, dtype=np.int64))
        strata = np.where(shown.any(1), rarity.argmax(1), shown.shape[1])
    from sklearn.model_selection import StratifiedGroupKFold  # slow to import

    folder = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    try:
        with warnings.catch_warnings():
            if data.segmentation:  # these strata are made here: nobody knows them by name
                warnings.filterwarnings("ignore", "The least populated class", UserWarning)
            found = list(folder.split(np.zeros(len(among)), strata, groups))
    except ValueError as error:  # every class has fewer images than there are folds
        raise DataError(
            f"{data.name}: {len(among)} images are too few for {folds} folds ({error}). Bring more "
            "images."
        ) from error
    train, val = found[0]
    if data.segmentation:
        # A handful of tiles makes a fold, so that one may lack a class: the first that lacks
        # fewest, on its side or on the other.
        train, val = max(found, key=lambda sides: sum(shown[rows].any(0).sum() for rows in sides))
    split = Split(np.sort(among[train]), np.sort(among[val]))
    check_split(data, split)
    if not 0.5 < len(val) * folds / len(among) < 2:
        raise DataError(
            f"{data.name}: {len(val)} of {len(among)} images fall to validation, far from one in "
            f"{folds}. One patient, lesion or chain of near duplicates is too large to split."
        )
    return split


def check_split(data: ImageSet, split: Split) -> None:
    """Raise DataError if a side is empty or a group lies on both sides."""
    if not len(split.train) or not len(split.val):
        raise DataError(
            f"{data.name}: the split leaves {len(split.train)} training and {len(split.val)} "
            "validation images. Bring more images or another split."
        )
    shared = np.intersect1d(data.groups[split.train], data.groups[split.val])
    if len(shared):
        raise DataError(
            f"{data.name}: {len(shared)} patients or lesions lie on both sides of the split."
        )


def some(index: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """``limit`` images of ``index`` by chance (0: all), sorted."""
    return np.sort(np.random.default_rng(seed).permutation(index)[: limit or None])
