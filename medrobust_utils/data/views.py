"""Other questions to the same images: two classes, as many of each, every pixel, filtered, gray.

The contrast filter of paper 2 (section 3.2) flattens the lighting and lifts the edges:
``x' = 4 x - 4 blur(x) + 128`` on images stretched to [0, 255], with a Gaussian blur of
sigma 20. The paper blurs with OpenCV (sigma_y = 0 means sigma_y = sigma_x, and the kernel's size
follows from sigma); what leaves [0, 255] is clipped here, as 8-bit arithmetic in OpenCV does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..core.errors import ContractError, DataError
from .imageset import ImageSet, Rows, take, to_float, to_uint8
from .masks import LUMA, settle
from .splits import Split, check_split

SIGMA = 20.0  # pixels of a 224 pixel image; OpenCV's 8-bit kernel is then 121 pixels wide
REACH = 3.0  # standard deviations to each side, OpenCV's rule for 8-bit images


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
    hit = data.shown()[:, [data.classes.index(name) for name in positive]].any(1)
    if hit.all() or not hit.any():
        raise DataError(
            f"{data.name}: {int(hit.sum())} of {len(hit)} images are {names[1]}; both classes are "
            "needed. Choose another finding or bring more images."
        )
    return _view(data, *positive, targets=hit.astype(np.int64), classes=names)


def whole_images(data: ImageSet) -> ImageSet:
    """``data`` if its labels are of whole images, else DataError."""
    if data.segmentation:
        raise DataError(
            f"{data.name} has a class for every pixel; this paper classifies whole images. "
            "Notebook 04 takes label maps."
        )
    return data


def question(data: ImageSet, wanted: Sequence[str], role: str, *, two: bool) -> list[str]:
    """Which classes of one's own data are positive, or none where every class is one.

    Args:
        wanted: what the profile says, for the set of the paper or by an override.
        two: whether two classes are needed; the second of two is then the positive one.

    Raises:
        DataError: for label maps, or where nobody said what is positive.
    """
    whole_images(data)
    if set(wanted) <= set(data.classes) and (wanted or not (two or data.multi_label)):
        return list(wanted)
    if len(data.classes) == 2 and not data.multi_label:
        return [data.classes[1]] if two else []
    kinds = "findings" if data.multi_label else "classes"
    raise DataError(
        f"{data.name} has {len(data.classes)} {kinds}; say which are positive, e.g. "
        f"SET='positive.{role}=[{data.classes[-1]}]'. There are: {', '.join(data.classes)}."
    )


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
    if data.targets.ndim > 1 or size < 1:
        raise DataError(
            f"{data.name}: {size} images a class cannot be drawn from {counts}. Ask for at least "
            "one, of a set with one label an image; `binary` makes two classes of any."
        )
    order = np.random.default_rng(seed).permutation(len(data))
    drawn = [order[data.targets[order] == k][:size] for k in range(len(counts))]
    view = _view(data, "undersample", str(size), str(seed), rows=np.sort(np.concatenate(drawn)))
    view.census["left_out_per_class"] = {name: count - size for name, count in counts.items()}
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
    view = _view(data, "label maps", targets=targets, masks=None)
    view.census.pop("classes", None)
    view.census.update(pixels)
    return view


def enhanced(data: ImageSet) -> ImageSet:
    """``data`` as the network of paper 2 sees it: every image through the contrast filter."""
    filtered = Rows(data.images, change=enhanced_pixels)
    return replace(data, images=filtered, checksum=_checksum(data, "contrast"))


def blur(images: torch.Tensor, sigma: float = SIGMA) -> torch.Tensor:
    """Gaussian blur of float images (N, C, H, W), borders mirrored without repeating the edge.

    Two one-dimensional passes, since 121 x 121 taps a pixel would cost more than the network.
    Wide kernels are cut to what a mirrored border can supply (smaller than 61 pixels only).
    """
    radius = min(round(REACH * sigma), images.shape[-1] - 1, images.shape[-2] - 1)
    if radius < 1:
        raise ContractError(f"images of shape {tuple(images.shape)} are too small to blur.")
    taps = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = torch.softmax(-taps.square() / (2 * sigma**2), 0)
    n, c, h, w = images.shape
    flat = F.pad(images.reshape(n * c, 1, h, w), [radius] * 4, mode="reflect")
    flat = F.conv2d(F.conv2d(flat, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    return flat.view(n, c, h, w)


def enhance(images: torch.Tensor) -> torch.Tensor:
    """The whole filter on float32 images (N, C, H, W) in [0, 1]; the result lies in [0, 1].

    Each image is stretched over the range by its own least and greatest value. A constant image
    has nothing to stretch and comes out gray.
    """
    low = images.amin((1, 2, 3), keepdim=True)
    high = images.amax((1, 2, 3), keepdim=True)
    stretched = (images - low) / (high - low).clamp_min(1e-6)
    return (4 * stretched - 4 * blur(stretched) + 128 / 255).clamp(0, 1)


def enhanced_pixels(images: np.ndarray) -> np.ndarray:
    """uint8 images (N, H, W, C) through the contrast filter (``enhance``)."""
    return to_uint8(enhance(to_float(images)))


def gray(data: ImageSet) -> ImageSet:
    """RGB ``data`` with one channel, and a line in its census; gray data as they are."""
    if data.images.shape[3] == 1:
        return data
    return replace(
        data,
        images=Rows(data.images, change=_gray_pixels, inner=(*data.images.shape[1:3], 1)),
        checksum=_checksum(data, "gray"),
        census=data.census | {"channels": 1, "made_gray": len(data)},
    )


def _gray_pixels(images: np.ndarray) -> np.ndarray:
    return np.rint(images @ np.array(LUMA, np.float32)).astype(np.uint8)[..., None]


def copy_per_label(data: ImageSet, split: Split) -> tuple[ImageSet, Split]:
    """The paper-style view of a multi-label set: one copy of an image for each of its labels.

    ImageNet's folder layout (paper 1, section 2.2) has one class a file, so an image with three
    findings was most likely copied into three folders. Then no classifier can be right on all
    copies, and the majority class shrinks from 53.8 % to 42.6 % of the full ChestX-ray14.

    Args:
        data: multi-label set; every image has at least one label.

    Returns:
        The copied set (targets int64 (N',)) and the split carried over, so that no image
        lies on both sides.
    """
    if not data.multi_label:
        raise DataError(f"{data.name}: has one label an image already; nothing to copy.")
    source, targets = np.nonzero(data.targets)
    copies = take(
        data,
        source,
        targets=targets.astype(np.int64),
        ids=tuple(f"{data.ids[i]}#{data.classes[k]}" for i, k in zip(source, targets, strict=True)),
        checksum=hashlib.sha256((data.checksum + "one copy a label").encode()).hexdigest(),
        census=data.census | {"copies": len(source)},
    )
    carried = Split(*(np.flatnonzero(np.isin(source, side)) for side in split))
    check_split(copies, carried)
    return copies, carried


def _view(data: ImageSet, *what: str, rows: np.ndarray | None = None, **changes: Any) -> ImageSet:
    """``data`` with ``changes``, named after ``what`` was done, its images counted anew."""
    changes |= {"checksum": _checksum(data, *what), "census": dict(data.census)}
    view = replace(data, **changes) if rows is None else take(data, rows, **changes)
    view.census["images_per_class"] = view.class_counts()
    return view


def _checksum(data: ImageSet, *what: str) -> str:
    return hashlib.sha256("/".join((data.checksum, *what)).encode()).hexdigest()
