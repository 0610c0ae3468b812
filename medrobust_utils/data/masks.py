"""What is drawn over an image: outlines (inside or outside) and label maps (a class a pixel).

Both are held against their image's size as it is shown. In a set, ``losses.IGNORED`` marks the
pixels of a label map whose class is unknown. Readers tell two reasons apart until the pixels are
counted: several labels at once, or none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..core import env
from ..core.errors import DataError
from ..core.losses import IGNORED
from .decoding import listing_key, open_image, remembered
from .imageset import Rows
from .pictures import DEEP, sizes

OVERLAPPING = 254  # in readers only; ``settle`` makes it IGNORED, as what has no label is at once
EDGES = 0.2  # share of an outline's pixels that may be neither black nor white: smoothed edges
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R 601, as in Pillow's mode L


def outline(path: Path, image: Path) -> np.ndarray:
    """The pixels inside an outline, bool (H, W) of the file.

    Two colours are told apart, whatever they are (0 and 1, black and red, a palette, a shape in
    the alpha channel): the more opaque is inside, else the brighter one. Where edges are smoothed
    or compressed, white is inside. One colour is an empty outline if it is black or transparent.

    Args:
        image: the picture that was outlined, whose shape the outline must have.

    Raises:
        DataError: naming the file, if it is damaged, of another shape, or holds several values.
    """
    file = _drawn(path, image, exact=False)
    if file.mode[0] in "IF":  # 16 bits and more
        gray = values = np.asarray(file, np.float64)
    else:
        pixels = np.asarray(file.convert("RGBA"), np.float64)
        light, alpha = pixels[..., :3] @ LUMA, pixels[..., 3]
        values = np.where(alpha > 0, 1 + light + 1000 * alpha, 0)
        seen = light[alpha > 0]
        shape_in_alpha = alpha.min() < alpha.max() and seen.min() == seen.max()
        gray = alpha if shape_in_alpha else light * alpha / 255
    found, top = np.unique(values), gray.max() or 1
    if len(found) == 1:
        return gray > 0
    if len(found) == 2:
        return values == found[1]
    between = ((gray > top / 8) & (gray < top * 7 / 8)).mean()
    if len(found) > 8 and between <= EDGES and gray.min() <= top / 8:
        return gray * 2 > top
    some = ", ".join(f"{value:g}" for value in np.unique(np.round(gray))[:6])
    raise DataError(
        f"{path}: holds {len(found)} values ({some}, ...), and an outline has two, such as 0 and "
        "255. Save it in black and white; a class for every pixel goes into a label map."
    )


def mask_files(paths: Sequence[Sequence[Path]], images: Sequence[Path], size: int) -> Rows:
    """Outlines kept in files, decoded when indexed: uint8 (N, size, size), 1 inside, 0 outside.

    Only the few images that are explained need theirs, so none is decoded with the images and
    none is part of what identifies the data set. An image with several findings may have a
    file for each; its mask is their union, by ``nearest``. An indexed file that is no outline
    raises DataError, see ``outline``.
    """

    def read(rows: np.ndarray) -> np.ndarray:
        masks = np.zeros((len(rows), size, size), np.uint8)
        for mask, row in zip(masks, rows, strict=True):
            for path in paths[row]:
                mask |= nearest(outline(path, images[row]).astype(np.uint8), size)
        return masks

    return Rows(np.arange(len(paths)), change=read, inner=(size, size))


def read_label_maps(
    folder: Path,
    images: Sequence[Path],
    labels: Sequence[Path],
    meaning: Mapping[int, int],
    size: int,
) -> np.ndarray:
    """The label map of every image, uint8 (N, size, size), in the order of ``images``.

    Args:
        folder: where the decoded images lie; the maps are kept there, under a name that changes
            with their files and with ``meaning``.
        labels: PNGs of one channel (gray or palette), each as large as its image.
        meaning: label value -> class number, or ``IGNORED``.

    Raises:
        DataError: if a map is unreadable, has colours, is not as large as its image, or holds a
            value without meaning.
    """

    key = listing_key(labels, size, sorted(meaning.items()))
    pairs = zip(labels, images, strict=True)
    maps = (_classes(label, image, meaning) for label, image in pairs)
    return kept_maps(folder / f"labels-{key}.npy", maps, len(labels), size)


def kept_maps(path: Path, maps: Iterable[np.ndarray], count: int, size: int) -> np.ndarray:
    """``count`` label maps (H, W) as uint8 (N, size, size), made once and kept in ``path``."""

    def compute() -> np.ndarray:
        small = np.empty((count, size, size), np.uint8)
        for row, one in enumerate(env.progress(maps, total=count, desc="label maps", leave=False)):
            small[row] = nearest(one, size)
        return small

    return remembered(path, compute)


def nearest(label_map: np.ndarray, size: int) -> np.ndarray:
    """A label map (H, W) as (size, size) by the nearest pixel, so that a label stays a label.

    Like the images (see ``decoding.decode``) without keeping the aspect ratio.
    """
    resized = Image.fromarray(label_map).resize((size, size), Image.Resampling.NEAREST)
    return np.asarray(resized)


def _classes(label: Path, image: Path, meaning: Mapping[int, int]) -> np.ndarray:
    """The class of every pixel of one label file, uint8 (H, W)."""
    file = _drawn(label, image, exact=True)
    if file.mode not in ("1", "L", "P", *DEEP):
        raise DataError(
            f"{label}: is of mode {file.mode}, but a label map has one channel, gray (L) or "
            "palette (P). Save the numbers of the classes, not their colours."
        )
    values = np.asarray(file).astype(np.int64)
    unknown = sorted(set(np.unique(values).tolist()) - meaning.keys())
    if unknown:
        raise DataError(
            f"{label}: holds the label values {unknown}; known are {sorted(meaning)}. Correct the "
            "file, or read it with the mapping it was made for."
        )
    table = np.zeros(256, np.uint8)
    table[list(meaning)] = list(meaning.values())
    return table[values]


def _drawn(path: Path, image: Path, *, exact: bool) -> Image.Image:
    """What is drawn over ``image``, of the shown image's size or, not ``exact``, its shape."""
    file, ((width, height), raw) = open_image(path, None), sizes(image)
    w, h = file.size
    other = max(abs(w * height / width - h), abs(h * width / height - w))
    if file.size != (width, height) and (exact or other >= 1):
        turned = "It fits the picture before its EXIF orientation turns it upright: turn it, too."
        raise DataError(
            f"{path}: {w} x {h} pixels, but its image {image.name} has {width} x {height}. "
            f"{turned if file.size == raw else 'Export it at the size of the image.'}"
        )
    return file


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
        unknown = (
            f" {counts[IGNORED]} pixels are {IGNORED}, which says that their class is unknown."
        )
        raise DataError(
            f"{name}: no pixel of class {', '.join(missing)} in {len(maps)} images. A class "
            "without a pixel can be neither learnt nor scored: bring more images, or write the "
            f"numbers of the classes, from 0.{unknown if counts[IGNORED] else ''}"
        )
    for label_map in maps if counts[OVERLAPPING] else ():
        label_map[label_map == OVERLAPPING] = IGNORED
    labelled = counts[: len(classes)]
    return maps, {
        "pixels_overlapping": int(counts[OVERLAPPING]),
        "pixels_unlabelled": int(counts[IGNORED]),
        "pixel_shares": dict(zip(classes, (labelled / labelled.sum()).tolist(), strict=True)),
    }


def pixel_counts(maps: np.ndarray) -> np.ndarray:
    """How often each of the 256 values occurs; map by map, since bincount needs eight-fold."""
    return sum((np.bincount(m.ravel(), minlength=256) for m in maps), np.zeros(256, np.int64))
