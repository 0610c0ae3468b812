"""Where a download ends: unpacked by safe filters, put in place by renaming, recorded."""

from __future__ import annotations

import errno
import filecmp
import gzip
import os
import shutil
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ...core.disk import SENTENCES
from ...core.errors import DataError


@contextmanager
def exclusive(root: Path) -> Iterator[Path]:
    """The staging folder below ``root``, for one process alone; a killed one lets go of it.

    Raises:
        DataError: if another process downloads into ``root``, or for an error of the place.
    """
    staging = root / ".medrobust"  # beside the sets: the last step is a rename on one disk
    try:
        staging.mkdir(parents=True, exist_ok=True)
        with FileLock(staging / "busy", timeout=0):
            yield staging
    except Timeout as error:
        raise DataError(f"{root}: another download writes there. Wait until it is done.") from error
    except OSError as error:
        remedy = SENTENCES.get(error.errno, "see what lies there.")
        text = f"{error.filename or root}: {error.strerror or error}: {remedy}"
        raise DataError(f"{text} Or choose another folder with --dest.") from error


def need_room(folder: Path, needed: int, name: str) -> None:
    """Raise an OSError (no space) if ``needed`` bytes for ``name`` do not fit into ``folder``."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        text = f"{free:,} bytes are free, and {name} needs {needed:,} more"
        raise OSError(errno.ENOSPC, text, str(folder))


def unpack(archive: Path, target: Path, into: str = ".") -> None:
    """Unpack a zip or tar.gz archive to ``target/into``: all of it, or nothing.

    Raises:
        DataError: naming the archive, if it is damaged or empty, or has names that lead outside,
            devices, or names that are one file on this disk.
        OSError: for an error of the place.
    """
    beside, listed = target.with_name(f"{target.name}.unpacking"), 0
    shutil.rmtree(beside, ignore_errors=True)
    (beside / into).mkdir(parents=True)
    try:
        if archive.name.lower().endswith((".tar.gz", ".tgz")):
            # A stream, as two passes would unpack 45 GB twice: entries are judged as they come.
            with gzip.open(archive) as source, tarfile.open(fileobj=source, mode="r|") as tar:
                for member in tar:
                    need_room(beside, member.size, archive.name)
                    tar.extract(member, beside / into, filter="data")
                    listed += not member.isdir()
                while source.read(1 << 20):  # to the end, where gzip keeps its checksum
                    pass
        else:
            with zipfile.ZipFile(archive) as file:  # its names never lead outside, nor to links
                members = [member for member in file.infolist() if not member.is_dir()]
                need_room(beside, sum(member.file_size for member in members), archive.name)
                for member in members:
                    file.extract(member, beside / into)
                listed = len(members)
        if not listed or measure(beside).total() != listed:
            raise DataError("holds no file, links, or names that are one file on this disk")
    except Exception as error:  # zipfile, tarfile and zlib raise nearly anything on damaged files
        shutil.rmtree(beside, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in SENTENCES:
            raise
        what = error if isinstance(error, DataError) else f"is damaged ({error})"
        raise DataError(f"{archive}: {what}. It was not unpacked; download it again.") from error
    tidy(beside)
    shutil.rmtree(target, ignore_errors=True)
    beside.rename(target)


def tidy(folder: Path) -> None:
    """Remove links, and what systems leave behind: hidden files, ``Thumbs.db``, ``__MACOSX``."""
    for path in sorted(folder.rglob("*")):
        odd = path.is_symlink() or path.name[0] == "." or path.name in ("__MACOSX", "Thumbs.db")
        if odd and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif odd:
            path.unlink(missing_ok=True)


def lifted(tree: Path, name: str) -> Path:
    """Where a set's files really are: ``tree``, or the folder ``name`` below it, however deep.

    A second copy of what already lies above it, as Kermany's archive has, is merged.
    """
    while name and (inner := tree / name).is_dir():
        if len(list(tree.iterdir())) > 1:
            with suppress(DataError):
                _ = (inner / name).exists() or place(inner, tree)
            break
        tree = inner
    return tree


def place(tree: Path, target: Path) -> None:
    """Move ``tree`` to ``target``, at once or into the folder that is there already.

    Killed at any moment and called again, it ends the same.

    Raises:
        DataError: if another file lies where one would go; then nothing is moved.
    """
    if tree.exists() and not os.path.lexists(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        tree.rename(target)
    moves = {path: target / path.relative_to(tree) for path in tree.rglob("*") if path.is_file()}
    clashes = [to for path, to in moves.items() if os.path.lexists(to) and not _same(path, to)]
    if clashes:
        raise DataError(
            f"{min(clashes)}: lies there and differs from the download, and so do "
            f"{len(clashes) - 1} others. Move them away, then call again: nothing is fetched anew."
        )
    for path, to in moves.items():
        to.parent.mkdir(parents=True, exist_ok=True)
        path.replace(to)
    shutil.rmtree(tree, ignore_errors=True)


def _same(path: Path, to: Path) -> bool:
    return to.is_file() and filecmp.cmp(path, to, shallow=False)


def measure(folder: Path) -> Counter[str]:
    """How many files each entry of a folder holds, links left out."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return Counter(path.relative_to(folder).parts[0] for path in files)
