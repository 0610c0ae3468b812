"""CoNSeP as published (41 fields of 1000 x 1000 pixels) cut into the patches that are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ..core import env
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
        folder: is made; must not exist.

    Raises:
        DataError: naming the file, if a field or its labels are missing, unreadable, of another
            size, or hold an unknown kind, or if the number of fields is not the publisher's.
    """
    if folder.exists():
        raise DataError(f"{folder}: exists. Move it away to cut the fields again.")
    fields = {part: _fields(source, part) for part in PARTS}
    with building(folder) as partial:
        for part, images in fields.items():
            for what in ("images", "labels"):
                (partial / part / what).mkdir(parents=True)
            for path in env.progress(images, desc=f"cutting {part}"):
                _cut_field(path, partial / part)
    return folder


def _fields(source: Path, part: str) -> list[Path]:
    found = sorted(source.glob(f"**/{part.title()}/Images/{part}_*.png"))
    if len(found) != PARTS[part]:
        raise DataError(
            f"{source}: holds {len(found)} fields {part}_*.png in {part.title()}/Images, and "
            f"{PARTS[part]} are expected. Download and unpack the archive again."
        )
    return found


def _cut_field(path: Path, target: Path) -> None:
    image, kinds = open_image(path, "RGB"), _type_map(path)
    if image.size != (FIELD, FIELD):
        raise DataError(f"{path}: {image.size} pixels, {FIELD} x {FIELD} expected.")
    for row, top in enumerate(STARTS):
        for column, left in enumerate(STARTS):
            name = f"{path.stem}_r{row}{column}.png"
            image.crop((left, top, left + SIDE, top + SIDE)).save(target / "images" / name)
            patch = kinds[top : top + SIDE, left : left + SIDE]
            Image.fromarray(patch).save(target / "labels" / name)


def _type_map(path: Path) -> np.ndarray:
    """The kind of each pixel of a field, uint8 (1000, 1000)."""
    from scipy.io import loadmat

    labels = path.parents[1] / "Labels" / f"{path.stem}.mat"
    if not labels.is_file():
        raise DataError(f"{labels}: missing. Unpack the archive again.")
    try:
        kinds = np.asarray(loadmat(labels, variable_names=["type_map"])["type_map"])
    except Exception as error:  # scipy raises nearly anything on damaged files
        raise DataError(
            f"{labels}: has no readable type_map ({error}). Unpack the archive again."
        ) from error
    if kinds.shape != (FIELD, FIELD) or not np.isin(kinds, KINDS).all():
        raise DataError(
            f"{labels}: type_map must be {FIELD} x {FIELD} with kinds 0 to 7, is {kinds.shape}."
        )
    return kinds.astype(np.uint8)
