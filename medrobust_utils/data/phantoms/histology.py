"""Haematoxylin and eosin sections with five kinds of nuclei, labelled pixel by pixel."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas, ramp

CLASSES = ("background", "neoplastic", "inflammatory", "connective", "epithelial", "other")
SHARES = (0.30, 0.20, 0.18, 0.20, 0.12)  # of the kinds 1 to 5 as the commonest of an image

# Absorption in red, green, blue of the blue-violet nuclear stain and of the pink counterstain.
HAEMATOXYLIN = np.array([1.30, 1.45, 0.62], np.float32)
EOSIN = np.array([0.10, 0.85, 0.42], np.float32)

# Radii (mean, spread in log), long to short axis (mean, spread in log), stain depth, rim (dark
# membrane around pale chromatin), waviness of the outline.
KINDS = {
    1: (0.115, 0.20, 0.18, 0.15, 0.62, 0.35, 0.07),
    2: (0.060, 0.14, 0.06, 0.06, 0.98, 0.0, 0.02),
    3: (0.066, 0.18, 0.80, 0.25, 0.78, 0.0, 0.04),
    4: (0.088, 0.13, 0.22, 0.12, 0.66, 0.2, 0.03),
    5: (0.062, 0.30, 0.15, 0.15, 0.95, 0.0, 0.16),
}


def draw_histology(rng: np.random.Generator, size: int, lot: float) -> tuple:
    """Draw one field of view.

    Returns:
        Image float32 (size, size, 3), kind 1 to 5 that covers most pixels, label map uint8
        (size, size) with the class of every pixel.
    """
    main = 1 + min(int(np.searchsorted(np.cumsum(SHARES), lot, "right")), 4)
    c = Canvas(rng, size, turn=3.0)
    grain = rng.uniform(0, np.pi)  # direction of the fibres
    nuclei = _arrange(rng, main, grain)
    stain, labels, halo = _nuclei(c, rng, nuclei)
    pink = _stroma(c, rng, main, grain) * (1 - 0.5 * halo)
    blue = 0.05 + 0.03 * c.cloud(rng, 9) + stain * (1 + 0.16 * c.cloud(rng, 40))
    # Stain and scanner differ between laboratories.
    depth = np.exp(rng.normal(0, 0.12, 2))
    absorbed = (depth[0] * blue)[..., None] * HAEMATOXYLIN + (depth[1] * pink)[..., None] * EOSIN
    tint = np.exp(rng.normal(0, 0.03, 3)).astype(np.float32)
    image = 0.97 * tint * np.exp(-np.maximum(absorbed, 0)) + np.float32(0.015) * c.grain(3)
    counts = np.bincount(labels.ravel(), minlength=6)[1:]
    return image, int(counts.argmax()) + 1, labels


def _arrange(rng: np.random.Generator, main: int, grain: float) -> list[tuple]:
    """Kind, place and direction of every nucleus: a loose lattice with a few strangers."""
    step = {1: 0.36, 2: 0.24, 3: 0.30, 4: 0.31, 5: 0.28}[main] * rng.uniform(0.92, 1.15)
    ticks = np.arange(-1 - step / 2, 1 + step, step)
    lattice = np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 2)
    places = lattice + rng.normal(0, 0.22 * step, lattice.shape)
    keep = rng.random(len(places)) < rng.uniform(0.62, 0.92)
    centre, ring = rng.uniform(-0.4, 0.4, 2), rng.uniform(0.30, 0.5)
    weights = np.array([0.16, 0.22, 0.26, 0.16, 0.20])
    nuclei = []
    for place in places[keep]:
        stranger = rng.random() < 0.25
        kind = int(rng.choice(5, p=weights)) + 1 if stranger else main
        turn = grain + rng.normal(0, 0.25) if kind == 3 else rng.uniform(0, np.pi)
        away = place - centre
        far = np.hypot(*away)
        if main == 4 and not stranger and far < ring + 0.15:  # cells of a gland face its lumen
            place, turn = centre + away / far * max(far, ring), np.arctan2(away[1], away[0])
        nuclei.append((kind, place, turn))
    return nuclei


def _nuclei(c: Canvas, rng: np.random.Generator, nuclei: list) -> tuple:
    """Stain depth, label map (uint8) and pale halo, each (size, size)."""
    stain, halo = np.zeros_like(c.x), np.zeros_like(c.x)
    labels = np.zeros(c.x.shape, np.uint8)
    chromatin = c.cloud(rng, 34)
    kinds = np.array([KINDS[kind] for kind, _, _ in nuclei])
    chance = rng.normal(0, 1, (len(nuclei), 4))
    radius = kinds[:, 0] * np.exp(kinds[:, 1] * chance[:, 0])
    stretch = np.exp(kinds[:, 2] + kinds[:, 3] * chance[:, 1])
    depth = kinds[:, 4] * np.exp(0.15 * chance[:, 2])
    phase = rng.uniform(0, 2 * np.pi, (len(nuclei), 2))
    for k, (kind, place, turn) in enumerate(nuclei):
        rx, ry = radius[k] * stretch[k] ** 0.5, radius[k] / stretch[k] ** 0.5
        window = c.window(place, 1.3 * max(rx, ry) + 0.05)
        r = c.radius(*place, rx, ry, turn, window=window)
        wave = kinds[k, 6] * (
            np.sin(14 * c.x[window] + phase[k, 0]) + np.sin(14 * c.y[window] + phase[k, 1])
        )
        r = r + wave
        body = ramp((1 - r) * ry, max(0.02, c.pixel))
        level = depth[k] * (1 - kinds[k, 5] * ramp(0.75 - r, 0.4))
        if kind in (1, 4):  # clumped chromatin, and a nucleolus in the larger nuclei
            level = level + 0.14 * chromatin[window] + (kind == 1) * 0.4 * ramp(0.28 - r, 0.1)
        stain[window] += body * (np.maximum(level, 0.1) - stain[window])
        labels[window][body > 0.5] = kind
        if kind == 5:
            np.maximum(halo[window], ramp(1.7 - r, 0.4), out=halo[window])
    return stain, labels, halo


def _stroma(c: Canvas, rng: np.random.Generator, main: int, grain: float) -> np.ndarray:
    """Eosin: cytoplasm or fibres, with white gaps (fat, lumen, cracks)."""
    along = np.cos(grain) * c.x + np.sin(grain) * c.y
    across = np.cos(grain) * c.y - np.sin(grain) * c.x
    fibres = np.sin(44 * (across + 0.05 * c.cloud(rng, 6)) + 2 * np.sin(3 * along))
    fibres = fibres * np.clip(0.6 + 0.5 * c.cloud(rng, 7), 0, 1.5)
    pink = rng.uniform(0.30, 0.55) + 0.06 * c.cloud(rng, 12)
    pink = pink + (0.10 if main == 3 else 0.04) * fibres
    gaps = ramp(c.cloud(rng, 6) - rng.uniform(1.2, 2.2), 0.4)
    return pink * (1 - 0.85 * gaps)
