"""Kandinsky figures: circles, squares and triangles whose label maps are exact by construction.

After H. Müller and A. Holzinger, *Kandinsky Patterns* (arXiv:1906.00657): geometric objects of a
few colours that neither overlap nor leave the image. Annotators of real sections err; here a wrong
pixel is the network's.
"""

from __future__ import annotations

import numpy as np

from .canvas import Canvas, blend, ramp

CLASSES = ("background", "circle", "square", "triangle")
COLOURS = ((0.80, 0.16, 0.14), (0.94, 0.80, 0.18), (0.12, 0.30, 0.68))  # red, yellow, blue
GROUND = 0.62  # gray of the ground


def draw_kandinsky(rng: np.random.Generator, size: int, lot: float) -> tuple:
    """Draw one figure of up to twelve objects; colour says nothing about shape.

    Returns:
        Image float32 (size, size, 3), shape 1 to 3 that covers most pixels, label map uint8
        (size, size) with the class of every pixel.
    """
    c = Canvas(rng, size)
    image = np.full((size, size, 3), GROUND + rng.uniform(-0.08, 0.08), np.float32)
    labels = np.zeros((size, size), np.uint8)
    main = 1 + min(int(lot * 3), 2)
    for number, (place, radius) in enumerate(_places(rng)):
        kind = main if number < 2 or rng.random() < 0.25 else int(rng.integers(1, 4))
        inside = _inside(c, kind, place, radius, turn=rng.uniform(0, 2 * np.pi))
        image = blend(image, COLOURS[rng.integers(3)], ramp(inside, c.pixel))
        labels[inside > 0] = kind
    image += np.float32(0.02) * c.grain(3)
    return image, int(np.bincount(labels.ravel(), minlength=4)[1:].argmax()) + 1, labels


def _places(rng: np.random.Generator) -> list[tuple[np.ndarray, float]]:
    """Centre and radius of objects that keep a gap, the largest first."""
    radii = np.sort(rng.uniform(0.13, 0.30, rng.integers(5, 13)))[::-1]
    found: list[tuple[np.ndarray, float]] = []
    for radius in radii:
        for place in rng.uniform(radius - 0.97, 0.97 - radius, (40, 2)):
            if all(np.hypot(*(place - other)) > radius + far + 0.04 for other, far in found):
                found.append((place, float(radius)))
                break
    return found


def _inside(c: Canvas, kind: int, place: np.ndarray, radius: float, turn: float) -> np.ndarray:
    """Distance (size, size) to the outline, positive inside; corners lie on the circle."""
    x, y = c.x - np.float32(place[0]), c.y - np.float32(place[1])
    if kind == 1:
        return radius - np.hypot(x, y)
    corners = {2: 4, 3: 3}[kind]
    normals = turn + 2 * np.pi / corners * np.arange(corners)
    edge = radius * np.cos(np.pi / corners)
    return np.min([edge - np.cos(a) * x - np.sin(a) * y for a in normals], axis=0)
