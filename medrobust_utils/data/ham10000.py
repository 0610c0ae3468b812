"""HAM10000 (Tschandl, Rosendahl and Kittler 2018), ISIC 2018 task 3, in its publisher's layout.

``ham10000/HAM10000_metadata.csv`` (or without the suffix, as on Dataverse) and the folders
``HAM10000_images_part_1`` and ``HAM10000_images_part_2`` below ``MEDROBUST_DATA``; the lesions'
outlines, where they were downloaded too, in ``HAM10000_segmentations_lesion_tschandl``.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..core.errors import DataError
from .imageset import ImageSet
from .reading import assemble, find_folder, index_images, read_table

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
COMPLETE = 10_015
OUTLINES, SUFFIX = "HAM10000_segmentations_lesion_tschandl", "_segmentation"


def read(root: Path, size: int, *, duplicates: bool = False) -> ImageSet:
    """All images as RGB at ``size`` x ``size``, grouped by lesion, with the lesions' outlines.

    Args:
        root: folder that holds ``ham10000``.
        duplicates: whether exact copies stay in, see ``assemble``.

    Raises:
        DataError: naming the file, if one is missing, unreadable or unknown.
    """
    folder = find_folder(root, "ham10000")
    table = read_table(
        folder,
        ("HAM10000_metadata.csv", "HAM10000_metadata"),
        columns=("lesion_id", "image_id", "dx"),
    )
    unknown = sorted(set(table["dx"]) - set(CLASSES))
    if unknown:
        raise DataError(
            f"{folder}: unknown class {unknown} in the metadata. Known: {', '.join(CLASSES)}."
        )
    paths = index_images(folder, "HAM10000_images_part_*", (".jpg",))
    return assemble(
        name="ham10000",
        folder=folder,
        ids=table["image_id"],
        paths=paths,
        size=size,
        channels=3,
        targets=table["dx"].map(CLASSES.index).to_numpy("int64"),
        classes=CLASSES,
        groups=pd.factorize(table["lesion_id"])[0],
        complete=len(table) == COMPLETE,
        masks=_outlines(folder),
        duplicates=duplicates,
    )


def _outlines(folder: Path) -> dict[str, list[Path]] | None:
    """Image id -> file of the lesion's outline; None where the outlines were not downloaded."""
    if not (folder / OUTLINES).is_dir():
        return None
    paths = index_images(folder, OUTLINES, (".png",))
    return {name.removesuffix(SUFFIX): [path] for name, path in paths.items()}
