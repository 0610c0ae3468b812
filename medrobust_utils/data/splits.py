"""Honest splits: duplicates out, patients and lesions on one side, nothing counted twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from .. import env
from ..errors import DataError
from .imageset import ImageSet, Rows

THUMBNAIL = 48  # side at which pictures are compared
BLOCK = 2048  # thumbnails compared with all others at a time
NEAR_DUPLICATE = 0.99  # correlation of two thumbnails above which they count as one picture


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


def drop_duplicates(
    hashes: Sequence[str], targets: np.ndarray
) -> tuple[np.ndarray, dict[str, int]]:
    """Indices to keep, one of each picture, and counts of what was removed.

    Copies with the same label leave one image; copies with contradictory labels are all
    dropped, since nobody can say which label is right.
    """
    _, first, which = np.unique(np.asarray(hashes), return_index=True, return_inverse=True)
    labels = targets.reshape(len(targets), -1)
    agrees = (labels == labels[first[which]]).all(1)
    contradicted = np.zeros(len(first), bool)
    contradicted[which[~agrees]] = True
    keep = np.sort(first[~contradicted])
    dropped = int(contradicted[which].sum())
    return keep, {
        "exact_duplicates_removed": len(hashes) - len(keep) - dropped,
        "contradictory_labels_dropped": dropped,
    }


def near_duplicates(images: np.ndarray | Rows, threshold: float = NEAR_DUPLICATE) -> np.ndarray:
    """Pairs (2, P) of near-identical pictures among uint8 ``images`` (N, H, W, C).

    Pictures are compared as gray 48x48 thumbnails by correlation, block by block; exact copies
    are among the pairs.
    """
    flat = _thumbnails(images)
    pairs = []
    for start in env.progress(range(0, len(flat), BLOCK), desc="near duplicates", leave=False):
        block = flat[start : start + BLOCK] @ flat[start:].T
        rows, columns = torch.nonzero(block > threshold, as_tuple=True)
        later = columns > rows
        pairs.append(np.stack([rows[later].numpy(), columns[later].numpy()]) + start)
    return np.concatenate(pairs, axis=1)


def join_groups(groups: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Groups (N,) in which the two images of every pair (2, P) share a number.

    Near duplicates are kept, but on one side of a split; whole patients and lesions follow.
    """
    _, known = np.unique(groups, return_inverse=True)
    n, nodes = len(groups), len(groups) + int(known.max()) + 1
    # An image is joined with its own group's node and with its near duplicates.
    rows = np.concatenate([np.arange(n), pairs[0]])
    columns = np.concatenate([n + known, pairs[1]])
    graph = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(nodes, nodes))
    return connected_components(graph, directed=False)[1][:n].astype(np.int64)


def _thumbnails(images: np.ndarray | Rows) -> torch.Tensor:
    """Gray thumbnails as unit vectors (N, 48*48); their products are correlations."""
    flat = []
    for start in range(0, len(images), 512):
        batch = torch.from_numpy(np.array(images[start : start + 512])).float().mean(3)
        small = torch.nn.functional.interpolate(batch[:, None], (THUMBNAIL, THUMBNAIL), mode="area")
        small = small.flatten(1)
        flat.append(torch.nn.functional.normalize(small - small.mean(1, keepdim=True)))
    return torch.cat(flat)


def split_by_group(data: ImageSet, *, seed: int, folds: int = 5) -> Split:
    """Stratified split that keeps every group on one side; validation is one fold of ``folds``.

    Multi-label sets are stratified by each image's rarest finding, so that small classes
    reach both sides.

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
    rest = np.arange(len(data))
    sides = []
    try:
        for share in (0.2, 0.1 / 0.8):
            rest, side = train_test_split(
                rest, test_size=share, stratify=data.targets[rest], random_state=seed
            )
            sides.append(np.sort(side))
    except ValueError as error:  # too few in all, or a class with a single one
        raise DataError(
            f"{data.name}: {len(data)} images are too few to split every class into three parts "
            f"({error}). Bring more images."
        ) from error
    return ThreeWay(np.sort(rest), sides[1], sides[0])


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
    single = np.flatnonzero(sizes[which] == 1)
    try:
        _, test = train_test_split(
            single, test_size=share, stratify=data.targets[single], random_state=seed
        )
    except ValueError as error:  # too few in all, or a class with a single one
        raise DataError(
            f"{data.name}: {len(single)} lesions have one image each, too few to test on a share "
            f"of every class ({error}). Bring more images, or split by lesion."
        ) from error
    test = np.sort(test)
    return ThreeWay(np.setdiff1d(np.arange(len(data)), test), test, test)


def leaks(data: ImageSet, split: ThreeWay) -> int:
    """How many test images show a patient, lesion or near duplicate that training saw."""
    return int(np.isin(data.groups[split.test], data.groups[split.train]).sum())


def _one_fold(data: ImageSet, among: np.ndarray, seed: int, folds: int) -> Split:
    """Split the images ``among`` so that one fold of ``folds`` is validation."""
    groups, targets = data.groups[among], data.targets[among]
    if len(np.unique(groups)) < folds:
        raise DataError(
            f"{data.name}: fewer than {folds} groups (patients, lesions) to split. "
            "Bring more images."
        )
    strata = targets
    if data.multi_label:
        rarity = targets * (len(targets) - targets.sum(0, dtype=np.int64))
        strata = np.where(targets.any(1), rarity.argmax(1), targets.shape[1])
    folder = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    train, val = next(folder.split(np.zeros(len(among)), strata, groups))
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
