"""Tables of labels, in whichever dialect they come: comma, semicolon or tab, UTF-8 or UTF-16."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ..core.disk import blame
from ..core.errors import DataError

SUFFIXES = (".csv", ".tab", ".tsv", ".txt", "")
SEPARATORS = ",;\t|"
NOTHING = ("na", "n/a", "#n/a", "nan", "null", "none", "<na>")  # what pandas writes for empty cells


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
    try:
        content = path.read_bytes()
        wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        text = content.decode("utf-16" if wide else "utf-8").lstrip("\ufeff")
        heading = next((line for line in text.splitlines() if line.strip()), "")
        separator = max(SEPARATORS, key=heading.count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
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
    except (OSError, ValueError, csv.Error) as error:
        raise blame(path, error, f"cannot be read as CSV ({error}). {remedy}") from error
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
    """``1.0`` as ``1``: spreadsheets and pandas write whole numbers so."""
    whole, _, rest = cell.partition(".")
    return whole if not rest.strip("0") else cell
