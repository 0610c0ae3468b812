"""Paediatric chest X-rays with pneumonia (Kermany et al. 2018), in the layout on Kaggle.

``chest_xray`` with the parts ``train``, ``val`` and ``test`` below ``MEDROBUST_DATA``, each with a
folder for each class. The parts are read as one set; ``val`` (16 images) may be absent.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..core.errors import DataError
from .folders import read_folders
from .imageset import ImageSet

CLASSES = ("NORMAL", "PNEUMONIA")
COMPLETE = 5_856
# person<N>_bacteria_<n>, person<N>_virus_<n>; IM-<N>-<n>, NORMAL2-IM-<N>-<n>; some end in -<n> more
NAME = r"(person)(\d+)_(?:bacteria|virus)(?:_\d+){1,2}|(?:NORMAL2-)?(IM)-(\d+)(?:-\d+){1,2}"


def read(root: Path, size: int, *, duplicates: bool = False) -> ImageSet:
    """All images as gray at ``size`` x ``size``, grouped by the patient that file names tell.

    Numbers may have been given anew in each part and series. Images that share one by chance
    only make a group larger, which keeps more together than need be.

    Args:
        root: folder that holds ``chest_xray``.
        duplicates: whether exact copies stay in, see ``assemble``.

    Raises:
        DataError: naming the file, if one is missing, unreadable or unknown.
    """
    parts = [
        part
        for part in ("train", "val", "test")
        if part != "val" or (root / "chest_xray" / part).is_dir()
    ]
    return read_folders(
        root,
        size,
        name="kermany",
        folder="chest_xray",
        parts={f"{part}/{label}": label for part in parts for label in CLASSES},
        suffix=".jpeg",
        complete=COMPLETE,
        patient=_patient,
        duplicates=duplicates,
    )


def _patient(path: Path) -> str:
    found = re.fullmatch(NAME, path.stem)
    if not found:
        raise DataError(
            f"{path}: not of the form person<number>_bacteria_<number>, person<number>_virus_"
            "<number> or IM-<number>-<number>, so its patient is unknown. Rename or move it."
        )
    series, number = found[1] or found[3], int(found[2] or found[4])
    return f"{series} {number}"
