"""Brain tumour MRI (M. Nickparvar, Kaggle), in its publisher's layout.

``brain_tumor_mri/Training`` with a folder for each class below ``MEDROBUST_DATA``. Chen and Luo
(PAKDD 2024) used this part only: their 1,595 images without a tumour are its own.
"""

from __future__ import annotations

from pathlib import Path

from .folders import read_folders
from .imageset import ImageSet

CLASSES = ("notumor", "glioma", "meningioma", "pituitary")
COMPLETE = 5_712


def read(root: Path, size: int, *, duplicates: bool = False) -> ImageSet:
    """All training images as gray at ``size`` x ``size``; patients are not known.

    Args:
        root: folder that holds ``brain_tumor_mri``.
        duplicates: whether exact copies stay in, see ``assemble``.

    Raises:
        DataError: naming the file, if one is missing, unreadable or unknown.
    """
    return read_folders(
        root,
        size,
        name="brain_mri",
        folder="brain_tumor_mri",
        parts={f"Training/{label}": label for label in CLASSES},
        suffix=".jpg",
        complete=COMPLETE,
        duplicates=duplicates,
    )
