"""What all readers share: find files, hold labels against images, assemble an ImageSet."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..core.errors import DataError
from .decoding import MaskFiles, decoded, remembered
from .duplicates import NEAR_DUPLICATE, THUMBNAIL, drop_duplicates, join_groups, near_duplicates
from .imageset import ImageSet, Rows
from .label_maps import settle


def find_folder(root: Path, name: str) -> Path:
    """``root/name``, or a DataError that says how to get it."""
    folder = root / name
    if not folder.is_dir():
        raise DataError(
            f"{folder} is missing. See `./data_download.sh --list`, or set MEDROBUST_DATA to "
            f"the folder that holds {name}."
        )
    return folder


def read_table(folder: Path, names: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """The first CSV of ``names`` that exists, with every one of ``columns`` present and filled."""
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise DataError(
            f"{folder}: no label file ({' or '.join(names)}). Download it beside the images."
        )
    try:
        with warnings.catch_warnings():
            # Lines longer than the first would shift every column by one, or lose their ends.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(path, index_col=False)
    except (ValueError, OSError, OverflowError, pd.errors.ParserWarning) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error}). Download it again.") from error
    missing = [column for column in columns if column not in table]
    if missing:
        raise DataError(f"{path}: column {missing} is missing; found {list(table.columns)}.")
    empty = table[list(columns)].isna().any(axis=1)
    if empty.any():
        raise DataError(
            f"{path}: line {int(empty.idxmax()) + 2} has an empty {' or '.join(columns)}. "
            "Correct or remove it."
        )
    if table.empty:
        raise DataError(f"{path}: holds no image. Download it again.")
    return table


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
    ids: pd.Series,
    paths: dict[str, Path],
    size: int,
    channels: int,
    targets: np.ndarray,
    classes: tuple[str, ...],
    groups: np.ndarray,
    complete: bool,
    masks: Mapping[str, Sequence[Path]] | None = None,
    duplicates: bool = False,
) -> ImageSet:
    """Check labels against files, decode, remove duplicates, join near duplicates, count.

    Args:
        masks: image id -> files of its outlines, for sets whose findings were outlined.
        duplicates: keep exact copies, contradictory ones too, and count those that would go:
            what a paper did that looked for none. Copies share a group, so that a split by
            group still holds them together.
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
    images, hashes, cache = decoded(name, [paths[image] for image in ids], size, channels)
    return combine(
        name=name,
        ids=ids,
        images=images,
        hashes=hashes,
        cache=cache,
        targets=targets,
        classes=classes,
        groups=groups,
        complete=complete,
        masks=masks and MaskFiles([masks[image] for image in ids], size),
        duplicates=duplicates,
    )


def combine(
    *,
    name: str,
    ids: Sequence[str],
    images: np.ndarray,
    hashes: Sequence[str],
    cache: Path,
    targets: np.ndarray,
    classes: tuple[str, ...],
    groups: np.ndarray,
    complete: bool,
    masks: MaskFiles | None = None,
    parts: Sequence[str] | None = None,
    duplicates: bool = False,
) -> ImageSet:
    """Remove duplicates among decoded images, join near duplicates, count.

    Args:
        images: uint8 (N, size, size, C), the memory map in ``cache``.
        hashes: of the decoded pixels, see ``cache.decode``.
        targets: classes (N,), multi-hot (N, K), or label maps (N, size, size) as
            ``label_maps.settle`` takes them.
        parts: the publisher's part of each image, see ``ImageSet``.
        duplicates: see ``assemble``.
    """
    pairs = _near_duplicates(images, cache)
    joined = join_groups(groups, pairs)
    keep, census = drop_duplicates(hashes, targets)
    if duplicates:
        keep, census = np.arange(len(hashes)), {"duplicates_kept": len(hashes) - len(keep)}
    exact = sum(hashes[a] == hashes[b] for a, b in pairs.T)
    census |= {
        "images_listed": len(ids),
        "near_duplicate_pairs": pairs.shape[1] - exact,
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
        masks=masks and Rows(masks, keep),
        subjects=groups[keep],
        parts=parts,
    )
    data.census.update(images_per_class=data.class_counts())
    return data


def _near_duplicates(images: np.ndarray, cache: Path) -> np.ndarray:
    rule = f"near_duplicates-{THUMBNAIL}-{NEAR_DUPLICATE}.npy"  # another rule, another file
    return remembered(cache / rule, lambda: near_duplicates(images))
