"""Some rows of a set as a set of their own, with their own images or others, and sets as one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ..core.storage import fingerprint
from .convert import to_float
from .imageset import ImageSet


def rows_of(data: ImageSet, index: np.ndarray) -> ImageSet:
    """Some images of a set as a set of their own, in the order of ``index``."""
    return replace(
        data,
        images=data.images[index],
        targets=data.targets[index],
        groups=data.groups[index],
        ids=tuple(data.ids[row] for row in index),
        checksum=fingerprint(data.checksum, np.asarray(index).tolist()),
        masks=None,
        subjects=None,
        parts=None,
        census={},
    )


def with_images(data: ImageSet, index: np.ndarray, images: torch.Tensor, *how: str) -> ImageSet:
    """The rows ``index`` of ``data`` with other ``images`` (N, C, H, W), named after ``how``."""
    plain = rows_of(data, index)
    pixels = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
    return replace(plain, images=pixels, checksum=fingerprint(plain.checksum, *how))


def union(*sets: ImageSet) -> ImageSet:
    """Several sets of the same classes as one; an image keeps its group in all of them."""
    first = sets[0]
    return replace(
        first,
        images=np.concatenate([_rows_of_floats(one) for one in sets]),
        targets=np.concatenate([one.targets[:] for one in sets]),
        groups=np.concatenate([one.groups for one in sets]),
        ids=tuple(f"{place}/{name}" for place, one in enumerate(sets) for name in one.ids),
        checksum=fingerprint([one.checksum for one in sets]),
        masks=None,
        subjects=None,
        parts=None,
        census={},
    )


def _rows_of_floats(data: ImageSet) -> np.ndarray:
    return to_float(data.images[:]).permute(0, 2, 3, 1).numpy()
