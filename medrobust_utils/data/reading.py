"""What all readers share: find files, hold labels against images, assemble an ImageSet."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..core.errors import DataError
from .decoding import decoded, remembered
from .duplicates import (
    DETAILS,
    NEAR_DUPLICATE,
    THUMBNAIL,
    cut_chains,
    drop_duplicates,
    join_groups,
    near_duplicates,
)
from .imageset import ImageSet, Rows
from .masks import MaskFiles, settle


def find_folder(root: Path, name: str) -> Path:
    """``root/name``, or a DataError that says how to get it."""
    folder = root / name
    if not folder.is_dir():
        raise DataError(
            f"{folder} is missing. See `./data_download.sh --list`, or set MEDROBUST_DATA to "
            f"the folder that holds {name}."
        )
    return folder


def index_images(folder: Path, pattern: str, suffixes: Sequence[str]) -> dict[str, Path]:
    """Image id (file name without suffix) -> path, over all folders that match ``pattern``.

    Hidden files and Windows' ``Thumbs.db``, which archives carry along, are passed over.
    """
    paths: dict[str, Path] = {}
    for path in sorted(folder.glob(f"{pattern}/*")):
        if path.name.startswith(".") or path.name == "Thumbs.db":
            continue
        if path.suffix.lower() not in suffixes:
            raise DataError(
                f"{path}: not an image of this set ({', '.join(suffixes)}). Move it elsewhere."
            )
        if path.stem in paths:
            raise DataError(f"{path}: the same image also lies at {paths[path.stem]}. Remove one.")
        paths[path.stem] = path
    if not paths:
        raise DataError(f"{folder}: no image in {pattern}. Unpack the archives there.")
    return paths


def assemble(
    *,
    name: str,
    folder: Path,
    ids: Sequence[str],
    paths: Mapping[str, Path],
    size: int,
    channels: int,
    masks: Mapping[str, Sequence[Path]] | None = None,
    **labels: Any,
) -> ImageSet:
    """Check labels against files, decode, then ``combine``, which takes ``labels``.

    Args:
        masks: image id -> files of its outlines, for sets whose findings were outlined.
    """
    ids = [str(image) for image in ids]
    repeated = pd.Series(ids).duplicated()
    if repeated.any():
        raise DataError(
            f"{folder}: {ids[int(repeated.idxmax())]} is listed twice in the label file."
        )
    without_file = sorted(set(ids) - paths.keys())
    without_label = sorted(paths.keys() - set(ids))
    if without_file:
        raise DataError(
            f"{folder}: {len(without_file)} labelled images have no file, the first is "
            f"{without_file[0]}. Download the set again, or cut the label file down to your images."
        )
    if without_label:
        raise DataError(
            f"{paths[without_label[0]]}: has no line in the label file, nor have "
            f"{len(without_label) - 1} others. Download the label file again or move them."
        )
    unmasked = sorted(set(ids) - masks.keys()) if masks is not None else []
    if unmasked:
        raise DataError(
            f"{folder}: {len(unmasked)} images have no outline, the first is {unmasked[0]}. "
            "Unpack the archive of the outlines again, or move its folder away to do without."
        )
    files = [paths[image] for image in ids]
    outlines = masks and MaskFiles([masks[image] for image in ids], files, size)
    decoded_images = decoded(name, files, size, channels)
    return combine(name=name, ids=ids, decoded=decoded_images, masks=outlines, **labels)


def combine(
    *,
    name: str,
    ids: Sequence[str],
    decoded: tuple[np.ndarray, Sequence[str], Path],
    targets: np.ndarray,
    classes: tuple[str, ...],
    groups: np.ndarray,
    complete: bool,
    masks: MaskFiles | np.ndarray | None = None,
    parts: Sequence[str] | None = None,
    known: np.ndarray | None = None,
    duplicates: bool = False,
) -> ImageSet:
    """Remove duplicates among decoded images, join near duplicates, count.

    Args:
        decoded: images, uint8 (N, size, size, C), hashes of their pixels, and the cache's folder,
            see ``decoding.decoded``.
        targets: classes (N,), multi-hot (N, K), or label maps (N, size, size) as
            ``masks.settle`` takes them.
        groups: patients, lesions or tiles (N,); an image of which none is known has its own.
        parts: the publisher's part of each image, see ``ImageSet``.
        known: bool (N,), whose patients are believed: two of them never share a group, however
            alike their images are, unless the pixels are the same.
        duplicates: keep exact copies, contradictory ones too, and count those that would go:
            what a paper did that looked for none. Copies share a group, so that a split by
            group still holds them together.
    """
    images, hashes, cache = decoded
    pairs, alike = _near_duplicates(images, cache)
    exact = np.array([hashes[a] == hashes[b] for a, b in pairs.T], bool)
    census: dict[str, Any] = {}
    join = np.ones(len(exact), bool)
    if known is not None:
        join = exact | ~known[pairs].all(0) | (groups[pairs[0]] == groups[pairs[1]])
        if not join.all():
            census["near_duplicates_of_different_patients"] = int((~join).sum())
    close, cut = cut_chains(groups, pairs[:, join], np.where(exact, 2, alike)[join])
    if cut.size:
        census["near_duplicate_pairs_not_joined"] = cut.shape[1]
        warnings.warn(
            f"{name}: {cut.shape[1]} pairs of near duplicates would chain too many images into "
            "one group, and are not joined. A column patient says better who belongs together.",
            stacklevel=2,
        )
    joined = join_groups(groups, close)
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
        subjects=groups[keep],
        parts=parts,
    )
    data.census.update(images_per_class=data.class_counts())
    return data


def _near_duplicates(images: np.ndarray, cache: Path) -> tuple[np.ndarray, np.ndarray]:
    rule = f"near_duplicates-{THUMBNAIL}-{NEAR_DUPLICATE}-{DETAILS}.npy"  # other rule, other file
    found = remembered(cache / rule, lambda: np.vstack(near_duplicates(images)).astype(np.float64))
    return found[:2].astype(np.int64), found[2]
