"""Five sets of MedMNIST+ (Yang et al. 2023), in their publisher's files.

``medmnist/<name>.npz`` (28 pixels) and ``<name>_64.npz``, ``_128``, ``_224`` below
``MEDROBUST_DATA``; one of them is enough. Each holds images and labels of the parts train, val
and test. The largest has 5 GB of pixels, so an array is unpacked beside the cache and mapped, and
none of Python's objects is ever loaded.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..core import env
from ..core.disk import blame, reserve
from ..core.errors import DataError
from .decoding import building, listing_key, opened, to_square
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


SETS = {
    "chestmnist": Kind(
        (
            "atelectasis",
            "cardiomegaly",
            "effusion",
            "infiltration",
            "mass",
            "nodule",
            "pneumonia",
            "pneumothorax",
            "consolidation",
            "edema",
            "emphysema",
            "fibrosis",
            "pleural",
            "hernia",
        ),
        (78_468, 11_219, 22_433),
        several=True,
    ),
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

    Args:
        name: one of SETS.
        root: folder that holds ``medmnist``.
        duplicates: whether exact copies stay in, see ``reading.combine``.

    Raises:
        DataError: naming the file, if it is missing, damaged, or holds something else than
            published.
    """
    kind, (path, side) = SETS[name], _file(find_folder(root, "medmnist"), name, size)
    key = listing_key([path], size, *kind.classes, 2)
    cache = env.home() / "decoded" / f"{name}-{size}-{key}"
    if not cache.exists():
        with building(cache) as folder:
            _convert(folder, path, kind, side, size)
    labels = [np.load(cache / f"{part}_labels.npy", allow_pickle=False) for part in PARTS]
    counts = tuple(map(len, labels))
    rows = [(part, row) for part, n in zip(PARTS, counts, strict=True) for row in range(n)]
    data = combine(
        name=name,
        ids=[f"{part}_{row:05d}" for part, row in rows],
        decoded=(*opened(cache, (len(rows), size, size, kind.channels)), cache),
        targets=np.concatenate(labels),
        classes=kind.classes,
        groups=np.arange(len(rows)),
        complete=counts == kind.counts,
        parts=[part for part, _ in rows],
        duplicates=duplicates,
    )
    data.census["pixels_a_side_in_the_file"] = side
    return replace(data, subjects=None)


def _file(folder: Path, name: str, size: int) -> tuple[Path, int]:
    """The smallest file of at least ``size`` pixels a side, else the largest, and its side."""
    names = {side: f"{name}.npz" if side == SIDES[0] else f"{name}_{side}.npz" for side in SIDES}
    found = {side: folder / file for side, file in names.items() if (folder / file).is_file()}
    if not found:
        raise DataError(
            f"{folder}: none of {', '.join(names.values())}. Download one: "
            f"`./data_download.sh {name}`."
        )
    side = min((side for side in found if side >= size), default=max(found))
    return found[side], side


def _convert(folder: Path, path: Path, kind: Kind, side: int, size: int) -> None:
    """Write images, hashes and labels into ``folder``."""
    columns = len(kind.classes) if kind.several else 1
    labels = [
        _labels(_member(path, folder, f"{part}_labels", most, (columns,)), path, part, kind)
        for part, most in zip(PARTS, kind.counts, strict=True)
    ]
    shape = (sum(map(len, labels)), size, size, kind.channels)
    images, hashes = reserve(folder / "images.npy", shape), []
    for part, rows in zip(PARTS, labels, strict=True):
        np.save(folder / f"{part}_labels.npy", rows)
        colours = (3,) if kind.channels == 3 else ()
        pictures = _member(path, folder, f"{part}_images", len(rows), (side, side, *colours))
        for pixels in env.progress(pictures, desc=f"decoding {path.stem}, {part}"):
            shown, digest = to_square(Image.fromarray(np.array(pixels)), size)
            images[len(hashes)] = shown.reshape(shape[1:])
            hashes.append(digest)
        (folder / f"{part}_images.npy").unlink()
    images.flush()
    (folder / "hashes.json").write_text(json.dumps(hashes))


def _member(path: Path, folder: Path, name: str, most: int, shape: tuple[int, ...]) -> np.ndarray:
    """One array of whole numbers, unpacked into ``folder`` and mapped.

    Raises:
        DataError: unless it is as published: 1 to ``most`` rows of ``shape`` (images: ``most``),
            uint8 for images.
    """
    unpacked, images = folder / f"{name}.npy", name.endswith("images")
    try:
        with (
            zipfile.ZipFile(path) as archive,
            archive.open(f"{name}.npy") as member,
            unpacked.open("wb") as file,
        ):
            if archive.getinfo(f"{name}.npy").file_size > 8 * most * int(np.prod(shape)) + 4096:
                raise ValueError("it is larger than published")
            shutil.copyfileobj(member, file, 2**20)
        array = np.load(unpacked, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # zipfile and NumPy raise nearly anything on damage
        damaged = (
            f"{name} cannot be read as an array ({error}). Download it again; other objects than "
            "arrays, which could run code, are not loaded."
        )
        raise blame(path, error, damaged) from error
    fits = array.shape[1:] == shape and (len(array) == most if images else 0 < len(array) <= most)
    if not fits or (array.dtype != np.uint8 if images else array.dtype.kind not in "iu"):
        raise DataError(
            f"{path}: {name} is {array.dtype} {array.shape}, and whole numbers "
            f"{(most if images else f'1 to {most}', *shape)} are published (uint8 for images). "
            "Download it again."
        )
    return array


def _labels(values: np.ndarray, path: Path, part: str, kind: Kind) -> np.ndarray:
    """Classes int64 (N,), or multi-hot uint8 (N, K)."""
    limit = 2 if kind.several else len(kind.classes)
    if values.min() < 0 or values.max() >= limit:
        raise DataError(
            f"{path}: {part}_labels holds values from {values.min()} to {values.max()}, and 0 to "
            f"{limit - 1} are published. Download it again."
        )
    return values.astype(np.uint8) if kind.several else values[:, 0].astype(np.int64)
