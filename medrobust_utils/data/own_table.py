"""``labels.csv`` of one's own data: one label an image, or a 0 or 1 for each finding."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..core.errors import DataError


@dataclass(frozen=True)
class Table:
    """The lines of the table, held against the files.

    Attributes:
        paths: image id -> file, in the order of the lines.
        targets: int64 (N,), uint8 (N, K), or None where the table has patients only.
        patients: of each line, empty where not told.
    """

    paths: dict[str, Path]
    classes: tuple[str, ...]
    targets: np.ndarray | None
    patients: list[str]

    def patients_of(self, images: Iterable[str]) -> list[str]:
        """The patients in another order of the images."""
        known = dict(zip(self.paths, self.patients, strict=True))
        return [known[image] for image in images]


def read_labels(path: Path, base: Path, files: dict[str, Path]) -> Table:
    """The table at ``path`` with each line's file.

    Args:
        base: folder that the column ``image`` starts from; suffixes may be left out.
        files: image id -> file of every picture below ``base``.

    Raises:
        DataError: naming the line, if an image is missing, listed twice or not listed, or a label
            is empty or neither 0 nor 1; or if there are fewer than two classes.
    """
    try:
        table = pd.read_csv(
            path, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False
        )
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        raise DataError(f"{path}: cannot be read as CSV ({error}). Save it as UTF-8.") from error
    table.columns = [str(name).strip() for name in table.columns]
    if "image" not in table or table.empty or not table.columns.is_unique:
        raise DataError(
            f"{path}: needs a column image, a line for each, and no column twice; found "
            f"{list(table.columns)}."
        )
    table = table.apply(lambda column: column.str.strip())
    ids = [_image(path, line, name, base, files) for line, name in enumerate(table["image"], 2)]
    again = np.flatnonzero(pd.Series(ids).duplicated())
    if len(again):
        line = int(again[0])
        raise DataError(f"{path}: line {line + 2} lists {ids[line]} a second time. Remove one.")
    unlisted = sorted(files.keys() - set(ids))
    if unlisted:
        raise DataError(
            f"{files[unlisted[0]]}: has no line in {path.name}, nor have {len(unlisted) - 1} "
            "others. Add a line, or move them elsewhere."
        )
    patients = list(table["patient"]) if "patient" in table else [""] * len(ids)
    classes, targets = _targets(path, table)
    return Table({image: files[image] for image in ids}, classes, targets, patients)


def _image(path: Path, line: int, name: str, base: Path, files: dict[str, Path]) -> str:
    """The id of the image that a line names."""
    name = name.replace("\\", "/").removeprefix("./")
    stem, dot, _ = name.rpartition(".")
    for image in (name, stem if dot else ""):
        if image in files and (image == name or files[image] == base / name):
            return image
    raise DataError(
        f"{path}: line {line} names the image {name!r}, and {base} holds no such file. Correct the "
        "line; folders below count as part of the name."
    )


def _targets(path: Path, table: pd.DataFrame) -> tuple[tuple[str, ...], np.ndarray | None]:
    findings = [name for name in table.columns if name not in ("image", "patient", "label")]
    if "label" in table:
        if findings:
            raise DataError(
                f"{path}: has a column label and others ({', '.join(findings)}). Keep label, or "
                "a column of 0 and 1 for each finding."
            )
        empty = np.flatnonzero(table["label"] == "")
        if len(empty):
            raise DataError(f"{path}: line {empty[0] + 2} has no label. Fill or remove it.")
        classes = tuple(sorted(set(table["label"])))
        if len(classes) < 2:
            raise DataError(f"{path}: all labels are {classes[0]!r}; two are needed.")
        return classes, table["label"].map(classes.index).to_numpy(np.int64)
    if not findings:
        return (), None
    values = table[findings].to_numpy(str)
    odd = np.argwhere(~np.isin(values, ("0", "1")))
    if len(odd):
        row, column = odd[0]
        raise DataError(
            f"{path}: line {row + 2} has {str(values[row, column])[:20]!r} for {findings[column]}, "
            "and 0 or 1 is needed. Correct it; a text label goes into a column label."
        )
    targets = (values == "1").astype(np.uint8)
    if len(findings) == 1:  # one question, two answers: absent, present
        classes = (f"no {findings[0]}", findings[0])
        single = targets[:, 0].astype(np.int64)
        if single.min() == single.max():
            raise DataError(f"{path}: {findings[0]} is the same in all lines; two are needed.")
        return classes, single
    never = [name for name, count in zip(findings, targets.sum(0), strict=True) if not count]
    if never:
        raise DataError(f"{path}: no image has {', '.join(never)}. Remove the column.")
    return tuple(findings), targets
