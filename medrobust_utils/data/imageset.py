"""The one container that every reader and every phantom returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..core.errors import DataError


class Rows:
    """Some rows of a memory map, read when indexed: a large set is never copied into memory."""

    def __init__(self, base: np.ndarray, keep: np.ndarray) -> None:
        self.base, self.keep = base, keep
        self.dtype, self.ndim, self.shape = base.dtype, base.ndim, (len(keep), *base.shape[1:])

    def __len__(self) -> int:
        return len(self.keep)

    def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:
        return self.base[self.keep[index]]


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
        sizes = {"targets": len(self.targets), "groups": len(self.groups), "ids": len(self.ids)}
        for key in ("masks", "subjects", "parts"):
            if (value := getattr(self, key)) is not None:
                sizes[key] = len(value)
        wrong = {key: size for key, size in sizes.items() if size != n}
        if wrong:
            raise DataError(f"{self.name}: {n} images but {wrong}. Each image needs one entry.")
        if n == 0:
            raise DataError(
                f"{self.name}: no images. Check the folder, or the filter that was applied."
            )
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
