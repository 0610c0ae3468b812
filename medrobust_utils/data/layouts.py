"""The two layouts that data sets come in: a folder for each class, or a table of labels.

Tables come in any dialect: comma, semicolon or tab, UTF-8 or UTF-16.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..core.disk import blamed
from ..core.errors import DataError
from .decoding import decoded
from .imageset import ImageSet, Rows
from .masks import mask_files
from .reading import combine, find_folder, index_images, partners

SUFFIXES = (".csv", ".tab", ".tsv", ".txt", "")
SEPARATORS = ",;\t|"
NOTHING = ("na", "n/a", "#n/a", "nan", "null", "none", "<na>")  # what pandas writes for empty cells


@dataclass(frozen=True)
class Folders:
    """A folder for each class, images in gray; ids are paths, since names repeat in folders.

    Attributes:
        folder: below the root of the data sets.
        parts: folder below ``folder`` -> class; classes are numbered in the order they come.
        suffix: how image files end, in lower case.
        complete: images in the publisher's whole set.
        patient: what a file's name must match, its groups together tell the patient; None where
            patients are not known, and only near duplicates share a group.
        outline: pattern of the names of outlines that lie beside the images; its first group is
            the name of the image. Every image has one outline or more, which are no images.
        optional: start of the parts that may be absent.
    """

    folder: str
    parts: Mapping[str, str]
    suffix: str
    complete: int
    patient: str | None = None
    outline: str | None = None
    optional: str = "-"

    def read(self, name: str, root: Path, size: int, *, duplicates: bool = False) -> ImageSet:
        """The set ``name`` at ``size`` x ``size``; see ``readers.READERS``."""
        place = find_folder(root, self.folder)
        classes = tuple(dict.fromkeys(self.parts.values()))
        paths: dict[str, Path] = {}
        outlines: dict[str, list[Path]] = {}
        targets: list[int] = []
        for part, label in self.parts.items():
            if part.startswith(self.optional) and not (place / part).parent.is_dir():
                continue
            for stem, path in index_images(place, (self.suffix,), part).items():
                if self.outline and (found := re.fullmatch(self.outline, stem)):
                    outlines.setdefault(f"{part}/{found[1]}", []).append(path)
                else:
                    paths[f"{part}/{stem}"] = path
                    targets.append(classes.index(label))
        return combine(
            name=name,
            ids=list(paths),
            decoded=decoded(name, list(paths.values()), size, 1),
            targets=np.array(targets, np.int64),
            classes=classes,
            groups=patients(self.patient, paths) if self.patient else None,
            complete=len(paths) == self.complete,
            masks=_masks(paths, outlines, size) if self.outline else None,
            duplicates=duplicates,
        )


@dataclass(frozen=True)
class Table:
    """A table with a line for each image.

    Attributes:
        folder: below the root of the data sets.
        names: what the table may be called, without suffix.
        image, label: its columns; an image may be named with its suffix.
        group: column of the patient or lesion, or a pattern that the image's name must match.
        files: pattern of the folders of images.
        suffix: how image files end, in lower case; several, with a blank between them.
        classes: numbered in this order; capitals and blanks do not matter.
        complete: images in the publisher's whole set, if that is known.
        channels: 1 (gray) or 3 (RGB).
        several: what stands between several labels of an image, for a multi-label set.
        alone: the class that excludes all others.
        numbered: whether the table has the classes' numbers in place of their names.
        outlines: folder of outlines, which may be absent, and what follows an image's name there.
        prepare: makes, of the path and the table, another table with the columns ``label`` and
            ``group``, of some of the lines, and what to count.
    """

    folder: str
    names: tuple[str, ...]
    image: str
    label: str
    group: str | re.Pattern
    files: str
    suffix: str
    classes: tuple[str, ...]
    complete: int | None = None
    channels: int = 3
    several: str = ""
    alone: str = ""
    numbered: bool = False
    outlines: tuple[str, str] | None = None
    prepare: Callable[[Path, pd.DataFrame], tuple[pd.DataFrame, dict]] | None = None

    def read(self, name: str, root: Path, size: int, *, duplicates: bool = False) -> ImageSet:
        """The set ``name`` at ``size`` x ``size``; see ``readers.READERS``."""
        folder, census = find_folder(root, self.folder), {}
        path = find_table(folder, self.names)
        if path is None:
            wanted = " or ".join(f"{name}.csv" for name in self.names)
            raise DataError(f"{folder}: no label file ({wanted}). Download it beside the images.")
        columns = [self.image, self.label, self.group]
        columns = columns[:1] if self.prepare else [c for c in columns if isinstance(c, str)]
        table = read_table(path, columns, remedy="Download it again.")
        ids = table[self.image].str.removesuffix(self.suffix)
        lines, paths = named(path, ids), index_images(folder, self.suffix.split(), self.files)
        if self.prepare:
            table, census = self.prepare(path, table)
            other, ids = set(ids) - set(ids[table.index]), ids[table.index]
            paths = {image: file for image, file in paths.items() if image not in other}
            lines = {image: lines[image] for image in ids}
        files, masks = partners(lines, paths, "file", "line in the table"), None
        paths = dict(zip(ids, files, strict=True))
        if self.outlines and (folder / self.outlines[0]).is_dir():  # else not downloaded
            drawn, end = index_images(folder, (".png",), self.outlines[0]), self.outlines[1]
            drawn = {name.removesuffix(end): [file] for name, file in drawn.items()}
            masks = _masks(paths, drawn, size)
        by_name = isinstance(self.group, re.Pattern)
        data = combine(
            name=name,
            ids=list(ids),
            decoded=decoded(name, files, size, self.channels),
            targets=self._targets(path, table[self.label]),
            classes=self.classes,
            groups=patients(self.group, lines) if by_name else pd.factorize(table[self.group])[0],
            complete=len(table) == self.complete,
            masks=masks,
            duplicates=duplicates,
        )
        data.census.update(census)
        return data

    def _targets(self, path: Path, labels: pd.Series) -> np.ndarray:
        names = map(str, range(len(self.classes))) if self.numbered else self.classes
        classes = {_spelled(name): k for k, name in enumerate(names)}
        hot = np.zeros((len(labels), len(self.classes)), np.uint8)
        for row, (line, cell) in enumerate(labels.items()):
            for label in cell.split(self.several) if self.several else [cell]:
                k = classes.get(_spelled(number(label) if self.numbered else label))
                if k is None:
                    raise DataError(
                        f"{path}: line {line} has the unknown {self.label} {label!r}. Known: "
                        f"{', '.join(classes)}. Correct or remove it."
                    )
                hot[row, k] = 1
            if self.alone and hot[row].sum() > 1 and hot[row, self.classes.index(self.alone)]:
                raise DataError(
                    f"{path}: line {line} is labelled both {self.alone!r} and with a finding. "
                    "Correct or remove it."
                )
        return hot if self.several else hot.argmax(1)


def _masks(paths: Mapping[str, Path], outlines: dict[str, list[Path]], size: int) -> Rows:
    return mask_files(partners(paths, outlines, "outline", "image"), list(paths.values()), size)


def _spelled(label: str) -> str:
    return re.sub(r"[\s_]+", " ", label).strip().lower()


def named(path: Path, images: pd.Series) -> dict[str, str]:
    """Image -> its place in the table at ``path``. Raises DataError if one is listed twice."""
    twice = images[images.duplicated()]
    if len(twice):
        line, image = twice.index[0], twice.iloc[0]
        raise DataError(f"{path}: line {line} lists {image} a second time. Remove one.")
    return {image: f"{path}, line {line}, {image}" for line, image in images.items()}


def patients(pattern: str | re.Pattern, images: Mapping[str, object]) -> np.ndarray:
    """Numbers of the patients that names of images tell; the values say where an image stands."""
    told = []
    for image, where in images.items():
        found = re.fullmatch(pattern, image.rpartition("/")[2])
        if not found:
            shape = getattr(pattern, "pattern", pattern)
            raise DataError(
                f"{where}: its name is not of the form {shape}, so its patient is unknown. Rename "
                "or move it."
            )
        told.append(" ".join(str(int(p)) if p.isdigit() else p for p in found.groups() if p))
    return pd.factorize(np.array(told, object))[0]


def find_table(
    folder: Path, stems: Sequence[str], suffixes: Sequence[str] = SUFFIXES
) -> Path | None:
    """The first file of ``folder`` that is called like one of ``stems``, as publishers end it."""
    names = [f"{stem}{suffix}" for stem in stems for suffix in suffixes]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_table(path: Path, columns: Sequence[str], *, remedy: str) -> pd.DataFrame:
    """A table of stripped texts, its index the lines of the file (the heading is line 1).

    Empty lines and columns without a heading (a spreadsheet's numbers) are left out.

    Args:
        columns: which must be there, and filled in every line.
        remedy: what to do with a table that cannot be read.

    Raises:
        DataError: naming the line, if one is longer than the heading, or a cell is empty; or if
            the file is no table, holds no line, or lacks a column.
    """
    with blamed(path, f"cannot be read as CSV ({{error}}). {remedy}"):
        content = path.read_bytes()
        wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        text = content.decode("utf-16" if wide else "utf-8").lstrip("\ufeff")
        heading = next((line for line in text.splitlines() if line.strip()), "")
        separator = max(SEPARATORS, key=heading.count)
        dialect = {"delimiter": separator, "strict": True, "skipinitialspace": True}
        reader = csv.reader(io.StringIO(text, newline=""), **dialect)
        read = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
        rows = {line: row for line, row in read if any(row)}
        names = rows.pop(next(iter(rows), None), [])
        while names and not names[-1]:
            names.pop()
        for line, row in rows.items():
            if any(row[len(names) :]):
                raise ValueError(f"line {line} has more cells than the heading")
        if missing := [name for name in columns if name not in names]:
            raise ValueError(f"column {missing} is missing; found {names}")
        if twice := sorted({name for name in names if name and names.count(name) > 1}):
            raise ValueError(f"column {twice} comes twice")
        if not rows:
            raise ValueError("it holds no image")
    cells = [(row + [""] * len(names))[: len(names)] for row in rows.values()]
    table = pd.DataFrame(cells, list(rows), names, dtype=str).loc[:, [bool(name) for name in names]]
    empty = pd.DataFrame({column: words(table, column) == "" for column in columns}).any(axis=1)
    if empty.any():
        raise DataError(
            f"{path}: line {empty.idxmax()} has an empty {' or '.join(columns)}. Correct or "
            "remove it."
        )
    return table


def words(table: pd.DataFrame, column: str) -> pd.Series:
    """A column, in lower case; empty where it has nothing or is missing."""
    if column not in table:
        return pd.Series("", table.index, dtype=str)
    return table[column].str.lower().mask(lambda cells: cells.isin(NOTHING), "")


def number(cell: str) -> str:
    """``1.0`` and ``1,0`` as ``1``: spreadsheets and pandas write whole numbers so."""
    whole, _, rest = cell.replace(",", ".").partition(".")
    return whole if not rest.strip("0") else cell
