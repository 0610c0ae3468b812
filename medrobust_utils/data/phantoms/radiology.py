"""Gray sections: brain MRI, chest CT and breast ultrasound."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas, ramp, smooth_line, wobble

MRI_CLASSES = ("notumor", "tumor")
CT_CLASSES = US_CLASSES = ("normal", "benign", "malignant")

# Brightness of fluid, gray matter, white matter and fat in four usual MRI sequences.
SEQUENCES = (
    (0.10, 0.38, 0.60, 0.85),
    (0.92, 0.62, 0.40, 0.62),
    (0.06, 0.60, 0.44, 0.60),
    (0.14, 0.44, 0.60, 0.90),
)


def draw_mri(rng: np.random.Generator, size: int, lot: float) -> tuple:
    """Draw one axial slice of a head.

    Returns:
        Image float32 (size, size), class 0 or 1, mask float32 (size, size) of the tumour.
    """
    target = int(lot >= 0.5)
    c = Canvas(rng, size, shift=0.03, turn=0.06, scale=0.05)
    angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 0.48)
    at = far * np.array([np.cos(angle), 1.25 * np.sin(angle)])
    radius = rng.uniform(0.11, 0.26)
    if target:  # a mass pushes its surroundings away, towards and across the midline
        push = np.exp(-(c.radius(*at, 2.5 * radius, 2.5 * radius) ** 2)) * rng.uniform(0.1, 0.5)
        c.x, c.y = c.x - push * (c.x - at[0]) * 0.6, c.y - push * (c.y - at[1]) * 0.6
    fluid, gray, white, fat = np.array(SEQUENCES[rng.integers(4)]) + rng.normal(0, 0.03, 4)
    image, brain = _head(c, rng, fluid, gray, white, fat)
    mask = np.zeros_like(image)
    if target:
        image, mask = _tumour(c, rng, image, brain, at, radius)
    spots = c.spots(rng.normal(0, 0.28, (6, 2)), rng.uniform(0.015, 0.045, 6))
    image = image + rng.choice([0, 0, 0.2]) * spots * brain  # small bright spots of old age
    bias = 1 + 0.10 * (rng.normal() * c.x + rng.normal() * c.y)
    image = image * bias * rng.uniform(0.75, 1.15)
    return np.abs(image + 0.02 * c.grain()), target, mask


def _head(
    c: Canvas, rng: np.random.Generator, fluid: float, gray: float, white: float, fat: float
) -> tuple[np.ndarray, np.ndarray]:
    """Scalp, skull, fluid, folded cortex, white matter and ventricles."""
    r = c.radius(0, 0, rng.uniform(0.64, 0.74), rng.uniform(0.82, 0.90), 0, wobble(rng, 0.012))
    edge = 3 * c.pixel
    head, bone = ramp(1 - r, edge), ramp(0.94 - r, edge)
    inner, brain = ramp(0.87 - r, edge), ramp(0.835 - r, edge)
    folds, coarse = c.cloud(rng, 22), c.cloud(rng, 9)
    depth = 0.835 - r + 0.035 * coarse
    sulci = np.exp(-((folds / 0.30) ** 2)) * ramp(0.22 - depth, 0.20) * rng.uniform(0.35, 0.85)
    # White matter reaches into the folds and stays clear of the furrows between them.
    ribbon = np.minimum(depth - 0.06, 0.10 * np.abs(folds) + depth - 0.16)
    matter = gray + (white - gray) * ramp(ribbon, 0.06)
    for side in (-1, 1):
        nucleus = c.ellipse(side * 0.19, 0.04, 0.09, 0.15, side * 0.3, 0.06)
        matter = matter + (gray - matter) * 0.8 * nucleus
    # The ventricles' horns part towards the front and the back; they widen with age.
    age, horns = rng.uniform(0.7, 1.5), []
    bends = np.array(
        [(0.15, -0.32), (0.10, -0.24), (0.068, -0.12), (0.072, 0.04), (0.13, 0.18), (0.19, 0.33)]
    )
    for side in (-1, 1):
        path = bends * (side * rng.uniform(0.9, 1.1), 1)
        horns += [
            (path, 0.042 * age, 1.0),
            (path[:3], 0.085 * age, 1.0),
            (path[4:], 0.075 * age, 1.0),
        ]
    water = np.maximum(sulci, np.minimum(1.3 * c.strokes(horns, blur=0.018), 1))
    cleft = np.exp(-((c.x / 0.016) ** 2)) * ramp(np.abs(c.y) - 0.30, 0.15)
    water = np.maximum(water, 0.8 * cleft)
    tissue = matter + (fluid - matter) * water + 0.012 * c.cloud(rng, 26)
    image = fat * (head - bone) + 0.04 * (bone - inner) + fluid * (inner - brain) + tissue * brain
    return image, brain


def _tumour(
    c: Canvas,
    rng: np.random.Generator,
    image: np.ndarray,
    brain: np.ndarray,
    at: np.ndarray,
    radius: float,
) -> tuple[np.ndarray, np.ndarray]:
    """A ring around a dead core, or an even mass; oedema around it."""
    shape = wobble(rng, rng.uniform(0.02, 0.12))
    r = c.radius(*at, radius, radius * rng.uniform(0.75, 1.2), rng.uniform(0, 3), shape)
    mass, strength = ramp(1 - r, 0.3), rng.uniform(0.15, 0.45)
    halo = ramp(rng.uniform(1.3, 1.9) - r + 0.15 * c.cloud(rng, 10), 0.6)
    image = image + rng.choice([-0.5, 0.4]) * strength * halo * brain
    if rng.random() < 0.55:
        ring = np.exp(-(((r - 0.85) / 0.22) ** 2))
        level = strength * (1.3 * ring - 0.9 * ramp(0.7 - r, 0.3))
    else:
        level = strength * rng.choice([-0.8, 1.0, 1.0]) * mass * (1 + 0.15 * c.cloud(rng, 16))
    return image + level * brain, mass * (brain > 0.3)


def draw_ct(rng: np.random.Generator, size: int, lot: float) -> tuple:
    """Draw one axial slice of a chest in a lung window.

    Returns:
        Image float32 (size, size), class 0 to 2, mask float32 (size, size) of the nodule.
    """
    target = min(int(lot * 3), 2)
    c = Canvas(rng, size, shift=0.03, turn=0.04, scale=0.04)
    image, lungs = _thorax(c, rng)
    mask = np.zeros_like(image)
    side, spot = rng.choice([-1, 1]), rng.normal(0, 1, 2) * (0.10, 0.20)
    at = np.array([side * 0.46 + spot[0], 0.02 + np.clip(spot[1], -0.34, 0.34)])
    if target:
        nodule, mask = (_benign_nodule, _malignant_nodule)[target - 1](c, rng, at, lungs)
        image = np.maximum(image, nodule)
    level, gain = rng.normal(0, 0.03), rng.uniform(0.85, 1.15)
    streaks = 0.012 * c.cloud(rng, 6, 40)
    return (image * gain + level + streaks + 0.022 * c.grain()), target, mask


def _thorax(c: Canvas, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Chest wall, ribs, spine, mediastinum, and lungs with their branching vessels."""
    rx, ry = rng.uniform(0.88, 0.97), rng.uniform(0.68, 0.79)
    r = c.radius(0, 0, rx, ry, 0, wobble(rng, 0.012))
    body, fat = ramp(1 - r, 0.04), ramp(r - 0.94, 0.04)
    angles = np.arange(0, 2 * np.pi, 2 * np.pi / 14) + rng.uniform(0, 0.4)
    ribs = 0.87 * np.stack([rx * np.cos(angles), ry * np.sin(angles)], 1)
    bone = np.zeros_like(r)
    for (x, y), a in zip(ribs, angles, strict=True):
        tilt = np.arctan2(ry * np.cos(a), -rx * np.sin(a))
        bone = np.maximum(bone, c.ellipse(x, y, 0.075, 0.026, tilt, 0.02))
    low = 0.62 * ry
    spine = c.ellipse(0, low, 0.12, 0.10, 0, 0.03)
    spine = np.maximum(spine - c.ellipse(0, low + 0.13, 0.045, 0.04), 0.0)
    spine = np.maximum(spine, c.strokes([([(-0.2, low + 0.15), (0.2, low + 0.15)], 0.03, 0.8)]))
    inner = c.radius(0, -0.01, 0.81 * rx, 0.80 * ry)
    level = rng.uniform(0, 1)  # how far down: the heart takes over from the great vessels
    middle = c.blob(
        0.04 + 0.08 * level, -0.08, 0.17 + 0.13 * level, 0.34, 0.15, 0.03, wobble(rng, 0.05)
    )
    back = c.ellipse(0, low + 0.04, 0.23, 0.17, 0, 0.04)
    lungs = ramp(1 - inner, 0.06) * (1 - np.maximum(middle, back)) * ramp(np.abs(c.x) - 0.05, 0.03)
    vessels = _lung_vessels(c, rng)
    tissue = 0.66 + 0.05 * c.cloud(rng, 10) - 0.12 * fat
    air = 0.13 + 0.02 * c.cloud(rng, 22) + rng.uniform(0, 0.10) * ramp(c.y - 0.15, 0.5)
    image = body * (tissue + 0.30 * np.maximum(bone, spine))
    image = image + lungs * (air - image)
    trachea = c.spots(np.array([[-0.07, 0.02], [0.09, 0.03]]), np.array([0.045, 0.04]))
    image = image * (1 - 0.85 * trachea) + 0.6 * vessels * lungs
    table = np.exp(-(((c.y - 0.90 - 0.10 * c.x**2) / 0.015) ** 2))
    return image + 0.35 * table * (1 - body), lungs


def _lung_vessels(c: Canvas, rng: np.random.Generator) -> np.ndarray:
    lines = []
    for side in (-1, 1):
        for angle in rng.uniform(-1.4, 1.4, 7):
            heading = angle if side > 0 else np.pi - angle
            trunk = smooth_line(rng, (side * 0.16, 0.0), heading, rng.uniform(0.3, 0.55), 0.5, 5)
            lines += [(trunk[:3], 0.040, 0.8), (trunk[2:], 0.022, 0.6)]
    points = np.stack(
        [rng.choice([-1, 1], 22) * rng.uniform(0.2, 0.75, 22), rng.uniform(-0.48, 0.48, 22)], 1
    )
    cut = c.spots(points, rng.uniform(0.010, 0.030, 22))  # vessels that cross the slice
    return np.maximum(c.strokes(lines, blur=0.006), 0.8 * cut)


def _benign_nodule(
    c: Canvas, rng: np.random.Generator, at: np.ndarray, lungs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Small, round, sharply outlined; some have a chalky centre."""
    radius = rng.uniform(0.06, 0.13)
    disc = c.blob(
        *at, radius, radius * rng.uniform(0.85, 1.1), rng.uniform(0, 3), 0.02, wobble(rng, 0.03)
    )
    chalk = rng.choice([0.0, 0.0, 0.3]) * c.ellipse(*at, 0.45 * radius, 0.4 * radius, soft=0.04)
    return (rng.uniform(0.55, 0.75) + chalk) * disc, disc


def _malignant_nodule(
    c: Canvas, rng: np.random.Generator, at: np.ndarray, lungs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Larger, lobed, with spicules and a strand to the pleura, and a hazy margin."""
    radius = rng.uniform(0.10, 0.21)
    mass = c.blob(
        *at, radius, radius * rng.uniform(0.75, 1.2), rng.uniform(0, 3), 0.04, wobble(rng, 0.11)
    )
    lines = []
    for angle in rng.uniform(0, 2 * np.pi, rng.integers(6, 13)):
        lines.append(
            (
                smooth_line(rng, tuple(at), angle, radius * rng.uniform(1.4, 2.1), 0.2, 3),
                0.030,
                rng.uniform(0.6, 1.0),
            )
        )
    lines.append(([tuple(at), (np.sign(at[0]) * 0.8, at[1] + rng.normal(0, 0.1))], 0.02, 0.6))
    spikes = c.strokes(lines) * lungs
    haze = 0.25 * c.ellipse(*at, 1.5 * radius, 1.5 * radius, soft=radius) * lungs
    solid = rng.uniform(0.50, 0.72)
    return np.maximum(solid * np.maximum(mass, 0.9 * spikes), haze), mass


def draw_ultrasound(rng: np.random.Generator, size: int, lot: float) -> tuple:
    """Draw one breast sonogram; the probe is at the top.

    Returns:
        Image float32 (size, size), class 0 to 2, mask float32 (size, size) of the lesion.
    """
    target = min(int(lot * 3), 2)
    c = Canvas(rng, size, shift=0.02, turn=0.03, scale=0.04)
    echo = _breast(c, rng)
    mask = np.zeros_like(echo)
    if target:
        echo, mask = _breast_lesion(c, rng, echo, malignant=target == 2)
    depth = 1 + rng.normal(0, 0.12) * c.y - 0.18 * ramp(c.y - 0.5, 0.8)
    # Speckle: the length of random phasors, finer along the beam than across it; two looks.
    looks = sum(c.cloud(rng, 56, 84) ** 2 for _ in range(4))
    image = np.clip(echo * depth, 0.01, None) * (looks / 4) ** 0.45
    gain = rng.uniform(0.75, 1.30)
    return 0.95 * np.clip(gain * image, 0, 2) ** 0.72 + 0.01 * c.grain(), target, mask


def _breast(c: Canvas, rng: np.random.Generator) -> np.ndarray:
    """Echo strength of skin, fat lobules, glandular tissue, muscle and chest wall."""
    bend = 0.06 * c.cloud(rng, 4, 3)
    y = c.y + bend
    top, bottom = rng.uniform(-0.70, -0.40), rng.uniform(0.15, 0.45)
    gland = ramp(y - top, 0.10) * ramp(bottom - y, 0.12)
    muscle = ramp(y - bottom - 0.12, 0.06) * ramp(bottom + 0.38 - y, 0.06)
    echo = 0.20 + rng.uniform(0.16, 0.32) * gland * (1 + 0.28 * c.cloud(rng, 9, 12))
    echo = echo + muscle * (0.03 + 0.06 * np.sin(46 * y + 2 * c.cloud(rng, 4)))
    septa = np.exp(-((c.cloud(rng, 7, 5) / 0.18) ** 2)) * (1 - gland)
    echo = echo + 0.16 * septa + 0.55 * ramp(-0.90 - c.y, 0.05)
    for line, strength in ((top, 0.14), (bottom + 0.12, 0.22), (bottom + 0.40, 0.30)):
        echo = echo + strength * np.exp(-(((y - line) / 0.022) ** 2))
    echo = echo * (1 - 0.55 * ramp(y - bottom - 0.42, 0.10))
    # Fat lobules within the gland and faint shadows of ligaments look like lesions at a glance.
    for _ in range(rng.integers(0, 3)):
        x, down = rng.uniform(-0.8, 0.8), rng.uniform(top + 0.1, bottom)
        lobule = c.ellipse(x, down, rng.uniform(0.12, 0.24), rng.uniform(0.06, 0.12), 0, 0.08)
        echo = echo * (1 - rng.uniform(0.25, 0.5) * lobule)
    stripe = np.exp(-(((c.x - rng.uniform(-0.8, 0.8)) / 0.10) ** 2)) * ramp(c.y - top, 0.4)
    return np.maximum(echo * (1 - rng.uniform(0, 0.35) * stripe), 0.03)


def _breast_lesion(
    c: Canvas, rng: np.random.Generator, echo: np.ndarray, malignant: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Benign: a smooth, lying oval above brighter tissue. Malignant: spiky, standing, a shadow."""
    x, y, area = rng.uniform(-0.45, 0.45), rng.uniform(-0.28, 0.20), rng.uniform(0.17, 0.34)
    stretch = np.exp(rng.normal(-0.10 if malignant else 0.28, 0.15))
    rx, ry = area * stretch, area / stretch
    ragged = rng.uniform(0.07, 0.16) if malignant else rng.uniform(0.01, 0.06)
    outline = wobble(rng, ragged, 9 if malignant else 4)
    r = c.radius(x, y, rx, ry, rng.normal(0, 0.25), outline)
    if malignant:
        r = r + 0.08 * c.cloud(rng, 20)
    mass = ramp(1 - r, 0.30 if malignant else 0.14)
    level = rng.uniform(0.05, 0.26)
    echo = echo + (level * (1 + 0.3 * c.cloud(rng, 14)) - echo) * mass
    rim = np.exp(-(((r - (1.2 if malignant else 1.04)) / (0.22 if malignant else 0.07)) ** 2))
    echo = echo + (0.10 if malignant else 0.16) * rim
    below = ramp(rx * 0.9 - np.abs(c.x - x), 0.15) * ramp(c.y - y - 0.6 * ry, 0.3)
    behind = rng.normal(-0.42, 0.22) if malignant else rng.normal(0.25, 0.25)
    return np.maximum(echo * (1 + np.clip(behind, -0.75, 0.6) * below * (1 - mass)), 0.01), mass
