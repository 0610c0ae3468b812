"""The kit's embedded data: drawn images that look like each paper's modality.

Phantoms carry the labels of the real data sets, so that every notebook runs without a download
and every room of the kit can be tested. They are drawings. A number measured on them says
nothing about patients, and the kit labels it "phantom" wherever it is shown.

    from medrobust_utils.data.phantoms import phantom_set
    images = phantom_set("chest", 400, size=64)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from ...core import env
from ...core.errors import DataError
from ..imageset import ImageSet
from . import chest, fundus, histology, kandinsky, radiology, skin

GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Modality:
    """What can be drawn under one name.

    Attributes:
        number: enters the random seed; never reuse or renumber, or the pictures change.
        classes: names of the classes, in the order of the targets.
        multi_label: True when several classes can hold at once.
        channels: 1 (gray) or 3 (RGB).
        painter: ``(rng, size, lot) -> (image, target, mask)``; see the modules beside this one.
    """

    number: int
    classes: tuple[str, ...]
    multi_label: bool
    channels: int
    painter: Callable


@dataclass(frozen=True)
class Phantom:
    """One drawn image.

    Attributes:
        image: uint8 (H, W, C).
        target: class index, or uint8 (K,) multi-hot.
        mask: uint8 (H, W), nonzero where a finding was drawn; class numbers for label maps.
    """

    image: np.ndarray
    target: int | np.ndarray
    mask: np.ndarray


MODALITIES = MappingProxyType(
    {
        "chest": Modality(1, chest.CLASSES, True, 1, chest.draw_chest),
        "dermatoscopy7": Modality(2, skin.HAM10000, False, 3, skin.draw_ham),
        "dermatoscopy10": Modality(3, skin.ISIC10, False, 3, skin.draw_isic),
        "fundus": Modality(4, fundus.CLASSES, False, 3, fundus.draw_fundus),
        "mri": Modality(5, radiology.MRI_CLASSES, False, 1, radiology.draw_mri),
        "ct": Modality(6, radiology.CT_CLASSES, False, 1, radiology.draw_ct),
        "ultrasound": Modality(7, radiology.US_CLASSES, False, 1, radiology.draw_ultrasound),
        "histology": Modality(8, histology.CLASSES, False, 3, histology.draw_histology),
        "kandinsky": Modality(9, kandinsky.CLASSES, False, 3, kandinsky.draw_kandinsky),
    }
)


def draw(modality: str, index: int, *, seed: int = 0, size: int = 64) -> Phantom:
    """Draw phantom ``index`` of a modality.

    The picture depends on the modality, the seed and the index only. Another size gives the
    same picture at another resolution, with other pixel noise.

    Args:
        modality: a name in :data:`MODALITIES`.
        index: number of the image, from 0.
        seed: another seed gives another series of patients.
        size: pixels along a side, at least 32.

    Raises:
        DataError: for an unknown modality, a negative index or seed, or a size below 32.
    """
    kind = _checked(modality, size)
    if index < 0 or seed < 0:
        raise DataError(f"index {index} and seed {seed} must not be negative. Count from 0.")
    rng = np.random.default_rng(np.random.SeedSequence([seed, index, kind.number]))
    # Steps of the golden ratio visit all classes evenly, in any stretch of indices, whereas
    # independent draws could leave a rare class out of a small set.
    start = np.random.SeedSequence([seed, kind.number]).generate_state(1)[0] / 2**32
    image, target, mask = kind.painter(rng, size, float((start + index * GOLDEN) % 1))
    pixels = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8).reshape(size, size, -1)
    if mask.dtype != np.uint8:
        mask = (mask > 0.3).astype(np.uint8)
    return Phantom(pixels, target, mask)


def phantom_set(modality: str, n: int, *, size: int = 64, seed: int = 0) -> ImageSet:
    """Draw phantoms 0 to n - 1 of a modality as a data set.

    Args:
        modality: a name in :data:`MODALITIES`.
        n: number of images, at least 1. The first ones of a larger set are the same images.
        size: pixels along a side, at least 32.
        seed: another seed gives another series of patients.

    Returns:
        An :class:`ImageSet` marked ``synthetic``. Each phantom is a patient of its own.

    Raises:
        DataError: for an unknown modality, ``n`` below 1 or ``size`` below 32.
    """
    kind = _checked(modality, size)
    if n < 1:
        raise DataError(f"Cannot draw {n} phantoms. Ask for at least 1.")
    images = np.empty((n, size, size, kind.channels), np.uint8)
    masks = np.empty((n, size, size), np.uint8)
    targets = (
        np.zeros((n, len(kind.classes)), np.uint8) if kind.multi_label else np.zeros(n, np.int64)
    )
    for i in env.progress(range(n), desc=f"drawing {modality}", leave=False):
        phantom = draw(modality, i, seed=seed, size=size)
        images[i], targets[i], masks[i] = phantom.image, phantom.target, phantom.mask
    digest = hashlib.sha256()
    for part in (images, targets, masks):
        digest.update(part)
    name = f"phantom-{modality}"
    drawn = ImageSet(
        name,
        images,
        targets,
        kind.classes,
        np.arange(n),
        tuple(f"{name}-{i:06d}" for i in range(n)),
        synthetic=True,
        complete=True,
        checksum=digest.hexdigest(),
        masks=masks,
    )
    drawn.census.update(images=n, size=size, seed=seed, classes=drawn.class_counts())
    return drawn


def _checked(modality: str, size: int) -> Modality:
    if modality not in MODALITIES:
        raise DataError(f"No phantom called {modality!r}. Choose from: {', '.join(MODALITIES)}.")
    if size < 32:
        raise DataError(f"Phantoms of {size} pixels lose their findings. Ask for size 32 or more.")
    return MODALITIES[modality]
