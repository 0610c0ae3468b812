"""Data of one's own: ``load("folder:PATH")``, in one of four layouts below PATH.

- A folder for each class, ``<class>/*``, or ``{train,val,test}/<class>/*``.
- ``labels.csv`` with a column ``image`` (the file below PATH, or below ``PATH/images``), and
  either ``label`` or a column of 0 and 1 for each finding.
- Label maps: pictures in ``images``, maps of the same names as PNG in ``labels``, whose pixels are
  the numbers of the lines of ``classes.txt``, from 0; 255 is a pixel whose class is unknown.
- Any of the first two with outlines in ``masks``, PNGs that are called like their images.

``labels.csv`` may have a column ``patient``, in the third layout too, which is believed: images of
two patients never share a group, however alike they are. PNG, JPEG, TIFF, BMP, WebP and DICOM are
taken, also mixed; see ``pictures`` for what becomes of them.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from ..core.disk import blame
from ..core.errors import DataError
from ..core.losses import IGNORED
from . import dicom
from .decoding import decoded
from .imageset import ImageSet
from .masks import check_partners, read_label_maps, read_outlines
from .own_labels import Labels, read_labels
from .pictures import SUFFIXES, scan, sizes, visible
from .reading import combine
from .tables import find_table

PREFIX = "folder:"
TABLE, NAMES, MASKS, MAPS, IMAGES = "labels.csv", "classes.txt", "masks", "labels", "images"
PARTS = ("train", "val", "test")
MOST_CLASSES = 254  # of label maps, whose larger numbers are spoken for


RULES = 2  # number of the rules by which files become 8 bits: other rules, another cache


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
    labels = _find(folder)
    files, n = list(labels.paths.values()), len(labels.paths)
    seen = scan(files)
    title = _title(folder)
    made = (*labels.paths, seen.ends, seen.dicom_ends, RULES)
    decoded_images = decoded(title, files, size, seen.channels, *made, opener=seen.open)
    cache, targets, masks, census = decoded_images[2], labels.targets, None, {}
    if targets is None:
        meaning = {number: number for number in (*range(len(labels.classes)), IGNORED)}
        maps = _below(folder / MAPS, "")
        targets = read_label_maps(cache, labels.paths, maps, meaning, size, sizes)
    if (folder / MASKS).is_dir():
        masks, census = _outlines(folder / MASKS, labels.paths, cache, size)
    given = zip(labels.patients, seen.patients, strict=True)
    patients = np.array([by_table or by_file for by_table, by_file in given], object)
    known = patients != ""
    alone = np.array([f"image {i}" for i in range(n)], object)
    parts = [image.partition("/")[0] for image in labels.paths]
    data = combine(
        name=title,
        ids=list(labels.paths),
        decoded=decoded_images,
        targets=np.array(targets),
        classes=labels.classes,
        groups=pd.factorize(np.where(known, "patient " + patients, alone))[0],
        complete=False,
        masks=masks,
        parts=parts if set(parts) <= set(PARTS) else None,
        known=known,
        duplicates=duplicates,
    )
    data.census.update(seen.census | census | labels.census)
    data.census["images_without_a_patient"] = n - int(known.sum())
    return data if known.any() else replace(data, subjects=None)


def _title(folder: Path) -> str:
    word = re.sub(r"[^A-Za-z0-9_]+", "_", folder.name)[:24].strip("_")
    return f"folder-{word}-{hashlib.sha256(str(folder).encode()).hexdigest()[:6]}"


def _find(folder: Path) -> Labels:
    """Files and labels, in whichever layout they are."""
    table = _table(folder)
    if (folder / MAPS).is_dir() and (folder / NAMES).is_file():
        if not (folder / IMAGES).is_dir():
            raise DataError(f"{folder / IMAGES} is missing. Put the pictures of the maps there.")
        paths = _below(folder / IMAGES, "")
        medical = [path for path in paths.values() if path.suffix.lower() in dicom.SUFFIXES]
        if medical:
            raise DataError(f"{medical[0]}: label maps go with pictures; export it as PNG.")
        patients = [""] * len(paths)
        if table:
            patients = read_labels(table, folder / IMAGES, paths).patients_of(paths)
        return Labels(paths, _names(folder / NAMES), None, patients)
    if table:
        base = folder / IMAGES if (folder / IMAGES).is_dir() else folder
        skip = () if base != folder else (MASKS, MAPS, table.name, NAMES)
        labels = read_labels(table, base, _below(base, "", skip))
        if labels.targets is None:
            raise DataError(
                f"{table}: has neither a column label nor one for a finding. Add one; for label "
                f"maps, {folder / MAPS} and {folder / NAMES} are needed."
            )
        return labels
    if (folder / MAPS).is_dir() and (folder / IMAGES).is_dir():
        raise DataError(
            f"{folder / NAMES} is missing. For label maps write the names of the classes there, a "
            f"line each; otherwise call the folders {MAPS} and {IMAGES} something else."
        )
    return _class_folders(folder)


def _table(folder: Path) -> Path | None:
    """The table of labels; a ``labels.txt`` is one if it has a column image, not a list."""
    text = folder / "labels.txt"
    found = find_table(folder, ("labels",), (".csv", ".tab", ".tsv"))
    if found or not text.is_file():
        return found
    try:
        with text.open("rb") as file:
            heading = file.readline().replace(b"\0", b"")  # also of UTF-16
    except OSError as error:
        raise blame(text, error, f"cannot be read ({error}).") from error
    return text if re.search(rb"(?i)(^|[,;\t|])\W*image\W*([,;\t|]|$)", heading) else None


def _class_folders(folder: Path) -> Labels:
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
    return Labels(paths, classes, targets, [""] * len(paths))


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
        damaged = f"cannot be read as text ({error}). Save it as UTF-8."
        raise blame(path, error, damaged) from error
    if not 2 <= len(names) <= MOST_CLASSES or "" in names or len(set(names)) < len(names):
        raise DataError(
            f"{path}: needs 2 to {MOST_CLASSES} different names of classes, a line each and no "
            "empty one; the first is the class that is number 0 in the maps."
        )
    return names


def _outlines(
    folder: Path, paths: dict[str, Path], cache: Path, size: int
) -> tuple[np.ndarray, dict[str, int]]:
    """The outline of every image, and how many are empty or full."""
    files = _below(folder, "")
    remedy = f"Where nothing was found save a black one; without {folder} none is needed."
    check_partners(paths, files, "outline", remedy)
    masks = read_outlines(cache, paths, files, size, sizes)
    empty, full = int((~masks.any((1, 2))).sum()), int(masks.all((1, 2)).sum())
    if len(masks) in (empty, full):
        warnings.warn(
            f"{folder}: all outlines are {'empty' if empty else 'full'}. If they should not be, "
            "save them in black and white, white inside.",
            stacklevel=2,
        )
    return masks, {"outlines_empty": empty, "outlines_full": full}
