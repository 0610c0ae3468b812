"""Other questions to the same images: two classes, as many of each, every pixel, filtered."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..core.errors import DataError
from .contrast import enhance
from .convert import to_float, to_uint8
from .imageset import ImageSet, Rows
from .label_maps import settle


def binary(data: ImageSet, positive: Sequence[str], names: tuple[str, str]) -> ImageSet:
    """``data`` with two classes: whether an image has any of the ``positive`` classes.

    Args:
        positive: classes of ``data`` that make up class 1, e.g. ``["Moderate", "Severe"]``, or
            one finding of a multi-label set.
        names: what classes 0 and 1 are called.

    Raises:
        DataError: for label maps, or if a class is unknown or a side would be empty.
    """
    if data.segmentation:
        raise DataError(f"{data.name} has a label for every pixel; ask this of a set of images.")
    unknown = [name for name in positive if name not in data.classes]
    if unknown:
        raise DataError(f"{data.name} has no class {unknown}. Known: {', '.join(data.classes)}.")
    columns = [data.classes.index(name) for name in positive]
    multi = data.multi_label
    hit = data.targets[:, columns].any(1) if multi else np.isin(data.targets, columns)
    if hit.all() or not hit.any():
        raise DataError(
            f"{data.name}: {int(hit.sum())} of {len(hit)} images are {names[1]}; both classes are "
            "needed. Choose another finding or bring more images."
        )
    view = replace(
        data,
        targets=hit.astype(np.int64),
        classes=names,
        checksum=_checksum(data, *positive),
        census=dict(data.census),
    )
    view.census["images_per_class"] = view.class_counts()
    return view


def undersample(data: ImageSet, per_class: int, *, seed: int) -> ImageSet:
    """``data`` with equally large classes: some images of each, drawn by ``seed``, in their order.

    Groups stay as they were: two images that a left-out near duplicate linked remain together.
    A larger ``per_class`` with the same seed only adds images.

    Args:
        per_class: images of each class; as many as the smallest class has, where that is fewer.

    Raises:
        DataError: for a multi-label or segmentation set, or if a class would be empty.
    """
    counts = data.class_counts()
    size = min(per_class, *counts.values())
    several = data.multi_label or data.segmentation
    if several or size < 1:
        raise DataError(
            f"{data.name}: {size} images a class cannot be drawn from {counts}"
            f"{' (several labels an image)' if several else ''}. "
            "Ask for at least one, and make two classes with `binary` first."
        )
    order = np.random.default_rng(seed).permutation(len(data))
    drawn = [order[data.targets[order] == k][:size] for k in range(len(counts))]
    rows = np.sort(np.concatenate(drawn))
    view = replace(
        data,
        images=Rows(data.images, rows),
        targets=data.targets[rows],
        groups=data.groups[rows],
        ids=tuple(data.ids[row] for row in rows),
        checksum=_checksum(data, "undersample", str(size), str(seed)),
        census=dict(data.census),
        masks=None if data.masks is None else Rows(data.masks, rows),
        subjects=None if data.subjects is None else data.subjects[rows],
        parts=None if data.parts is None else tuple(data.parts[row] for row in rows),
    )
    left_out = {name: count - size for name, count in counts.items()}
    view.census.update(left_out_per_class=left_out, images_per_class=view.class_counts())
    return view


def label_maps(data: ImageSet) -> ImageSet:
    """``data`` with its masks as targets: the class of every pixel in place of one an image.

    Raises:
        DataError: if the masks do not hold the numbers of the set's classes, of which the first is
            the background, or a class has no pixel.
    """
    if data.masks is None or data.classes[0] != "background":
        raise DataError(
            f"{data.name} has no masks that tell a class from the background. Use "
            "phantom-histology or a set with label maps, such as consep."
        )
    maps = np.array(data.masks[:])
    if maps.max() >= len(data.classes):
        raise DataError(
            f"{data.name}: a mask holds {maps.max()}, but the classes are numbered 0 to "
            f"{len(data.classes) - 1}. Correct the masks."
        )
    targets, pixels = settle(data.name, maps, data.classes)
    census = {key: value for key, value in data.census.items() if key != "classes"} | pixels
    checksum = _checksum(data, "label maps")
    view = replace(data, targets=targets, masks=None, checksum=checksum, census=census)
    view.census["images_per_class"] = view.class_counts()
    return view


class Enhanced:
    """Images seen through the contrast filter (``contrast.enhance``), computed when indexed."""

    def __init__(self, base: np.ndarray | Rows) -> None:
        self.base, self.dtype, self.ndim, self.shape = base, base.dtype, base.ndim, base.shape

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:
        if isinstance(index, int | np.integer):
            return self[np.array([index])][0]
        return to_uint8(enhance(to_float(self.base[index])))


def enhanced(data: ImageSet) -> ImageSet:
    """``data`` as the network of paper 2 sees it: every image through the contrast filter."""
    return replace(data, images=Enhanced(data.images), checksum=_checksum(data, "contrast"))


def _checksum(data: ImageSet, *what: str) -> str:
    return hashlib.sha256("/".join((data.checksum, *what)).encode()).hexdigest()
