"""``python -m medrobust_utils data``: list, download and verify data sets."""

from __future__ import annotations

import argparse
import os
import textwrap
from pathlib import Path

from ...core.errors import DataError, MedrobustError
from .. import catalogue
from ..catalogue import DataSet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the subcommand."""
    text = "a set (busi), or one of its files (chestmnist/chestmnist_64.npz)"
    parser.add_argument("names", nargs="*", metavar="NAME", help=text)
    text = "root of the data sets (default: $MEDROBUST_DATA)"
    parser.add_argument("--dest", type=Path, metavar="DIR", help=text)
    text = "describe the sets and the folders the notebooks expect (default)"
    parser.add_argument("--list", action="store_true", help=text)
    text = "show what would be fetched, and fetch nothing"
    parser.add_argument("--dry-run", action="store_true", help=text)
    text = "download nothing: decode and count what is there"
    parser.add_argument("--verify", action="store_true", help=text)
    text = "keep N images, in equal shares of the classes: a stand-in for the whole set"
    parser.add_argument("--subset", type=_count, metavar="N", help=text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def main(options: argparse.Namespace) -> int:
    """Run the subcommand; 0 where all went well, 1 where a set did not arrive or is not whole.

    Raises:
        DataError: before anything starts, if a name, the folder or the access is missing.
    """
    wanted = _wanted(options.names)
    if options.list or not wanted:
        for name in wanted or catalogue.load():
            print(describe(catalogue.load()[name]) + "\n")
        return 0
    root = _root(options)
    sets = [catalogue.load()[name] for name in wanted]
    if options.dry_run:
        for dataset in sets:
            print(planned(dataset, root, wanted[dataset.name]))
        return 0
    if not options.verify:
        _check(sets, options.subset)
    return _all(sets, wanted, root, options)


def _wanted(names: list[str]) -> dict[str, list[str]]:
    """Set -> files of it that were named; none for all."""
    known = catalogue.load()
    wanted: dict[str, list[str]] = {}
    for word in names:
        name, _, file = word.partition("/")
        if name not in known:
            raise DataError(f"unknown data set {name!r}. Known: {', '.join(known)}.")
        files = [item.name for item in known[name].files]
        if file and file not in files:
            raise DataError(f"{name} has no file {file!r}. Known: {', '.join(files) or 'none'}.")
        wanted.setdefault(name, []).extend([file] if file else [])
    return wanted


def _root(options: argparse.Namespace) -> Path:
    root = options.dest or os.environ.get("MEDROBUST_DATA")
    if not root:
        raise DataError("name a folder for the data sets: --dest DIR, or set MEDROBUST_DATA.")
    return Path(root).expanduser()


def _check(sets: list[DataSet], share: int | None) -> None:
    """All that can be known to fail is said before anything starts."""
    from . import access, subset

    by_hand = [dataset for dataset in sets if dataset.access == "hand"]
    if by_hand:
        text = "\n".join(describe(dataset) for dataset in by_hand)
        raise DataError(f"these have to be fetched by hand:\n{text}")
    whole = [dataset.name for dataset in sets if not subset.possible(dataset)]
    if share is not None and whole:
        raise DataError(
            f"--subset cannot take a part of {', '.join(whole)}: their images lie in few large "
            "files, or in patches of larger ones. Leave it away for them."
        )
    access.require(sets)
    for dataset in sets:
        if dataset.terms:
            print(f"{dataset.name}: {dataset.terms}. {dataset.page}")


def _all(
    sets: list[DataSet], wanted: dict[str, list[str]], root: Path, options: argparse.Namespace
) -> int:
    failed = []
    for dataset in sets:
        try:
            good = _one(dataset, wanted[dataset.name], root, options)
        except MedrobustError as error:
            print(f"{type(error).__name__}: {error}")
            good = False
        failed += [] if good else [dataset.name]
    if failed:
        print(f"not whole: {', '.join(failed)}")
    elif not options.verify:
        print(f"Set MEDROBUST_DATA={root}")
    return 1 if failed else 0


def _one(dataset: DataSet, only: list[str], root: Path, options: argparse.Namespace) -> bool:
    from .lock import Lock, exclusive
    from .sets import download_set

    if not options.verify:
        download_set(dataset, root, only=only, share=options.subset)
    from . import verify

    found = verify.census(dataset, root)
    known = Lock(root).sets.get(dataset.name)
    share = known["order"]["share"] if known else None
    if known:  # what came another way is counted, and nothing is written beside it
        with exclusive(root):
            Lock(root).note_set(dataset.name, census=found.facts())
    print(verify.report(dataset, found, share))
    if found.problem and dataset.by_hand:
        print(f"  by hand: {dataset.by_hand}")
    return found.good


def describe(dataset: DataSet) -> str:
    """A set in words: source, licence, size, access, use and layout."""
    from .access import page

    needs = "no account"
    if dataset.access == "kaggle":
        needs = f"a Kaggle account; {dataset.terms or 'no terms to accept'}: {page(dataset)}"
    elif dataset.access == "hand":
        needs = "by hand from that page"
    rows = [
        ("publisher", dataset.publisher),
        ("", dataset.page),
        ("licence", f"{dataset.licence}. Cite {dataset.cite}"),
        ("size", dataset.size),
        ("access", f"{needs}; ./data_download.sh {dataset.name} --dest DIR"),
        ("by hand", dataset.by_hand),
        ("use", dataset.use),
        ("layout", f"{dataset.folder}/"),
    ]
    lines = [f"{dataset.name}: {dataset.title}"]
    for word, text in rows:
        if text:
            wrapped = textwrap.wrap(text, 85, break_long_words=False, break_on_hyphens=False)
            lines += [f"  {word if n == 0 else '':<10} {line}" for n, line in enumerate(wrapped)]
    lines += [f"  {'':<10}   {line}" for line in dataset.layout]
    return "\n".join(lines)


def planned(dataset: DataSet, root: Path, only: list[str]) -> str:
    """What a download would read and write; nothing is asked and nothing written."""
    from . import access, dataverse, isic

    folder = root / dataset.folder
    lines = [f"{dataset.name}: would go to {folder}"]
    if dataset.access == "kaggle":
        lines += [f"  would fetch {access.page(dataset)} through kagglehub"]
    elif dataset.access == "hand":
        lines += [f"  to be fetched by hand: {dataset.page}"]
    elif dataset.name == "isic":
        lines += [f"  would ask   {isic.SEARCH}", "  would fetch the images it lists"]
    elif not dataset.files:
        lines += [f"  would read  {dataverse.list_url(dataset)}", "  would fetch what it lists"]
    for file in dataset.files:
        if not only or file.name in only:
            place = folder / (file.unpack if file.unpack else file.name)
            lines += [f"  would fetch {url}" for url in file.urls[:1]]
            lines += [f"           or {url}" for url in file.urls[1:]]
            lines += [f"         into {place}"]
    if dataset.by_hand:
        lines += textwrap.wrap(f"by hand: {dataset.by_hand}", 95, initial_indent="  ")
    return "\n".join(lines)
