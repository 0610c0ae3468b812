"""IQ-OTH/NCCD lung cancer CT slices (Alyasriy and Al-Huseiny 2020), in its publisher's layout.

``The IQ-OTHNCCD lung cancer dataset`` with a folder for each class below ``MEDROBUST_DATA``;
"Bengin" is the publisher's spelling.
"""

from __future__ import annotations

from pathlib import Path

from .folders import read_folders
from .imageset import ImageSet

PARTS = {"Normal cases": "normal", "Bengin cases": "benign", "Malignant cases": "malignant"}
COMPLETE = 1_097


def read(root: Path, size: int, *, duplicates: bool = False) -> ImageSet:
    """All slices as gray at ``size`` x ``size``.

    They come from 110 patients, but nothing says which slices belong to one: only near
    duplicates share a group, and every split may leak patients.

    Args:
        root: folder that holds ``The IQ-OTHNCCD lung cancer dataset``.
        duplicates: whether exact copies stay in, see ``assemble``.

    Raises:
        DataError: naming the file, if one is missing, unreadable or unknown.
    """
    return read_folders(
        root,
        size,
        name="iq_othnccd",
        folder="The IQ-OTHNCCD lung cancer dataset",
        parts=PARTS,
        suffix=".jpg",
        complete=COMPLETE,
        duplicates=duplicates,
    )
