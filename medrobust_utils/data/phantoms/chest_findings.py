"""How each of the fourteen NIH findings changes a chest.

Every function here adds density to a :class:`~.chest_anatomy.Scene`, or takes some away, and
outlines what it did in the mask.
"""

from __future__ import annotations

import numpy as np

from .canvas import ramp, smooth_line
from .chest_anatomy import Scene, heart_shadow


def _place(
    s: Scene,
    rng: np.random.Generator,
    low: float = -0.5,
    high: float = 0.4,
    inner: float = 0.30,
    outer: float = 0.58,
) -> tuple[float, float]:
    """A point inside a lung; the lungs narrow towards the apex."""
    y, side = rng.uniform(low, high), rng.choice([-1, 1])
    border = s.shape["width"] * np.sqrt(1 - ((0.75 - y) / 1.62) ** 2)
    return side * min(rng.uniform(inner, outer), border - 0.10), y


def _patches(
    s: Scene,
    rng: np.random.Generator,
    centre: tuple[float, float],
    count: int,
    spread: float,
    size: float,
) -> np.ndarray:
    haze = np.zeros_like(s.lung)
    for dx, dy in rng.normal(0, spread, (count, 2)):
        radii = size * rng.uniform(0.7, 1.3, 2)
        haze += s.canvas.ellipse(centre[0] + dx, centre[1] + dy, *radii, soft=1.2 * size)
    return np.clip(haze, 0, 1.2) * s.lung


def _atelectasis(s: Scene, rng: np.random.Generator) -> None:
    """Plate-like bands above the diaphragm, with some loss of volume."""
    side, y, lines = rng.choice([-1, 1]), rng.uniform(0.12, 0.36), []
    for k in range(rng.integers(2, 4)):
        tilt, lift = rng.normal(0.0, 0.10), y - 0.11 * k
        lines.append(
            (
                [
                    (side * 0.24, lift + tilt),
                    (side * 0.45, lift - 0.02),
                    (side * 0.68, lift - tilt),
                ],
                rng.uniform(0.035, 0.06),
                1.0,
            )
        )
    s.add(s.canvas.strokes(lines, blur=0.010) * s.lung, rng.uniform(0.24, 0.36))
    base = ramp(s.canvas.y - (y + 0.06), 0.2) * s.lung * (s.canvas.x * side > 0)
    s.add(base, 0.13)


def _cardiomegaly(s: Scene, rng: np.random.Generator) -> None:
    """The heart is widened in the anatomy already; here it is only outlined."""
    s.add(heart_shadow(s), 0.02)


def _effusion(s: Scene, rng: np.random.Generator) -> None:
    """Fluid fills a lower angle, with a meniscus that climbs the chest wall."""
    side = rng.choice([-1, 1])
    top = rng.uniform(0.10, 0.52)
    aside = s.canvas.x * side
    fluid = ramp(s.canvas.y - (top - 1.3 * np.maximum(aside - 0.26, 0) ** 2), 0.05)
    s.add(fluid * s.lung * (aside > 0), rng.uniform(0.30, 0.40))


def _infiltration(s: Scene, rng: np.random.Generator) -> None:
    """Several ill-defined, faint patches."""
    haze = _patches(s, rng, _place(s, rng, -0.3, 0.35), rng.integers(4, 8), 0.15, 0.14)
    s.add(haze, rng.uniform(0.13, 0.22))


def _mass(s: Scene, rng: np.random.Generator) -> None:
    x, y = _place(s, rng)
    radius = rng.uniform(0.13, 0.20)
    disc = s.canvas.ellipse(x, y, radius, radius * rng.uniform(0.8, 1.1), rng.uniform(0, 3), 0.05)
    s.add(disc * np.maximum(s.lung, 0.3), rng.uniform(0.26, 0.36))


def _nodule(s: Scene, rng: np.random.Generator) -> None:
    disc = np.zeros_like(s.lung)
    for _ in range(rng.integers(1, 4)):
        radius = rng.uniform(0.05, 0.075)
        disc = np.maximum(disc, s.canvas.ellipse(*_place(s, rng), radius, radius, soft=0.03))
    s.add(disc * np.maximum(s.lung, 0.3), rng.uniform(0.28, 0.40))


def _pneumonia(s: Scene, rng: np.random.Generator) -> None:
    """One segment clouded, with dark air-filled bronchi running through it."""
    x, y = _place(s, rng, 0.0, 0.35)
    haze = _patches(s, rng, (x, y), 5, 0.07, 0.17)
    away = 0.0 if x > 0 else np.pi
    lines = [
        (smooth_line(rng, (0.5 * x, y - 0.12), away + turn, 0.4, 0.2, 4), 0.022, 1.0)
        for turn in (-0.2, 0.3, 0.8)
    ]
    s.add(haze, rng.uniform(0.20, 0.30))
    s.added -= 0.16 * haze * s.canvas.strokes(lines)


def _pneumothorax(s: Scene, rng: np.random.Generator) -> None:
    """A dark rim without markings outside a fine pleural line; the lung inside is denser."""
    side = rng.choice([-1, 1])
    aside = s.canvas.x * side
    gap = rng.uniform(0.06, 0.20) * (1.25 - 0.55 * (s.canvas.y + 0.8))
    inside = (s.lateral - gap) - aside
    half = s.lung * (aside > 0)
    rim = half * ramp(-inside, 0.02)
    s.add(rim, -0.10)
    s.markings *= 1 - rim
    s.added += half * (0.16 * np.exp(-((inside / 0.018) ** 2)) + 0.07 * ramp(inside, 0.02))


def _consolidation(s: Scene, rng: np.random.Generator) -> None:
    """A dense lobe that ends at a straight fissure."""
    side, upper = rng.choice([-1, 1]), rng.random() < 0.5
    aside, edge = s.canvas.x * side, rng.uniform(-0.12, 0.06)
    distance = s.canvas.y - (edge + rng.normal(0, 0.15) * (aside - 0.4))
    lobe = ramp(-distance if upper else distance, 0.03) * ramp(0.62 - np.abs(distance), 0.35)
    patchy = np.clip(0.85 + 0.12 * s.canvas.cloud(rng, 9), 0.4, 1)
    s.add(lobe * patchy * s.lung * (aside > 0), rng.uniform(0.20, 0.32))


def _edema(s: Scene, rng: np.random.Generator) -> None:
    """Haze around both hila, like bat wings, and short septal lines at the bases."""
    wings, lines = np.zeros_like(s.lung), []
    for side in (-1, 1):
        wings += s.canvas.ellipse(side * 0.30, 0.02, 0.26, 0.38, side * 0.2, 0.34)
        lines += [
            ([(side * 0.54, y), (side * 0.70, y + 0.01)], 0.012, 1.0)
            for y in np.linspace(0.08, 0.40, 6) + rng.normal(0, 0.01, 6)
        ]
    patchy = np.clip(0.9 + 0.2 * s.canvas.cloud(rng, 12), 0.3, 1.3)
    s.add(np.clip(wings * patchy, 0, 1) * s.lung, rng.uniform(0.18, 0.28))
    s.added += 0.14 * s.canvas.strokes(lines) * s.lung


def _emphysema(s: Scene, rng: np.random.Generator) -> None:
    """Large dark lungs over a flat diaphragm, few markings, some bullae."""
    s.markings *= 0.45
    bullae = s.canvas.spots(
        np.array([_place(s, rng, -0.5, 0.0) for _ in range(3)]), rng.uniform(0.08, 0.13, 3)
    )
    s.added -= 0.05 * bullae * s.lung
    s.add(s.lung, -0.01)


def _fibrosis(s: Scene, rng: np.random.Generator) -> None:
    """A coarse net under the pleura and at the bases of both lungs."""
    c = s.canvas
    net = np.clip(1 - np.abs(c.cloud(rng, 26)) / 0.55, 0, 1)
    zone = np.maximum(ramp(np.abs(c.x) - (s.lateral - 0.20), 0.15), ramp(c.y - 0.05, 0.4))
    where = zone * s.lung
    s.added += rng.uniform(0.20, 0.28) * net * where + 0.03 * where
    np.maximum(s.mask, where, out=s.mask)


def _pleural_thickening(s: Scene, rng: np.random.Generator) -> None:
    """A dense band along the chest wall, often over the apex."""
    side, middle = rng.choice([-1, 1]), rng.choice([-0.55, -0.1, 0.2]) + rng.normal(0, 0.05)
    aside = s.canvas.x * side
    width = rng.uniform(0.07, 0.12) * np.exp(-(((s.canvas.y - middle) / 0.35) ** 2))
    band = ramp(aside - (s.lateral - width), 0.03) * ramp(width - 0.02, 0.02)
    s.add(band * s.lung * (aside > 0), rng.uniform(0.28, 0.38))


def _hernia(s: Scene, rng: np.random.Generator) -> None:
    """A hiatal hernia: behind the heart, a round wall around air above a fluid level."""
    x, y, radius = rng.normal(0.10, 0.04), rng.normal(0.30, 0.04), rng.uniform(0.15, 0.20)
    r = s.canvas.radius(x, y, radius, 0.85 * radius)
    inside = ramp(1 - r, 0.15)
    s.add(inside, 0.03)
    s.added += 0.42 * np.exp(-(((r - 1) / 0.16) ** 2))
    s.added -= 0.80 * inside * ramp(y + 0.02 - s.canvas.y, 0.03)


DRAW = {
    "Atelectasis": _atelectasis,
    "Cardiomegaly": _cardiomegaly,
    "Effusion": _effusion,
    "Infiltration": _infiltration,
    "Mass": _mass,
    "Nodule": _nodule,
    "Pneumonia": _pneumonia,
    "Pneumothorax": _pneumothorax,
    "Consolidation": _consolidation,
    "Edema": _edema,
    "Emphysema": _emphysema,
    "Fibrosis": _fibrosis,
    "Pleural_Thickening": _pleural_thickening,
    "Hernia": _hernia,
}
