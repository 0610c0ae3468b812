"""Dermatoscopic images: skin, one lesion, hairs, light.

Colour comes from absorption: a map of melanin and a map of blood darken white light channel by
channel, so that any mixture of the two has a plausible skin colour. Keratin and scar tissue are
laid over it in white, deep pigment in blue-grey.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..readers import HAM10000
from .canvas import Canvas, blend, ramp, smooth_line, wobble
from .skin_lesions import LOOKS, MIMICS, Lesion

ISIC10 = (
    "nevus",
    "melanoma",
    "basal cell carcinoma",
    "seborrheic keratosis",
    "actinic keratosis",
    "squamous cell carcinoma",
    "pigmented benign keratosis",
    "solar lentigo",
    "vascular lesion",
    "dermatofibroma",
)
# Moles are about half of the images; the rarest classes are less rare than in the real sets.
HAM_SHARES = (0.08, 0.09, 0.12, 0.06, 0.12, 0.47, 0.06)
ISIC_SHARES = (0.30, 0.16, 0.12, 0.08, 0.07, 0.06, 0.06, 0.05, 0.05, 0.05)

MELANIN = np.array([0.55, 1.00, 1.40], np.float32)  # absorption in red, green, blue
BLOOD = np.array([0.18, 1.00, 0.85], np.float32)
MIMICRY = 0.45  # share of lesions that also show traits of another class
_ALIAS = dict(
    zip(
        ISIC10,
        ("nv", "mel", "bcc", "bkl", "akiec", "squamous", "pigmented", "lentigo", "vasc", "df"),
        strict=True,
    )
)


def draw_ham(rng: np.random.Generator, size: int, lot: float) -> tuple:
    """Draw one of the seven HAM10000 classes; see :func:`_draw`."""
    return _draw(rng, size, lot, HAM10000, HAM_SHARES)


def draw_isic(rng: np.random.Generator, size: int, lot: float) -> tuple:
    """Draw one of the ten ISIC classes; see :func:`_draw`."""
    return _draw(rng, size, lot, ISIC10, ISIC_SHARES)


def _draw(
    rng: np.random.Generator,
    size: int,
    lot: float,
    classes: tuple[str, ...],
    shares: tuple[float, ...],
) -> tuple:
    """Image float32 (size, size, 3), class index, mask float32 (size, size), 0 to 1."""
    target = min(int(np.searchsorted(np.cumsum(shares), lot, "right")), len(classes) - 1)
    look = _ALIAS.get(classes[target], classes[target])
    paint, soft, ragged, stretch = LOOKS[look]
    canvas = Canvas(rng, size, shift=0.08, turn=3.0, scale=0.05)
    tone, flush = rng.uniform(0.10, 0.34), rng.uniform(0.10, 0.24)
    extent = rng.uniform(0.36, 0.66)
    oval = np.exp(abs(rng.normal(0, stretch)))
    r = canvas.radius(0, 0, extent * oval, extent / oval, 0.0, wobble(rng, ragged))
    r = r + 0.05 * canvas.cloud(rng, 12)
    inside = ramp(1 - r, soft * rng.uniform(0.4, 2.0))
    texture = 0.02 * canvas.cloud(rng, 30) + 0.02 * canvas.cloud(rng, 6)
    lesion = Lesion(
        canvas,
        rng,
        r,
        inside,
        extent,
        np.zeros(2),
        tone + texture,
        flush + 0.03 * canvas.cloud(rng, 8),
        [],
    )
    double = replace(lesion, layers=[])
    paint(lesion)
    # Many lesions also show traits of a class that they are confused with in practice,
    # a few of them almost as clearly as their own: no reader of these images is always right.
    if rng.random() < MIMICRY:
        LOOKS[rng.choice(MIMICS[look])][0](double)
        _mix(lesion, double, rng.uniform(0.10, 0.55))
    return _develop(lesion, rng), target, lesion.inside


def _mix(own: Lesion, other: Lesion, share: float) -> None:
    own.melanin = (1 - share) * own.melanin + share * other.melanin
    own.blood = (1 - share) * own.blood + share * other.blood
    own.layers = [(colour, (1 - share) * amount) for colour, amount in own.layers] + [
        (colour, share * amount) for colour, amount in other.layers
    ]


def _develop(s: Lesion, rng: np.random.Generator) -> np.ndarray:
    """Turn absorption into colour; add hairs, light, vignette and noise."""
    absorbed = s.melanin[..., None] * MELANIN + s.blood[..., None] * BLOOD
    image = np.float32(0.97) * np.exp(-np.maximum(absorbed, 0))
    for colour, amount in s.layers:
        image = blend(image, colour, amount)
    c = s.canvas
    if rng.random() < 0.45:
        image = blend(image, (0.16, 0.11, 0.09), _hairs(c, rng))
    if rng.random() < 0.25:  # bubbles in the immersion gel
        bubbles = rng.uniform(-0.9, 0.9, (4, 2))
        image = blend(image, (0.98, 0.96, 0.95), 0.6 * c.spots(bubbles, rng.uniform(0.01, 0.04, 4)))
    light = rng.uniform(0.82, 1.08) + 0.05 * (rng.normal() * c.x + rng.normal() * c.y)
    if rng.random() < 0.35:  # the dark rim of the dermatoscope's tube
        light = light * ramp(rng.uniform(1.08, 1.25) - np.hypot(c.x, c.y), 0.12)
    balance = np.exp(rng.normal(0, 0.04, 3)).astype(np.float32)
    return image * light[..., None] * balance + np.float32(0.012) * c.grain(3)


def _hairs(c: Canvas, rng: np.random.Generator) -> np.ndarray:
    comb, lines = rng.uniform(0, 2 * np.pi), []
    for _ in range(rng.integers(2, 12)):
        start = tuple(rng.uniform(-1.1, 1.1, 2))
        hair = smooth_line(rng, start, comb + rng.normal(0, 0.4), rng.uniform(0.6, 1.8), 0.5)
        lines.append((hair, rng.uniform(0.012, 0.026), rng.uniform(0.6, 0.95)))
    return c.strokes(lines)
