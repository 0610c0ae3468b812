"""The two layouts that data sets come in: a folder for each class, or a table of labels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from ..core.errors import DataError
from .imageset import ImageSet
from .masks import check_partners
from .reading import assemble, find_folder, index_images
from .tables import find_table, number, read_table

AGAIN = "Download it again."


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
        masks: dict[str, list[Path]] = {}
        targets: list[int] = []
        for part, label in self.parts.items():
            if part.startswith(self.optional) and not (place / part).parent.is_dir():
                continue
            for stem, path in index_images(place, part, (self.suffix,)).items():
                if self.outline and (found := re.fullmatch(self.outline, stem)):
                    masks.setdefault(f"{part}/{found[1]}", []).append(path)
                else:
                    paths[f"{part}/{stem}"] = path
                    targets.append(classes.index(label))
        if self.outline:
            first = {image: files[0] for image, files in masks.items()}
            check_partners(paths, first, "outline", "Unpack the archive again.")
        data = assemble(
            name=name,
            folder=place,
            ids=list(paths),
            paths=paths,
            size=size,
            channels=1,
            targets=np.array(targets, np.int64),
            classes=classes,
            groups=_patients(self.patient, paths) if self.patient else np.arange(len(paths)),
            complete=len(paths) == self.complete,
            masks=masks if self.outline else None,
            duplicates=duplicates,
        )
        return data if self.patient else replace(data, subjects=None)


@dataclass(frozen=True)
class Table:
    """A table with a line for each image.

    Attributes:
        folder: below the root of the data sets.
        names: what the table may be called, without suffix.
        image, label: its columns; an image may be named with its suffix.
        group: column of the patient or lesion, or a pattern that the image's name must match.
        files: pattern of the folders of images.
        suffix: how image files end, in lower case.
        classes: numbered in this order; capitals and blanks do not matter.
        complete: images in the publisher's whole set.
        channels: 1 (gray) or 3 (RGB).
        several: what stands between several labels of an image, for a multi-label set.
        alone: the class that excludes all others.
        numbered: whether the table has the classes' numbers in place of their names.
        outlines: folder of outlines, which may be absent, and what follows an image's name there.
    """

    folder: str
    names: tuple[str, ...]
    image: str
    label: str
    group: str | re.Pattern
    files: str
    suffix: str
    classes: tuple[str, ...]
    complete: int
    channels: int = 3
    several: str = ""
    alone: str = ""
    numbered: bool = False
    outlines: tuple[str, str] | None = None

    def read(self, name: str, root: Path, size: int, *, duplicates: bool = False) -> ImageSet:
        """The set ``name`` at ``size`` x ``size``; see ``readers.READERS``."""
        folder = find_folder(root, self.folder)
        by_column = isinstance(self.group, str)
        columns = (self.image, self.label, *((self.group,) if by_column else ()))
        path, table = listed(folder, self.names, columns)
        ids = table[self.image].str.removesuffix(self.suffix)
        if by_column:
            groups = pd.factorize(table[self.group])[0]
        else:
            groups = _patients(self.group, {image: f"{path}: {image}" for image in ids})
        return assemble(
            name=name,
            folder=folder,
            ids=list(ids),
            paths=index_images(folder, self.files, (self.suffix,)),
            size=size,
            channels=self.channels,
            targets=self._targets(path, table[self.label]),
            classes=self.classes,
            groups=groups,
            complete=len(table) == self.complete,
            masks=self._outlines(folder),
            duplicates=duplicates,
        )

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

    def _outlines(self, folder: Path) -> dict[str, list[Path]] | None:
        """Image id -> file of the lesion's outline; None where they were not downloaded."""
        if self.outlines is None or not (folder / self.outlines[0]).is_dir():
            return None
        paths = index_images(folder, self.outlines[0], (".png",))
        return {name.removesuffix(self.outlines[1]): [path] for name, path in paths.items()}


def _spelled(label: str) -> str:
    return re.sub(r"[\s_]+", " ", label).strip().lower()


def listed(folder: Path, names: Sequence[str], columns: Sequence[str]) -> tuple[Path, pd.DataFrame]:
    """The table of labels in ``folder`` and its path, see ``tables.read_table``."""
    path = find_table(folder, names)
    if path is None:
        wanted = " or ".join(f"{name}.csv" for name in names)
        raise DataError(f"{folder}: no label file ({wanted}). Download it beside the images.")
    return path, read_table(path, columns, remedy=AGAIN)


def _patients(pattern: str | re.Pattern, named: Mapping[str, object]) -> np.ndarray:
    """Numbers of the patients that names of images tell; ``named`` says what has the name."""
    patients = []
    for image, where in named.items():
        found = re.fullmatch(pattern, image.rpartition("/")[2])
        if not found:
            shape = getattr(pattern, "pattern", pattern)
            raise DataError(
                f"{where}: its name is not of the form {shape}, so its patient is unknown. Rename "
                "or move it."
            )
        patients.append(" ".join(str(int(p)) if p.isdigit() else p for p in found.groups() if p))
    return pd.factorize(np.array(patients, object))[0]
