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


def flip_head(path: Path, rng: np.random.Generator) -> None:
    """A byte of the header is another."""
    data = bytearray(_content(path))
    if data:
        data[rng.integers(min(len(data), 128))] = rng.integers(256)
    _replace(path, bytes(data))


def cut(path: Path, rng: np.random.Generator) -> None:
    """The end is missing."""
    data = _content(path)
    _replace(path, data[: rng.integers(len(data) + 1)])


def cut_out(path: Path, rng: np.random.Generator) -> None:
    """A piece is missing."""
    data = _content(path)
    start = rng.integers(len(data) + 1)
    _replace(path, data[:start] + data[start + rng.integers(1, 200) :])


def insert(path: Path, rng: np.random.Generator) -> None:
    """A piece too many."""
    data = _content(path)
    start = rng.integers(len(data) + 1)
    _replace(path, data[:start] + rng.bytes(rng.integers(1, 50)) + data[start:])


def zeros(path: Path, rng: np.random.Generator) -> None:
    """A block of zeros, as a crash of the machine leaves it."""
    data = bytearray(_content(path))
    start = rng.integers(len(data) + 1)
    data[start:] = bytes(len(data) - start)
    _replace(path, bytes(data))


def empty(path: Path, rng: np.random.Generator) -> None:
    """No byte in it."""
    _replace(path, b"")


def html(path: Path, rng: np.random.Generator) -> None:
    """The page of a server that wants a login first."""
    _replace(path, b"<!DOCTYPE html><html><body>Sign in to continue</body></html>\n")


def random_bytes(path: Path, rng: np.random.Generator) -> None:
    """Nothing but noise."""
    _replace(path, rng.bytes(int(rng.integers(1, 3000))))


def directory(path: Path, rng: np.random.Generator) -> None:
    """A folder of that name."""
    _remove(path)
    path.mkdir()


def symlink_to_itself(path: Path, rng: np.random.Generator) -> None:
    """A link that never arrives."""
    _remove(path)
    path.symlink_to(path.name)


def dangling(path: Path, rng: np.random.Generator) -> None:
    """A link to what is not there."""
    _remove(path)
    path.symlink_to("nowhere")


def fifo(path: Path, rng: np.random.Generator) -> None:
    """A pipe: whoever opens it waits for ever."""
    _remove(path)
    os.mkfifo(path)


def zip_file(path: Path, rng: np.random.Generator) -> None:
    """A whole or a damaged zip archive."""
    buffer = io.BytesIO()
    np.savez(buffer, arr_0=np.zeros(3))
    data = buffer.getvalue()
    _replace(path, data if rng.random() < 0.5 else data[: rng.integers(4, len(data))])


ANY = (
    flip,
    flip_head,
    cut,
    cut_out,
    insert,
    zeros,
    empty,
    html,
    random_bytes,
    directory,
    symlink_to_itself,
    dangling,
    fifo,
    zip_file,
)


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


def animated(path: Path, rng: np.random.Generator) -> None:
    """Several pictures in one file."""
    frames = [Image.fromarray(_noise(rng, 20, 20)) for _ in range(3)]
    kind = str(rng.choice(["GIF", "PNG", "TIFF", "WEBP"]))
    _saved(frames[0], path, kind, save_all=True, append_images=frames[1:])


def cmyk(path: Path, rng: np.random.Generator) -> None:
    """Four colours of print."""
    _saved(Image.fromarray(_noise(rng, 20, 20, 4), "CMYK"), path, "JPEG")


def sixteen_bit(path: Path, rng: np.random.Generator) -> None:
    """Gray of 16 bits: to take it for 8 bits makes it all white."""
    _saved(rng.integers(0, 65536, (20, 20), np.uint16), path, "PNG")


def wide_numbers(path: Path, rng: np.random.Generator) -> None:
    """Pixels of 32 bits, whole or real."""
    values = rng.normal(size=(20, 20)) * 1e4
    _saved(values.astype(rng.choice([np.float32, np.int32])), path, "TIFF")


def palette(path: Path, rng: np.random.Generator) -> None:
    """Colours by number, with a transparent one."""
    image = Image.fromarray(_noise(rng, 20, 20, 3)).quantize(16)
    _saved(image, path, "PNG", transparency=3)


def see_through(path: Path, rng: np.random.Generator) -> None:
    """An alpha channel, with gray or with colours."""
    _saved(_noise(rng, 20, 20, int(rng.choice([2, 4]))), path, "PNG")


def one_bit(path: Path, rng: np.random.Generator) -> None:
    """Black and white."""
    _saved(Image.fromarray(_noise(rng, 20, 20)).convert("1"), path, "PNG")


def odd_shape(path: Path, rng: np.random.Generator) -> None:
    """One pixel, or one row of many."""
    _saved(_noise(rng, 1, int(rng.choice([1, 9000]))), path, "PNG")


def rotated(path: Path, rng: np.random.Generator) -> None:
    """A photograph that says it lies on its side, or a note that makes no sense."""
    exif = Image.Exif()
    exif[0x0112] = int(rng.choice([6, 99]))
    note = exif.tobytes() if rng.random() < 0.5 else b"Exif\0\0" + rng.bytes(40)
    _saved(_noise(rng, 20, 30, 3), path, "JPEG", exif=note)


IMAGE = (
    *ANY,
    other_format,
    bomb,
    text_bomb,
    animated,
    cmyk,
    sixteen_bit,
    wide_numbers,
    palette,
    see_through,
    one_bit,
    odd_shape,
    rotated,
)


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


def line_ends(path: Path, rng: np.random.Generator) -> None:
    """The line ends of Windows, of old Macs, or both."""
    data = _content(path)
    _replace(path, data.replace(b"\n", [b"\r\n", b"\r", b"\n\r\n", b"\r\r\n"][rng.integers(4)]))


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


def double_row(path: Path, rng: np.random.Generator) -> None:
    """A line comes twice."""
    row = rng.integers(1 << 20)
    _edit_lines(path, lambda lines: [*lines, lines[row % len(lines)]])


def less_rows(path: Path, rng: np.random.Generator) -> None:
    """Lines are missing, the first perhaps."""
    start, count = rng.integers(1 << 20), rng.integers(1, 4)
    _edit_lines(
        path,
        lambda lines: [
            line for i, line in enumerate(lines) if not 0 <= i - start % len(lines) < count
        ],
    )


def shuffled(path: Path, rng: np.random.Generator) -> None:
    """Lines in another order, which changes nothing."""
    _edit_lines(path, lambda lines: [lines[0], *rng.permutation(lines[1:]).tolist()])


def drop_column(path: Path, rng: np.random.Generator) -> None:
    """A column is missing, from all lines or from the first alone."""
    column, everywhere = int(rng.integers(4)), rng.random() < 0.7

    def shorter(lines: list[bytes]) -> list[bytes]:
        split = [line.rstrip(b"\r\n").split(b",") for line in lines]
        for cells in split if everywhere else split[:1]:
            del cells[column : column + 1]
        return [b",".join(cells) + b"\n" for cells in split]

    _edit_lines(path, shorter)


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


VALUES = [
    b"",
    b" ",
    b"nan",
    b"NaN",
    b"NA",
    b"null",
    b"inf",
    b"-inf",
    b"1e400",
    b"-1",
    b"9" * 30,
    b"0.5",
    b"0x1F",
    b"True",
    b"1_000",
    b"../../etc/passwd",
    b"=1+1",
    b"\xff\xfe",
    b"x" * 300_000,
    b"\xe2\x80\xae",
    b"|",
    b"No Finding|Mass",
    b"nv ",
    b"NV",
    b"\xd9\xa3",
    b"3.0",
    b"2021-01-01",
]


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


def heading(path: Path, rng: np.random.Generator) -> None:
    """A column is called something else, or like another."""
    names = [b"", b"level", b"image_id", b"Image Index", b" dx", b"DX", b'"']
    _edit_cell(path, rng, names[rng.integers(len(names))], head=True)


TABLE = (
    *ANY,
    encoding,
    line_ends,
    quote,
    nul,
    double_row,
    less_rows,
    shuffled,
    drop_column,
    extra_cells,
    cell,
    cell,
    column_of,
    heading,
)


# arrays


class Trap:
    """A Python object that makes a folder when it is unpickled."""

    marker = "sprung"

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def header(path: Path, rng: np.random.Generator) -> None:
    """The header promises another shape, type or order than the bytes hold."""
    data = _content(path)
    old, new = [
        (b"(", b"(99999999999999999999, "),
        (b"(", b"(-"),
        (b"(", b"(1000000, "),
        (b"(", b"[("),
        (b"<f8", b"<i8"),
        (b"<f8", b"<f2"),
        (b"<f8", b">f8"),
        (b"<f8", b"|O8"),
        (b"<f8", b"<c8"),
        (b"<f8", b"<M8"),
        (b"<f8", b"|V8"),
        (b"<f8", b"<U2"),
        (b"<f8", b"<f7"),
        (b"<U6", b"<U3"),
        (b"False", b"True "),
        (b"descr", b"descs"),
        (b"{", b"{{"),
        (b"}", b" "),
        (b"'", b"\\"),
        (b"False", b"exit()"),
        (b"16", b"00"),
        (b"16", b"08"),
        (b"\x93NUMPY\x01", b"\x93NUMPY\x07"),
    ][rng.integers(23)]
    _replace(path, data.replace(old, new, 1))


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
        lambda: array[..., None],
        lambda: array.reshape(-1),
        lambda: array[:0],
        lambda: np.array(0.5),
        lambda: np.asfortranarray(array),
        lambda: array.astype("S"),
        lambda: array.astype("U"),
        lambda: np.zeros(array.shape, "V3"),
        lambda: np.zeros(array.shape, [("a", "f8"), ("b", "i4")]),
        lambda: np.zeros(array.shape, "M8[s]"),
        lambda: np.zeros(array.shape, complex),
        lambda: np.ones(array.shape, bool),
        lambda: np.full(array.shape, np.nan),
        lambda: np.full(array.shape, np.inf),
        lambda: np.full(array.shape, -1, np.int8),
        lambda: np.full(array.shape, 2**63, np.uint64),
        lambda: np.full(array.shape, 255, np.float16),
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


ARRAY = (*ANY, header, header, header, other_array, other_array, pickled)


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


def swapped_members(path: Path, rng: np.random.Generator) -> None:
    """Two arrays have changed names."""
    members = _members(path)
    order = rng.permutation(len(members))
    names = [members[i][0] for i in order]
    _packed(path, [(name, content) for name, (_, content) in zip(names, members, strict=True)])


ARCHIVE = (*ANY, member, member, member, member, less_members, swapped_members)


# trees


def delete(path: Path, rng: np.random.Generator) -> None:
    """A file is gone."""
    _remove(path)


def delete_folder(path: Path, rng: np.random.Generator) -> None:
    """The whole folder around a file is gone."""
    shutil.rmtree(path.parent, ignore_errors=True)


NAMES = [
    "Bild ä{}",
    "{} (copy)",
    "{}.bak",
    "-{}",
    ".{}",
    "{}\n",
    "\u202e{}",
    "{}é",
    "e\u0301{}",
    "~{}",
    "{} ",
    "._{}",
    "{}_mask",
    "'{}'",
    "%s{}",
    "[{}]",
    "\udcff{}",
    "{}\\",
]


def rename(path: Path, rng: np.random.Generator) -> None:
    """Another name."""
    _move(path, path.with_name(NAMES[rng.integers(len(NAMES))].format(path.stem) + path.suffix))


def copy(path: Path, rng: np.random.Generator) -> None:
    """The same file under a second name."""
    target = path.with_name(NAMES[rng.integers(len(NAMES))].format(path.stem) + path.suffix)
    if path.is_file():
        shutil.copyfile(path, target)


def case(path: Path, rng: np.random.Generator) -> None:
    """Capitals, in the suffix, in the name, or in the folder's name."""
    targets = [path.with_suffix(path.suffix.upper()), path.with_name(path.name.swapcase())]
    if rng.random() < 0.2:
        _move(path.parent, path.parent.with_name(path.parent.name.swapcase()))
    else:
        _move(path, targets[rng.integers(2)])


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


def to_another_part(path: Path, rng: np.random.Generator) -> None:
    """Copied into a folder of the same name in another part."""
    above = sorted(p for p in path.parents[2].iterdir() if (p / path.parent.name).is_dir())
    if above and path.is_file():
        target = above[rng.integers(len(above))] / path.parent.name / path.name
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


def over(path: Path, rng: np.random.Generator) -> None:
    """The content of another file of the folder: a copy, perhaps with another label."""
    others = sorted(p for p in path.parent.iterdir() if p != path and p.is_file())
    if others and path.is_file():
        shutil.copyfile(others[rng.integers(len(others))], path)


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
    case,
    other_suffix,
    to_another_class,
    to_another_part,
    swap,
    over,
    stray,
    link_elsewhere,
)
