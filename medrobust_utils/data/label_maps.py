"""Label maps: the class of every pixel, read from PNG files, held against their images, counted.

In a set, ``losses.IGNORED`` marks the pixels whose class nobody can say. Readers tell two reasons
apart until the pixels are counted: several labels at once, or none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..core import env
from ..core.errors import DataError
from ..core.losses import IGNORED
from .decoding import listing_key, open_image, remembered

OVERLAPPING = 254  # in readers only; ``settle`` makes it IGNORED, as what has no label is at once


def read_label_maps(
    folder: Path,
    images: Mapping[str, Path],
    labels: Mapping[str, Path],
    meaning: Mapping[int, int],
    size: int,
) -> np.ndarray:
    """The label map of every image, uint8 (N, size, size), in the order of ``images``.

    Args:
        folder: where the decoded images lie; the maps are kept there, under a name that changes
            with their files and with ``meaning``.
        images: image id -> file.
        labels: image id -> PNG of one channel (gray or palette), as large as its image.
        meaning: label value -> class number, or ``IGNORED``.

    Raises:
        DataError: if an image has no label map or the reverse, or a map is unreadable, has colours,
            is not as large as its image, or holds a value without meaning.
    """
    for here, there, what in ((images, labels, "label map"), (labels, images, "image")):
        alone = [key for key in here if key not in there]
        if alone:
            raise DataError(
                f"{here[alone[0]]}: its {what} is missing, as are {len(alone) - 1} others. "
                "Unpack the set again, or move what has no partner elsewhere."
            )
    pairs = [(labels[key], path) for key, path in images.items()]
    key = listing_key([label for label, _ in pairs], size, sorted(meaning.items()))

    def compute() -> np.ndarray:
        maps = np.empty((len(pairs), size, size), np.uint8)
        for row, (label, image) in enumerate(env.progress(pairs, desc="label maps", leave=False)):
            maps[row] = nearest(_classes(label, image, meaning), size)
        return maps

    return remembered(folder / f"labels-{key}.npy", compute)


def nearest(label_map: np.ndarray, size: int) -> np.ndarray:
    """A label map (H, W) as (size, size) by the nearest pixel, so that a label stays a label.

    Like the images (see ``cache.decode``) without keeping the aspect ratio.
    """
    resized = Image.fromarray(label_map).resize((size, size), Image.Resampling.NEAREST)
    return np.asarray(resized)


def _classes(label: Path, image: Path, meaning: Mapping[int, int]) -> np.ndarray:
    """The class of every pixel of one label file, uint8 (H, W)."""
    file = open_image(label, None)
    if file.mode not in ("L", "P"):
        raise DataError(
            f"{label}: is of mode {file.mode}, but a label map has one channel of 8 bits, gray (L) "
            "or palette (P). Save the numbers of the classes, not their colours."
        )
    with Image.open(image) as picture:  # reads the header only
        if picture.size != file.size:
            raise DataError(
                f"{label}: {file.width} x {file.height} pixels, but its image {image.name} has "
                f"{picture.width} x {picture.height}. Export the labels at the image's size."
            )
    values = np.asarray(file)
    unknown = sorted(set(np.unique(values).tolist()) - meaning.keys())
    if unknown:
        raise DataError(
            f"{label}: holds the label values {unknown}; known are {sorted(meaning)}. Correct the "
            "file, or read it with the mapping it was made for."
        )
    table = np.zeros(256, np.uint8)
    table[list(meaning)] = list(meaning.values())
    return table[values]


def settle(name: str, maps: np.ndarray, classes: Sequence[str]) -> tuple[np.ndarray, dict]:
    """Readers' maps (N, H, W) as targets, and what to count of their pixels.

    Args:
        maps: uint8 class numbers, ``OVERLAPPING`` or ``IGNORED``; changed in place.

    Raises:
        DataError: if a class has no pixel in any map.
    """
    counts = pixel_counts(maps)
    missing = [label for label, count in zip(classes, counts, strict=False) if not count]
    if missing:
        raise DataError(
            f"{name}: no pixel of class {', '.join(missing)} in {len(maps)} images. A class "
            "without a pixel can be neither learnt nor scored: bring more images."
        )
    for label_map in maps if counts[OVERLAPPING] else ():
        label_map[label_map == OVERLAPPING] = IGNORED
    return maps, {
        "pixels_overlapping": int(counts[OVERLAPPING]),
        "pixels_unlabelled": int(counts[IGNORED]),
        "pixel_shares": pixel_shares(maps, classes),
    }


def pixel_shares(targets: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """Class -> its share of the labelled pixels of ``targets`` (N, H, W)."""
    counts = pixel_counts(targets)[: len(classes)]
    return dict(zip(classes, (counts / max(counts.sum(), 1)).tolist(), strict=True))


def pixel_counts(maps: np.ndarray) -> np.ndarray:
    """How often each of the 256 values occurs; map by map, since bincount needs eight-fold."""
    return sum((np.bincount(m.ravel(), minlength=256) for m in maps), np.zeros(256, np.int64))
