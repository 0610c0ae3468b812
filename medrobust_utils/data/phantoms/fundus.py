"""Retinal photographs with the five grades of diabetic retinopathy.

The grades follow the international scale: 0 none; 1 microaneurysms only; 2 more of them with
haemorrhages and exudates; 3 haemorrhages in all quadrants, cotton-wool spots and beaded veins;
4 new vessels, bleeding in front of the retina and scars.
"""

from __future__ import annotations

import numpy as np

from .canvas import Canvas, blend, ramp, smooth_line

CLASSES = ("No DR", "Mild", "Moderate", "Severe", "Proliferative DR")
SHARES = (0.34, 0.16, 0.22, 0.13, 0.15)
BLOOD = np.array([0.55, 1.10, 0.80], np.float32)  # absorption in red, green, blue


def draw_fundus(rng: np.random.Generator, size: int, lot: float) -> tuple:
    """Draw one photograph.

    Returns:
        Image float32 (size, size, 3), grade 0 to 4, mask float32 (size, size) of the lesions.
    """
    grade = min(int(np.searchsorted(np.cumsum(SHARES), lot, "right")), 4)
    c = Canvas(rng, size, shift=0.03, turn=0.08, scale=0.04)
    side = rng.choice([-1, 1])  # right eye: the disc lies on the right
    disc = np.array([side * rng.uniform(0.38, 0.52), rng.normal(0, 0.04)])
    macula = np.array([disc[0] - side * rng.uniform(0.48, 0.58), disc[1] + 0.05])
    veins, arteries, crossings = _tree(c, rng, disc, side, beaded=grade >= 3)
    image = _retina(c, rng, disc, macula)
    # Haemorrhages and vessels absorb, exudates and wool are laid over the retina.
    red, yellow, white, mask = _lesions(c, rng, grade, disc, macula, crossings)
    absorbed = 0.62 * veins + 0.42 * arteries + red
    image = image * np.exp(-absorbed[..., None] * BLOOD)
    image = blend(image, (0.98, 0.86, 0.48), 0.85 * yellow)
    image = blend(image, (0.93, 0.84, 0.70), 0.75 * white)
    return _photograph(c, rng, image), grade, mask


def _retina(
    c: Canvas, rng: np.random.Generator, disc: np.ndarray, macula: np.ndarray
) -> np.ndarray:
    """The orange ground, the yellow disc with its paler cup, the dark macula."""
    pigment = rng.uniform(0.0, 0.45)
    colour = np.array([0.86, 0.47, 0.22], np.float32) * np.exp(
        -pigment * np.array([0.5, 0.8, 0.9], np.float32)
    )
    mottle = 1 + 0.04 * c.cloud(rng, 14) + 0.05 * c.cloud(rng, 5)
    image = colour * mottle[..., None]
    dark = np.exp(-(c.radius(*macula, 0.17, 0.17) ** 2)) * rng.uniform(0.25, 0.5)
    image = image * np.exp(-dark[..., None] * np.array([0.6, 1.0, 0.8], np.float32))
    width, tilt = rng.uniform(0.115, 0.15), rng.normal(0, 0.2)
    head = c.ellipse(*disc, width, 1.12 * width, tilt, 0.05)
    image, cup = blend(image, (0.97, 0.78, 0.42), 0.85 * head), width * rng.uniform(0.25, 0.6)
    return blend(image, (1.0, 0.93, 0.72), 0.8 * c.ellipse(*disc, cup, 1.1 * cup, tilt, 0.05))


def _tree(
    c: Canvas, rng: np.random.Generator, disc: np.ndarray, side: int, beaded: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Veins, arteries (maps) and points beside the vessels, from four arcades out of the disc."""
    lines, places = {0: [], 1: []}, []
    t = np.linspace(0, 1, 12)[:, None]
    for kind in (0, 1):  # veins, arteries
        for up in (-1, 1):
            for temporal in (True, False):
                bow = disc + [side * (0.02 if temporal else 0.10), up * rng.uniform(0.60, 0.85)]
                reach = rng.uniform(0.95, 1.25) if temporal else -rng.uniform(0.35, 0.55)
                end = disc + [-side * reach, up * rng.uniform(0.35, 0.6 if temporal else 0.9)]
                path = (1 - t) ** 2 * disc + 2 * t * (1 - t) * bow + t**2 * end
                path = path + np.cumsum(rng.normal(0, 0.008, path.shape), 0) * t
                width = (0.036, 0.026)[kind] * (1.0 if temporal else 0.75)
                for a, b, taper in ((0, 5, 1.0), (4, 9, 0.75), (8, 12, 0.5)):
                    lines[kind].append((path[a:b], width * taper, 1.0))
                for k in (3, 4, 6, 7, 9):
                    ahead = path[k + 1] - path[k]
                    fork = rng.choice([-1, 1]) * rng.uniform(0.5, 1)
                    turn = np.arctan2(ahead[1], ahead[0]) + fork
                    twig = smooth_line(rng, tuple(path[k]), turn, rng.uniform(0.2, 0.5), 0.6, 5)
                    lines[kind].append((twig, 0.45 * width, 0.8))
                    places.append(twig[3])
    veins, arteries = c.strokes(lines[0]), c.strokes(lines[1])
    if beaded:
        veins = veins * np.clip(1 + 0.35 * c.cloud(rng, 24), 0.3, 1.6)
    return veins, arteries, np.array(places)


def _scatter(rng: np.random.Generator, count: int, reach: float = 0.8) -> np.ndarray:
    r, angle = np.sqrt(rng.random(count)) * reach, rng.uniform(0, 2 * np.pi, count)
    return r[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)


def _lesions(
    c: Canvas,
    rng: np.random.Generator,
    grade: int,
    disc: np.ndarray,
    macula: np.ndarray,
    beside: np.ndarray,
) -> tuple:
    """Blood (absorption), exudates and cotton wool (0 to 1), and the mask of all of them."""
    red, yellow, white = (np.zeros_like(c.x) for _ in range(3))
    if grade >= 1:
        count = rng.integers(*((3, 12), (8, 22), (16, 40), (8, 40))[grade - 1])
        red = 0.9 * c.spots(_scatter(rng, count), rng.uniform(0.015, 0.028, count))
    if grade >= 2:
        count = rng.integers(*((2, 10), (12, 26), (2, 20))[grade - 2])
        blots = c.spots(_scatter(rng, count), rng.uniform(0.03, 0.065, count))
        red = np.maximum(red, rng.uniform(0.5, 0.9) * blots)
        if rng.random() < 0.75:
            near = macula + _scatter(rng, 1, 0.4) + rng.normal(0, 0.09, (18, 2))
            yellow = c.spots(near, rng.uniform(0.012, 0.032, 18))
    if rng.random() < (0, 0, 0.3, 0.85, 0.4)[grade]:
        for x, y in beside[rng.integers(0, len(beside), rng.integers(1, 5))]:
            white = np.maximum(white, c.ellipse(x, y, 0.075, 0.05, rng.uniform(0, 3), 0.06))
    if grade == 4:
        red, white = _proliferation(c, rng, disc, beside, red, white)
    # Dust and reflexes that no grader should count, in every grade.
    mask = np.maximum(np.maximum(red, yellow), white)
    dust = c.spots(_scatter(rng, 5), rng.uniform(0.01, 0.022, 5)) * rng.choice([0.0, 0.45])
    return np.maximum(red, dust), yellow, white, mask


def _proliferation(
    c: Canvas,
    rng: np.random.Generator,
    disc: np.ndarray,
    beside: np.ndarray,
    red: np.ndarray,
    white: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """A tangle of fine new vessels, often a boat-shaped bleed, sometimes laser scars."""
    root, lines = (disc if rng.random() < 0.5 else beside[rng.integers(len(beside))]), []
    for angle in rng.uniform(0, 2 * np.pi, 14):
        lines.append((smooth_line(rng, tuple(root), angle, rng.uniform(0.15, 0.32), 2.2), 0.016, 1))
    red = np.maximum(red, 0.8 * c.strokes(lines))
    if rng.random() < 0.65:
        x, y = _scatter(rng, 1, 0.5)[0]
        boat = c.ellipse(x, y, rng.uniform(0.16, 0.30), rng.uniform(0.10, 0.18), soft=0.04)
        red = np.maximum(red, 1.1 * boat * ramp(c.y - y + 0.02, 0.03))
    if rng.random() < 0.4:
        points = _scatter(rng, 60, 0.85)
        far = points[np.linalg.norm(points, axis=1) > 0.5]
        white = np.maximum(white, 0.5 * c.spots(far, rng.uniform(0.025, 0.035, len(far))))
    return red, white


def _photograph(c: Canvas, rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Uneven flash, haze of the lens, the round field of view and sensor noise."""
    away = np.hypot(c.x, c.y)
    light = rng.uniform(0.72, 1.12) * (1.05 - rng.uniform(0.1, 0.35) * away**2)
    light = light + 0.10 * (rng.normal() * c.x + rng.normal() * c.y)
    image = image * light[..., None] * np.exp(rng.normal(0, 0.07, 3)).astype(np.float32)
    haze = rng.choice([0.0, 0.12, 0.28], p=[0.6, 0.25, 0.15])
    image = image * (1 - haze) + haze * np.array([0.62, 0.45, 0.32], np.float32)
    field = ramp(rng.uniform(0.90, 1.02) - away, 0.03)
    return image * field[..., None] + np.float32(0.012) * c.grain(3)
