"""A data set by its name, and its images batch by batch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import torch

from ..core import env
from ..core.disk import blame
from ..core.errors import DataError
from . import catalogue, own
from .download import download_set
from .imageset import ImageSet, rows_of, to_float
from .phantoms import phantom_set
from .readers import READERS

# Small real sets of the phantoms' modalities: no account, a few megabytes at 28 pixels.
COLAB_SETS = {
    "phantom-dermatoscopy7": "dermamnist",
    "phantom-chest": "pneumoniamnist",
    "phantom-fundus": "retinamnist",
    "phantom-ultrasound": "breastmnist",
}


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


def lesson(name: str, *, size: int, phantoms: int, seed: int = 0) -> ImageSet:
    """`load`, but in Colab as many real images of MedMNIST+ stand in for phantoms.

    They are fetched once, without an account. Elsewhere, where a program runs the notebook, or
    where the download fails (a warning says why) the phantoms stay. Arguments as of `load`; the
    returned set's ``synthetic`` says which it is.
    """
    real = COLAB_SETS.get(name)
    if real and env.on_colab():
        root = env.home() / "lessons"
        try:
            root.mkdir(parents=True, exist_ok=True)
            download_set(catalogue.load()[real], root, f"{real}.npz")
            whole = READERS[real](root, size)
        except (DataError, OSError) as error:
            warnings.warn(f"{real} did not arrive ({error}); phantoms instead.", stacklevel=2)
        else:
            drawn = np.random.default_rng(seed).permutation(len(whole))[:phantoms]
            return rows_of(whole, np.sort(drawn))
    return load(name, size=size, phantoms=phantoms, seed=seed)


def batches(
    data: ImageSet, index: np.ndarray, size: int
) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor]]:
    """Yield (indices, images float32 in [0, 1], targets), ``size`` at a time, in order."""
    for start in range(0, len(index), size):
        chunk = index[start : start + size]
        targets = torch.from_numpy(np.ascontiguousarray(data.targets[chunk]))
        yield chunk, to_float(data.images[chunk]), targets
