"""What a bad disk, a bad archive or a bad person makes of a file: the mutations of the fuzzing.

A mutation takes the path of a file and a random generator. ``IMAGE``, ``TABLE``, ``ARRAY``,
``ARCHIVE`` and ``TREE`` list them by what they are for.
"""

from __future__ import annotations

import functools
import io
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

Rng = np.random.Generator


def remove(path: Path, rng: Rng | None = None) -> None:
    """The file, or the folder that it has become, is gone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def content(change: Callable[[bytes, Rng], bytes]) -> Callable[[Path, Rng], None]:
    """A mutation of a file, should it be something else by now too, made of one of its bytes."""

    @functools.wraps(change)
    def mutate(path: Path, rng: Rng) -> None:
        data = path.read_bytes() if path.is_file() else b"nothing of the kind"
        remove(path)
        path.write_bytes(change(data, rng))

    return mutate


# any file


@content
def flip(data: bytes, rng: Rng) -> bytes:
    """A few bytes are others."""
    changed = np.frombuffer(data, np.uint8).copy()
    places = rng.integers(0, max(len(data), 1), rng.integers(1, 9))
    changed[places[: len(data)]] = rng.integers(0, 256, len(places[: len(data)]))
    return changed.tobytes()


@content
def cut(data: bytes, rng: Rng) -> bytes:
    """The end is missing, or all of it."""
    return data[: rng.choice([0, rng.integers(len(data) + 1)])]


@content
def html(data: bytes, rng: Rng) -> bytes:
    """The page of a server that wants a login first."""
    return b"<!DOCTYPE html><html><body>Sign in to continue</body></html>\n"


def directory(path: Path, rng: Rng) -> None:
    """A folder of that name."""
    remove(path)
    path.mkdir()


def symlink_to_itself(path: Path, rng: Rng) -> None:
    """A link that never arrives."""
    remove(path)
    path.symlink_to(path.name)


def fifo(path: Path, rng: Rng) -> None:
    """A pipe: whoever opens it waits for ever."""
    remove(path)
    os.mkfifo(path)


ANY = (flip, cut, html, directory, symlink_to_itself, fifo)


# images


def _image(pixels: np.ndarray, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def _noise(rng: Rng, *shape: int) -> np.ndarray:
    return rng.integers(0, 256, shape, np.uint8)


def _chunk(data: bytes) -> bytes:
    return struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))


@content
def other_format(data: bytes, rng: Rng) -> bytes:
    """Another format under the old name; EPS would be run by Ghostscript."""
    kinds = "PNG JPEG GIF BMP TIFF WEBP PPM ICO EPS JPEG2000"
    return _image(_noise(rng, 24, 24, 3), str(rng.choice(kinds.split())))


@content
def bomb(data: bytes, rng: Rng) -> bytes:
    """A PNG of a few bytes that claims to be huge."""
    side = int(rng.choice([60_000, 2_000_000, 2**31 - 1]))
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, int(rng.choice([0, 2, 6])), 0, 0, 0)
    chunks = header, b"IDAT" + zlib.compress(bytes(1000)), b"IEND"
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, chunks))


@content
def text_bomb(data: bytes, rng: Rng) -> bytes:
    """A PNG whose compressed comment is far larger than the picture."""
    small = _image(_noise(rng, 8, 8))
    return small[:33] + _chunk(b"zTXtComment\0\0" + zlib.compress(bytes(3_000_000), 1)) + small[33:]


@content
def sixteen_bit(data: bytes, rng: Rng) -> bytes:
    """Gray of 16 bits: to take it for 8 bits makes it all white."""
    return _image(rng.integers(0, 65536, (20, 20), np.uint16))


@content
def wide_numbers(data: bytes, rng: Rng) -> bytes:
    """Pixels of 32 bits, whole or real."""
    values = rng.normal(size=(20, 20)) * 1e4
    return _image(values.astype(rng.choice([np.float32, np.int32])), "TIFF")


@content
def see_through(data: bytes, rng: Rng) -> bytes:
    """An alpha channel, with gray or with colours."""
    return _image(_noise(rng, 20, 20, int(rng.choice([2, 4]))))


@content
def rotated(data: bytes, rng: Rng) -> bytes:
    """A photograph that says it lies on its side, or a note that makes no sense."""
    exif = Image.Exif()
    exif[0x0112] = int(rng.choice([6, 99]))
    note = exif.tobytes() if rng.random() < 0.5 else b"Exif\0\0" + rng.bytes(40)
    return _image(_noise(rng, 20, 30, 3), "JPEG", exif=note)


IMAGE = (*ANY, other_format, bomb, text_bomb, sixteen_bit, wide_numbers, see_through, rotated)


# label tables

ENCODINGS = ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "utf-8"]
WORDS = b"nan|NA|inf|1e400|-1|0.5|0x1F|True|1_000|../../etc/passwd|=1+1|\xff\xfe|nv |NV|3.0"
VALUES = [b"", b" ", b"|", b"No Finding|Mass", b"x" * 300_000, *WORDS.split(b"|")]


@content
def encoding(data: bytes, rng: Rng) -> bytes:
    """Saved by a program with a mind of its own."""
    text = data.decode("latin-1")
    text = text.replace("l", "\xe9", 1) if rng.random() < 0.5 else text
    return text.encode(str(rng.choice(ENCODINGS)))


@content
def put_in(data: bytes, rng: Rng) -> bytes:
    """A quotation mark that opens or closes nothing, or NUL bytes, within the text."""
    place = rng.integers(len(data) + 1)
    return data[:place] + (b'"', bytes(rng.integers(1, 5)))[rng.integers(2)] + data[place:]


@content
def fewer_rows(data: bytes, rng: Rng) -> bytes:
    """Lines are missing, the first perhaps."""
    lines = data.splitlines(keepends=True)
    start = rng.integers(len(lines) + 1)
    return b"".join(lines[:start] + lines[start + rng.integers(1, 4) :])


@content
def extra_cells(data: bytes, rng: Rng) -> bytes:
    """A cell more in one line, or from one line on; in front or at the end."""
    lines, front = data.splitlines(), rng.random() < 0.5
    first = rng.integers(2) if rng.random() < 0.7 else len(lines) // 2
    last = first + 1 if rng.random() < 0.3 else len(lines)
    lines[first:last] = [b"7," + line if front else line + b",7" for line in lines[first:last]]
    return b"\n".join(lines) + b"\n"


@content
def cells(data: bytes, rng: Rng) -> bytes:
    """A cell, or a whole column, holds what it should not; a column may change its type."""
    rows = [line.split(b",") for line in data.splitlines() or [b""]]
    column, value = rng.integers(max(map(len, rows))), VALUES[rng.integers(len(VALUES))]
    chosen = rows[1:] if rng.random() < 0.3 else [rows[rng.integers(len(rows))]]
    for row in chosen:
        row[column : column + 1] = [value[:40] if len(chosen) > 1 else value]
    return b"\n".join(map(b",".join, rows)) + b"\n"


TABLE = (*ANY, encoding, put_in, fewer_rows, extra_cells, cells, cells, cells)


# arrays


class Trap:
    """A Python object that makes a folder when it is unpickled."""

    marker = "sprung"

    def __reduce__(self):
        return os.mkdir, (self.marker,)


HEADERS = [
    (b"(", b"(99999999999999999999, "),
    (b"(", b"(-"),
    (b"(", b"(1000000, "),
    (b"<f8", b"<i8"),
    (b"<f8", b"|O8"),
    (b"<f8", b"<c8"),
    (b"<U6", b"<U3"),
    (b"False", b"True "),
    (b"}", b" "),
    (b"False", b"exit()"),
    (b"16", b"08"),
    (b"\x93NUMPY\x01", b"\x93NUMPY\x07"),
]
OTHER = [  # a whole array, but not what belongs here
    lambda array: array[:-1],
    lambda array: array[:0],
    lambda array: np.array(0.5),
    lambda array: array.astype("S"),
    lambda array: np.zeros(array.shape, [("a", "f8"), ("b", "i4")]),
    lambda array: np.zeros(array.shape, complex),
    lambda array: np.ones(array.shape, bool),
    lambda array: np.full(array.shape, np.nan),
    lambda array: np.full(array.shape, -1, np.int8),
    lambda array: np.full(array.shape, b"\xff\xfe"),
    lambda array: np.zeros(array.shape),
    lambda array: np.array([Trap()] * 3, object),  # Python objects: to load them is to run them
]


@content
def header(data: bytes, rng: Rng) -> bytes:
    """The header promises another shape, type or order than the bytes hold."""
    return data.replace(*HEADERS[rng.integers(len(HEADERS))], 1)


@content
def other_array(data: bytes, rng: Rng) -> bytes:
    """A whole array, but not what belongs here."""
    try:
        array = np.lib.format.read_array(io.BytesIO(data))
    except Exception:  # damaged already, in one of many ways
        array = np.zeros(3)
    buffer = io.BytesIO()
    np.save(buffer, OTHER[rng.integers(len(OTHER))](array), allow_pickle=True)
    return buffer.getvalue()


ARRAY = (*ANY, header, header, other_array, other_array, other_array)


@content
def members(data: bytes, rng: Rng) -> bytes:
    """One array of an archive is damaged, another one, missing or called something else."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            found = [(name, file.read(name)) for name in file.namelist()]
        name, array = found.pop(rng.integers(len(found)))
    except Exception:  # damaged already, in one of many ways
        found, name, array = [], "arr_0.npy", b""
    change = (flip, cut, html, header, header, other_array, other_array)[rng.integers(7)]
    name, array = [(name, change.__wrapped__(array, rng)), (f"../{name}", array)][rng.integers(2)]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for one in [*found, (name, array)][: None if rng.random() < 0.8 else -1]:
            file.writestr(*one)
    return buffer.getvalue()


ARCHIVE = (*ANY, members, members, members, members)


# trees

NAMES = ["Bild ä{}", "{} (copy)", "{}.bak", "-{}", ".{}", "{}\n", "\u202e{}", "{}_mask", "[{}]"]
SUFFIXES = [".png", ".jpg", ".jpeg", ".tif", ".txt", "", ".npy"]
STRAYS = ["Thumbs.db", ".DS_Store", "readme.txt", "__MACOSX", "Fold 9", "deep/er", "x.npy"]


def move(path: Path, target: Path) -> None:
    """To another place, perhaps over a file; what lies in no folder stays."""
    if os.path.lexists(path) and (target.is_symlink() or not target.is_dir()):
        path.rename(target)


def delete_folder(path: Path, rng: Rng) -> None:
    """The whole folder around a file is gone."""
    shutil.rmtree(path.parent, ignore_errors=True)


def rename(path: Path, rng: Rng) -> None:
    """Another name, another suffix or none; or the same file under a second name."""
    target = path.with_name(NAMES[rng.integers(len(NAMES))].format(path.stem) + path.suffix)
    if rng.random() < 0.3:
        target = path.with_suffix(SUFFIXES[rng.integers(len(SUFFIXES))])
    elif rng.random() < 0.5 and path.is_file():
        shutil.copyfile(path, target)
        return
    move(path, target)


def to_another_class(path: Path, rng: Rng) -> None:
    """Into a folder beside its own, over a file of that name; or copied: two labels for one."""
    folders = sorted(p for p in path.parent.parent.iterdir() if p.is_dir())
    target = folders[rng.integers(len(folders))] / path.name
    if rng.random() < 0.7:
        move(path, target)
    elif path.is_file() and not target.exists():
        shutil.copyfile(path, target)


def swap(path: Path, rng: Rng) -> None:
    """Two files of a folder change names."""
    others = sorted(p for p in path.parent.iterdir() if p != path)
    if others:
        other, between = others[rng.integers(len(others))], path.with_name("between")
        move(path, between)
        move(other, path)
        move(between, other)


def stray(path: Path, rng: Rng) -> None:
    """A file or folder that does not belong here."""
    target = path.parents[rng.integers(2)] / STRAYS[rng.integers(len(STRAYS))]
    if not target.exists() and (target.suffix or target.name.startswith(".")):
        target.write_bytes(b"hello")
    else:
        target.mkdir(parents=True, exist_ok=True)


def link_elsewhere(path: Path, rng: Rng) -> None:
    """The file lies in another folder and is linked here, as some keep large sets."""
    if path.is_file() and not path.is_symlink():
        away = path.parents[1] / f".{path.name}-away"
        move(path, away)
        path.symlink_to(away)


TREE = (remove, delete_folder, rename, rename, rename, to_another_class, swap, stray)
TREE = (*TREE, link_elsewhere)
