"""The chest behind the phantoms: lungs, heart, bones, vessels, and how the film is exposed.

Density grows with brightness, as on a film. The patient's right side is on the left of the
image, the heart points to the right of the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .canvas import Canvas, ramp, smooth_line


@dataclass
class Scene:
    """One chest while it is being drawn.

    Attributes:
        canvas: the brushes.
        shape: anatomy in numbers (heart width, height of the diaphragm, ...).
        lung: where lung is aerated, 0 to 1.
        lateral: distance of the lateral lung border from the midline, per pixel.
        markings: visibility of the lung vessels, 0 to 1.
        added: density that the findings add.
        mask: where a finding was drawn, 0 to 1.
    """

    canvas: Canvas
    shape: dict
    lung: np.ndarray
    lateral: np.ndarray
    markings: np.ndarray
    added: np.ndarray
    mask: np.ndarray

    def add(self, where: np.ndarray, density: float) -> None:
        """Add ``density`` at ``where`` (0 to 1) and outline it as a finding."""
        self.added += np.float32(density) * where
        np.maximum(self.mask, where, out=self.mask)


def anatomy(rng: np.random.Generator, size: int, names: list[str]) -> Scene:
    """A chest whose shape already carries the findings that change it (``names``)."""
    c = Canvas(rng, size, shift=0.03, turn=0.03, scale=0.04)
    shape = {
        "heart": rng.normal(0.27, 0.022),
        "dome": rng.normal(0.42, 0.05, 2),
        "curve": rng.normal(0.26, 0.03),
        "width": rng.normal(0.76, 0.03),
        "air": 1.0,
    }
    shape["dome"][1] += 0.05  # the left half of the diaphragm stands lower, under the heart
    if "Cardiomegaly" in names:
        shape["heart"] += rng.uniform(0.10, 0.20)
    if "Emphysema" in names:
        shape["dome"] += rng.uniform(0.14, 0.24)
        shape["curve"] *= 0.3
        shape["heart"] *= 0.8
        shape["air"] = rng.uniform(1.12, 1.28)
    if "Fibrosis" in names:
        shape["dome"] -= rng.uniform(0.04, 0.10)
    aside = np.abs(c.x)
    lateral = shape["width"] * np.sqrt(np.maximum(0, 1 - ((0.75 - c.y) / 1.62) ** 2))
    dome = np.where(c.x < 0, shape["dome"][0], shape["dome"][1])
    dome = dome + shape["curve"] * ((aside - 0.34) / 0.36) ** 2
    lung = ramp(lateral - aside, 0.05) * ramp(aside - 0.12, 0.06) * ramp(dome - c.y, 0.04)
    zero = np.zeros_like(lung)
    return Scene(c, shape, lung, lateral, np.ones_like(lung), zero, zero.copy())


def expose(s: Scene, rng: np.random.Generator) -> np.ndarray:
    """Add everything up, as the beam does, and develop the film."""
    c, aside = s.canvas, np.abs(s.canvas.x)
    heart = heart_shadow(s)
    middle = c.ellipse(0.02, -0.25, 0.15, 0.75, soft=0.08)
    knob = c.ellipse(0.15, -0.36, 0.09, 0.10, soft=0.04)
    solid = np.maximum(np.maximum(heart, middle), knob)
    shoulder = -1.06 + 0.42 * np.maximum(aside - 0.24, 0) ** 1.2
    body = ramp(c.y - shoulder, 0.12) * ramp(s.shape["width"] + 0.23 - 0.06 * c.y - aside, 0.08)
    air = s.lung * (1 - 0.80 * solid)
    film = 0.60 * body - 0.40 * s.shape["air"] * air + 0.08 * solid
    film += 0.07 * ramp(0.08 - aside, 0.05) * (1 + 0.35 * np.sin(c.y * 24)) * body
    film -= 0.13 * c.ellipse(0.0, -0.72, 0.045, 0.42, soft=0.04)
    film += 0.13 * _bones(c, rng) * body + _vessels(s, rng) * air
    film -= rng.uniform(0, 0.16) * c.ellipse(0.40, 0.74, 0.15, 0.10, soft=0.06)
    film += rng.choice([0.0, 0.06]) * (
        c.ellipse(-0.45, 0.42, 0.34, 0.36, soft=0.15) + c.ellipse(0.45, 0.42, 0.34, 0.36, soft=0.15)
    )
    film += s.added * (1 - 0.7 * solid) + 0.014 * c.cloud(rng, 5) + 0.010 * c.cloud(rng, 28) * body
    film += 0.8 * _hardware(c, rng)
    # Exposure and window differ between machines; a mean brightness must not tell the class.
    gain, level = rng.uniform(0.85, 1.25), rng.normal(0.0, 0.05)
    film = 0.5 + gain * (film - 0.42) + level + 0.03 * rng.normal() * c.y
    return np.clip(film, 0, 1.2) ** rng.uniform(0.85, 1.2) * 0.93 + 0.016 * c.grain()


def heart_shadow(s: Scene) -> np.ndarray:
    """The heart, 0 to 1."""
    wide = s.shape["heart"]
    return s.canvas.ellipse(0.06 + 0.30 * wide, 0.28, 1.1 * wide, 0.20 + 0.32 * wide, 0.45, 0.05)


def _bones(c: Canvas, rng: np.random.Generator) -> np.ndarray:
    lines, t = [], np.linspace(0, 1, 9)
    drop, first = rng.normal(0.20, 0.03), rng.normal(-0.80, 0.03)
    for k in range(9):
        start, reach = first + 0.155 * k, 0.80 * np.sqrt(max(0.12, 1 - ((0.55 - 0.14 * k) ** 2)))
        for side in (-1, 1):
            x = side * (0.08 + (reach - 0.08) * np.sin(t * np.pi / 2))
            y = start - 0.07 * np.sin(np.pi * t) + drop * t**2.5
            rib = np.stack([x, y], 1)
            # A rib is a tube: its two rims are denser than its middle.
            lines += [(rib, 0.060, 0.75), (rib, 0.034, 0.40)]
    for side in (-1, 1):
        x = side * (0.09 + 0.68 * t)
        y = -0.58 - 0.20 * t + 0.05 * np.sin(2 * np.pi * t) + rng.normal(0, 0.02)
        lines += [(np.stack([x, y], 1), 0.075, 1.0), (np.stack([x, y], 1), 0.045, 0.75)]
    return c.strokes(lines, blur=0.010)


def _vessels(s: Scene, rng: np.random.Generator) -> np.ndarray:
    lines, hila = [], np.zeros_like(s.lung)
    for side in (-1, 1):
        root = (side * 0.20, -0.04 + 0.03 * (side < 0))
        hila += s.canvas.ellipse(root[0], root[1], 0.09, 0.15, side * 0.3, 0.12)
        for angle in np.linspace(-1.35, 1.35, 9) + rng.normal(0, 0.15, 9):
            heading = angle if side > 0 else np.pi - angle
            trunk = smooth_line(rng, root, heading, rng.uniform(0.30, 0.6), 0.45, 5)
            lines += [(trunk[:3], 0.034, 0.9), (trunk[2:], 0.020, 0.7)]
            twig = smooth_line(rng, trunk[2], heading + rng.choice([-0.5, 0.5]), 0.25, 0.2, 3)
            lines.append((twig, 0.016, 0.6))
    return (0.15 * s.canvas.strokes(lines, blur=0.008) + 0.13 * hila) * s.markings


def _hardware(c: Canvas, rng: np.random.Generator) -> np.ndarray:
    """A side marker, and sometimes a line or ECG leads: nuisances, independent of the findings."""
    mark = (rng.choice([-0.86, 0.86]), rng.uniform(-0.92, -0.7))
    left = [(0, -1), (0, 1), (1.2, 1)]
    right = [(0, 1), (0, -1), (1, -0.9), (1, 0), (0, 0.1), (1.2, 1)]
    letter = np.array(left if mark[0] > 0 else right) * 0.05 + mark
    lines = [(letter, 0.02, rng.choice([0.0, 0.8]))]
    strength = 0.3 * (rng.random() < 0.2)
    lines.append((smooth_line(rng, (0.5, -1.0), 1.9, 1.1, 0.5), 0.015, strength))
    points = rng.uniform(-0.7, 0.7, (3, 2))
    return c.strokes(lines) + 0.5 * (rng.random() < 0.12) * c.spots(points, np.full(3, 0.035))
