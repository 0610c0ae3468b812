"""Pictures that come twice: exact copies go, near duplicates share a group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from ..core import env
from .imageset import Rows

THUMBNAIL = 48  # side at which pictures are compared
BLOCK = 2048  # thumbnails compared with all others at a time
NEAR_DUPLICATE = 0.99  # correlation of two thumbnails above which they may be one picture
DETAILS = 0.7  # correlation of what is left of them, see ``near_duplicates``
RESIDUE = 0.8  # the same without a blur: a quick first look at large sets
FEW = 50  # images whose mean is too much theirs to be taken off at once
SURROUND = 9  # side of the blur that is taken off; odd
RULE = f"{THUMBNAIL}-{NEAR_DUPLICATE}-{DETAILS}"
LARGEST_CHAIN = 0.1  # share of a set that near duplicates may join into one group


def drop_duplicates(
    hashes: Sequence[str], targets: np.ndarray
) -> tuple[np.ndarray, dict[str, int]]:
    """Indices to keep, one of each picture, and counts of what was removed.

    Copies with the same label leave one image; copies with contradictory labels are all
    dropped, since nobody can say which label is right.
    """
    _, first, which = np.unique(np.asarray(hashes), return_index=True, return_inverse=True)
    labels = targets.reshape(len(targets), -1)
    copies = np.flatnonzero(first[which] != np.arange(len(which)))
    agrees = (labels[copies] == labels[first[which[copies]]]).all(1)
    contradicted = np.zeros(len(first), bool)
    contradicted[which[copies[~agrees]]] = True
    keep = np.sort(first[~contradicted])
    dropped = int(contradicted[which].sum())
    return keep, {
        "exact_duplicates_removed": len(hashes) - len(keep) - dropped,
        "contradictory_labels_dropped": dropped,
    }


def near_duplicates(images: np.ndarray | Rows) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (2, P) of near-identical pictures among uint8 ``images`` (N, H, W, C), and how alike.

    Pictures are compared as gray 48x48 thumbnails by correlation, block by block; exact copies
    are among the pairs. Photographs of one device share a surround, a field and a lighting that
    correlate by themselves, so what is alike in *all* images of the set (the mean of the others)
    and what is smooth (a blur) is taken off, and the details that are left must correlate, too,
    weighted by how much the set varies there.

    Returns:
        Pairs of indices int64 (2, P), and the correlation of the thumbnails, float32 (P,).
    """
    small = _thumbnails(images)
    flat, n = _unit(small.flatten(1)), len(small)
    varies = _variation(flat)
    residue = _unit((flat - flat.mean(0)) * varies) if n >= FEW else flat
    pairs, alike = [], []
    for start in env.progress(range(0, n, BLOCK), desc="near duplicates", leave=False):
        block = flat[start : start + BLOCK] @ flat[start:].T
        likely = (block > NEAR_DUPLICATE).triu(1)
        if n >= FEW and likely.any():
            likely &= residue[start : start + BLOCK] @ residue[start:].T > RESIDUE
        found = likely.nonzero().T
        parts = (found + start).split(512, 1)  # pairs whose pictures fit into memory
        same = torch.cat([_details_agree(flat, varies, part) for part in parts])
        pairs.append(found[:, same] + start)
        alike.append(block[likely][same])
    return torch.cat(pairs, 1).numpy(), torch.cat(alike).numpy()


def _variation(flat: torch.Tensor) -> torch.Tensor:
    """Weights (D,) from 0 to 1: where most pictures are the same (the rim of a field), 0."""
    if len(flat) < FEW:
        return torch.ones(flat.shape[1])
    some = flat[:: max(1, len(flat) // BLOCK)]
    deviation = (some - some.median(0).values).abs().median(0).values
    return (deviation / deviation.median().clamp_min(1e-6)).clamp_max(1)


def _details_agree(flat: torch.Tensor, varies: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """Whether the details of both pictures of each pair (2, P) correlate: bool (P,)."""
    two = flat[pairs]
    others = (flat.sum(0) - two.sum(0)) / max(len(flat) - 2, 1)
    left = ((two - others) * varies).view(-1, 1, THUMBNAIL, THUMBNAIL)
    smooth = torch.nn.functional.avg_pool2d(
        left, SURROUND, 1, SURROUND // 2, count_include_pad=False
    )
    first, second = _unit((left - smooth).flatten(1)).chunk(2)
    return (first * second).sum(1) > DETAILS


def join_groups(groups: np.ndarray, pairs: np.ndarray, alike: np.ndarray) -> tuple[np.ndarray, int]:
    """Groups (N,) in which both images of a pair share a number, and how many pairs were left.

    Near duplicates are kept, but on one side of a split; whole patients and lesions follow. A chain
    joins images that are not alike themselves, so none grows beyond a tenth of the images: the most
    alike are joined first, and what would make a chain too large to split is left.

    Args:
        groups: patients or lesions (N,), which are never parted.
        pairs, alike: see ``near_duplicates``; pairs that are certain have ``alike`` of 1 or more.
    """
    _, root = np.unique(groups, return_inverse=True)
    size, left = np.bincount(root), 0
    parent = list(range(len(size)))

    def top(group: int) -> int:
        while parent[group] != group:
            parent[group] = parent[parent[group]]
            group = parent[group]
        return group

    for row in np.argsort(-alike, kind="stable"):
        one, other = (top(root[image]) for image in pairs[:, row])
        small = size[one] + size[other] <= LARGEST_CHAIN * len(groups)
        if one != other and (small or alike[row] >= 1 or len(groups) < FEW):
            parent[other] = one
            size[one] += size[other]
        elif one != other:
            left += 1
    return pd.factorize(np.array([top(group) for group in root]))[0], left


def _thumbnails(images: np.ndarray | Rows) -> torch.Tensor:
    """Gray thumbnails (N, 48, 48)."""
    small = []
    for start in range(0, len(images), 512):
        batch = torch.from_numpy(np.array(images[start : start + 512])).float().mean(3)
        size = (THUMBNAIL, THUMBNAIL)
        small.append(torch.nn.functional.interpolate(batch[:, None], size, mode="area")[:, 0])
    return torch.cat(small)


def _unit(rows: torch.Tensor) -> torch.Tensor:
    """Rows (N, D) without their mean and of length one: their products are correlations."""
    return torch.nn.functional.normalize(rows - rows.mean(1, keepdim=True))
