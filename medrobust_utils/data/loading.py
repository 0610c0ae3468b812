"""A data set by its name, and its images batch by batch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from ..core import env
from ..core.disk import blame
from ..core.errors import DataError
from . import own
from .imageset import ImageSet, to_float
from .phantoms import phantom_set
from .readers import READERS


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

    Raises:
        DataError: naming the file and the remedy; also for a drive that does not answer, a disk
            without room, missing permissions, and a system without handles or memory.
    """
    if name.startswith("phantom-"):
        return phantom_set(name.removeprefix("phantom-"), phantoms, size=size, seed=seed)
    try:
        if name.startswith(own.PREFIX):
            return own.read(name, size, duplicates=duplicates)
        if name in READERS:
            return READERS[name](env.data_root(), size, duplicates=duplicates)
    except OSError as error:  # met beside the files, which have their own words for it
        place = error.filename or env.home()
        raise blame(place, error, f"cannot be used ({error.strerror or error}).") from error
    raise DataError(
        f"unknown data set {name!r}. Known: {', '.join(READERS)}, phantom-<modality>, and "
        "folder:PATH for images of your own."
    )


def batches(
    data: ImageSet, index: np.ndarray, size: int
) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor]]:
    """Yield (indices, images float32 in [0, 1], targets), ``size`` at a time, in order."""
    for start in range(0, len(index), size):
        chunk = index[start : start + size]
        targets = torch.from_numpy(np.ascontiguousarray(data.targets[chunk]))
        yield chunk, to_float(data.images[chunk]), targets
