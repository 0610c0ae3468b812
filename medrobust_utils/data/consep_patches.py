"""CoNSeP as published (41 fields of 1000 x 1000 pixels) cut into the patches that are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ..core import env
from ..core.disk import blame
from ..core.errors import DataError
from .decoding import building, open_image

SIDE = 256
STARTS = (0, 256, 512, 744)  # the last patch overlaps its neighbour by 24 pixels
FIELD = 1000
KINDS = range(8)  # background and seven kinds of nuclei
PARTS = {"train": 27, "test": 14}  # fields of each


def cut(source: Path, folder: Path) -> Path:
    """Write ``folder/{train,test}/{images,labels}/<field>_r<row><column>.png``: all or nothing.

    Args:
        source: the unpacked archive; below it lie ``Train`` and ``Test``, each with
            ``Images/<part>_<n>.png`` and ``Labels/<part>_<n>.mat``, whose ``type_map``
            (1000, 1000) is the kind of each pixel.
        folder: is made.

    Raises:
        DataError: naming the file, if a field or its labels are missing, unreadable, of another
            size, or hold an unknown kind, or if the number of fields is not the publisher's.
    """
    with building(folder) as partial:
        for part, number in PARTS.items():
            fields = sorted(source.glob(f"**/{part.title()}/Images/{part}_*.png"))
            if len(fields) != number:
                raise DataError(
                    f"{source}: holds {len(fields)} fields {part}_*.png in {part.title()}/Images, "
                    f"and {number} are expected. Download and unpack the archive again."
                )
            for what in ("images", "labels"):
                (partial / part / what).mkdir(parents=True)
            for path in env.progress(fields, desc=f"cutting {part}"):
                _cut_field(path, partial / part)
    return folder


def _cut_field(path: Path, target: Path) -> None:
    from scipy.io import loadmat

    image, labels = open_image(path, "RGB"), path.parents[1] / "Labels" / f"{path.stem}.mat"
    try:
        kinds = np.asarray(loadmat(labels, variable_names=["type_map"])["type_map"])
    except Exception as error:  # scipy raises nearly anything on damaged files
        damaged = f"has no readable type_map ({error}). Unpack the archive again."
        raise blame(labels, error, damaged) from error
    right = image.size == kinds.shape == (FIELD, FIELD) and np.isin(kinds, KINDS).all()
    if not right:
        raise DataError(
            f"{labels}: type_map {kinds.shape} of an image {image.size} must be {FIELD} x {FIELD} "
            "like it, with kinds 0 to 7. Unpack the archive again."
        )
    drawn = Image.fromarray(kinds.astype(np.uint8))
    for row, top in enumerate(STARTS):
        for column, left in enumerate(STARTS):
            name, box = f"{path.stem}_r{row}{column}.png", (left, top, left + SIDE, top + SIDE)
            image.crop(box).save(target / "images" / name)
            drawn.crop(box).save(target / "labels" / name)
