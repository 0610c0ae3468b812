"""The census of a set as it lies on the disk: images per class, duplicates, unreadable files."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ...core.errors import DataError, MedrobustError
from ..catalogue import DataSet
from .place import litter

SIDE = 32  # pixels that images are made small to for counting; exact copies are told in full size
IMAGES = (".jpg", ".jpeg", ".png")
SHOWN = 5


@dataclass(frozen=True)
class Census:
    """What was found.

    Attributes:
        files: images and arrays that were opened and decoded.
        unreadable: those that could not be, by path below the set's folder.
        classes: images of each class, exact copies included.
        duplicates: images that are exact copies of others, or contradict them.
        problem: why classes could not be counted, empty where they were.
        differs: how the classes differ from the publisher's counts, empty where they do not.
    """

    files: int
    unreadable: list[str] = field(default_factory=list)
    classes: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    problem: str = ""
    differs: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether every file can be read and the classes could be counted."""
        return not (self.unreadable or self.problem)

    def facts(self) -> dict:
        """For the lock file."""
        return asdict(self)


def census(dataset: DataSet, root: Path) -> Census:
    """Open and decode every file of a set, then count it through its reader.

    Raises:
        DataError: if the set's folder is not there.
    """
    folder = root / dataset.folder
    paths = list(_paths(dataset, folder)) if folder.is_dir() else []
    if not paths:
        raise DataError(
            f"{folder}: no file of {dataset.name}. Run `./data_download.sh {dataset.name}` first."
        )
    unreadable = [str(path.relative_to(folder)) for path in paths if not _readable(path)]
    if unreadable:
        return Census(len(paths), unreadable, problem="unreadable files come first")
    try:
        classes, duplicates = _counted(dataset, root)
    except MedrobustError as error:
        return Census(len(paths), problem=str(error))
    return Census(len(paths), [], classes, duplicates, "", _differences(dataset.counts, classes))


def _paths(dataset: DataSet, folder: Path) -> Iterator[Path]:
    arrays = sorted(folder.glob(f"{dataset.name}*.npz")) or sorted(folder.rglob("*.npy"))
    images = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGES)
    return iter(arrays or sorted(path for path in images if not litter(path)))


def _readable(path: Path) -> bool:
    import numpy as np
    from PIL import Image

    try:
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as file:
                return file.testzip() is None
        if path.suffix == ".npy":
            np.load(path, mmap_mode="r", allow_pickle=False)
            return True
        with Image.open(path) as image:
            image.load()
        return True
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        Image.DecompressionBombError,
        zipfile.BadZipFile,
        NotImplementedError,
    ):
        return False


def _counted(dataset: DataSet, root: Path) -> tuple[dict[str, int], int]:
    """Through the reader, with a cache that goes away again."""
    from .. import READERS

    with (
        tempfile.TemporaryDirectory(prefix="medrobust-") as home,
        _set("MEDROBUST_HOME", home),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        whole = READERS[dataset.reader](root, SIDE, duplicates=True)
        counts = dict(whole.census.get("images_per_class") or {})
        kept = whole.census.get("duplicates_kept", 0)
        del whole
    return {str(name): int(count) for name, count in counts.items()}, int(kept)


@contextlib.contextmanager
def _set(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _differences(expected: dict[str, int], found: dict[str, int]) -> list[str]:
    """In words, for classes whose numbers differ; names are compared without regard to case."""
    lower = {name.lower(): count for name, count in found.items()}
    return [
        f"{name}: {lower.get(name.lower(), 0):,} of {count:,}"
        for name, count in expected.items()
        if lower.get(name.lower(), 0) != count
    ]


def report(dataset: DataSet, found: Census, share: int | None) -> str:
    """The census in words."""
    lines = [f"{dataset.name}: {found.files:,} files decoded, {len(found.unreadable)} unreadable"]
    lines += [f"  unreadable: {path}" for path in found.unreadable[:SHOWN]]
    if found.unreadable:
        lines += ["  Delete them and download the set again; what is whole is kept."]
    elif found.problem:
        lines += [f"  classes were not counted: {found.problem}"]
    else:
        lines += [f"  {name}: {count:,}" for name, count in found.classes.items()]
        lines += [f"  exact copies or contradictions: {found.duplicates:,}"]
    if share is not None:
        lines += [f"  a part of {share:,} images, chosen with seed 0: a stand-in for the whole set"]
    elif found.differs:
        lines += ["  incomplete, a stand-in for the whole set: " + "; ".join(found.differs)]
    return "\n".join(lines)
