"""Pictures that come twice: exact copies go, near duplicates share a group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..core import env
from .imageset import Rows

THUMBNAIL = 48  # side at which pictures are compared
BLOCK = 2048  # thumbnails compared with all others at a time
NEAR_DUPLICATE = 0.99  # correlation of two thumbnails above which they count as one picture


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
