"""Archives unpacked safely: no path outside, no links, no bombs, whole or not at all."""

from __future__ import annotations

import gzip
import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ...core.errors import DataError
from .names import Names

RATIO = 200  # unpacked to packed; the emptiest real set (PanNuke's masks) has about 20 in all
ALWAYS = 200_000_000  # bytes that no ratio forbids: small archives of blank images are no bombs
ENTRIES = 1_000_000
BLOCK = 1 << 20
BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,  # a compression that zipfile does not know
    RuntimeError,
    ValueError,
    IndexError,
    struct.error,
    OSError,  # a seek to where nothing is
)


def unpack(archive: Path | list[Path], target: Path, *, lift: str = "") -> Path:
    """Unpack a zip or tar archive into the new folder ``target``.

    It is unpacked beside ``target`` first and renamed when all of it passed its checksums. What
    an earlier, killed call left there is removed.

    Args:
        archive: the archive, or the parts of a zip file that was cut up, in order.
        lift: a leading folder that is dropped.

    Raises:
        DataError: naming the archive and the entry, if it is damaged or does what no data set
            has to: leave the target, link, name a file twice, or swell without measure.
    """
    beside = target.with_name(f"{target.name}.unpacking")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        room = min(allowance(archive), shutil.disk_usage(beside).free)
        for name, content in _members(archive, Names(lift), room):
            path = beside / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                for block in content:
                    file.write(block)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise DataError(f"{beside}: cannot be written ({error}). Make room, call again.") from error
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    if not any(beside.iterdir()):
        beside.rmdir()
        raise DataError(f"{_called(archive)}: holds no file. Download it again.")
    shutil.rmtree(target, ignore_errors=True)
    beside.rename(target)
    return target


def check(archive: Path) -> None:
    """Read all of an archive and write nothing.

    Raises:
        DataError: as ``unpack``.
    """
    for _, content in _members(archive, Names(""), allowance(archive)):
        for _ in content:
            pass


def is_archive(name: str) -> bool:
    """Whether a file of this name is a zip (``.npz`` too) or tar archive."""
    return name.lower().endswith((".zip", ".npz", ".tar", ".tar.gz", ".tgz"))


def allowance(archive: Path | list[Path]) -> int:
    """Bytes that an archive may unpack to."""
    parts = archive if isinstance(archive, list) else [archive]
    return max(ALWAYS, RATIO * sum(part.stat().st_size for part in parts))


def _called(archive: Path | list[Path]) -> Path:
    return archive[0] if isinstance(archive, list) else archive


def _members(
    archive: Path | list[Path], names: Names, room: int
) -> Iterator[tuple[str, Iterator[bytes]]]:
    """(name below the target, its blocks) of each file; every block counts against ``room``."""
    called = _called(archive)
    zipped = isinstance(archive, list) or called.name.lower().endswith((".zip", ".npz"))
    read = _zip_members if zipped else _tar_members
    budget = [room]
    with _named(called):
        for number, (name, content) in enumerate(read(archive, names, room)):
            if number >= ENTRIES:
                raise DataError(f"more than {ENTRIES:,} entries")
            yield name, _counted(content, called, name, budget)


@contextmanager
def _named(called: Path) -> Iterator[None]:
    """Errors inside the block name the archive and the remedy."""
    try:
        yield
    except DataError as error:
        raise DataError(
            f"{called}: {error}. It was not unpacked; no data set has to do this."
        ) from error
    except BROKEN as error:
        raise DataError(f"{called}: is damaged ({error}). Delete it and download again.") from error


def _counted(content: IO[bytes], called: Path, name: str, budget: list[int]) -> Iterator[bytes]:
    """Blocks as they really come: what a header says of its size is not believed."""
    with _named(called), content:
        while block := content.read(BLOCK):
            budget[0] -= len(block)
            if budget[0] < 0:
                raise DataError(f"{name} swells beyond {RATIO} times the archive or the free disk")
            yield block


def _zip_members(
    archive: Path | list[Path], names: Names, room: int
) -> Iterator[tuple[str, IO[bytes]]]:
    from .joined import Joined

    source = Joined(archive) if isinstance(archive, list) else archive
    with zipfile.ZipFile(source) as file:
        wanted = []
        for info in file.infolist():  # all is looked at before the first byte is written
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.flag_bits & 1:
                raise DataError(f"{info.orig_filename!r} is encrypted")
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise DataError(f"{info.orig_filename!r} is a link or a device")
            name = names.admit(info.orig_filename, is_folder=info.is_dir())
            if name:
                wanted.append((name, info))
        if sum(info.file_size for _, info in wanted) > room:
            raise DataError(f"swells beyond {RATIO} times the archive or the free disk")
        for name, info in wanted:
            yield name, file.open(info)


def _tar_members(archive: Path, names: Names, room: int) -> Iterator[tuple[str, IO[bytes]]]:
    packed = archive.name.lower().endswith(("gz", "tgz"))
    with (gzip.open if packed else open)(archive, "rb") as source:
        # Two passes would unpack 45 GB twice: entries are looked at as they come instead.
        with tarfile.open(fileobj=source, mode="r|") as file:
            for member in file:
                if not (member.isfile() or member.isdir()) or member.issparse():
                    raise DataError(f"{member.name!r} is a link or a device")
                name = names.admit(member.name, is_folder=member.isdir())
                tarfile.data_filter(member, str(archive.parent))  # Python's own refusals as well
                if member.size > room:
                    raise DataError(f"swells beyond {RATIO} times the archive or the free disk")
                if name and member.isfile():
                    yield name, file.extractfile(member)
        while source.read(BLOCK):  # to the end, where gzip keeps its checksum
            pass
    if not packed:
        with archive.open("rb") as source:
            source.seek(-1024, 2)
            if source.read().strip(b"\0"):
                raise tarfile.ReadError("its end is missing")
