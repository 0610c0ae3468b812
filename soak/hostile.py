"""What a bad disk, a bad archive or a bad person makes of a file: the mutations of the fuzzing.

Every mutation takes the path of a file and a random generator. ``IMAGE``, ``TABLE``, ``ARRAY`` and
``TREE`` list them by what they are for.
"""

from __future__ import annotations

import io
import os
import shutil
import struct
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

Mutation = Callable[[Path, np.random.Generator], None]


def _replace(path: Path, content: bytes) -> None:
    """Write ``content`` as a file of its own, should ``path`` be something else by now."""
    _remove(path)
    path.write_bytes(content)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b"nothing of the kind"


# bytes of any file


def flip(path: Path, rng: np.random.Generator) -> None:
    """A few bytes are others."""
    data = bytearray(_content(path))
    for place in rng.integers(0, max(len(data), 1), rng.integers(1, 9)):
        if data:
            data[place] = rng.integers(256)
    _replace(path, bytes(data))


def cut(path: Path, rng: np.random.Generator) -> None:
    """The end is missing."""
    data = _content(path)
    _replace(path, data[: rng.integers(len(data) + 1)])


def empty(path: Path, rng: np.random.Generator) -> None:
    """No byte in it."""
    _replace(path, b"")


def html(path: Path, rng: np.random.Generator) -> None:
    """The page of a server that wants a login first."""
    _replace(path, b"<!DOCTYPE html><html><body>Sign in to continue</body></html>\n")


def directory(path: Path, rng: np.random.Generator) -> None:
    """A folder of that name."""
    _remove(path)
    path.mkdir()


def symlink_to_itself(path: Path, rng: np.random.Generator) -> None:
    """A link that never arrives."""
    _remove(path)
    path.symlink_to(path.name)


def fifo(path: Path, rng: np.random.Generator) -> None:
    """A pipe: whoever opens it waits for ever."""
    _remove(path)
    os.mkfifo(path)


ANY = (flip, cut, empty, html, directory, symlink_to_itself, fifo)


# images


def _saved(pixels: np.ndarray | Image.Image, path: Path, kind: str, **options) -> None:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    _replace(path, buffer.getvalue())


def _noise(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(0, 256, shape, np.uint8)


def other_format(path: Path, rng: np.random.Generator) -> None:
    """Another format under the old name; EPS would be run by Ghostscript."""
    kind = rng.choice(
        ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "EPS", "JPEG2000"]
    )
    _saved(_noise(rng, 24, 24, 3), path, str(kind))


def bomb(path: Path, rng: np.random.Generator) -> None:
    """A PNG of a few bytes that claims to be huge."""
    side = int(rng.choice([60_000, 2_000_000, 2**31 - 1]))
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, int(rng.choice([0, 2, 6])), 0, 0, 0)
    body = b"IDAT" + zlib.compress(bytes(1000))
    chunks = (
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c))
        for c in (header, body, b"IEND")
    )
    _replace(path, b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def text_bomb(path: Path, rng: np.random.Generator) -> None:
    """A PNG whose compressed comment is far larger than the picture."""
    comment = b"zTXtComment\0\0" + zlib.compress(bytes(3_000_000), 1)
    buffer = io.BytesIO()
    Image.fromarray(_noise(rng, 8, 8)).save(buffer, "PNG")
    data = buffer.getvalue()
    chunk = struct.pack(">I", len(comment) - 4) + comment + struct.pack(">I", zlib.crc32(comment))
    _replace(path, data[:33] + chunk + data[33:])


def sixteen_bit(path: Path, rng: np.random.Generator) -> None:
    """Gray of 16 bits: to take it for 8 bits makes it all white."""
    _saved(rng.integers(0, 65536, (20, 20), np.uint16), path, "PNG")


def wide_numbers(path: Path, rng: np.random.Generator) -> None:
    """Pixels of 32 bits, whole or real."""
    values = rng.normal(size=(20, 20)) * 1e4
    _saved(values.astype(rng.choice([np.float32, np.int32])), path, "TIFF")


def see_through(path: Path, rng: np.random.Generator) -> None:
    """An alpha channel, with gray or with colours."""
    _saved(_noise(rng, 20, 20, int(rng.choice([2, 4]))), path, "PNG")


def rotated(path: Path, rng: np.random.Generator) -> None:
    """A photograph that says it lies on its side, or a note that makes no sense."""
    exif = Image.Exif()
    exif[0x0112] = int(rng.choice([6, 99]))
    note = exif.tobytes() if rng.random() < 0.5 else b"Exif\0\0" + rng.bytes(40)
    _saved(_noise(rng, 20, 30, 3), path, "JPEG", exif=note)


IMAGE = (*ANY, other_format, bomb, text_bomb, sixteen_bit, wide_numbers, see_through, rotated)


# label tables


def _lines(path: Path) -> list[bytes]:
    return _content(path).splitlines(keepends=True) or [b"\n"]


def _edit_lines(path: Path, edit: Callable[[list[bytes]], list[bytes]]) -> None:
    _replace(path, b"".join(edit(_lines(path))))


def _edit_cell(path: Path, rng: np.random.Generator, value: bytes, head: bool = False) -> None:
    lines = _lines(path)
    row = 0 if head or len(lines) == 1 else int(rng.integers(1, len(lines)))
    cells = lines[row].rstrip(b"\r\n").split(b",")
    cells[rng.integers(len(cells))] = value
    lines[row] = b",".join(cells) + b"\n"
    _replace(path, b"".join(lines))


def encoding(path: Path, rng: np.random.Generator) -> None:
    """Saved by a program with a mind of its own."""
    text = _content(path).decode("latin-1")
    text = text.replace("l", "\xe9", 1) if rng.random() < 0.5 else text
    kind = rng.choice(["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "utf-8"])
    _replace(path, text.encode(str(kind)))


def quote(path: Path, rng: np.random.Generator) -> None:
    """A quotation mark that opens or closes nothing."""
    data = _content(path)
    place = rng.integers(len(data) + 1)
    _replace(path, data[:place] + b'"' + data[place:])


def nul(path: Path, rng: np.random.Generator) -> None:
    """NUL bytes within the text."""
    data = _content(path)
    place = rng.integers(len(data) + 1)
    _replace(path, data[:place] + bytes(rng.integers(1, 5)) + data[place:])


def less_rows(path: Path, rng: np.random.Generator) -> None:
    """Lines are missing, the first perhaps."""
    start, count = rng.integers(1 << 20), rng.integers(1, 4)
    _edit_lines(
        path,
        lambda lines: [
            line for i, line in enumerate(lines) if not 0 <= i - start % len(lines) < count
        ],
    )


def extra_cells(path: Path, rng: np.random.Generator) -> None:
    """A cell more, in one line, in all lines, or in all but the first; in front or at the end."""
    which, front = int(rng.integers(3)), rng.random() < 0.5

    def longer(lines: list[bytes]) -> list[bytes]:
        chosen = {0: {len(lines) // 2}, 1: set(range(len(lines))), 2: set(range(1, len(lines)))}
        return [
            (b"7," + line if front else line.rstrip(b"\r\n") + b",7\n")
            if i in chosen[which]
            else line
            for i, line in enumerate(lines)
        ]

    _edit_lines(path, longer)


WORDS = b"nan|NA|inf|1e400|-1|0.5|0x1F|True|1_000|../../etc/passwd|=1+1|\xff\xfe|nv |NV|3.0"
VALUES = [b"", b" ", b"|", b"No Finding|Mass", b"x" * 300_000, *WORDS.split(b"|")]


def cell(path: Path, rng: np.random.Generator) -> None:
    """A cell holds what it should not."""
    _edit_cell(path, rng, VALUES[rng.integers(len(VALUES))])


def column_of(path: Path, rng: np.random.Generator) -> None:
    """Every cell of a column holds the same, which may make it another type."""
    value, column = VALUES[rng.integers(len(VALUES))][:40], int(rng.integers(4))

    def same(lines: list[bytes]) -> list[bytes]:
        split = [line.rstrip(b"\r\n").split(b",") for line in lines]
        for cells in split[1:]:
            cells[column : column + 1] = [value] if column < len(cells) else []
        return [b",".join(cells) + b"\n" for cells in split]

    _edit_lines(path, same)


TABLE = (*ANY, encoding, quote, nul, less_rows, extra_cells, cell, cell, column_of)


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


def header(path: Path, rng: np.random.Generator) -> None:
    """The header promises another shape, type or order than the bytes hold."""
    _replace(path, _content(path).replace(*HEADERS[rng.integers(len(HEADERS))], 1))


def other_array(path: Path, rng: np.random.Generator) -> None:
    """A whole array, but not what belongs here."""
    try:
        array = np.load(path, allow_pickle=False) if path.is_file() else np.zeros(3)
    except Exception:  # damaged already, in one of many ways
        array = np.zeros(3)
    if not isinstance(array, np.ndarray):
        array = np.zeros(3)
    changes: list[Callable[[], np.ndarray]] = [
        lambda: array[:-1],
        lambda: array[:0],
        lambda: np.array(0.5),
        lambda: array.astype("S"),
        lambda: np.zeros(array.shape, [("a", "f8"), ("b", "i4")]),
        lambda: np.zeros(array.shape, complex),
        lambda: np.ones(array.shape, bool),
        lambda: np.full(array.shape, np.nan),
        lambda: np.full(array.shape, -1, np.int8),
        lambda: np.full(array.shape, b"\xff\xfe"),
        lambda: np.zeros(array.shape),
    ]
    np.save(_emptied(path), changes[rng.integers(len(changes))]())


def pickled(path: Path, rng: np.random.Generator) -> None:
    """Python objects instead of numbers: to load them is to run them."""
    np.save(_emptied(path), np.array([Trap()] * 3, object), allow_pickle=True)


def _emptied(path: Path) -> Path:
    _remove(path)
    return path


ARRAY = (*ANY, header, header, other_array, other_array, pickled)


# archives of arrays


def _members(path: Path) -> list[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(io.BytesIO(_content(path))) as file:
            members = [(name, file.read(name)) for name in file.namelist()]
        return members or [("arr_0.npy", b"")]
    except Exception:  # damaged already, in one of many ways
        return [("arr_0.npy", b"")]


def _packed(path: Path, members: list[tuple[str, bytes]]) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that comes twice
        for name, content in members:
            file.writestr(name, content)
    _replace(path, buffer.getvalue())


def member(path: Path, rng: np.random.Generator) -> None:
    """One of the arrays is damaged, or another than it should be; the archive is whole."""
    members = _members(path)
    chosen = int(rng.integers(len(members)))
    mutation = ARRAY[rng.integers(len(ARRAY))]
    with tempfile.TemporaryDirectory() as scratch:
        one = Path(scratch, "one.npy")
        one.write_bytes(members[chosen][1])
        mutation(one, rng)
        members[chosen] = members[chosen][0], _content(one)
    _packed(path, members)


def less_members(path: Path, rng: np.random.Generator) -> None:
    """An array is missing, or called something else."""
    members = _members(path)
    name, content = members.pop(rng.integers(len(members)))
    _packed(path, members if rng.random() < 0.5 else [*members, (f"../{name}", content)])


ARCHIVE = (*ANY, member, member, member, less_members)


# trees


def delete(path: Path, rng: np.random.Generator) -> None:
    """A file is gone."""
    _remove(path)


def delete_folder(path: Path, rng: np.random.Generator) -> None:
    """The whole folder around a file is gone."""
    shutil.rmtree(path.parent, ignore_errors=True)


NAMES = ["Bild ä{}", "{} (copy)", "{}.bak", "-{}", ".{}", "{}\n", "\u202e{}", "{}_mask", "[{}]"]


def rename(path: Path, rng: np.random.Generator) -> None:
    """Another name."""
    _move(path, path.with_name(NAMES[rng.integers(len(NAMES))].format(path.stem) + path.suffix))


def copy(path: Path, rng: np.random.Generator) -> None:
    """The same file under a second name."""
    target = path.with_name(NAMES[rng.integers(len(NAMES))].format(path.stem) + path.suffix)
    if path.is_file():
        shutil.copyfile(path, target)


def other_suffix(path: Path, rng: np.random.Generator) -> None:
    """Another suffix, or none."""
    suffixes = [".png", ".jpg", ".jpeg", ".tif", ".txt", "", ".npy"]
    _move(path, path.with_suffix(suffixes[rng.integers(7)]))


def to_another_class(path: Path, rng: np.random.Generator) -> None:
    """Moved into a folder beside its own, perhaps over a file of that name."""
    folders = sorted(p for p in path.parent.parent.iterdir() if p.is_dir())
    if folders and rng.random() < 0.7:
        _move(path, folders[rng.integers(len(folders))] / path.name)
    elif folders and path.is_file():  # copied: two labels for one picture
        target = folders[rng.integers(len(folders))] / path.name
        if not target.exists():
            shutil.copyfile(path, target)


def swap(path: Path, rng: np.random.Generator) -> None:
    """Two files of a folder change names."""
    others = sorted(p for p in path.parent.iterdir() if p != path)
    if others:
        other, between = others[rng.integers(len(others))], path.with_name("between")
        _move(path, between)
        _move(other, path)
        _move(between, other)


def stray(path: Path, rng: np.random.Generator) -> None:
    """A file or folder that does not belong here."""
    names = ["Thumbs.db", ".DS_Store", "readme.txt", "__MACOSX", "Fold 9", "deep/er", "x.npy"]
    target = path.parents[rng.integers(2)] / names[rng.integers(7)]
    if target.exists():
        return
    if target.suffix or target.name.startswith("."):
        target.write_bytes(b"hello")
    else:
        target.mkdir(parents=True)


def link_elsewhere(path: Path, rng: np.random.Generator) -> None:
    """The file lies in another folder and is linked here, as some keep large sets."""
    if path.is_file() and not path.is_symlink():
        away = path.parents[1] / f".{path.name}-away"
        _move(path, away)
        path.symlink_to(away)


def _move(path: Path, target: Path) -> None:
    if path.is_symlink() or path.exists():
        if target.is_dir() and not target.is_symlink():
            return
        path.rename(target)


TREE = (
    delete,
    delete_folder,
    rename,
    copy,
    other_suffix,
    to_another_class,
    swap,
    stray,
    link_elsewhere,
)
