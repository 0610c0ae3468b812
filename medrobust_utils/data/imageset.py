"""The one container that every reader and every phantom returns, some rows of it, and unions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from ..core.errors import DataError
from ..core.storage import fingerprint


class Rows:
    """Some rows of an array (N, ...), read when indexed: a large set is never copied into memory.

    Args:
        base: an array, a memory map, or what is indexed like one.
        keep: row numbers of ``base`` (N',); None for all.
        change: is applied to the rows that are read, which are several.
        inner: shape of a row of uint8 that ``change`` makes, where it is another.
    """

    def __init__(
        self,
        base: np.ndarray | Rows,
        keep: np.ndarray | None = None,
        change: Callable[[np.ndarray], np.ndarray] | None = None,
        inner: tuple[int, ...] | None = None,
    ) -> None:
        self.base, self.change = base, change
        self.keep = np.arange(len(base)) if keep is None else keep
        self.dtype = base.dtype if inner is None else np.dtype(np.uint8)
        self.shape = (len(self.keep), *(base.shape[1:] if inner is None else inner))
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return len(self.keep)

    def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:
        rows = self.keep[index]
        if self.change is None:
            return self.base[rows]
        several = self.change(self.base[np.atleast_1d(rows)])
        return several[0] if np.ndim(rows) == 0 else several


def to_float(images: np.ndarray) -> torch.Tensor:
    """uint8, or float32 in [0, 1], (N, H, W, C) as float32 (N, C, H, W) in [0, 1]: a copy."""
    tensor = torch.from_numpy(np.array(images, order="C")).permute(0, 3, 1, 2)
    return tensor if tensor.is_floating_point() else tensor.float().div_(255)


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """Float (N, C, H, W) in [0, 1] as uint8 (N, H, W, C), rounded: what a PNG would keep."""
    return images.mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


@dataclass(frozen=True)
class ImageSet:
    """Decoded images with labels, groups and provenance.

    Attributes:
        name: short name, e.g. ``ham10000`` or ``phantom-chest``.
        images: uint8, (N, H, W, C), C 1 (gray) or 3 (RGB), or float32 in [0, 1] for perturbed
            images; may be a read-only memory map.
        targets: int64 (N,) class indices, uint8 (N, K) multi-hot for multi-label sets, or uint8
            (N, H, W) label maps for segmentation sets: the class of every pixel, and
            ``losses.IGNORED`` where nobody can say.
        classes: names of the K classes.
        groups: int64 (N,); images of one patient, one lesion or one near-duplicate cluster
            share a number and must stay on one side of a split.
        ids: the publisher's name of each image.
        synthetic: True for phantoms. Never shown as a result on real images.
        complete: True when every image of the publisher's set is present.
        checksum: identifies the images and labels, recorded with every result.
        census: counts to print: images per class, duplicates removed, and so on.
        masks: uint8 (N, H, W) or None; nonzero where the finding was drawn or outlined.
        subjects: int64 (N,) or None; the publisher's own patients or lesions, before near
            duplicates were joined into ``groups``.
        parts: the part of the publisher's own split each image came in, e.g. ``train``, or None.
    """

    name: str
    images: np.ndarray | Rows
    targets: np.ndarray
    classes: tuple[str, ...]
    groups: np.ndarray
    ids: tuple[str, ...]
    synthetic: bool
    complete: bool
    checksum: str
    census: dict = field(default_factory=dict)
    masks: np.ndarray | None = None  # or an array-like that is decoded when indexed
    subjects: np.ndarray | None = None
    parts: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        n = len(self.images)
        for key in ("targets", "groups", "ids", "masks", "subjects", "parts"):
            value = getattr(self, key)
            if value is not None and len(value) != n:
                raise DataError(f"{self.name}: {n} images need as many {key}, not {len(value)}.")
        if n == 0:
            raise DataError(f"{self.name}: no images. Check the folder, or what was filtered.")
        if self.images.dtype not in (np.uint8, np.float32) or self.images.ndim != 4:
            raise DataError(
                f"{self.name}: images must be uint8 or float32 (N, H, W, C), got "
                f"{self.images.dtype} {self.images.shape}."
            )
        maps = self.targets
        if maps.ndim == 3 and (maps.dtype != np.uint8 or maps.shape != self.images.shape[:3]):
            raise DataError(
                f"{self.name}: label maps must be uint8 {self.images.shape[:3]} like the images, "
                f"got {maps.dtype} {maps.shape}."
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def multi_label(self) -> bool:
        """True when an image can carry several findings at once."""
        return self.targets.ndim == 2

    @property
    def segmentation(self) -> bool:
        """True when every pixel has a label."""
        return self.targets.ndim == 3

    def shown(self, index: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Which classes each image shows: uint8 (N, K) of zeros and ones."""
        targets = self.targets if index is None else self.targets[index]
        if self.multi_label:
            return targets
        if self.segmentation:
            found = np.zeros((len(targets), len(self.classes)), np.uint8)
            for row, label_map in zip(found, targets, strict=True):
                row[:] = np.bincount(label_map.ravel(), minlength=256)[: len(row)] > 0
            return found
        return np.eye(len(self.classes), dtype=np.uint8)[targets]

    def class_counts(self, index: Sequence[int] | np.ndarray | None = None) -> dict[str, int]:
        """Images that show each class, in all or in the images of ``index``."""
        counts = self.shown(index).sum(0, dtype=np.int64)
        return {name: int(count) for name, count in zip(self.classes, counts, strict=True)}


def take(data: ImageSet, rows: np.ndarray, **changes: Any) -> ImageSet:
    """Some rows with all that belongs to them, images and masks where they lie, and ``changes``."""
    chosen = {
        "images": Rows(data.images, rows),
        "targets": data.targets[rows],
        "groups": data.groups[rows],
        "ids": tuple(data.ids[row] for row in rows),
        "masks": None if data.masks is None else Rows(data.masks, rows),
        "subjects": None if data.subjects is None else data.subjects[rows],
        "parts": None if data.parts is None else tuple(data.parts[row] for row in rows),
    }
    return replace(data, **chosen | changes)


BARE = {"masks": None, "subjects": None, "parts": None}  # of a set that stands alone


def rows_of(data: ImageSet, index: np.ndarray) -> ImageSet:
    """Some images of a set, copied, as a set of their own, in the order of ``index``."""
    checksum = fingerprint(data.checksum, np.asarray(index).tolist())
    return take(data, index, images=data.images[index], checksum=checksum, census={}, **BARE)


def with_images(data: ImageSet, index: np.ndarray, images: torch.Tensor, *how: str) -> ImageSet:
    """The rows ``index`` of ``data`` with other ``images`` (N, C, H, W), named after ``how``."""
    plain = rows_of(data, index)
    pixels = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
    return replace(plain, images=pixels, checksum=fingerprint(plain.checksum, *how))


def union(*sets: ImageSet) -> ImageSet:
    """Several sets of the same classes as one; an image keeps its group in all of them."""
    first = sets[0]
    return replace(
        first,
        images=np.concatenate([to_float(x.images[:]).permute(0, 2, 3, 1).numpy() for x in sets]),
        targets=np.concatenate([one.targets[:] for one in sets]),
        groups=np.concatenate([one.groups for one in sets]),
        ids=tuple(f"{place}/{name}" for place, one in enumerate(sets) for name in one.ids),
        checksum=fingerprint([one.checksum for one in sets]),
        census={},
        **BARE,
    )
