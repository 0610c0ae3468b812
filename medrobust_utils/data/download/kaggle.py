"""Sets on Kaggle, through its own library."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ...core.errors import DataError
from ..catalogue import DataSet
from .access import page
from .unpack import unpack

# Of a competition only these are read; all of it would be more than twice as much.
WANTED = {
    "competitions/diabetic-retinopathy-detection": (
        *(f"train.zip.00{number}" for number in range(1, 6)),
        "trainLabels.csv.zip",
    )
}


def download(dataset: DataSet, target: Path, say: Callable[[str], None] = print) -> None:
    """Download a set through kagglehub into the new folder ``target``, unpacked.

    Raises:
        DataError: with what Kaggle says, if it does not give the set.
    """
    if target.exists():
        return
    coming, cache = target.with_name("kaggle.coming"), target.with_name("kaggle.cache")
    if coming.exists():  # killed while files were taken out of the cache, which now lacks some
        shutil.rmtree(coming)
        shutil.rmtree(cache, ignore_errors=True)
    say(f"{dataset.name}: from {page(dataset)}")
    kind, _, handle = dataset.kaggle.partition("/")
    try:
        with _cached_in(cache):
            found = _ask(kind, handle, WANTED.get(dataset.kaggle))
    except Exception as error:  # kagglehub's errors have no common base
        status = getattr(getattr(error, "response", None), "status_code", "")
        # Not the whole message: it may hold a signed address, which is as good as a credential.
        raise DataError(
            f"{dataset.name}: Kaggle does not give it ({type(error).__name__} {status}). Accept "
            f"its terms at {page(dataset)}, check your credentials, and call again."
        ) from None
    if found[0].is_dir():
        found = sorted(found[0].iterdir())
    coming.mkdir()
    for path in found:
        path.rename(coming / path.name)
    _refuse_links(coming)
    _unpack_inner(coming)
    coming.rename(target)
    shutil.rmtree(cache, ignore_errors=True)


def _ask(kind: str, handle: str, wanted: tuple[str, ...] | None) -> list[Path]:
    """The set's folder in kagglehub's cache, or the wanted files; broken ones are gone on with."""
    import kagglehub

    ask = kagglehub.competition_download if kind == "competitions" else kagglehub.dataset_download
    if wanted is None:
        return [Path(ask(handle))]
    return [Path(ask(handle, path=name)) for name in wanted]


@contextmanager
def _cached_in(folder: Path) -> Iterator[None]:
    """kagglehub's cache in a folder of ours, on the disk where the set goes, and no other."""
    ours = {"KAGGLEHUB_CACHE": str(folder), "KAGGLEHUB_VERBOSITY": "warning"}
    ours |= {"DISABLE_COLAB_CACHE": "true", "DISABLE_KAGGLE_CACHE": "true"}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ.update({} if value is None else {name: value})


def _refuse_links(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_symlink():
            shutil.rmtree(folder)
            raise DataError(f"{path}: is a link, which no data set has to hold. It was removed.")


def _unpack_inner(folder: Path) -> None:
    """Unpack the archives that a competition's files are: one of a table, one cut in parts."""
    parts = sorted(path for path in folder.iterdir() if re.search(r"\.zip\.\d{3}$", path.name))
    archives: list[Path | list[Path]] = [parts] if parts else []
    archives += sorted(folder.glob("*.csv.zip"))
    for archive in archives:
        inner = unpack(archive, folder / "inner", lift="")
        for path in inner.iterdir():
            if not (folder / path.name).exists():
                path.rename(folder / path.name)
        shutil.rmtree(inner)
        for path in archive if isinstance(archive, list) else [archive]:
            path.unlink()
