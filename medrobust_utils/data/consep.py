"""CoNSeP nuclei (Graham et al. 2019, HoVer-Net) cut into patches, with label maps.

``consep_patches/{train,test}`` below ``MEDROBUST_DATA``, the publisher's two parts, each with
``images/<part>_<tile>_r<row><column>.png`` (or ``.jpg``) and ``labels/`` of the same names in PNG;
``consep_patches.cut`` makes them of the published fields. The publisher's seven kinds are read as
PanNuke's: healthy and malignant epithelium apart, and fibroblasts, muscle and endothelium as
connective tissue.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from ..core.errors import DataError
from .decoding import decoded
from .imageset import ImageSet
from .label_maps import read_label_maps
from .reading import combine, find_folder, index_images

CLASSES = ("background", "neoplastic", "inflammatory", "connective", "epithelial", "other")
# background, other, inflammatory, healthy, malignant epithelium, fibroblast, muscle, endothelium
MEANING = {0: 0, 1: 5, 2: 2, 3: 4, 4: 1, 5: 3, 6: 3, 7: 3}
COMPLETE = 656  # patches of 41 tiles, 16 each


def read(root: Path, size: int, *, duplicates: bool = False) -> ImageSet:
    """All patches as RGB at ``size`` x ``size`` with label maps of six classes, grouped by tile.

    Patches of one tile overlap at the last row and column, and show the same section.

    Args:
        root: folder that holds ``consep_patches``.
        duplicates: whether exact copies stay in, see ``assemble``.

    Raises:
        DataError: naming the file, if one is missing, unreadable, unknown or of another size.
    """
    folder = find_folder(root, "consep_patches")
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for part in ("train", "test"):
        _add(images, index_images(folder, f"{part}/images", (".jpg", ".png")))
        _add(labels, index_images(folder, f"{part}/labels", (".png",)))
    tiles = [_tile(path) for path in images.values()]
    pixels, hashes, cache = decoded("consep", list(images.values()), size, 3)
    return combine(
        name="consep",
        ids=list(images),
        images=pixels,
        hashes=hashes,
        cache=cache,
        targets=read_label_maps(cache, images, labels, MEANING, size),
        classes=CLASSES,
        groups=np.asarray(pd.factorize(np.array(tiles, object))[0]),
        complete=len(images) == COMPLETE,
        parts=[tile.partition("_")[0] for tile in tiles],
        duplicates=duplicates,
    )


def _add(all_paths: dict[str, Path], paths: dict[str, Path]) -> None:
    """Take in the files of a part; no name comes in both."""
    for name in all_paths.keys() & paths.keys():
        raise DataError(f"{paths[name]}: the same name also lies at {all_paths[name]}. Remove one.")
    all_paths |= paths


def _tile(path: Path) -> str:
    """Part and number of the tile a patch was cut from."""
    part = path.parent.parent.name
    found = re.fullmatch(rf"({part}_\d+)_r\d\d", path.stem)
    if not found:
        raise DataError(
            f"{path}: not of the form {part}_<tile>_r<row><column>, so its tile is unknown. "
            "Rename or move it."
        )
    return found[1]
