"""Decode a data set once, keep it as uint8, read it back as a memory map.

Decoding JPEG or PNG costs more than a forward pass of a small network. Every image is decoded
and resized once; after that an epoch reads plain bytes. The cache lies in
``MEDROBUST_HOME/decoded`` and is named after the files it was made from (path, size, time of
change), so that a changed file is decoded again.
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from ..core import env
from ..core.disk import blamed, reserve
from ..core.errors import DataError
from ..core.storage import write_atomic

STALE_SECONDS = 24 * 3600  # after which a half-made cache of another machine is given up
# What may be decoded. Pillow knows many more, and hands some of them to other programs (EPS goes to
# Ghostscript): nothing in a data set may start one.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
DAMAGED = (
    "cannot be read as an image ({kind}: {error}). Download a publisher's file again; save one of "
    "your own as PNG of at most 25 million pixels, or remove it."
)
CHUNK = 256  # images handed to the threads at a time: bounds memory, keeps the bar moving
Opener = Callable[[Path, str], tuple[Image.Image, str]]
Picture = tuple[np.ndarray, str]  # pixels, and the hash of them
Decoded = tuple[np.ndarray, list[str], Path]  # images, hashes of their pixels, the cache's folder


def decode(
    path: Path, size: int, channels: int, opener: Opener | None = None
) -> tuple[np.ndarray, str]:
    """One image as uint8 (size, size, channels), and the SHA-256 of its decoded pixels.

    The aspect ratio is not kept: the papers resize to a square. The hash is taken before
    resizing, so equal hashes mean equal pictures, whatever the files are called.

    Args:
        opener: opens a file in Pillow's mode ``L`` or ``RGB``, in place of ``open_image``, and
            gives the hash of what was stored where 8 bits do not hold it.

    Raises:
        DataError: if the file is missing, truncated or no image.
    """
    mode = "L" if channels == 1 else "RGB"
    image, stored = opener(path, mode) if opener else (open_image(path, mode), "")
    pixels, digest = to_square(image, size)
    return pixels.reshape(size, size, channels), stored or digest


def to_square(image: Image.Image, size: int) -> tuple[np.ndarray, str]:
    """``decode`` for an image that is open already; gray comes as (size, size)."""
    digest = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.asarray(image), digest


def open_image(path: Path, mode: str | None) -> Image.Image:
    """One image at its own size, in Pillow's ``mode`` or, with None, its own.

    Raises:
        DataError: as ``decode``, and for pixels of more than 8 bits where ``mode`` has 8: Pillow
            would cut them off at 255, which is white.
    """
    with blamed(path, DAMAGED), Image.open(path, formats=FORMATS) as file:
        if mode and file.mode[0] in "IF":
            raise DataError(
                f"{path}: has pixels of more than 8 bits (mode {file.mode}), which this set's "
                "images do not have. Download it again, or bring it as data of your own."
            )
        return file.convert(mode) if mode else file.copy()  # raises if truncated


def decoded(
    name: str,
    paths: Sequence[Path],
    size: int,
    channels: int,
    *made: object,
    opener: Opener | None = None,
) -> Decoded:
    """All images as a read-only uint8 memory map (N, size, size, channels), hashes, cache.

    Args:
        made: what ``opener`` makes of the files, where it depends on more than they do.
        opener: see ``decode``.
    """

    def pictures() -> Iterator[Picture]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(paths), CHUNK):
                chunk = paths[start : start + CHUNK]
                yield from pool.map(lambda path: decode(path, size, channels, opener), chunk)

    shape = (len(paths), size, size, channels)
    return cached_pictures(name, listing_key(paths, size, channels, *made), shape, pictures())


def cached_pictures(
    name: str, key: str, shape: tuple[int, int, int, int], pictures: Iterable[Picture]
) -> Decoded:
    """The cache of a set, made of ``pictures``, which are asked for only where it is new.

    Raises:
        DataError: if the cache does not fit its set.
    """
    folder = env.home() / "decoded" / f"{name}-{shape[1]}-{key}"
    if not folder.exists():
        with building(folder) as partial:
            images, hashes = reserve(partial / "images.npy", shape), []
            for pixels, digest in env.progress(pictures, total=shape[0], desc=f"decoding {name}"):
                images[len(hashes)] = pixels.reshape(shape[1:])
                hashes.append(digest)
            images.flush()
            np.save(partial / "hashes.npy", np.array(hashes, str))
    images, hashes = cached(folder / "images.npy", mmap_mode="r"), cached(folder / "hashes.npy")
    if images.shape != shape or images.dtype != np.uint8 or hashes.shape != shape[:1]:
        raise DataError(f"{folder}: does not fit its data set. Delete this folder and run again.")
    return images, hashes.tolist(), folder


def load_array(path: Path, remedy: str, **options: str) -> np.ndarray:
    """An array of numbers or text in a file; ``options`` are those of ``np.load``.

    Raises:
        DataError: if it cannot be read, with the ``remedy``.
    """
    with blamed(path, f"cannot be read as an array ({{error}}). {remedy}"):
        if not path.is_file():  # to open a pipe is to wait for ever
            raise ValueError("no file")
        array = np.load(path, allow_pickle=False, **options)  # what could run code is not loaded
        if not isinstance(array, np.ndarray):
            raise ValueError("an archive of arrays")
        return array


def cached(path: Path, **options: str) -> np.ndarray:
    """An array of a cache, see ``load_array``."""
    return load_array(path, f"Delete {path.parent} and run again.", **options)


def remembered(path: Path, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """An array kept beside the decoded images it was computed from."""
    if not path.exists():
        buffer = io.BytesIO()
        np.save(buffer, compute())
        write_atomic(path, buffer.getbuffer())
    return cached(path)


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """A folder to fill, called ``folder`` only when complete, and gone if interrupted.

    So nothing is left that a later run could take for whole; halves of the killed go, too.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for stale in folder.parent.glob("*.partial-*"):
        if _abandoned(stale):
            shutil.rmtree(stale, ignore_errors=True)
    prefix = f"{folder.name}.partial-{platform.node()}-{os.getpid()}-"
    partial = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        yield partial
        with suppress(OSError):  # another process may have been quicker
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _abandoned(partial: Path) -> bool:
    """Whether the process that was making it is gone; of other machines only time tells."""
    host, number = partial.name.rpartition(".partial-")[2].rsplit("-", 2)[:2]
    if host == platform.node() and number.isdigit():
        return not psutil.pid_exists(int(number))
    with suppress(FileNotFoundError):  # finished in the meantime
        return time.time() - partial.stat().st_mtime > STALE_SECONDS
    return False


def listing_key(paths: Sequence[Path], *made: object) -> str:
    """Twelve hexadecimal digits that change with the files and with what is ``made`` of them.

    Raises:
        DataError: if a file is missing.
    """
    digest = hashlib.sha256(" ".join(map(str, made)).encode())
    for path in paths:
        with blamed(path, "no such image. Download the set again, or correct its label file."):
            stat = path.stat()
        # a name may hold bytes that are no UTF-8
        digest.update(os.fsencode(path.name) + f" {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]
