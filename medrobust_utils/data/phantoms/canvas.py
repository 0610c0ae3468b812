"""Brushes for the phantoms: soft shapes, smooth clouds and strokes in unit coordinates.

Every brush works in coordinates from -1 to 1 (x to the right, y down), never in pixels, and
draws its random numbers independently of the image size. The same random generator therefore
paints the same picture at 64 and at 224 pixels; only the pixel noise differs.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter


@lru_cache(maxsize=8)
def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres x and y of a square image, float32 (size, size) each, from -1 to 1."""
    centres = ((np.arange(size, dtype=np.float32) + 0.5) * (2 / size)) - 1
    x, y = np.meshgrid(centres, centres)
    return x, y


@lru_cache(maxsize=64)
def _spread(size: int, cells: int) -> np.ndarray:
    """Weights (size, cells) that blend a coarse row of numbers into a smooth row of pixels."""
    centres = (np.arange(size) + 0.5) / size * (cells - 1)
    weights = np.exp(-0.5 * ((centres[:, None] - np.arange(cells)) / 0.6) ** 2)
    # Rows of length one keep the variance of the coarse numbers.
    return (weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32)


def ramp(distance: np.ndarray, width: float) -> np.ndarray:
    """Smooth step: 0 well below zero, 0.5 at zero, 1 well above, over ``width`` in all."""
    t = np.clip(distance * np.float32(1 / width) + np.float32(0.5), 0, 1)
    return t * t * (3 - 2 * t)


def blend(image: np.ndarray, colour: tuple[float, float, float], amount: np.ndarray) -> np.ndarray:
    """Lay a colour over an RGB image (H, W, 3) with the opacity ``amount`` (H, W), 0 to 1."""
    amount = np.clip(amount, 0, 1)[..., None]
    return image + amount * (np.asarray(colour, np.float32) - image)


def smooth_line(
    rng: np.random.Generator,
    start: tuple[float, float],
    heading: float,
    length: float,
    bend: float = 0.3,
    steps: int = 8,
) -> list[tuple[float, float]]:
    """Points of a gently wandering line: a vessel, a hair, a fibre.

    Args:
        rng: source of the wandering.
        start: first point.
        heading: direction in radians, 0 to the right and pi / 2 down.
        length: length along the line, in unit coordinates.
        bend: standard deviation of the total turn, in radians.
        steps: number of segments.
    """
    turns = np.cumsum(rng.normal(0, bend / np.sqrt(steps), steps)) + heading
    x = start[0] + np.cumsum(np.cos(turns)) * length / steps
    y = start[1] + np.cumsum(np.sin(turns)) * length / steps
    return [start, *zip(x.tolist(), y.tolist(), strict=True)]


class Canvas:
    """A square picture with its own patient position: shifted, turned and scaled at random.

    Attributes:
        size: pixels along a side.
        x, y: patient coordinates of every pixel, float32 (size, size).
        pixel: the width of one pixel in unit coordinates.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        size: int,
        shift: float = 0.0,
        turn: float = 0.0,
        scale: float = 0.0,
    ) -> None:
        self.size, self.pixel = size, 2 / size
        # A separate stream for pixel noise: its length depends on the size, the picture's not.
        self._noise = rng.spawn(1)[0]
        self._offset = rng.normal(0, 1, 2) * shift
        angle, zoom = rng.normal(0, 1) * turn, np.exp(rng.normal(0, 1) * scale)
        self._zoom, self._cos, self._sin = float(zoom), float(np.cos(angle)), float(np.sin(angle))
        x, y = grid(size)
        x, y = x - np.float32(self._offset[0]), y - np.float32(self._offset[1])
        self.x = (self._cos * x + self._sin * y) / self._zoom
        self.y = (self._cos * y - self._sin * x) / self._zoom

    def ellipse(
        self, cx: float, cy: float, rx: float, ry: float, turn: float = 0.0, soft: float = 0.0
    ) -> np.ndarray:
        """A filled ellipse, 0 to 1, whose edge fades over ``soft`` (at least one pixel)."""
        return self.blob(cx, cy, rx, ry, turn, soft)

    def radius(
        self,
        cx: float,
        cy: float,
        rx: float,
        ry: float,
        turn: float = 0.0,
        wobble: np.ndarray | None = None,
        window: tuple[slice, slice] = (slice(None), slice(None)),
    ) -> np.ndarray:
        """Relative distance from a centre: 1 on the outline, 0 in the middle.

        Args:
            cx, cy: centre.
            rx, ry: radii along the two axes.
            turn: rotation of the axes, radians.
            wobble: (2, K) amplitudes and phases of the outline's waves 2, 3, ... K + 1.
            window: rows and columns to compute, all by default; see :meth:`window`.
        """
        dx, dy = self.x[window] - np.float32(cx), self.y[window] - np.float32(cy)
        cos, sin = float(np.cos(turn)), float(np.sin(turn))
        a, b = (cos * dx + sin * dy) / rx, (cos * dy - sin * dx) / ry
        r = np.sqrt(a * a + b * b)
        if wobble is not None:
            theta = np.arctan2(b, a)
            outline = np.ones_like(r)
            for wave, (height, phase) in enumerate(wobble.T.astype(np.float32), start=2):
                outline += height * np.cos(wave * theta + phase)
            r = r / np.maximum(outline, np.float32(0.2))
        return r

    def blob(
        self,
        cx: float,
        cy: float,
        rx: float,
        ry: float,
        turn: float = 0.0,
        soft: float = 0.0,
        wobble: np.ndarray | None = None,
    ) -> np.ndarray:
        """A filled ellipse with an irregular outline, 0 to 1."""
        r = self.radius(cx, cy, rx, ry, turn, wobble)
        return ramp((1 - r) * min(rx, ry), max(soft, self.pixel))

    def window(self, centre: np.ndarray, reach: float) -> tuple[slice, slice]:
        """Rows and columns of the pixels within ``reach`` of a point."""
        x, y = self._to_pixels(np.asarray(centre)[None])[0]
        half = reach * self._zoom / self.pixel
        return tuple(slice(max(0, int(p - half)), max(0, int(p + half) + 2)) for p in (y, x))

    def spots(self, points: np.ndarray, radii: np.ndarray) -> np.ndarray:
        """Many small round spots at once, 0 to 1, cheap because each stays in its own window.

        Args:
            points: (K, 2) centres in patient coordinates.
            radii: (K,) radii.
        """
        out = np.zeros((self.size, self.size), np.float32)
        pixels = self._to_pixels(points)
        x, y = np.arange(self.size, dtype=np.float32), np.arange(self.size, dtype=np.float32)
        for (px, py), radius in zip(pixels, radii * self._zoom / self.pixel, strict=True):
            # A spot thinner than a pixel fades instead of vanishing or flickering.
            full, weight = max(radius, 0.6), min(1.0, (radius / 0.6) ** 2)
            x0, y0 = max(0, int(px - full - 2)), max(0, int(py - full - 2))
            window = (slice(y0, int(max(0, py + full + 3))), slice(x0, int(max(0, px + full + 3))))
            r = np.hypot(x[window[1]] + 0.5 - px, (y[window[0]] + 0.5 - py)[:, None])
            np.maximum(out[window], weight * np.clip(full - r + 0.5, 0, 1), out=out[window])
        return out

    def strokes(self, lines: list, blur: float = 0.0) -> np.ndarray:
        """Lines drawn with smooth edges, float32 (size, size), 0 to 1.

        Args:
            lines: (points, width, strength) each; points in patient coordinates, width in unit
                coordinates, strength 0 to 1. Later lines cover earlier ones.
            blur: extra softness, standard deviation in unit coordinates.
        """
        over = 4 if self.size <= 96 else 2
        page = Image.new("L", (self.size * over, self.size * over))
        pen = ImageDraw.Draw(page)
        points = self._to_pixels(np.concatenate([np.asarray(line[0]) for line in lines])) * over
        paths = np.split(points, np.cumsum([len(line[0]) for line in lines])[:-1])
        for path, (_, width, strength) in zip(paths, lines, strict=True):
            thickness = width * self._zoom / self.pixel * over
            # PIL draws whole pixels only: thinner lines are drawn one pixel wide and paler.
            value = int(255 * strength * min(1.0, thickness))
            # Round joints cost time and show only on thick lines.
            pen.line(
                path.ravel().tolist(),
                fill=value,
                width=max(1, round(thickness)),
                joint="curve" if thickness > 8 else None,
            )
        small = np.asarray(page.reduce(over), np.float32) / 255
        sigma = blur / self.pixel
        return gaussian_filter(small, sigma, truncate=2.5) if sigma > 0.25 else small

    def cloud(self, rng: np.random.Generator, cells: int, rows: int | None = None) -> np.ndarray:
        """Smooth noise of mean 0 and standard deviation 1, about ``cells`` waves wide."""
        rows = rows or cells
        coarse = rng.standard_normal((rows, cells), dtype=np.float32)
        return _spread(self.size, rows) @ coarse @ _spread(self.size, cells).T

    def grain(self, channels: int = 1) -> np.ndarray:
        """Independent pixel noise, standard normal, (size, size) or (size, size, channels)."""
        shape = (self.size, self.size) if channels == 1 else (self.size, self.size, channels)
        return self._noise.standard_normal(shape, dtype=np.float32)

    def _to_pixels(self, points: np.ndarray) -> np.ndarray:
        points = np.asarray(points, np.float64) * self._zoom
        x = self._cos * points[:, 0] - self._sin * points[:, 1] + self._offset[0]
        y = self._sin * points[:, 0] + self._cos * points[:, 1] + self._offset[1]
        return np.stack([(x + 1) / self.pixel, (y + 1) / self.pixel], axis=1)


def wobble(rng: np.random.Generator, strength: float, waves: int = 5) -> np.ndarray:
    """Amplitudes and phases for an irregular outline; higher waves are smaller."""
    fall = 1 / np.sqrt(np.arange(1, waves + 1))
    return np.stack([rng.normal(0, strength, waves) * fall, rng.uniform(0, 2 * np.pi, waves)])
