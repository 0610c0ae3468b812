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
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from ..core.disk import blamed
from ..core.errors import DataError, ProtocolError
from ..core.losses import IGNORED
from .decoding import decoded, listing_key, remembered
from .imageset import ImageSet, Rows
from .layouts import find_table, named, number, read_table, words
from .masks import mask_files, read_label_maps
from .pictures import SUFFIXES, scan
from .reading import combine, index_images, partners, visible

PREFIX = "folder:"
TABLE, NAMES, MASKS, MAPS, IMAGES = "labels.csv", "classes.txt", "masks", "labels", "images"
PARTS = {"train", "val", "test"}
MOST_CLASSES = 254  # of label maps, whose larger numbers are spoken for
ROLES = ("image", "label", "patient")
RULES = 3  # number of the rules by which files become 8 bits: other rules, another cache


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


def with_own_data(settings: Mapping, role: str, part: str) -> tuple[Mapping, str]:
    """Settings in which ``folder:PATH``, given as DATASET, stands in for a paper's set, ``part``.

    Everything else (sizes, epochs, flips) stays as it is for the set that it stands in for. Only
    arms on that set under an honest split remain.

    Returns:
        The settings and the role; unchanged for any other DATASET.
    """
    if not role.startswith(PREFIX):
        return settings, role
    like = {"role": part, "split": "honest"}
    arms = [arm for arm in settings["arms"] if all(arm.get(k, v) == v for k, v in like.items())]
    if not arms:
        raise ProtocolError(f"this profile has no arm with an honest split on {part}.")
    return {**settings, "arms": arms, "datasets": {**settings["datasets"], part: role}}, part


def own_folder(settings: Mapping, role: str) -> str:
    """``folder:PATH`` where one's own data stand for a role, else nothing."""
    name = settings["datasets"][role]
    return name if name.startswith(PREFIX) else ""


def read(name: str, size: int, *, duplicates: bool = False) -> ImageSet:
    """All images of a folder at ``size`` x ``size``, gray if all of them are, else RGB.

    The set is called after the folder and a number that stands for its path. Images of one
    patient share a group, by the column ``patient`` or, in DICOM files, by the PatientID, of
    which only a hash is kept; others are groups of their own, but for near duplicates.

    Args:
        name: ``folder:PATH``.
        duplicates: whether exact copies stay in, see ``reading.combine``.

    Raises:
        DataError: naming the file or folder, if it is missing, unreadable, of no known layout,
            or has fewer than two classes.
    """
    folder = place(name)
    source, table, paths = _find(folder)
    segmented, names, n = _segmented(folder), list(table["image"]), len(table)
    paths = {image: paths[image] for image in names}
    files, masks, constant, census = list(paths.values()), None, [], {}
    if segmented:
        classes = _names(folder / NAMES)
    else:
        targets, classes, constant = _targets(source, table)
    seen = scan(files)
    word = re.sub(r"[^A-Za-z0-9_]+", "_", folder.name)[:24].strip("_")
    title = f"folder-{word}-{hashlib.sha256(str(folder).encode()).hexdigest()[:6]}"
    made = (*names, seen.ends, seen.dicom_ends, RULES)
    images = decoded(title, files, size, seen.channels, *made, opener=seen.open)
    if segmented:
        meaning = {number: number for number in (*range(len(classes)), IGNORED)}
        maps = index_images(folder / MAPS, SUFFIXES, deep=True)
        maps = partners(paths, maps, "label map", "image")
        targets = read_label_maps(images[2], files, maps, meaning, size)
    if (folder / MASKS).is_dir():
        outlines = index_images(folder / MASKS, SUFFIXES, deep=True)
        outlines = partners(paths, outlines, "outline (a black one, if nothing is there)", "image")
        masks = mask_files([[path] for path in outlines], files, size)
        census = _outlined(folder / MASKS, masks, images[2], listing_key(outlines, size, *files))
    # what stands for an empty cell is no patient, nor the same one
    told = words(table, "patient") != ""
    listed = table["patient"].where(told, "") if told.any() else [""] * n
    given = zip(listed, seen.patients, strict=True)
    patients = np.array([by_table or by_file for by_table, by_file in given], object)
    known = patients != ""
    alone = np.array([f"image {i}" for i in range(n)], object)
    groups = pd.factorize(np.where(known, "patient " + patients, alone))[0]
    parts = [image.partition("/")[0] for image in names]
    data = combine(
        name=title,
        ids=names,
        decoded=images,
        targets=np.array(targets),
        classes=classes,
        groups=groups if known.any() else None,
        masks=masks,
        parts=parts if set(parts) <= PARTS else None,
        known=known,
        duplicates=duplicates,
    )
    census |= {"columns_left_out": constant} if constant else {}
    data.census.update(seen.census | census)
    data.census["images_without_a_patient"] = n - int(known.sum())
    return data


def _segmented(folder: Path) -> bool:
    return all((folder / name).exists() for name in (MAPS, NAMES, IMAGES))


def _find(folder: Path) -> tuple[Path, pd.DataFrame, dict[str, Path]]:
    """Where labels stand, the table that every layout becomes, and all pictures by id."""
    maps, base = (folder / MAPS).is_dir(), folder / IMAGES
    path = find_table(folder, ("labels",), (".csv", ".tab", ".tsv", *(() if maps else (".txt",))))
    if path or _segmented(folder):
        base = base if base.is_dir() else folder
        skip = (MASKS, MAPS, path.name, NAMES) if base == folder else ()
        files = index_images(base, SUFFIXES, deep=True, skip=skip)
        table = _read(path, base, files) if path else pd.DataFrame({"image": list(files)})
        return path or folder, table, files
    if maps and base.is_dir():  # without names of classes: an empty table says what is missing
        return folder, pd.DataFrame({"image": []}), {}
    return folder, *_class_folders(folder)


def _class_folders(folder: Path) -> tuple[pd.DataFrame, dict[str, Path]]:
    """The table that would say the same as the folders of the classes, and pictures by id."""
    parts = {path.name: path for path in visible(folder) if path.name != MASKS}
    halves = parts if parts and parts.keys() <= PARTS else {"": folder}
    files: dict[str, Path] = {}
    labels: list[str] = []
    for half, below in halves.items():
        for part in (path for path in visible(below) if path.name != MASKS):
            if not part.is_dir():
                raise DataError(
                    f"{part}: lies beside the folders of the classes. Move it into one of them, "
                    f"elsewhere, or list the images in {folder / TABLE}."
                )
            found = index_images(part, SUFFIXES)
            files |= {f"{half}/{part.name}/{name}".lstrip("/"): p for name, p in found.items()}
            labels += [part.name] * len(found)
    return pd.DataFrame({"image": list(files), "label": labels}, dtype=str), files


def _outlined(folder: Path, masks: Rows, cache: Path, key: str) -> dict[str, int]:
    """How many outlines are empty or full; all of them are read once, and none is kept."""
    found = remembered(
        cache / f"outlines-{key}.npy", lambda: np.array([[m.any(), m.all()] for m in masks])
    )
    empty, full = int((~found[:, 0]).sum()), int(found[:, 1].sum())
    if len(masks) in (empty, full):
        warnings.warn(
            f"{folder}: all outlines are {'empty' if empty else 'full'}. If they should not be, "
            "save them in black and white, white inside.",
            stacklevel=2,
        )
    return {"outlines_empty": empty, "outlines_full": full}


def _names(path: Path) -> tuple[str, ...]:
    """The classes of label maps: a line each, the first is number 0."""
    with blamed(path, "cannot be read as text ({error}). Save it as UTF-8."):
        names = tuple(line.strip() for line in path.read_text("utf-8").splitlines())
    if not 2 <= len(names) <= MOST_CLASSES or "" in names or len(set(names)) < len(names):
        raise DataError(
            f"{path}: needs 2 to {MOST_CLASSES} different names of classes, a line each and no "
            "empty one; the first is the class that is number 0 in the maps."
        )
    return names


def _read(path: Path, base: Path, files: dict[str, Path]) -> pd.DataFrame:
    """The table at ``path``; its column ``image``, which starts from ``base``, as ids of files."""
    remedy = "Save it as CSV in UTF-8, with a column image and no column twice."
    table = read_table(path, (), remedy=remedy)
    table = table.rename(columns={c: c.lower() for c in table if c.lower() in ROLES})
    if "image" not in table or not table.columns.is_unique:
        raise DataError(f"{path}: found the columns {list(table.columns)}. {remedy}")
    table["image"] = [_image(name, base, files) for name in table["image"]]
    partners(named(path, table["image"]), files, "file", "line in the table")
    return table


def _image(name: str, base: Path, files: dict[str, Path]) -> str:
    """The id of the image that a cell names, with or without its suffix."""
    name = name.replace("\\", "/").removeprefix("./")
    stem, dot, _ = name.rpartition(".")
    return stem if dot and files.get(stem) == base / name else name


def _targets(source: Path, table: pd.DataFrame) -> tuple[np.ndarray, tuple[str, ...], list[str]]:
    """Targets, classes, and the columns that say nothing, as they are the same in all lines."""
    findings = [name for name in table if name not in ROLES]
    if "label" in table and findings:
        raise DataError(
            f"{source}: has a column label and others ({', '.join(findings)}). Keep label, or "
            "a column of 0 and 1 for each finding."
        )
    if "label" in table:
        empty = table["label"] == ""
        if empty.any():
            raise DataError(f"{source}: line {empty.idxmax()} has no label. Fill or remove it.")
        classes = tuple(sorted(set(table["label"])))
        if len(classes) < 2:
            raise DataError(
                f"{source}: shows {len(classes)} class ({', '.join(classes) or 'none'}), and two "
                f"are needed to tell apart. Add a folder for another, or a {TABLE} that names two."
            )
        return table["label"].map(classes.index).to_numpy(np.int64), classes, []
    if not findings:
        raise DataError(
            f"{source}: says of no image what it shows. For classes give {TABLE} a column label, "
            f"or one of 0 and 1 for each finding; for label maps the folders {IMAGES} and {MAPS} "
            f"and {NAMES} (the classes, a line each) are needed."
        )
    values = table[findings].map(number)
    odd = ~values.isin(("0", "1"))
    if odd.any(axis=None):
        line, column = odd.stack().idxmax()
        raise DataError(
            f"{source}: line {line} has {values[column][line][:20]!r} for {column}, and 0 or 1 is "
            "needed. Correct it; a text label goes into a column label."
        )
    present = (values == "1").astype(np.uint8)
    same = present.min() == present.max()
    kept, constant = [c for c in findings if not same[c]], [c for c in findings if same[c]]
    if not kept:
        raise DataError(f"{source}: {', '.join(constant)}: the same in all lines; two are needed.")
    targets, classes = present[kept].to_numpy(), tuple(kept)
    if len(kept) == 1:  # one question, two answers: absent, present
        targets, classes = targets[:, 0].astype(np.int64), (f"no {kept[0]}", kept[0])
    return targets, classes, constant
