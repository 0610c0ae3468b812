"""Frontal chest radiographs with up to three of the fourteen NIH findings."""

from __future__ import annotations

import numpy as np

from ..readers import NIH as CLASSES
from .chest_anatomy import anatomy, expose
from .chest_findings import DRAW

FINDINGS = CLASSES[:-1]  # the last is none
# About the square root of the counts in ChestX-ray14: the order of frequency stays, but even
# the rare findings occur in a few hundred phantoms.
FREQUENCY = np.array([3.4, 1.7, 3.6, 4.5, 2.4, 2.5, 1.2, 2.3, 2.2, 1.5, 1.6, 1.3, 1.8, 1.0])


def draw_chest(rng: np.random.Generator, size: int, lot: float) -> tuple:
    """Draw one radiograph.

    Args:
        rng: source of the picture.
        size: pixels along a side.
        lot: 0 to 1; below one half the lungs are clear, above it picks the first finding.

    Returns:
        Image float32 (size, size), targets uint8 (15,), mask float32 (size, size), 0 to 1.
    """
    present = _choose(rng, lot)
    targets = np.zeros(len(CLASSES), np.uint8)
    targets[present if present else [len(FINDINGS)]] = 1
    scene = anatomy(rng, size, [FINDINGS[k] for k in present])
    for k in present:
        DRAW[FINDINGS[k]](scene, rng)
    return expose(scene, rng), targets, scene.mask


def _choose(rng: np.random.Generator, lot: float) -> list[int]:
    extra, more = rng.choice(3, p=[0.62, 0.28, 0.10]), rng.random(2)
    if lot < 0.5:
        return []
    share = np.cumsum(FREQUENCY) / FREQUENCY.sum()
    picks = [(lot - 0.5) * 2, *more[:extra]]
    return sorted({min(int(np.searchsorted(share, p, "right")), len(share) - 1) for p in picks})
