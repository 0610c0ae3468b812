"""Data of one's own: ``load("folder:PATH")``, in one of four layouts below PATH.

- A folder for each class, ``<class>/*``, or ``{train,val,test}/<class>/*``.
- ``labels.csv`` with a column ``image`` (the file below PATH, or below ``PATH/images``), and
  either ``label`` or a column of 0 and 1 for each finding.
- Label maps: pictures in ``images``, maps of the same names as PNG in ``labels``, whose pixels are
  the numbers of the lines of ``classes.txt``, from 0; 255 is a pixel whose class nobody can say.
- Any of the first two with binary outlines in ``masks``, PNGs that are called like their images.

``labels.csv`` may have a column ``patient``, in the third layout too. PNG, JPEG, TIFF, BMP, WebP
and DICOM are taken, also mixed; see ``own_pictures`` for what becomes of them.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from ..core.errors import DataError
from ..core.losses import IGNORED
from . import dicom
from .decoding import MaskFiles, decoded
from .imageset import ImageSet
from .label_maps import read_label_maps
from .own_pictures import SUFFIXES, scan, visible
from .own_table import Table, read_labels
from .reading import combine

PREFIX = "folder:"
TABLE, NAMES, MASKS, MAPS, IMAGES = "labels.csv", "classes.txt", "masks", "labels", "images"
PARTS = ("train", "val", "test")
MOST_CLASSES = 254  # of label maps, whose larger numbers are spoken for


@dataclass(frozen=True)
class _Found:
    """The files of a set by id (path without suffix), its targets, classes, and patients."""

    paths: dict[str, Path]
    classes: tuple[str, ...]
    targets: np.ndarray | None
    patients: list[str]


def place(name: str) -> Path:
    """The folder that ``folder:PATH`` means.

    Raises:
        DataError: if PATH is not a whole path, or names no folder.
    """
    path = Path(name.removeprefix(PREFIX).strip()).expanduser()
    if not path.is_absolute():
        raise DataError(
            f"{name}: write the whole path, from / or ~ on; notebooks are run in other folders "
            "than the one a shorter path was meant from."
        )
    if not path.is_dir():
        raise DataError(
            f"{path}: no such folder. Correct the path. (A comma separates values on the command "
            "line: rename a folder with one, or set DATASET in the notebook.)"
        )
    return path.resolve()


def read(name: str, size: int, *, duplicates: bool = False) -> ImageSet:
    """All images of a folder at ``size`` x ``size``, gray if all of them are, else RGB.

    The set is called after the folder and a number that stands for its path. Images of one
    patient share a group, by the column ``patient`` or, in DICOM files, by the PatientID, of
    which only a hash is kept; others are groups of their own, but for near duplicates.

    Args:
        name: ``folder:PATH``.
        duplicates: whether exact copies stay in, see ``reading.assemble``.

    Raises:
        DataError: naming the file or folder, if it is missing, unreadable, of no known layout,
            or has fewer than two classes.
    """
    folder = place(name)
    found = _find(folder)
    files, n = list(found.paths.values()), len(found.paths)
    seen = scan(files)
    title = _title(folder)
    images, hashes, cache = decoded(
        title, files, size, seen.channels, *found.paths, seen.ceiling, opener=seen.open
    )
    targets = found.targets
    if targets is None:
        meaning = {number: number for number in (*range(len(found.classes)), IGNORED)}
        targets = read_label_maps(cache, found.paths, _maps(folder), meaning, size)
    patients = [given or read for given, read in zip(found.patients, seen.patients, strict=True)]
    known = sum(map(bool, patients))
    parts = [image.partition("/")[0] for image in found.paths]
    data = combine(
        name=title,
        ids=list(found.paths),
        images=images,
        hashes=hashes,
        cache=cache,
        targets=np.array(targets),
        classes=found.classes,
        groups=pd.factorize(
            np.array([f"patient {who}" if who else f"image {i}" for i, who in enumerate(patients)])
        )[0],
        complete=False,
        masks=_masks(folder, found.paths, size),
        parts=parts if set(parts) <= set(PARTS) else None,
        duplicates=duplicates,
    )
    data.census.update(seen.census, images_without_a_patient=n - known)
    return data if known else replace(data, subjects=None)


def _title(folder: Path) -> str:
    word = re.sub(r"[^A-Za-z0-9_]+", "_", folder.name)[:24].strip("_")
    return f"folder-{word}-{hashlib.sha256(str(folder).encode()).hexdigest()[:6]}"


def _find(folder: Path) -> _Found:
    """Files and labels, in whichever layout they are."""
    if (folder / MAPS).is_dir() and (folder / NAMES).is_file():
        if not (folder / IMAGES).is_dir():
            raise DataError(f"{folder / IMAGES} is missing. Put the pictures of the maps there.")
        paths = _below(folder / IMAGES, "")
        medical = [path for path in paths.values() if path.suffix.lower() in dicom.SUFFIXES]
        if medical:
            raise DataError(f"{medical[0]}: label maps go with pictures; export it as PNG.")
        patients = [""] * len(paths)
        if (folder / TABLE).is_file():
            patients = _listed(folder, folder / IMAGES).patients_of(paths)
        return _Found(paths, _names(folder / NAMES), None, patients)
    if (folder / TABLE).is_file():
        base = folder / IMAGES if (folder / IMAGES).is_dir() else folder
        table = _listed(folder, base)
        if table.targets is None:
            raise DataError(
                f"{folder / TABLE}: has neither a column label nor one for a finding. Add one; "
                f"for label maps, {folder / MAPS} and {folder / NAMES} are needed."
            )
        return _Found(table.paths, table.classes, table.targets, table.patients)
    if (folder / MAPS).is_dir() and (folder / IMAGES).is_dir():
        raise DataError(
            f"{folder / NAMES} is missing. For label maps write the names of the classes there, a "
            f"line each; otherwise call the folders {MAPS} and {IMAGES} something else."
        )
    return _class_folders(folder)


def _listed(folder: Path, base: Path) -> Table:
    skip = () if base != folder else (MASKS, MAPS, TABLE, NAMES)
    return read_labels(folder / TABLE, base, _below(base, "", skip))


def _class_folders(folder: Path) -> _Found:
    inside = [path for path in visible(folder) if path.name != MASKS]
    parts = [path.name for path in inside]
    halves = inside if parts and set(parts) <= set(PARTS) else [folder]
    paths: dict[str, Path] = {}
    labels: list[str] = []
    for half in halves:
        for part in visible(half):
            if part.name == MASKS:
                continue
            if not part.is_dir():
                raise DataError(
                    f"{part}: lies beside the folders of the classes. Move it into one of them, "
                    f"elsewhere, or list the images in {folder / TABLE}."
                )
            before = "" if half == folder else f"{half.name}/"
            found = _below(part, f"{before}{part.name}/", flat=True)
            if not found:
                raise DataError(f"{part}: holds no image. Remove it, or put images there.")
            paths |= found
            labels += [part.name] * len(found)
    classes = tuple(sorted(set(labels)))
    if len(classes) < 2:
        raise DataError(
            f"{folder}: holds {len(classes)} folder of a class, and two are needed to tell apart "
            f"({', '.join(classes) or 'none'}). Add one, or a {TABLE}."
        )
    targets = np.array([classes.index(label) for label in labels], np.int64)
    return _Found(paths, classes, targets, [""] * len(paths))


def _below(
    place: Path, before: str, skip: tuple[str, ...] = (), *, flat: bool = False
) -> dict[str, Path]:
    """Id -> file of every picture in ``place``, and in its folders unless ``flat``."""
    paths: dict[str, Path] = {}
    for path in visible(place):
        if path.name in skip:
            continue
        if path.is_dir() and not flat and not path.is_symlink():
            found = _below(path, f"{before}{path.name}/")
        elif path.suffix.lower() in SUFFIXES and path.is_file():
            found = {f"{before}{path.stem}": path}
        else:
            raise DataError(
                f"{path}: not an image that is taken here ({', '.join(SUFFIXES)}). Move it "
                "elsewhere, or rename it if it is one."
            )
        twice = found.keys() & paths.keys()
        if twice:
            raise DataError(f"{path}: {paths[min(twice)].name} has the same name. Rename one.")
        paths |= found
    return paths


def _names(path: Path) -> tuple[str, ...]:
    """The classes of label maps: a line each, the first is number 0."""
    try:
        names = tuple(line.strip() for line in path.read_text("utf-8").splitlines())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}). Save it as UTF-8.") from error
    if not 2 <= len(names) <= MOST_CLASSES or "" in names or len(set(names)) < len(names):
        raise DataError(
            f"{path}: needs 2 to {MOST_CLASSES} different names of classes, a line each and no "
            "empty one; the first is the class that is number 0 in the maps."
        )
    return names


def _maps(folder: Path) -> dict[str, Path]:
    return _below(folder / MAPS, "")


def _masks(folder: Path, paths: dict[str, Path], size: int) -> MaskFiles | None:
    """Outlines of every image, or None where there is no folder of them."""
    if not (folder / MASKS).is_dir():
        return None
    masks = _below(folder / MASKS, "")
    for here, there, what in ((paths, masks, "outline"), (masks, paths, "image")):
        alone = sorted(here.keys() - there.keys())
        if alone:
            raise DataError(
                f"{here[alone[0]]}: its {what} is missing, as are {len(alone) - 1} others. Where "
                f"nothing was found save a black one; without {folder / MASKS} none is needed."
            )
    return MaskFiles([[masks[image]] for image in paths], size)
