"""Decode a data set once, keep it as uint8, read it back as a memory map.

Decoding JPEG or PNG costs more than a forward pass of a small network. Every image is decoded
and resized once; after that an epoch reads plain bytes. The cache lies in
``MEDROBUST_HOME/decoded`` and is named after the files it was made from (path, size, time of
change), so that a changed file is decoded again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image

from .. import env
from ..errors import DataError
from ..storage import write_atomic

STALE_SECONDS = 24 * 3600
CHUNK = 256  # images handed to the threads at a time: bounds memory, keeps the bar moving


def decode(path: Path, size: int, channels: int) -> tuple[np.ndarray, str]:
    """One image as uint8 (size, size, channels), and the SHA-256 of its decoded pixels.

    The aspect ratio is not kept: the papers resize to a square. The hash is taken before
    resizing, so equal hashes mean equal pictures, whatever the files are called.

    Raises:
        DataError: if the file is missing, truncated or no image.
    """
    pixels, digest = to_square(open_image(path, "L" if channels == 1 else "RGB"), size)
    return pixels.reshape(size, size, channels), digest


def to_square(image: Image.Image, size: int) -> tuple[np.ndarray, str]:
    """``decode`` for an image that is open already; gray comes as (size, size)."""
    digest = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.asarray(image), digest


def open_image(path: Path, mode: str | None) -> Image.Image:
    """One image at its own size, in Pillow's ``mode`` or, with None, its own; errors as above."""
    try:
        with Image.open(path) as file:
            return file.convert(mode) if mode else file.copy()  # decodes; raises if truncated
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such image. Download the set again, or correct its label file."
        ) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path}: cannot be read as an image ({error}). Delete it and download it again."
        ) from error


class MaskFiles:
    """Outlines kept in files, decoded when indexed like an array (N, size, size).

    Only the few images that are explained need theirs, so none is decoded with the images and
    none is part of what identifies the data set. An image with several findings may have a
    file for each; its mask is their union. Masks are uint8, 1 inside and 0 outside;
    ``size`` is reached by the nearest pixel, so that a mask stays a mask, and like the images
    (see ``decode``) without keeping the aspect ratio.

    Raises:
        DataError: when an indexed file is missing, truncated or no image.
    """

    dtype, ndim = np.dtype(np.uint8), 3

    def __init__(self, paths: Sequence[Sequence[Path]], size: int) -> None:
        self.paths, self.shape = tuple(map(tuple, paths)), (len(paths), size, size)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:
        rows = np.arange(len(self))[index]
        if rows.ndim == 0:
            return self._union(self.paths[rows])
        masks = [self._union(self.paths[row]) for row in rows]
        return np.stack(masks) if masks else np.empty((0, *self.shape[1:]), np.uint8)

    def _union(self, paths: tuple[Path, ...]) -> np.ndarray:
        return np.maximum.reduce([self._decode(path) for path in paths])

    def _decode(self, path: Path) -> np.ndarray:
        mask = open_image(path, "L").resize(self.shape[1:], Image.Resampling.NEAREST)
        return (np.asarray(mask) > 127).astype(np.uint8)


def decoded(
    name: str, paths: Sequence[Path], size: int, channels: int
) -> tuple[np.ndarray, list[str], Path]:
    """All images as a read-only uint8 memory map (N, size, size, channels), hashes, cache."""
    folder = env.home() / "decoded" / f"{name}-{size}-{listing_key(paths, size, channels)}"
    shape = (len(paths), size, size, channels)
    if not folder.exists():
        with building(folder) as partial:
            _decode_all(partial, name, paths, shape)
    return *opened(folder, shape), folder


def opened(folder: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, list[str]]:
    """Images and hashes of a cache.

    Raises:
        DataError: if they do not fit the data set.
    """
    hashes = json.loads((folder / "hashes.json").read_text())
    images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    if images.shape != shape or len(hashes) != len(images):
        raise DataError(
            f"{folder}: the cache does not fit its data set. Delete this folder and run again."
        )
    return images, hashes


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """A folder to fill. It is called ``folder`` only when complete, and gone if interrupted.

    So nothing is left that a later run could take for whole.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for stale in folder.parent.glob("*.partial-*"):  # left behind by a kill
        if time.time() - stale.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(stale, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.partial-", dir=folder.parent))
    try:
        yield partial
        with suppress(OSError):  # another process may have been quicker
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _decode_all(partial: Path, name: str, paths: Sequence[Path], shape: tuple[int, ...]) -> None:
    images = np.lib.format.open_memmap(partial / "images.npy", "w+", np.uint8, shape)
    hashes: list[str] = []
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        env.progress(total=len(paths), desc=f"decoding {name}") as bar,
    ):
        for start in range(0, len(paths), CHUNK):
            chunk = paths[start : start + CHUNK]
            for offset, (pixels, digest) in enumerate(
                pool.map(lambda path: decode(path, shape[1], shape[3]), chunk)
            ):
                images[start + offset] = pixels
                hashes.append(digest)
            bar.update(len(chunk))
    images.flush()
    (partial / "hashes.json").write_text(json.dumps(hashes))


def remembered(path: Path, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """An array kept beside the decoded images it was computed from."""
    if not path.exists():
        buffer = io.BytesIO()
        np.save(buffer, compute())
        write_atomic(path, buffer.getvalue())
    return np.load(path, allow_pickle=False)


def listing_key(paths: Sequence[Path], *made: object) -> str:
    """Twelve hexadecimal digits that change with the files and with what is ``made`` of them.

    Raises:
        DataError: if a file is missing.
    """
    digest = hashlib.sha256(" ".join(map(str, made)).encode())
    for path in paths:
        try:
            stat = path.stat()
        except OSError as error:
            raise DataError(
                f"{path}: no such image. Download the set again, or correct its label file."
            ) from error
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]
