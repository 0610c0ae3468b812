"""What all readers share: find files, hold labels against images, assemble an ImageSet."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import DataError
from .decoding import Decoded, remembered
from .duplicates import RULE, drop_duplicates, join_groups, near_duplicates
from .imageset import ImageSet, Rows
from .masks import settle


def find_folder(root: Path, name: str) -> Path:
    """``root/name``, or a DataError that says how to get it."""
    folder = root / name
    if not folder.is_dir():
        raise DataError(
            f"{folder} is missing. See `./data_download.sh --list`, or set MEDROBUST_DATA to "
            f"the folder that holds {name}."
        )
    return folder


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, sorted, but for hidden files and what Windows leaves there."""
    return [
        path
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".") and path.name not in ("Thumbs.db", "desktop.ini")
    ]


def index_images(
    folder: Path,
    suffixes: Sequence[str],
    *patterns: str,
    deep: bool = False,
    skip: Collection[str] = (),
) -> dict[str, Path]:
    """Image id (file name without suffix) -> file, over all folders that match ``patterns``.

    Args:
        suffixes: of images, in lower case; no other file may lie there.
        patterns: below ``folder``; without any it is ``folder`` itself.
        deep: whether there may be folders below, whose names begin the ids.
        skip: names at the top that are passed over.

    Raises:
        DataError: if there is no image, another file, or the same name twice.
    """
    places = [place for pattern in patterns for place in sorted(folder.glob(pattern))]
    paths: dict[str, Path] = {}
    for place in places if patterns else [folder]:
        for name, path in _below(place, suffixes, deep, skip):
            if name in paths:
                raise DataError(
                    f"{path}: the same name also lies at {paths[name]}. Remove or rename one."
                )
            paths[name] = path
    if not paths:
        where = f"{folder}: no image in {' or '.join(patterns) or 'it'}."
        raise DataError(f"{where} Put images (the archives, unpacked) there.")
    return paths


def _below(
    place: Path, suffixes: Sequence[str], deep: bool, skip: Collection[str] = ()
) -> Iterator[tuple[str, Path]]:
    for path in visible(place):
        if path.name in skip:
            continue
        if deep and path.is_dir() and not path.is_symlink():
            yield from ((f"{path.name}/{k}", file) for k, file in _below(path, suffixes, deep))
        elif path.suffix.lower() in suffixes and path.is_file():  # to open a pipe is to wait
            yield path.stem, path
        else:
            raise DataError(
                f"{path}: not an image that is taken here ({', '.join(suffixes)}), or no file. "
                "Move it elsewhere, or rename it if it is one."
            )


def partners(here: Mapping[str, Any], there: Mapping[str, Any], what: str, other: str) -> list[Any]:
    """What ``there`` belongs to the names of ``here``, in their order; both say where things lie.

    Raises:
        DataError: naming the first, if one of ``here`` lacks ``what``, or of ``there`` ``other``.
    """
    for one, two, missing in ((here, there, what), (there, here, other)):
        alone = [one[name] for name in one if name not in two]
        if alone:
            where = alone[0][0] if isinstance(alone[0], list) else alone[0]
            raise DataError(
                f"{where}: its {missing} is missing, as are {len(alone) - 1} others. Bring it "
                "(download a publisher's set again), or move the other elsewhere."
            )
    return [there[name] for name in here]


def combine(
    *,
    name: str,
    ids: Sequence[str],
    decoded: Decoded,
    targets: np.ndarray,
    classes: tuple[str, ...],
    groups: np.ndarray | None = None,
    complete: bool = False,
    masks: Rows | None = None,
    parts: Sequence[str] | None = None,
    known: np.ndarray | None = None,
    duplicates: bool = False,
) -> ImageSet:
    """Remove duplicates among decoded images, join near duplicates, count.

    Args:
        targets: classes (N,), multi-hot (N, K), or label maps (N, size, size) as
            ``masks.settle`` takes them.
        groups: patients, lesions or tiles (N,), an image of which none is known has its own; None
            where none is known of any.
        parts: the publisher's part of each image, see ``ImageSet``.
        known: bool (N,), whose patients are believed: two of them never share a group, however
            alike their images are, unless the pixels are the same.
        duplicates: keep exact copies, contradictory ones too, and count those that would go:
            what a paper did that looked for none. Copies share a group, so that a split by
            group still holds them together.
    """
    images, hashes, cache = decoded
    subjects, groups = groups, np.arange(len(ids)) if groups is None else groups
    place = cache / f"near_duplicates-{RULE}.npy"  # another rule, another file
    found = remembered(place, lambda: np.vstack(near_duplicates(images)).astype(np.float64))
    pairs, alike = found[:2].astype(np.int64), found[2]
    exact = np.array([hashes[a] == hashes[b] for a, b in pairs.T], bool)
    census: dict[str, Any] = {}
    join = np.ones(len(exact), bool)
    if known is not None:
        join = exact | ~known[pairs].all(0) | (groups[pairs[0]] == groups[pairs[1]])
        if not join.all():
            census["near_duplicates_of_different_patients"] = int((~join).sum())
    joined, left = join_groups(groups, pairs[:, join], np.where(exact, 2, alike)[join])
    if left:
        census["near_duplicate_pairs_not_joined"] = left
        warnings.warn(
            f"{name}: {left} pairs of near duplicates would chain too many images into "
            "one group, and are not joined. A column patient says better who belongs together.",
            stacklevel=2,
        )
    keep, removed = drop_duplicates(hashes, targets)
    if duplicates:
        keep, removed = np.arange(len(hashes)), {"duplicates_kept": len(hashes) - len(keep)}
    census |= removed | {
        "images_listed": len(ids),
        "near_duplicate_pairs": pairs.shape[1] - int(exact.sum()),
        "groups_before_joining": len(np.unique(groups[keep])),
        "groups": len(np.unique(joined[keep])),
    }
    targets = targets[keep]
    if targets.ndim == 3:
        targets, pixels = settle(name, targets, classes)
        census |= pixels
    if parts is not None:
        parts = tuple(parts[i] for i in keep)
        census["images_per_part"] = {part: parts.count(part) for part in sorted(set(parts))}
    digest = hashlib.sha256("".join(hashes[i] for i in keep).encode())
    digest.update(np.ascontiguousarray(targets))
    data = ImageSet(
        name=name,
        images=Rows(images, keep),
        targets=targets,
        classes=classes,
        groups=joined[keep],
        ids=tuple(ids[i] for i in keep),
        synthetic=False,
        complete=complete,
        checksum=digest.hexdigest(),
        census=census,
        masks=None if masks is None else Rows(masks, keep),
        subjects=None if subjects is None else groups[keep],
        parts=parts,
    )
    data.census.update(images_per_class=data.class_counts())
    return data
