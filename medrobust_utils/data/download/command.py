"""``python -m medrobust_utils data``: list, download and verify data sets."""

from __future__ import annotations

import argparse
import os
import tempfile
import textwrap
from pathlib import Path
from unittest.mock import patch

from ...core.errors import DataError, MedrobustError
from .. import catalogue
from ..catalogue import DataSet
from . import download_set, has_credentials

TOKEN = """\
Get a token at https://www.kaggle.com/settings (API), then give it in one of three ways:
  1. export KAGGLE_API_TOKEN=... (or KAGGLE_USERNAME=... and KAGGLE_KEY=...)
  2. a file ~/.kaggle/kaggle.json, as the settings page hands it out
  3. on Colab: secrets of the names in 1, opened to this notebook (the key symbol at the left)"""
SIDE = 32  # pixels that images are made small to for counting; exact copies are told in full size
OPTIONS = {
    "names": "a set (busi), or one of its files (chestmnist/chestmnist_64.npz)",
    "--dest": "root of the data sets (default: $MEDROBUST_DATA)",
    "--list": "describe the sets, where they come from and the folders they fill (default)",
    "--dry-run": "show what would be fetched, and fetch nothing",
    "--verify": "download nothing: decode and count what is there",
    "--subset": "of the ISIC Archive only so many images, in equal shares of the classes",
}
KINDS = {"names": {"nargs": "*"}, "--dest": {"type": Path}, "--subset": {"type": int}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the subcommand."""
    for name, text in OPTIONS.items():
        parser.add_argument(name, help=text, **KINDS.get(name, {"action": "store_true"}))


def main(options: argparse.Namespace) -> int:
    """Run the subcommand; 0 where all went well, 1 where a set did not arrive or is not whole.

    Raises:
        DataError: before anything starts, if a name, the folder or the access is missing.
    """
    sets, wanted, failed = catalogue.load(), _wanted(options.names), []
    if options.list or options.dry_run or not wanted:
        for name in wanted or sets:
            print(describe(sets[name], wanted.get(name)) + "\n")
        return 0
    root = options.dest or os.environ.get("MEDROBUST_DATA")
    if not root:
        raise DataError("name a folder for the data sets: --dest DIR, or set MEDROBUST_DATA.")
    root = Path(root).expanduser()
    if not options.verify:
        _check([sets[name] for name in wanted], options.subset)
    for name, files in wanted.items():
        try:
            for only in () if options.verify else files or ("",):
                download_set(sets[name], root, only, options.subset)
            print(verify(sets[name], root))
        except MedrobustError as error:
            print(f"{error}\nThe publisher's page: {sets[name].page}. {sets[name].by_hand}")
            failed.append(name)
    print(f"not whole: {', '.join(failed)}" if failed else f"Set MEDROBUST_DATA={root}")
    return 1 if failed else 0


def _wanted(words: list[str]) -> dict[str, list[str]]:
    """Set -> files of it that were named; none for all."""
    known, wanted = catalogue.load(), {}
    for word in words:
        name, _, file = word.partition("/")
        if name not in known:
            raise DataError(f"unknown data set {name!r}. Known: {', '.join(known)}.")
        files = [item.name for item in known[name].files]
        if file and file not in files:
            raise DataError(f"{name} has no file {file!r}. Known: {', '.join(files) or 'none'}.")
        wanted.setdefault(name, []).extend([file] if file else [])
    return wanted


def _check(sets: list[DataSet], share: int | None) -> None:
    """All that can be known to fail is said before anything starts."""
    if share is not None and (share < 1 or {dataset.name for dataset in sets} != {"isic"}):
        raise DataError(f"--subset {share}: at least one image is needed, and of isic alone.")
    locked = [dataset for dataset in sets if dataset.access == "kaggle"]
    if locked and not has_credentials():
        lines = [
            f"  {item.name}: {item.terms or 'no terms'}, https://www.kaggle.com/{item.kaggle}"
            for item in locked
        ]
        raise DataError("\n".join(["a Kaggle account is needed for", *lines, TOKEN]))
    for dataset in sets:
        print(f"{dataset.name}: {dataset.size}. {dataset.terms or dataset.licence}: {dataset.page}")


def describe(dataset: DataSet, files: list[str] | None = None) -> str:
    """A set in words: source, licence, size, access, use, addresses of its ``files``, layout."""
    account = "no account"
    if dataset.access == "kaggle":
        account = f"a Kaggle account; {dataset.terms or 'no terms to accept'}"
    urls = [" or ".join(file.urls) for file in dataset.files if not files or file.name in files]
    rows = [
        ("publisher", f"{dataset.publisher} {dataset.page}"),
        ("licence", f"{dataset.licence}. Cite {dataset.cite}"),
        ("size", dataset.size),
        ("access", f"{account}; ./data_download.sh {dataset.name} --dest DIR"),
        ("by hand", dataset.by_hand),
        ("use", dataset.use),
        *(("file", url) for url in urls),
        ("layout", f"{dataset.folder}/"),
        *(("", f"  {line}") for line in dataset.layout),
    ]
    wrap = textwrap.TextWrapper(98, subsequent_indent=" " * 13, break_long_words=False)
    wrap.break_on_hyphens = False
    lines = [wrap.fill(f"  {word:<10} {text}") for word, text in rows if text]
    return "\n".join([f"{dataset.name}: {dataset.title}", *lines])


def verify(dataset: DataSet, root: Path) -> str:
    """The census of a set as its reader counts it, every image decoded.

    Raises:
        DataError: naming the first file that is missing or cannot be read.
    """
    from .. import READERS  # brings torch, which help must not wait for

    with (
        tempfile.TemporaryDirectory(prefix="medrobust-") as home,
        patch.dict(os.environ, MEDROBUST_HOME=home),  # a cache that goes away again
    ):
        census = dict(READERS[dataset.reader](root, SIDE, duplicates=True).census)
    found = {name.lower(): n for name, n in census["images_per_class"].items()}
    whole = {name.lower(): n for name, n in dataset.counts.items()}
    lines = [f"{dataset.name}: {census['images_listed']:,} images decoded"]
    for name in whole | found:
        n, of = found.get(name, 0), whole.get(name)
        lines.append(f"  {name}: {n:,}" + ("" if of in (None, n) else f" of {of:,}"))
    lines.append(f"  exact copies or contradictions: {census.get('duplicates_kept', 0):,}")
    if any(found.get(name) != n for name, n in whole.items()):
        lines.append("  incomplete, a stand-in for the whole set")
    return "\n".join(lines)
