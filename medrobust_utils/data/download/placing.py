"""Where a download ends: unpacked safely, cut to a share, put in place by renaming, recorded."""

from __future__ import annotations

import errno
import filecmp
import gzip
import json
import os
import random
import shutil
import stat
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

import pandas as pd
from filelock import FileLock, Timeout

from ...core.disk import SENTENCES
from ...core.errors import DataError
from ...core.storage import write_atomic
from ..catalogue import DataSet

RATIO, ALWAYS = 200, 200_000_000  # unpacked to packed; bytes that no ratio forbids
IMAGES = (".jpg", ".jpeg", ".png")
# reader -> (label table, its column of images, its column of classes); the others have folders
TABLES = {
    "ham10000": ("HAM10000_metadata.csv", "image_id", "dx"),
    "nih": ("Data_Entry_2017_v2020.csv", "Image Index", "Finding Labels"),
    "retinopathy": ("trainLabels.csv", "image", "level"),
}
DIVISIBLE = (*TABLES, "isic", "brain_mri", "busi", "iq_othnccd", "kermany")


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


class Record:
    """``medrobust.lock.json``: what the first good download had; later ones are held to it.

    Attributes:
        files: SHA-256 of each file.
        sets: of each set, or file of one, its share, and what of it was placed, see ``measure``.

    Raises:
        DataError: if the file is there and cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self.path = root / "medrobust.lock.json"
        self.files: dict[str, str] = {}
        self.sets: dict[str, dict] = {}
        try:
            if self.path.exists():
                content = json.loads(self.path.read_text(encoding="utf-8"))
                if content.get("version") != 2:
                    content = _from_first_version(content)
                self.files, self.sets = dict(content["files"]), dict(content["sets"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{self.path}: cannot be read ({error!r}). Restore it, or delete it and download "
                "again; then nothing tells whether the publisher changed a file."
            ) from error

    def write(self) -> None:
        """Write the record, whole or not at all."""
        content = {"version": 2, "files": self.files, "sets": self.sets}
        write_atomic(self.path, json.dumps(content, indent=1, sort_keys=True).encode())


def _from_first_version(content: dict) -> dict:
    """A record of version 1: more was kept of a file, and all files asked for were one order."""
    sets = {}
    for name, known in content["sets"].items():
        kinds = zip(("placed", "bytes"), (0, 1), strict=True)
        placed = {k: {top: both[i] for top, both in known["placed"].items()} for k, i in kinds}
        for only in known["order"]["only"] or [""]:
            sets[f"{name}/{only}".rstrip("/")] = {"share": known["order"]["share"], **placed}
    return {"files": {key: e["sha256"] for key, e in content["files"].items()}, "sets": sets}


def unpack(archive: Path, target: Path, into: str = ".") -> None:
    """Unpack a zip or tar.gz archive to ``target/into``: all of it, or nothing.

    Raises:
        DataError: naming the archive, if it is damaged, or has links, devices, names that lead
            outside, names that are one file on this disk, or swells without measure.
        OSError: for an error of the place.
    """
    beside, files = target.with_name(f"{target.name}.unpacking"), Counter()
    packed = archive.stat().st_size
    shutil.rmtree(beside, ignore_errors=True)
    (beside / into).mkdir(parents=True)

    def admit(name: str, size: int, is_file: bool, is_folder: bool) -> None:
        path = PurePosixPath(name)
        files.update(listed=int(is_file), bytes=size)
        if path.is_absolute() or ".." in path.parts or "\\" in name or not (is_file or is_folder):
            raise DataError(f"{name!r} leads outside, or is a link or a device")
        if files["bytes"] > max(ALWAYS, RATIO * packed):
            raise DataError(f"swells beyond {RATIO} times the archive")

    try:
        if archive.name.lower().endswith((".tar.gz", ".tgz")):
            need_room(beside, packed, archive.name)
            # A stream, as two passes would unpack 45 GB twice: entries are judged as they come.
            with gzip.open(archive) as source, tarfile.open(fileobj=source, mode="r|") as tar:
                for member in tar:
                    admit(member.name, member.size, member.isfile(), member.isdir())
                    tar.extract(member, beside / into, filter="data")
                while source.read(1 << 20):  # to the end, where gzip keeps its checksum
                    pass
        else:
            with zipfile.ZipFile(archive) as file:  # all is judged before the first byte is written
                infos = [info for info in file.infolist() if not info.is_dir()]
                for info in infos:
                    plain = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG)
                    admit(info.orig_filename, info.file_size, plain, False)
                need_room(beside, files["bytes"], archive.name)
                for info in infos:
                    to = beside / into / info.filename
                    to.parent.mkdir(parents=True, exist_ok=True)
                    with file.open(info) as source, to.open("xb") as out:
                        shutil.copyfileobj(source, out, 1 << 20)
        found = measure(beside)["placed"].total()
        if not found or found != files["listed"]:
            raise DataError("holds no file, or names that are one file on this disk")
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


def measure(folder: Path) -> dict[str, Counter[str]]:
    """Files (``placed``) and their ``bytes`` in each entry of a folder."""
    found = {"placed": Counter(), "bytes": Counter()}
    for path in folder.rglob("*"):
        if path.is_file():
            top = path.relative_to(folder).parts[0]
            found["placed"][top] += 1
            found["bytes"][top] += path.stat().st_size
    return found


def _images(tree: Path) -> dict[Path, str]:
    """Image -> its path below ``tree`` without suffix."""
    paths = [path for path in sorted(tree.rglob("*")) if path.suffix.lower() in IMAGES]
    return {path: str(path.relative_to(tree).with_suffix("")) for path in paths}


def _read_table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")


def classes(dataset: DataSet, tree: Path, folder: Path) -> dict[str, str]:
    """Image, as its path below ``tree`` without suffix -> its class.

    Raises:
        DataError: if the label table is neither in ``tree`` nor in the set's own ``folder``.
    """
    images = _images(tree)
    if dataset.reader not in TABLES:  # outlines go with their images; Testing is never read
        wanted = {path: name for path, name in images.items() if "_mask" not in name}
        return {n: path.parent.name for path, n in wanted.items() if not n.startswith("Testing")}
    table, image, label = TABLES[dataset.reader]
    if not (tree / table).exists() and (folder / table).exists():  # put there by hand
        shutil.copyfile(folder / table, tree / table)
    try:
        rows = _read_table(tree / table)
        labels = {Path(name).stem: text.split("|")[0] for name, text in rows[[image, label]].values}
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise DataError(
            f"{folder / table}: is missing, or has no columns {image} and {label}; the part of "
            f"{dataset.name} is chosen by it. {dataset.by_hand or 'Download it again.'}"
        ) from error
    return {name: labels[path.stem] for path, name in images.items() if path.stem in labels}


def cut(dataset: DataSet, tree: Path, folder: Path, chosen: set[str]) -> None:
    """Remove the other images, and their lines in the label table."""
    for path, name in _images(tree).items():
        if name.partition("_mask")[0] not in chosen:
            path.unlink()
    if dataset.reader in TABLES:
        table, image, _ = TABLES[dataset.reader]
        rows, stems = _read_table(tree / table), {Path(name).name for name in chosen}
        rows = rows[[Path(name).stem in stems for name in rows[image]]]
        write_atomic(tree / table, rows.to_csv(index=False).encode())
        own, whole = folder / table, (folder / table).with_suffix(".whole.csv")
        if own.exists() and not whole.exists():  # put there by hand; the cut one comes
            own.rename(whole)


def shares(classes: dict[str, str], count: int | None) -> list[str]:
    """``count`` of the names in ``classes`` (name -> class), in equal shares as far as possible.

    The same each time. Classes that have too few give what they have, and the others fill up.
    """
    names, seen = sorted(classes), Counter()
    random.Random(0).shuffle(names)
    turns = []
    for name in names:
        seen[classes[name]] += 1
        turns.append((seen[classes[name]], classes[name], name))  # each class gives one a turn
    return sorted(name for *_, name in sorted(turns)[:count])
