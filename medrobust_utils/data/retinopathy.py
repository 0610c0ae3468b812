"""Kaggle's Diabetic Retinopathy Detection (EyePACS 2015), in its publisher's layout.

``diabetic_retinopathy/trainLabels.csv`` and the folder ``train`` below ``MEDROBUST_DATA``; images
are called ``<patient>_left.jpeg`` and ``<patient>_right.jpeg``.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..core.errors import DataError
from .imageset import ImageSet
from .reading import assemble, find_folder, index_images, read_table

CLASSES = ("No DR", "Mild", "Moderate", "Severe", "Proliferative DR")
COMPLETE = 35_126
NAME = r"(\d+)_(?:left|right)"


def read(root: Path, size: int, *, duplicates: bool = False) -> ImageSet:
    """All images as RGB at ``size`` x ``size`` with grades 0 to 4, grouped by patient.

    Args:
        root: folder that holds ``diabetic_retinopathy``.
        duplicates: whether exact copies stay in, see ``assemble``.

    Raises:
        DataError: naming the file, if one is missing, unreadable or unknown.
    """
    folder = find_folder(root, "diabetic_retinopathy")
    table = read_table(folder, ("trainLabels.csv",), columns=("image", "level"))
    grades = pd.to_numeric(table["level"], errors="coerce")
    if not grades.isin(range(len(CLASSES))).all():
        row = int((~grades.isin(range(len(CLASSES)))).idxmax())
        raise DataError(
            f"{folder}/trainLabels.csv: line {row + 2} has the level {table['level'][row]}; "
            "grades are 0 to 4. Correct or remove it."
        )
    # names that are all numbers are read as numbers
    names = table["image"].astype(str)
    patients = names.str.extract(f"^{NAME}$")[0]
    if patients.isna().any():
        odd = names[int(patients.isna().idxmax())]
        raise DataError(
            f"{folder}/trainLabels.csv: {odd!r} is not of the form <patient>_left or "
            "<patient>_right, so its patient is unknown. Correct it."
        )
    return assemble(
        name="retinopathy",
        folder=folder,
        ids=names,
        paths=index_images(folder, "train", (".jpeg",)),
        size=size,
        channels=3,
        targets=grades.to_numpy("int64"),
        classes=CLASSES,
        groups=pd.factorize(patients)[0],
        complete=len(table) == COMPLETE,
        duplicates=duplicates,
    )
