"""NIH ChestX-ray14 (Wang et al. 2017), in its publisher's layout.

``nih_chestxray14/Data_Entry_2017_v2020.csv`` and the folders ``images_001/images`` ...
``images_012/images`` below ``MEDROBUST_DATA``. Multi-label: 14 findings, and "No Finding".
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ..core.errors import DataError
from .imageset import ImageSet
from .reading import assemble, find_folder, index_images, read_table
from .splits import Split

FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
CLASSES = (*FINDINGS, "No Finding")
COMPLETE = 112_120


def read(root: Path, size: int, *, duplicates: bool = False) -> ImageSet:
    """All images as gray at ``size`` x ``size`` with multi-hot targets (N, 15), grouped by patient.

    Args:
        root: folder that holds ``nih_chestxray14``.
        duplicates: whether exact copies stay in, see ``assemble``.

    Raises:
        DataError: naming the file, if one is missing, unreadable or unknown.
    """
    folder = find_folder(root, "nih_chestxray14")
    table = read_table(
        folder,
        ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv"),
        columns=("Image Index", "Finding Labels", "Patient ID"),
    )
    targets = _multi_hot(folder, table["Image Index"], table["Finding Labels"])
    paths = index_images(folder, "images_*/images", (".png",))
    return assemble(
        name="nih",
        folder=folder,
        ids=table["Image Index"].astype(str).str.removesuffix(".png"),
        paths=paths,
        size=size,
        channels=1,
        targets=targets,
        classes=CLASSES,
        groups=pd.factorize(table["Patient ID"])[0],
        complete=len(table) == COMPLETE,
        duplicates=duplicates,
    )


def _multi_hot(folder: Path, images: pd.Series, labels: pd.Series) -> np.ndarray:
    targets = np.zeros((len(labels), len(CLASSES)), np.uint8)
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        for finding in str(label).split("|"):
            if finding not in CLASSES:
                raise DataError(
                    f"{folder}: {image} has the unknown finding {finding!r}. "
                    f"Known: {', '.join(CLASSES)}."
                )
            targets[row, CLASSES.index(finding)] = 1
        if targets[row, -1] and targets[row].sum() > 1:
            raise DataError(
                f"{folder}: {image} is labelled both 'No Finding' and with a finding. "
                "Correct or remove its line."
            )
    return targets


def official_split(data: ImageSet, root: Path) -> Split:
    """The publisher's own patient-wise lists (``train_val_list.txt``, ``test_list.txt``).

    Raises:
        DataError: if a list is missing, or an image stands in none or in both.
    """
    folder = find_folder(root, "nih_chestxray14")
    sides = []
    for name in ("train_val_list.txt", "test_list.txt"):
        if not (folder / name).is_file():
            raise DataError(
                f"{folder / name} is missing. Download it beside the images, or split by patient."
            )
        sides.append({line.strip().removesuffix(".png") for line in (folder / name).open()})
    in_train, in_test = (np.array([image in side for image in data.ids]) for side in sides)
    if (in_train == in_test).any():
        image = data.ids[int(np.flatnonzero(in_train == in_test)[0])]
        raise DataError(
            f"{folder}: {image} stands in none or both of the official lists. "
            "Download the lists again."
        )
    return Split(np.flatnonzero(in_train), np.flatnonzero(in_test))
