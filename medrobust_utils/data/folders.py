"""What readers share whose labels are the names of folders."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from ..core.errors import DataError
from .imageset import ImageSet
from .reading import assemble, find_folder, index_images


def read_folders(
    root: Path,
    size: int,
    *,
    name: str,
    folder: str,
    parts: Mapping[str, str],
    suffix: str,
    complete: int,
    patient: Callable[[Path], str] | None = None,
    outline: str | None = None,
    duplicates: bool = False,
) -> ImageSet:
    """All images of a set with a folder for each class, as gray at ``size`` x ``size``.

    Images are called by their path below the set's folder without suffix, since names repeat
    from folder to folder.

    Args:
        root: folder that holds ``folder``.
        parts: folder below ``folder`` -> class; classes are numbered in the order they come.
        suffix: how image files end, in lower case.
        complete: images in the publisher's whole set.
        patient: tells the patient from an image's path; None where patients are not known, and
            only near duplicates share a group.
        outline: pattern of the names of outlines that lie beside the images; its first group is
            the name of the image. Every image has one outline or more, which are no images.
        duplicates: whether exact copies stay in, see ``assemble``.

    Raises:
        DataError: naming the file or folder, if one is missing, empty, unreadable or unknown.
    """
    place = find_folder(root, folder)
    classes = tuple(dict.fromkeys(parts.values()))
    paths: dict[str, Path] = {}
    masks: dict[str, list[Path]] = {}
    targets: list[int] = []
    for part, label in parts.items():
        for stem, path in index_images(place, part, (suffix,)).items():
            if outline and (found := re.fullmatch(outline, stem)):
                masks.setdefault(f"{part}/{found[1]}", []).append(path)
            else:
                paths[f"{part}/{stem}"] = path
                targets.append(classes.index(label))
    if outline:
        _check_outlines(paths, masks)
    patients = paths if patient is None else map(patient, paths.values())
    data = assemble(
        name=name,
        folder=place,
        ids=pd.Series(list(paths), dtype=str),
        paths=paths,
        size=size,
        channels=1,
        targets=np.array(targets, np.int64),
        classes=classes,
        groups=pd.factorize(np.array(list(patients), object))[0],
        complete=len(paths) == complete,
        masks=masks if outline else None,
        duplicates=duplicates,
    )
    return data if patient else replace(data, subjects=None)


def _check_outlines(paths: Mapping[str, Path], masks: Mapping[str, list[Path]]) -> None:
    for image, path in paths.items():
        if image not in masks:
            raise DataError(f"{path}: its outline is missing. Unpack the archive again.")
    for image, files in masks.items():
        if image not in paths:
            raise DataError(f"{files[0]}: its image is missing. Unpack the archive again.")
