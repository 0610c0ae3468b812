"""Folders put in place by renaming: whole, without overwriting anything, and again after a kill."""

from __future__ import annotations

import filecmp
import shutil
from pathlib import Path

from ...core.errors import DataError


def lift(tree: Path, name: str) -> None:
    """Drop the folder ``name`` that a set's files came in, also where it is doubled.

    A second copy of what already lies above it, as Kermany's archive has, is removed.
    """
    inner, aside = tree / name, tree.with_name(f"{tree.name}.lifted")
    if aside.exists():  # killed between two of the renames below
        if tree.exists():
            tree.rmdir()
        aside.rename(tree)
    while name and inner.is_dir():
        if [path for path in tree.iterdir() if path != inner]:
            if _all_above(inner, tree):
                shutil.rmtree(inner)
            return
        inner.rename(aside)
        tree.rmdir()
        aside.rename(tree)


def _all_above(inner: Path, tree: Path) -> bool:
    for path in inner.rglob("*"):
        twin = tree / path.relative_to(inner)
        if path.is_file() and not litter(path) and not (_is_same(path, twin)):
            return False
    return True


def _is_same(one: Path, other: Path) -> bool:
    return other.is_file() and filecmp.cmp(one, other, shallow=False)


def litter(path: Path) -> bool:
    """Whether a file is what systems leave behind: hidden, ``Thumbs.db``, ``__MACOSX``."""
    return path.name.startswith(".") or path.name == "Thumbs.db" or "__MACOSX" in path.parts


def conflicts(tree: Path, target: Path) -> list[Path]:
    """Files of ``target`` that differ from those that would come in their place."""
    if not target.exists():
        return []
    if not (tree.is_dir() and target.is_dir()):
        return [] if tree.is_file() and _is_same(tree, target) else [target]
    return [found for path in tree.iterdir() for found in conflicts(path, target / path.name)]


def place(tree: Path, target: Path) -> None:
    """Move ``tree`` to ``target``, into folders that are there already.

    Killed at any moment and called again, it ends the same.

    Raises:
        DataError: if another file lies where one would go; then nothing is moved.
    """
    if not tree.exists():
        return
    found = conflicts(tree, target)
    if found:
        raise DataError(
            f"{found[0]}: lies there already and differs from the download, and so do "
            f"{len(found) - 1} others. Move them away, then call again: nothing is downloaded anew."
        )
    _move(tree, target)


def _move(tree: Path, target: Path) -> None:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        tree.rename(target)
    elif tree.is_dir():
        for path in sorted(tree.iterdir()):
            _move(path, target / path.name)
        tree.rmdir()
    else:
        tree.unlink()


def summary(tree: Path) -> dict[str, list[int]]:
    """Files and bytes of each entry of a folder: name -> [files, bytes]."""
    tops = {}
    for top in sorted(tree.iterdir()) if tree.is_dir() else ():
        files = [top] if top.is_file() else [path for path in top.rglob("*") if path.is_file()]
        files = [path for path in files if not litter(path.relative_to(tree))]
        tops[top.name] = [len(files), sum(path.stat().st_size for path in files)]
    return tops


def still_there(folder: Path, placed: dict[str, list[int]]) -> bool:
    """Whether a folder holds no less than what was once placed in it."""
    for name, (files, size) in placed.items():
        top = folder / name
        held = [top] if top.is_file() else [p for p in top.rglob("*") if p.is_file()]
        if len(held) < files or sum(path.stat().st_size for path in held) < size:
            return False
    return bool(placed)
