"""Five sets of MedMNIST+ (Yang et al. 2023), in their publisher's files.

``medmnist/<name>.npz`` (28 pixels) and ``<name>_64.npz``, ``_128``, ``_224`` below
``MEDROBUST_DATA``; one of them is enough. Each holds images and labels of the parts train, val
and test. The largest has 5 GB of pixels, so arrays are unpacked row by row, and none of Python's
objects is ever loaded.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..core.disk import blamed
from ..core.errors import DataError
from .decoding import Picture, cached_pictures, listing_key, to_square
from .imageset import ImageSet
from .reading import combine, find_folder

PARTS = ("train", "val", "test")
SIDES = (28, 64, 128, 224)


class Kind(NamedTuple):
    """A set as published: names of its classes, images a part, channels, and several labels?"""

    classes: tuple[str, ...]
    counts: tuple[int, int, int]
    channels: int = 1
    several: bool = False


FINDINGS = """atelectasis cardiomegaly effusion infiltration mass nodule pneumonia pneumothorax
consolidation edema emphysema fibrosis pleural hernia"""
SETS = {
    "chestmnist": Kind(tuple(FINDINGS.split()), (78_468, 11_219, 22_433), several=True),
    "dermamnist": Kind(
        (
            "actinic keratoses and intraepithelial carcinoma",
            "basal cell carcinoma",
            "benign keratosis-like lesions",
            "dermatofibroma",
            "melanoma",
            "melanocytic nevi",
            "vascular lesions",
        ),
        (7_007, 1_003, 2_005),
        channels=3,
    ),
    "retinamnist": Kind(("0", "1", "2", "3", "4"), (1_080, 120, 400), channels=3),
    "pneumoniamnist": Kind(("normal", "pneumonia"), (4_708, 524, 624)),
    "breastmnist": Kind(("malignant", "normal, benign"), (546, 78, 156)),
}


def read(name: str, root: Path, size: int, *, duplicates: bool = False) -> ImageSet:
    """All images at ``size`` x ``size`` from the smallest file that has as many pixels.

    Where no file is so large the largest is enlarged. Patients and lesions are not known, so
    only near duplicates share a group; the publisher's parts are kept in ``parts``.
    """
    kind, folder = SETS[name], find_folder(root, "medmnist")
    files = {side: folder / f"{name}{f'_{side}' * (side > SIDES[0])}.npz" for side in SIDES}
    files = {side: path for side, path in files.items() if path.is_file()}
    if not files:
        raise DataError(f"{folder}: no {name}.npz. Download it: `./data_download.sh {name}`.")
    side = min((side for side in files if side >= size), default=max(files))
    path = files[side]
    labels = {part: _labels(path, part, kind) for part in PARTS}
    counts = tuple(map(len, labels.values()))

    def pictures() -> Iterator[Picture]:
        shape = (side, side, 3) if kind.channels == 3 else (side, side)
        for part, count in zip(PARTS, counts, strict=True):
            for pixels in _rows(path, f"{part}_images", (count, *shape)):
                yield to_square(Image.fromarray(pixels), size)

    ids = [f"{part}_{row:05d}" for part in PARTS for row in range(len(labels[part]))]
    shape = (len(ids), size, size, kind.channels)
    data = combine(
        name=name,
        ids=ids,
        decoded=cached_pictures(name, listing_key([path], size, 3), shape, pictures()),
        targets=np.concatenate(list(labels.values())),
        classes=kind.classes,
        complete=counts == kind.counts,
        parts=[image.partition("_")[0] for image in ids],
        duplicates=duplicates,
    )
    data.census["pixels_a_side_in_the_file"] = side
    return data


def _labels(path: Path, part: str, kind: Kind) -> np.ndarray:
    """Classes int64 (N,), or multi-hot uint8 (N, K)."""
    most, columns = kind.counts[PARTS.index(part)], len(kind.classes) if kind.several else 1
    values = np.array(list(_rows(path, f"{part}_labels", (most, columns))))
    limit = 2 if kind.several else len(kind.classes)
    if values.min() < 0 or values.max() >= limit:
        raise DataError(
            f"{path}: {part}_labels holds values from {values.min()} to {values.max()}, and 0 to "
            f"{limit - 1} are published. Download it again."
        )
    return values.astype(np.uint8) if kind.several else values[:, 0].astype(np.int64)


def _rows(path: Path, name: str, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """The rows of one array of whole numbers, as they are unpacked.

    Raises:
        DataError: unless it is as published: images uint8 of ``shape``, labels of that or fewer.
    """
    images, layout = name.endswith("images"), np.lib.format
    damaged = f"{name} cannot be read as an array ({{error}}). Download it again."
    with (
        blamed(path, damaged),
        zipfile.ZipFile(path) as archive,
        archive.open(f"{name}.npy") as file,
    ):
        if layout.read_magic(file) != (1, 0):
            raise ValueError("another version of the format")
        found, by_column, kind = layout.read_array_header_1_0(file)
        n, right = (*found, 0)[0], kind == np.uint8 or not images
        most = n == shape[0] if images else 0 < n <= shape[0]
        if not (most and right and kind.kind in "iu" and found[1:] == shape[1:]) or by_column:
            raise DataError(
                f"{path}: {name} is {kind} {found}, and whole numbers {shape} are published "
                "(uint8 for images). Download it again."
            )
        for _ in range(n):
            row = file.read(int(np.prod(shape[1:])) * kind.itemsize)
            yield np.frombuffer(row, kind).reshape(shape[1:])
        if file.read(1):  # to the end, where the checksum is compared
            raise ValueError("it is longer than its heading says")
