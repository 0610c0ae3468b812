"""A part of a set: some images of each class, chosen once and for all by a seed."""

from __future__ import annotations

import csv
import io
import random
import shutil
from pathlib import Path

from ...core.errors import DataError
from ...core.storage import write_atomic
from ..catalogue import DataSet
from .place import litter

SEED = 0
# reader -> (label table, its column of images, its column of classes)
TABLES = {
    "ham10000": ("HAM10000_metadata.csv", "image_id", "dx"),
    "nih": ("Data_Entry_2017_v2020.csv", "Image Index", "Finding Labels"),
    "retinopathy": ("trainLabels.csv", "image", "level"),
}
FOLDERS = ("brain_mri", "busi", "iq_othnccd", "kermany")  # a folder for each class
IMAGES = (".jpg", ".jpeg", ".png")


def possible(dataset: DataSet) -> bool:
    """Whether a part of the set can be taken."""
    return dataset.reader in (*TABLES, *FOLDERS, "isic")


def shares(classes: dict[str, str], count: int) -> list[str]:
    """``count`` of the names in ``classes`` (name -> class), in equal shares as far as possible.

    Classes that have too few give what they have, and the others fill up.
    """
    dice = random.Random(SEED)
    rows: dict[str, list[str]] = {}
    for name in sorted(classes):
        rows.setdefault(classes[name], []).append(name)
    for row in rows.values():
        dice.shuffle(row)
    chosen: list[str] = []
    while len(chosen) < count and any(rows.values()):
        for label in sorted(rows):
            if rows[label] and len(chosen) < count:
                chosen.append(rows[label].pop())
    return sorted(chosen)


def choose(dataset: DataSet, tree: Path, folder: Path, count: int) -> list[str]:
    """Which images stay: their paths below ``tree``.

    Raises:
        DataError: if the label table lies neither in ``tree`` nor in the set's own ``folder``.
    """
    images = _images(dataset, tree)
    if dataset.reader in TABLES:
        labels = _labels(dataset, tree, folder)
        classes = {name: labels[Path(name).stem] for name in images if Path(name).stem in labels}
    else:
        classes = {name: Path(name).parent.name for name in images}
    return shares(classes, count)


def cut(dataset: DataSet, tree: Path, chosen: set[str]) -> None:
    """Remove the other images, and their lines in the label table; again after a kill."""
    stems = {str(Path(name).with_suffix("")) for name in chosen}
    for path in [path for path in tree.rglob("*") if path.suffix.lower() in IMAGES]:
        name = str(path.relative_to(tree).with_suffix(""))
        if name.partition("_mask")[0] not in stems and name not in stems:
            path.unlink()
    if dataset.reader in TABLES:
        table, column, _ = TABLES[dataset.reader]
        if (tree / table).exists():
            _cut_table(tree / table, column, {Path(name).stem for name in chosen})


def set_aside(dataset: DataSet, tree: Path, folder: Path) -> None:
    """Keep a whole label table that lies in ``folder`` under another name, as a cut one comes."""
    table = TABLES.get(dataset.reader, ("",))[0]
    if table and (tree / table).exists() and (folder / table).exists():
        (folder / table).rename(folder / f"{Path(table).stem}.whole.csv")


def _images(dataset: DataSet, tree: Path) -> list[str]:
    found = [path for path in tree.rglob("*") if path.suffix.lower() in IMAGES]
    names = [str(path.relative_to(tree)) for path in found if not litter(path)]
    if dataset.reader == "busi":
        names = [name for name in names if "_mask" not in name]
    if dataset.reader == "brain_mri":
        names = [name for name in names if name.startswith("Training")]  # the other is not read
    return names


def _labels(dataset: DataSet, tree: Path, folder: Path) -> dict[str, str]:
    table, column, label = TABLES[dataset.reader]
    path = next((place / table for place in (tree, folder) if (place / table).exists()), None)
    if path is None:
        raise DataError(
            f"{folder / table}: missing, and a part of {dataset.name} is chosen by it. "
            f"Put it there first: {dataset.by_hand}"
        )
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if path.parent == folder:  # put there by hand: a copy of it is cut
        shutil.copyfile(path, tree / table)
    if rows and not {column, label} <= rows[0].keys():
        raise DataError(f"{path}: has no columns {column} and {label}. Download it again.")
    return {Path(row[column]).stem: row[label].split("|")[0] for row in rows}


def _cut_table(path: Path, column: str, stems: set[str]) -> None:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        kept = [row for row in rows if Path(row[column]).stem in stems]
    text = io.StringIO()
    writer = csv.DictWriter(text, rows.fieldnames, lineterminator="\n")
    writer.writeheader()
    writer.writerows(kept)
    write_atomic(path, text.getvalue().encode())
