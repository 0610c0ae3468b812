"""Two sets of nuclei with label maps: CoNSeP, cut into patches, and PanNuke.

CoNSeP (Graham et al. 2019, HoVer-Net): ``consep_patches/{train,test}``, the publisher's two parts,
each with ``images/<part>_<tile>_r<row><column>.png`` (or ``.jpg``) and ``labels/`` of the same
names in PNG; ``consep_patches.cut`` makes them of the published fields.

PanNuke (Gamper et al. 2020): ``pannuke`` holds a folder a fold, whose name ends in the fold's
number: ``Fold 1/images/fold1/{images,types}.npy`` and ``Fold 1/masks/fold1/masks.npy`` as
published, ``Part 1/Images/{images,types}.npy`` and ``Part 1/Masks/masks.npy`` as copied to Kaggle.
A fold is 12 GB of float64, which is never in memory at once.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from ..core import env
from ..core.disk import blame, reserve
from ..core.errors import DataError
from ..core.losses import IGNORED
from .decoding import building, cached, decoded, listing_key, opened, to_square
from .imageset import ImageSet
from .masks import OVERLAPPING, nearest, read_label_maps
from .reading import combine, find_folder, index_images

PANNUKE = ("background", "neoplastic", "inflammatory", "connective", "epithelial", "dead")
CHANNELS = ("neoplastic", "inflammatory", "connective", "dead", "epithelial", "background")
FOLDS = (2656, 2523, 2722)  # images of each
FILES = ("images.npy", "masks.npy", "types.npy")
CHUNK = 16  # images converted at a time: 75 MB of float64
CONSEP = ("background", "neoplastic", "inflammatory", "connective", "epithelial", "other")
# background, other, inflammatory, healthy, malignant epithelium, fibroblast, muscle, endothelium:
# the publisher's kinds, read as PanNuke's
MEANING = {0: 0, 1: 5, 2: 2, 3: 4, 4: 1, 5: 3, 6: 3, 7: 3}
PATCHES = 656  # of 41 tiles, 16 each


class Fold(NamedTuple):
    """One fold: its name, its three files, and how many images of which side it holds."""

    name: str
    images: Path
    masks: Path
    types: Path
    count: int
    side: int


def consep(root: Path, size: int, *, duplicates: bool = False) -> ImageSet:
    """All patches as RGB at ``size`` x ``size`` with label maps of six classes, grouped by tile.

    Patches of one tile overlap at the last row and column, and show the same section.

    Args:
        root: folder that holds ``consep_patches``.
        duplicates: whether exact copies stay in, see ``reading.combine``.

    Raises:
        DataError: naming the file, if one is missing, unreadable, unknown or of another size.
    """
    folder = find_folder(root, "consep_patches")
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for part in ("train", "test"):
        for files, kind, suffixes in (
            (images, "images", (".jpg", ".png")),
            (labels, "labels", (".png",)),
        ):
            found = index_images(folder, f"{part}/{kind}", suffixes)
            for name in found.keys() & files.keys():
                raise DataError(
                    f"{found[name]}: the same name also lies at {files[name]}. Remove one."
                )
            files |= found
    tiles = [_tile(path) for path in images.values()]
    decoded_images = decoded("consep", list(images.values()), size, 3)
    return combine(
        name="consep",
        ids=list(images),
        decoded=decoded_images,
        targets=read_label_maps(decoded_images[2], images, labels, MEANING, size),
        classes=CONSEP,
        groups=pd.factorize(np.array(tiles, object))[0],
        complete=len(images) == PATCHES,
        parts=[tile.partition("_")[0] for tile in tiles],
        duplicates=duplicates,
    )


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


def pannuke(root: Path, size: int, *, duplicates: bool = False) -> ImageSet:
    """All images as RGB at ``size`` x ``size`` with label maps of six classes.

    A pixel with several labels, or with none, is ignored and counted. Which slide an image comes
    from is not known: each is a group of its own, but for near duplicates.

    Args:
        root: folder that holds ``pannuke``.
        duplicates: whether exact copies stay in, see ``reading.combine``.

    Raises:
        DataError: naming the file, if one is missing, unreadable, of another shape or out of range.
    """
    folds = _folds(find_folder(root, "pannuke"))
    files = [path for fold in folds for path in (fold.images, fold.masks)]
    key = listing_key(files, size, *CHANNELS, *PANNUKE)
    cache = env.home() / "decoded" / f"pannuke-{size}-{key}"
    n = sum(fold.count for fold in folds)
    if not cache.exists():
        with building(cache) as partial:
            _convert(partial, folds, n, size)
    labels = cached(cache / "labels.npy", mmap_mode="r")
    if labels.shape != (n, size, size) or labels.dtype != np.uint8:
        raise DataError(f"{cache}: the cache does not fit its data set. Delete it and run again.")
    ids = [f"{fold.name}_{row:04d}" for fold in folds for row in range(fold.count)]
    tissues = [str(tissue) for fold in folds for tissue in _types(fold)]
    data = combine(
        name="pannuke",
        ids=ids,
        decoded=(*opened(cache, (n, size, size, 3)), cache),
        targets=labels,
        classes=PANNUKE,
        groups=np.arange(n),
        complete=tuple(fold.count for fold in folds) == FOLDS,
        parts=[name.partition("_")[0] for name in ids],
        duplicates=duplicates,
    )
    kept = set(data.ids)
    found = Counter(tissue for name, tissue in zip(ids, tissues, strict=True) if name in kept)
    data.census["images_per_tissue"] = dict(sorted(found.items()))
    return replace(data, subjects=None)


def _folds(folder: Path) -> list[Fold]:
    """The folds below ``folder``, by number, with their arrays held against each other."""
    folds: dict[str, Fold] = {}
    for place in sorted(folder.iterdir()):
        if not place.is_dir() or place.name.startswith((".", "__")):
            continue
        number = re.search(r"(\d+)$", place.name)
        if not number:
            raise DataError(f"{place}: its name does not end in the fold's number. Rename it.")
        name = f"fold{int(number[1])}"
        if name in folds:
            raise DataError(
                f"{place}: {folds[name].images} is of the same fold. Remove or rename one."
            )
        folds[name] = _fold(name, [_only(place, file) for file in FILES])
    if not folds:
        raise DataError(f"{folder}: no fold in it. Unpack the archives there, a folder for each.")
    return [folds[name] for name in sorted(folds, key=lambda name: int(name[4:]))]


def _only(place: Path, file: str) -> Path:
    found = sorted(place.rglob(file))
    if len(found) != 1:
        raise DataError(
            f"{place}: holds {len(found)} files {file}, and needs one. Unpack the archive of this "
            "fold again, and no other in the same folder."
        )
    return found[0]


def _fold(name: str, files: Sequence[Path]) -> Fold:
    images, masks, types = (_array(path) for path in files)
    n, side = images.shape[0] if images.ndim else 0, images.shape[1] if images.ndim > 1 else 0
    expected = ((n, side, side, 3), (n, side, side, len(CHANNELS)), (n,))
    for path, array, shape in zip(files, (images, masks, types), expected, strict=True):
        if array.shape != shape or not array.size:
            raise DataError(
                f"{path}: has the shape {array.shape}, but for {n} images of {side} pixels a side "
                f"{shape} is needed. Download this fold again."
            )
    if types.dtype.kind not in "US":
        raise DataError(f"{files[2]}: holds {types.dtype}, no names of tissues. Download it again.")
    return Fold(name, *files, n, side)


def _array(path: Path) -> np.ndarray:
    try:
        if not path.is_file():  # to open a pipe is to wait for ever
            raise ValueError("no file")
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("an archive of arrays")
        return array
    except Exception as error:  # a damaged header raises many types
        damaged = (
            f"cannot be read as a plain array ({error}). Download it again; Python objects in it, "
            "which could run code, are not loaded: save them as numbers or text."
        )
        raise blame(path, error, damaged) from error


def _types(fold: Fold) -> np.ndarray:
    try:
        return _array(fold.types).astype(str)
    except ValueError as error:  # bytes beyond ASCII, or numbers that are no characters
        raise DataError(f"{fold.types}: holds no text ({error}). Download it again.") from error


def _convert(partial: Path, folds: Sequence[Fold], n: int, size: int) -> None:
    """Write images, labels and hashes into ``partial``, a few images in memory at a time."""
    images = reserve(partial / "images.npy", (n, size, size, 3))
    labels = reserve(partial / "labels.npy", (n, size, size))
    hashes: list[str] = []
    with env.progress(total=n, desc="decoding pannuke") as bar:
        for fold in folds:
            pixels, masks = _array(fold.images), _array(fold.masks)
            for start in range(0, fold.count, CHUNK):
                rows = slice(start, start + CHUNK)
                maps = _classes(_checked(masks[rows], fold.masks, start, np.inf))
                shown = np.rint(_checked(pixels[rows], fold.images, start, 255)).astype(np.uint8)
                for image, label_map in zip(shown, maps, strict=True):
                    images[len(hashes)], digest = to_square(Image.fromarray(image), size)
                    labels[len(hashes)] = nearest(label_map, size)
                    hashes.append(digest)
                bar.update(len(maps))
    images.flush()
    labels.flush()
    (partial / "hashes.json").write_text(json.dumps(hashes))


def _checked(values: np.ndarray, path: Path, start: int, limit: float) -> np.ndarray:
    """``values`` if all lie in [0, ``limit``]; NaN does not."""
    if values.dtype.kind not in "buif":
        raise DataError(f"{path}: holds {values.dtype}, no real numbers. Download it again.")
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= limit) or not np.isfinite(high):
        raise DataError(
            f"{path}: images {start} to {start + len(values) - 1} hold values from {low} to "
            f"{high}; 0 to {limit:g} are expected. Download this fold again."
        )
    if limit == 255 and values.dtype.kind == "f" and 0 < high <= 1:
        raise DataError(f"{path}: values end at {high}, as if divided by 255. Undo that.")
    return values


def _classes(masks: np.ndarray) -> np.ndarray:
    """Instance masks (N, H, W, 6) as label maps; nonzero is a label, whatever the number."""
    present = masks != 0
    numbers = np.array([PANNUKE.index(channel) for channel in CHANNELS], np.uint8)
    maps, labels = numbers[present.argmax(-1)], present.sum(-1)
    maps[labels > 1] = OVERLAPPING
    maps[labels == 0] = IGNORED
    return maps
