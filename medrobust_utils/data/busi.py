"""BUSI breast ultrasound (Al-Dhabyani et al. 2020), in its publisher's layout.

``Dataset_BUSI_with_GT`` with a folder for each class below ``MEDROBUST_DATA``. Beside every image
``<name>.png`` lies ``<name>_mask.png``, and ``<name>_mask_1.png`` and so on for more findings.
"""

from __future__ import annotations

from pathlib import Path

from .folders import read_folders
from .imageset import ImageSet

CLASSES = ("normal", "benign", "malignant")
COMPLETE = 780


def read(root: Path, size: int, *, duplicates: bool = False) -> ImageSet:
    """All images as gray at ``size`` x ``size`` with outlines, empty ones for normal images.

    Patients are not known.

    Args:
        root: folder that holds ``Dataset_BUSI_with_GT``.
        duplicates: whether exact copies stay in, see ``assemble``.

    Raises:
        DataError: naming the file, if one is missing, unreadable or unknown.
    """
    return read_folders(
        root,
        size,
        name="busi",
        folder="Dataset_BUSI_with_GT",
        parts={label: label for label in CLASSES},
        suffix=".png",
        complete=COMPLETE,
        outline=r"(.+)_mask(?:_\d+)?",
        duplicates=duplicates,
    )
