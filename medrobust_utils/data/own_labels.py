"""``labels.csv`` of one's own data: one label an image, or a 0 or 1 for each finding."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from ..core.errors import DataError
from .tables import number, read_table, words


@dataclass(frozen=True)
class Labels:
    """Files by id (path without suffix), targets (None for label maps), classes, patients."""

    paths: dict[str, Path]
    classes: tuple[str, ...]
    targets: np.ndarray | None
    patients: list[str]
    census: dict[str, list[str]] = field(default_factory=dict)

    def patients_of(self, images: Iterable[str]) -> list[str]:
        """The patients in another order of the images."""
        known = dict(zip(self.paths, self.patients, strict=True))
        return [known[image] for image in images]


def read_labels(path: Path, base: Path, files: dict[str, Path]) -> Labels:
    """The table at ``path``, each line with its file; the column ``image`` starts from ``base``."""
    table = read_table(path, (), remedy="Save it as CSV in UTF-8, with a column image.")
    roles = {c: c.lower() for c in table if c.lower() in ("image", "label", "patient")}
    table = table.rename(columns=roles)
    if "image" not in table or not table.columns.is_unique:
        raise DataError(
            f"{path}: needs a column image, a line for each, and no column twice; found "
            f"{list(table.columns)}."
        )
    ids = [_image(path, line, name, base, files) for line, name in table["image"].items()]
    again = np.flatnonzero(pd.Series(ids).duplicated())
    if len(again):
        line = table.index[again[0]]
        raise DataError(f"{path}: line {line} lists {ids[again[0]]} a second time. Remove one.")
    unlisted = sorted(files.keys() - set(ids))
    if unlisted:
        raise DataError(
            f"{files[unlisted[0]]}: has no line in {path.name}, nor have {len(unlisted) - 1} "
            "others. Add a line, or move them elsewhere."
        )
    patients = [""] * len(ids)
    if "patient" in table:  # what stands for an empty cell is no patient, nor the same one
        patients = list(table["patient"].mask(words(table, "patient") == "", ""))
    classes, targets, constant = _targets(path, table)
    census = {"columns_left_out": constant} if constant else {}
    return Labels({image: files[image] for image in ids}, classes, targets, patients, census)


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


def _targets(
    path: Path, table: pd.DataFrame
) -> tuple[tuple[str, ...], np.ndarray | None, list[str]]:
    """Classes, targets, and the columns that are the same in all lines, which say nothing."""
    findings = [name for name in table.columns if name not in ("image", "patient", "label")]
    if "label" in table:
        if findings:
            raise DataError(
                f"{path}: has a column label and others ({', '.join(findings)}). Keep label, or "
                "a column of 0 and 1 for each finding."
            )
        empty = table["label"] == ""
        if empty.any():
            raise DataError(f"{path}: line {empty.idxmax()} has no label. Fill or remove it.")
        classes = tuple(sorted(set(table["label"])))
        if len(classes) < 2:
            raise DataError(f"{path}: all labels are {classes[0]!r}; two are needed.")
        return classes, table["label"].map(classes.index).to_numpy(np.int64), []
    if not findings:
        return (), None, []
    values = table[findings].map(number).to_numpy(str)
    odd = np.argwhere(~np.isin(values, ("0", "1")))
    if len(odd):
        row, column = odd[0]
        raise DataError(
            f"{path}: line {table.index[row]} has {str(values[row, column])[:20]!r} for "
            f"{findings[column]}, and 0 or 1 is needed. Correct it; a text label goes into a "
            "column label."
        )
    targets = (values == "1").astype(np.uint8)
    same = targets.min(0) == targets.max(0)
    constant = [name for name, left_out in zip(findings, same, strict=True) if left_out]
    kept = [name for name, left_out in zip(findings, same, strict=True) if not left_out]
    if not kept:
        raise DataError(f"{path}: {', '.join(constant)}: the same in all lines; two are needed.")
    targets = targets[:, ~same]
    if len(kept) == 1:  # one question, two answers: absent, present
        return (f"no {kept[0]}", kept[0]), targets[:, 0].astype(np.int64), constant
    return tuple(kept), targets, constant
