"""The ISIC Archive, the ten diagnoses that paper 1 most likely kept, in the layout of its exports.

``isic/metadata.csv`` and the folder ``images`` (or several, ``images_*``) below
``MEDROBUST_DATA``; an image is called ``<isic_id>.jpg``. Exports up to 2024 name one
``diagnosis``; later ones have a tree of them, ``diagnosis_1`` to ``diagnosis_5``.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pandas as pd

from ..core.errors import DataError
from .imageset import ImageSet
from .reading import assemble, find_folder, index_images, read_table

CLASSES = (
    "nevus",
    "melanoma",
    "basal cell carcinoma",
    "seborrheic keratosis",
    "actinic keratosis",
    "squamous cell carcinoma",
    "pigmented benign keratosis",
    "solar lentigo",
    "vascular lesion",
    "dermatofibroma",
)
# What the later exports call the same, in ``diagnosis_3``.
LATER = {
    "melanoma, nos": "melanoma",
    "melanoma invasive": "melanoma",
    "melanoma in situ": "melanoma",
    "melanoma metastasis": "melanoma",
    "solar or actinic keratosis": "actinic keratosis",
    "squamous cell carcinoma, nos": "squamous cell carcinoma",
    "squamous cell carcinoma, invasive": "squamous cell carcinoma",
    "squamous cell carcinoma in situ": "squamous cell carcinoma",
}
VASCULAR = "benign soft tissue proliferations - vascular"  # in ``diagnosis_2``, often without a 3


def read(root: Path, size: int, *, duplicates: bool = False) -> ImageSet:
    """The images of ten diagnoses as RGB at ``size`` x ``size``, grouped by patient or lesion.

    The archive holds many more diagnoses, and images without one; these are counted and left
    out. Where the patient is not known the lesion decides, and where that is not known either
    the image is a group of its own.

    Args:
        root: folder that holds ``isic``.
        duplicates: whether exact copies stay in, see ``assemble``.

    Raises:
        DataError: naming the file, if one is missing, unreadable or unknown.
    """
    folder = find_folder(root, "isic")
    table = read_table(folder, ("metadata.csv",), columns=("isic_id",))
    table["isic_id"] = table["isic_id"].astype(str)
    paths = _images(folder)
    unlisted = sorted(paths.keys() - set(table["isic_id"]))
    if unlisted:
        raise DataError(
            f"{paths[unlisted[0]]}: has no line in metadata.csv, nor have {len(unlisted) - 1} "
            "others. Download metadata.csv again or move them."
        )
    label = _diagnoses(folder, table)
    kept = label.isin(CLASSES)
    others = Counter(label[~kept].replace("", "without a diagnosis"))
    table, label = table[kept], label[kept]
    if table.empty:
        raise DataError(
            f"{folder / 'metadata.csv'}: no image has one of the ten diagnoses "
            f"({', '.join(CLASSES)}). Download images of them."
        )
    names, known = _groups(table)
    data = assemble(
        name="isic",
        folder=folder,
        ids=table["isic_id"],
        paths={image: paths[image] for image in table["isic_id"] if image in paths},
        size=size,
        channels=3,
        targets=label.map(CLASSES.index).to_numpy("int64"),
        classes=CLASSES,
        groups=pd.factorize(names)[0],
        complete=False,  # the archive grows, and nobody knows which images the paper had
        duplicates=duplicates,
    )
    data.census.update(known, other_diagnoses=sum(others.values()))
    data.census["other_diagnoses_by_name"] = dict(others.most_common())
    return data


def _images(folder: Path) -> dict[str, Path]:
    """Image id -> file, over ``images`` and ``images_*``."""
    paths: dict[str, Path] = {}
    for part in sorted(p for p in folder.glob("images*") if p.is_dir()):
        for image, path in index_images(folder, part.name, (".jpg", ".jpeg", ".png")).items():
            if image in paths:
                raise DataError(f"{path}: the same image also lies at {paths[image]}. Remove one.")
            paths[image] = path
    if not paths:
        raise DataError(f"{folder}: no folder of images. Download them into {folder / 'images'}.")
    return paths


def _diagnoses(folder: Path, table: pd.DataFrame) -> pd.Series:
    """The diagnosis of every line by its name in CLASSES where it has one; empty if unknown."""
    if "diagnosis" not in table and "diagnosis_3" not in table:
        raise DataError(
            f"{folder / 'metadata.csv'}: neither diagnosis nor diagnosis_3 is among its columns "
            f"{list(table.columns)}. Export the metadata from the archive again."
        )
    label = _words(table, "diagnosis")
    label = label.where(label != "", _words(table, "diagnosis_3"))
    label = label.replace(LATER)
    vascular = ~label.isin(CLASSES) & (_words(table, "diagnosis_2") == VASCULAR)
    return label.mask(vascular, "vascular lesion")


def _groups(table: pd.DataFrame) -> tuple[pd.Series, dict[str, int]]:
    """What no split may part, and how many images were grouped by what."""
    patient, lesion = (_words(table, name) for name in ("patient_id", "lesion_id"))
    by_lesion = (patient == "") & (lesion != "")
    alone = (patient == "") & (lesion == "")
    names = "patient " + patient
    names = names.mask(by_lesion, "lesion " + lesion).mask(alone, "image " + table["isic_id"])
    # A lesion belongs to one patient: where only some of its lines say whose, all are theirs.
    both = (patient != "") & (lesion != "")
    owner = dict(zip(lesion[both], names[both], strict=True))
    names = names.mask(by_lesion, lesion.map(owner).fillna("lesion " + lesion))
    counts = {"grouped_by_lesion": int(by_lesion.sum()), "grouped_by_image": int(alone.sum())}
    return names, {"grouped_by_patient": int((patient != "").sum()), **counts}


def _words(table: pd.DataFrame, column: str) -> pd.Series:
    """A column in lower case without blanks around; empty where it has nothing or is missing."""
    if column not in table:
        return pd.Series("", table.index)
    return table[column].fillna("").astype(str).str.strip().str.lower()
