"""Five sets of MedMNIST+ (Yang et al. 2023), in their publisher's files.

``medmnist/<name>.npz`` (28 pixels) and ``<name>_64.npz``, ``_128``, ``_224`` below
``MEDROBUST_DATA``; one of them is enough. Each holds images and labels of the parts train, val
and test. The largest has 5 GB of pixels, so arrays are read from the archive in pieces, and none
of Python's objects is ever loaded.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..core import env
from ..core.errors import DataError
from .decoding import building, listing_key, opened, to_square
from .imageset import ImageSet
from .reading import combine, find_folder

PARTS = ("train", "val", "test")
SIDES = (28, 64, 128, 224)
CHUNK = 64  # images in memory at a time


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
        duplicates: whether exact copies stay in, see ``assemble``.

    Raises:
        DataError: naming the file, if it is missing, damaged, or holds something else than
            published.
    """
    kind, (path, side) = SETS[name], _file(find_folder(root, "medmnist"), name, size)
    labels = [_labels(path, part, kind, most) for part, most in _parts(kind)]
    n = sum(map(len, labels))
    cache = env.home() / "decoded" / f"{name}-{size}-{listing_key([path], size, *kind.classes)}"
    if not cache.exists():
        with building(cache) as folder:
            _convert(folder, path, kind, side, [len(part) for part in labels], size)
    images, hashes = opened(cache, (n, size, size, kind.channels))
    parts = [part for part, rows in zip(PARTS, labels, strict=True) for _ in rows]
    ids = [
        f"{part}_{row:05d}"
        for part, rows in zip(PARTS, labels, strict=True)
        for row in range(len(rows))
    ]
    data = combine(
        name=name,
        ids=ids,
        images=images,
        hashes=hashes,
        cache=cache,
        targets=np.concatenate(labels),
        classes=kind.classes,
        groups=np.arange(n),
        complete=tuple(map(len, labels)) == kind.counts,
        parts=parts,
        duplicates=duplicates,
    )
    data.census["pixels_a_side_in_the_file"] = side
    return replace(data, subjects=None)


READ: dict[str, Callable[..., ImageSet]] = {name: partial(read, name) for name in SETS}


def _parts(kind: Kind) -> Iterator[tuple[str, int]]:
    return zip(PARTS, kind.counts, strict=True)


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


def _labels(path: Path, part: str, kind: Kind, most: int) -> np.ndarray:
    """Classes int64 (N,), or multi-hot uint8 (N, K)."""
    columns = len(kind.classes) if kind.several else 1
    with _Member(path, f"{part}_labels") as member:
        member.check((None, columns), most)
        values = np.concatenate([rows for rows in member.rows(2**16)])
    limit = 2 if kind.several else len(kind.classes)
    if values.min() < 0 or values.max() >= limit:
        raise DataError(
            f"{path}: {part}_labels holds values from {values.min()} to {values.max()}, and 0 to "
            f"{limit - 1} are published. Download it again."
        )
    return values.astype(np.uint8) if kind.several else values[:, 0].astype(np.int64)


def _convert(folder: Path, path: Path, kind: Kind, side: int, counts: list[int], size: int) -> None:
    """Write images and hashes into ``folder``, a few images in memory at a time."""
    shape = (sum(counts), size, size, kind.channels)
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, shape)
    hashes: list[str] = []
    for part, count in zip(PARTS, counts, strict=True):
        with (
            _Member(path, f"{part}_images") as member,
            env.progress(total=count, desc=f"decoding {path.stem}, {part}") as bar,
        ):
            colours = (3,) if kind.channels == 3 else ()
            member.check((count, side, side, *colours), count)
            for rows in member.rows(CHUNK):
                for pixels in rows:
                    shown, digest = to_square(Image.fromarray(pixels), size)
                    images[len(hashes)] = shown.reshape(shape[1:])
                    hashes.append(digest)
                bar.update(len(rows))
    images.flush()
    (folder / "hashes.json").write_text(json.dumps(hashes))


class _Member:
    """One array of an npz file, of integers only, read a few rows at a time."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name

    def __enter__(self) -> _Member:
        try:
            self.archive = zipfile.ZipFile(self.path)
            self.file = self.archive.open(f"{self.name}.npy")
            version = np.lib.format.read_magic(self.file)
            header = np.lib.format.read_array_header_1_0
            if version != (1, 0):
                header = np.lib.format.read_array_header_2_0
            self.shape, self.by_column, self.dtype = header(self.file)
        except Exception as error:  # zipfile and NumPy raise nearly anything on damage
            raise self._damaged(error) from error
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.archive.close()

    def check(self, shape: tuple[int | None, ...], most: int) -> None:
        """Raise DataError unless the array is as published; None stands for 1 to ``most``."""
        fits = len(shape) == len(self.shape) and all(
            have == want if want is not None else 0 < have <= most
            for have, want in zip(self.shape, shape, strict=True)
        )
        kinds = "iu" if self.name.endswith("labels") else "u"
        whole = self.dtype.kind in kinds and (kinds == "iu" or self.dtype.itemsize == 1)
        if not (fits and whole) or self.by_column:
            wanted = tuple(f"1 to {most}" if one is None else one for one in shape)
            raise DataError(
                f"{self.path}: {self.name} is {self.dtype} {self.shape}, and whole numbers "
                f"{wanted} by rows are published (uint8 for images). Download it again; other "
                "objects, which could run code, are not loaded."
            )

    def rows(self, count: int) -> Iterator[np.ndarray]:
        """``count`` rows at a time, and the rest."""
        width = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        for start in range(0, self.shape[0], count):
            rows = min(count, self.shape[0] - start)
            try:
                content = self.file.read(rows * width)
            except Exception as error:  # zipfile and NumPy raise nearly anything on damage
                raise self._damaged(error) from error
            if len(content) != rows * width:
                raise self._damaged("it ends too early")
            yield np.frombuffer(content, self.dtype).reshape(rows, *self.shape[1:])

    def _damaged(self, error: object) -> DataError:
        return DataError(
            f"{self.path}: {self.name} cannot be read as an array ({error}). Download it again."
        )
