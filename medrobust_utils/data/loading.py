"""A data set by name, and its batches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from ..core import env
from ..core.errors import DataError
from . import (
    brain_mri,
    busi,
    consep,
    ham10000,
    iq_othnccd,
    isic,
    kermany,
    medmnist,
    nih,
    own,
    pannuke,
    retinopathy,
)
from .convert import to_float
from .imageset import ImageSet
from .phantoms import phantom_set
from .splits import (
    Split,
    ThreeWay,
    split_by_group,
    split_by_image,
    split_like_datta,
    split_official,
    split_three_ways,
)

READERS = {
    module.__name__.rpartition(".")[2]: module.read
    for module in (
        brain_mri,
        busi,
        consep,
        ham10000,
        iq_othnccd,
        isic,
        kermany,
        nih,
        pannuke,
        retinopathy,
    )
} | medmnist.READ

__all__ = [
    "ImageSet",
    "READERS",
    "Split",
    "ThreeWay",
    "batches",
    "load",
    "split_by_group",
    "split_by_image",
    "split_like_datta",
    "split_official",
    "split_three_ways",
    "to_float",
]


def load(
    name: str, *, size: int, phantoms: int = 0, seed: int = 0, duplicates: bool = False
) -> ImageSet:
    """A data set by name: a reader of READERS, ``phantom-<modality>``, or one's own folder.

    Args:
        name: e.g. ``ham10000``, ``nih``, ``retinopathy``, ``phantom-chest``, ``folder:PATH``.
        size: side of the square images in pixels.
        phantoms: how many phantoms to draw, where the name asks for them.
        seed: seed of the phantoms.
        duplicates: whether exact copies of real images stay in; phantoms have none.
    """
    if name.startswith("phantom-"):
        return phantom_set(name.removeprefix("phantom-"), phantoms, size=size, seed=seed)
    if name.startswith(own.PREFIX):
        return own.read(name, size, duplicates=duplicates)
    if name not in READERS:
        raise DataError(
            f"unknown data set {name!r}. Known: {', '.join(READERS)}, phantom-<modality>, and "
            "folder:PATH for images of your own."
        )
    return READERS[name](env.data_root(), size, duplicates=duplicates)


def batches(
    data: ImageSet, index: np.ndarray, size: int
) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor]]:
    """Yield (indices, images float32 in [0, 1], targets), ``size`` at a time, in order."""
    for start in range(0, len(index), size):
        chunk = index[start : start + size]
        yield (
            chunk,
            to_float(data.images[chunk]),
            torch.from_numpy(np.ascontiguousarray(data.targets[chunk])),
        )
