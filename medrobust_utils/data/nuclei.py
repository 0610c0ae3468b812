"""Two sets of nuclei with label maps: CoNSeP, cut into patches, and PanNuke.

CoNSeP (Graham et al. 2019, HoVer-Net): ``consep_patches/{train,test}``, the publisher's two parts,
each with ``images/<part>_<tile>_r<row><column>.png`` (or ``.jpg``) and ``labels/`` of the same
names in PNG; ``cut`` makes them of the published fields.

PanNuke (Gamper et al. 2020): ``pannuke`` holds a folder a fold, whose name ends in the fold's
number: ``Fold 1/images/fold1/images.npy`` and ``Fold 1/masks/fold1/masks.npy`` as published,
``Part 1/Images/images.npy`` and ``Part 1/Masks/masks.npy`` as copied to Kaggle. A fold is 12 GB of
float64, which is never in memory at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ..core import env
from ..core.disk import blamed
from ..core.errors import DataError
from ..core.losses import IGNORED
from .decoding import (
    Picture,
    building,
    cached_pictures,
    decoded,
    listing_key,
    load_array,
    open_image,
    to_square,
)
from .imageset import ImageSet
from .layouts import patients
from .masks import OVERLAPPING, kept_maps, read_label_maps
from .reading import combine, find_folder, index_images, partners

PANNUKE = ("background", "neoplastic", "inflammatory", "connective", "epithelial", "dead")
CHANNELS = ("neoplastic", "inflammatory", "connective", "dead", "epithelial", "background")
FOLDS = (2656, 2523, 2722)  # images of each
FILES = {"images.npy": 3, "masks.npy": len(CHANNELS)}  # and their channels
Stored = tuple[Path, np.ndarray]  # an array as it lies on the disk
CHUNK = 16  # images converted at a time: 75 MB of float64
CONSEP = ("background", "neoplastic", "inflammatory", "connective", "epithelial", "other")
# background, other, inflammatory, healthy, malignant epithelium, fibroblast, muscle, endothelium:
# the publisher's kinds, read as PanNuke's
MEANING = {0: 0, 1: 5, 2: 2, 3: 4, 4: 1, 5: 3, 6: 3, 7: 3}
AGAIN = "Download it again; Python objects, which could run code, are not loaded."
PATCHES = 656  # of 41 fields, 16 each
SIDE = 256
STARTS = (0, 256, 512, 744)  # the last patch overlaps its neighbour by 24 pixels
FIELD = 1000
KINDS = range(8)  # background and seven kinds of nuclei
FIELDS = {"train": 27, "test": 14}  # fields of each


def consep(root: Path, size: int, *, duplicates: bool = False) -> ImageSet:
    """All patches as RGB at ``size`` x ``size`` with label maps of six classes, grouped by tile.

    Patches of one tile overlap at the last row and column, and show the same section.
    """
    folder = find_folder(root, "consep_patches")
    kinds = {"images": (".jpg", ".png"), "labels": (".png",)}
    images, labels = (
        index_images(folder, end, f"train/{kind}", f"test/{kind}") for kind, end in kinds.items()
    )
    files, maps = list(images.values()), partners(images, labels, "label map", "image")
    pictures = decoded("consep", files, size, 3)
    tiles = patients(r"((?:train|test)_\d+)_r\d\d", images)
    return combine(
        name="consep",
        ids=list(images),
        decoded=pictures,
        targets=read_label_maps(pictures[2], files, maps, MEANING, size),
        classes=CONSEP,
        groups=tiles,
        complete=len(images) == PATCHES,
        parts=[path.parents[1].name for path in files],
        duplicates=duplicates,
    )


def pannuke(root: Path, size: int, *, duplicates: bool = False) -> ImageSet:
    """All images as RGB at ``size`` x ``size`` with label maps of six classes.

    A pixel with several labels, or with none, is ignored and counted. Which slide an image comes
    from is not known: each is a group of its own, but for near duplicates.
    """
    folds = _folds(find_folder(root, "pannuke"))
    pixels, masks = (list(arrays) for arrays in zip(*folds.values(), strict=True))
    files = [path for fold in folds.values() for path, _ in fold]
    counts = tuple(len(array) for _, array in pixels)
    ids = [f"fold{k}_{row:04d}" for k, n in zip(folds, counts, strict=True) for row in range(n)]

    def pictures() -> Iterator[Picture]:
        for chunk in _chunks(pixels, 255):
            for one in np.rint(chunk).astype(np.uint8):
                yield to_square(Image.fromarray(one), size)

    key, n = listing_key(files, size, *CHANNELS, *PANNUKE), len(ids)
    images = cached_pictures("pannuke", key, (n, size, size, 3), pictures())
    label_maps = (one for chunk in _chunks(masks, np.inf) for one in _classes(chunk))
    return combine(
        name="pannuke",
        ids=ids,
        decoded=images,
        targets=kept_maps(images[2] / "labels.npy", label_maps, n, size),
        classes=PANNUKE,
        complete=counts == FOLDS,
        parts=[name.partition("_")[0] for name in ids],
        duplicates=duplicates,
    )


def _folds(folder: Path) -> dict[int, list[Stored]]:
    """Images and masks of the folds below ``folder``, by number, held against each other."""
    folds: dict[int, list[Stored]] = {}
    for place in sorted(folder.iterdir()):
        if not place.is_dir() or place.name.startswith((".", "__")):
            continue
        number = re.search(r"(\d+)$", place.name)
        if not number or int(number[1]) in folds:
            raise DataError(
                f"{place}: its name does not end in the number of a fold, or another folder has "
                "the same fold. Rename it, or remove one."
            )
        folds[int(number[1])] = _fold(place)
    if not folds:
        raise DataError(f"{folder}: no fold in it. Unpack the archives there, a folder for each.")
    return dict(sorted(folds.items()))


def _fold(place: Path) -> list[Stored]:
    arrays: list[Stored] = []
    for file, channels in FILES.items():
        found = sorted(place.rglob(file))
        if len(found) != 1:
            raise DataError(
                f"{place}: holds {len(found)} files {file}, and needs one. Unpack the archive of "
                "this fold again, and no other in the same folder."
            )
        array = load_array(found[0], AGAIN, mmap_mode="r")
        arrays.append((found[0], array))
        n, side = (*arrays[0][1].shape, 0, 0)[:2]
        shape = (n, side, side, channels)
        if array.shape != shape or not array.size or array.dtype.kind not in "buif":
            raise DataError(
                f"{found[0]}: holds {array.dtype} {array.shape}, and for {n} images of {side} "
                f"pixels a side real numbers {shape} are needed. Download this fold again."
            )
    return arrays


def _chunks(arrays: list[Stored], limit: float) -> Iterator[np.ndarray]:
    """A few rows at a time, all of them in [0, ``limit``]; NaN is not."""
    for path, array in arrays:
        for start in range(0, len(array), CHUNK):
            values = array[start : start + CHUNK]
            low, high = values.min(), values.max()
            halved = limit == 255 and values.dtype.kind == "f" and 0 < high <= 1
            if not (low >= 0 and high <= limit) or not np.isfinite(high) or halved:
                raise DataError(
                    f"{path}: images {start} to {start + len(values) - 1} hold values from {low} "
                    f"to {high}; 0 to {limit:g} are expected, not divided by 255. Download it "
                    "again."
                )
            yield values


def _classes(masks: np.ndarray) -> np.ndarray:
    """Instance masks (N, H, W, 6) as label maps; nonzero is a label, whatever the number."""
    present = masks != 0
    numbers = np.array([PANNUKE.index(channel) for channel in CHANNELS], np.uint8)
    maps, labels = numbers[present.argmax(-1)], present.sum(-1)
    maps[labels > 1] = OVERLAPPING
    maps[labels == 0] = IGNORED
    return maps


def cut(source: Path, folder: Path) -> Path:
    """Write ``folder/{train,test}/{images,labels}/<field>_r<row><column>.png``: all or nothing.

    Args:
        source: the unpacked archive; below it lie ``Train`` and ``Test``, each with
            ``Images/<part>_<n>.png`` and ``Labels/<part>_<n>.mat``, whose ``type_map``
            (1000, 1000) is the kind of each pixel.
        folder: is made.

    Raises:
        DataError: naming the file, if a field or its labels are missing, unreadable, of another
            size, or hold an unknown kind, or if the number of fields is not the publisher's.
    """
    with building(folder) as partial:
        for part, number in FIELDS.items():
            fields = sorted(source.glob(f"**/{part.title()}/Images/{part}_*.png"))
            if len(fields) != number:
                raise DataError(
                    f"{source}: holds {len(fields)} fields {part}_*.png in {part.title()}/Images, "
                    f"and {number} are expected. Download and unpack the archive again."
                )
            for what in ("images", "labels"):
                (partial / part / what).mkdir(parents=True)
            for path in env.progress(fields, desc=f"cutting {part}"):
                _cut_field(path, partial / part)
    return folder


def _cut_field(path: Path, target: Path) -> None:
    from scipy.io import loadmat

    image, labels = open_image(path, "RGB"), path.parents[1] / "Labels" / f"{path.stem}.mat"
    with blamed(labels, "has no readable type_map ({error}). Unpack the archive again."):
        kinds = np.asarray(loadmat(labels, variable_names=["type_map"])["type_map"])
    right = image.size == kinds.shape == (FIELD, FIELD) and np.isin(kinds, KINDS).all()
    if not right:
        raise DataError(
            f"{labels}: type_map {kinds.shape} of an image {image.size} must be {FIELD} x {FIELD} "
            "like it, with kinds 0 to 7. Unpack the archive again."
        )
    drawn = Image.fromarray(kinds.astype(np.uint8))
    for row, top in enumerate(STARTS):
        for column, left in enumerate(STARTS):
            name, box = f"{path.stem}_r{row}{column}.png", (left, top, left + SIDE, top + SIDE)
            image.crop(box).save(target / "images" / name)
            drawn.crop(box).save(target / "labels" / name)
