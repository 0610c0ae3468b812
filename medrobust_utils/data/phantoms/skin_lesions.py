"""The lesions of the dermatoscopic phantoms, with the structures that dermatologists name."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .canvas import Canvas, ramp, smooth_line, wobble

VEIL, KERATIN, SCAR = (0.42, 0.47, 0.60), (0.93, 0.87, 0.74), (0.92, 0.84, 0.82)


@dataclass
class Lesion:
    """One lesion while it is being drawn; all maps are float32 (size, size).

    Attributes:
        canvas, rng: the brushes and the source of chance.
        r: relative distance from the centre, 1 on the outline.
        inside: the lesion, 0 to 1, with its soft or sharp border.
        extent: mean radius in unit coordinates.
        centre: x and y.
        melanin, blood: absorption.
        layers: (colour, opacity) pairs laid over the skin, in order.
    """

    canvas: Canvas
    rng: np.random.Generator
    r: np.ndarray
    inside: np.ndarray
    extent: float
    centre: np.ndarray
    melanin: np.ndarray
    blood: np.ndarray
    layers: list

    def scatter(self, count: int, reach: float = 0.9) -> np.ndarray:
        """``count`` random points within ``reach`` radii of the centre, (count, 2)."""
        r, angle = np.sqrt(self.rng.random(count)) * reach, self.rng.uniform(0, 2 * np.pi, count)
        return self.centre + self.extent * r[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)

    def dots(self, count: int, low: float, high: float, reach: float = 0.9) -> np.ndarray:
        """Scattered dots with radii between ``low`` and ``high``, confined to the lesion."""
        radii = self.rng.uniform(low, high, count)
        return self.canvas.spots(self.scatter(count, reach), radii) * self.inside

    def cover(self, colour: tuple[float, float, float], amount: np.ndarray) -> None:
        """Lay a colour over the skin when it is developed."""
        self.layers.append((colour, amount))


def _network(s: Lesion, cells: int, contrast: float, irregular: float = 0.0) -> np.ndarray:
    """The honeycomb of pigmented ridges around pale holes: three crossed waves, warped."""
    warp = 0.10 + irregular
    x = s.canvas.x + warp * 0.25 * s.canvas.cloud(s.rng, 7)
    y = s.canvas.y + warp * 0.25 * s.canvas.cloud(s.rng, 7)
    holes = sum(np.cos(cells * (np.cos(a) * x + np.sin(a) * y)) for a in (0.0, 2.094, 4.189))
    gain = 1 + 2.0 * irregular * s.canvas.cloud(s.rng, 4)
    return contrast * np.clip(gain, 0, 2) * np.clip(0.4 - 0.7 * holes, -1, 1)


def _nevus(s: Lesion) -> None:
    """One colour, symmetric; a regular network, regular globules or no structure at all."""
    rng, depth = s.rng, s.rng.uniform(0.30, 0.95)
    fade = s.inside * (1 - 0.45 * np.clip(s.r, 0, 1) ** 2)
    s.melanin = s.melanin + depth * fade
    s.blood = s.blood + rng.uniform(0.0, 0.22) * s.inside
    style = rng.random()
    if style < 0.5:
        s.melanin += s.inside * _network(s, rng.uniform(34, 46), 0.30 * depth)
    elif style < 0.8:
        s.melanin += 0.55 * depth * s.dots(int(rng.integers(25, 60)), 0.025, 0.045)
    if rng.random() < 0.22:  # atypical moles blur the line to melanoma
        s.melanin += 0.25 * s.inside * s.canvas.cloud(rng, 4)


def _melanoma(s: Lesion) -> None:
    """Asymmetry of colour, an irregular network, blue-white veil, dots and streaks."""
    rng, depth = s.rng, s.rng.uniform(0.45, 1.15)
    tilt = s.canvas.x * rng.choice([-1, 1]) / s.extent
    patches = 0.35 * s.canvas.cloud(rng, 4) + rng.uniform(0.1, 0.4) * tilt
    s.melanin = s.melanin + depth * s.inside * np.clip(1 + patches, 0.15, 2)
    s.melanin += s.inside * _network(s, rng.uniform(22, 34), 0.28 * depth, 0.6)
    s.blood = s.blood + rng.uniform(0, 0.35) * s.inside * np.clip(s.canvas.cloud(rng, 4), 0, 1.5)
    s.melanin += 0.8 * s.dots(int(rng.integers(5, 30)), 0.02, 0.05, reach=1.1)
    if rng.random() < 0.6:
        centre = s.scatter(1, 0.55)[0]
        veil = s.canvas.ellipse(*centre, *(s.extent * rng.uniform(0.3, 0.6, 2)), soft=0.2)
        s.cover(VEIL, rng.uniform(0.35, 0.75) * veil * s.inside)
    if rng.random() < 0.45:
        side, lines = rng.uniform(0, 6.28), []
        for angle in side + rng.normal(0, 0.5, 9):
            a = s.extent * np.array([np.cos(angle), np.sin(angle)])
            lines.append(([0.85 * a, 1.25 * a], 0.035, 1.0))
        s.melanin += 0.55 * depth * s.canvas.strokes(lines)
    if rng.random() < 0.3:
        scar = s.canvas.ellipse(*s.scatter(1, 0.7)[0], 0.14, 0.10, soft=0.1)
        s.cover(SCAR, 0.5 * scar * s.inside)


def _basal(s: Lesion) -> None:
    """Pink and translucent, with branching vessels, blue-grey nests and sometimes an ulcer."""
    rng, lines = s.rng, []
    s.blood = s.blood + rng.uniform(0.08, 0.28) * s.inside
    s.melanin = s.melanin - 0.06 * s.inside
    for angle in rng.uniform(0, 6.28, rng.integers(3, 6)):
        edge = s.extent * 1.05 * np.array([np.cos(angle), np.sin(angle)])
        trunk = smooth_line(rng, tuple(edge), angle + np.pi, s.extent * 1.1, 0.8, 6)
        lines.append((trunk, 0.036, 1.0))
        for k in (1, 2, 3, 4):
            turn = angle + np.pi + rng.choice([-0.9, 0.9])
            lines.append((smooth_line(rng, trunk[k], turn, s.extent * 0.45, 0.6, 4), 0.020, 0.85))
    s.blood = s.blood + rng.uniform(0.45, 0.95) * s.canvas.strokes(lines)
    if rng.random() < 0.65:
        nests = s.dots(int(rng.integers(3, 12)), 0.04, 0.11)
        s.cover((0.36, 0.36, 0.44), rng.uniform(0.5, 0.8) * nests)
    if rng.random() < 0.35:
        sore = s.canvas.ellipse(*s.scatter(1, 0.5)[0], 0.15, 0.11, soft=0.06)
        s.cover((0.45, 0.14, 0.10), 0.75 * sore)
    shine = [(np.array([p - 0.05, p + 0.05]), 0.02, 1.0) for p in s.scatter(5)]
    s.cover((0.97, 0.90, 0.88), 0.45 * s.canvas.strokes(shine))


def _keratosis(s: Lesion, cysts: float = 1.0, prints: float = 1.0) -> None:
    """Waxy brown, stuck on: milia-like cysts, comedo-like openings, ridges like a fingerprint."""
    rng, depth = s.rng, s.rng.uniform(0.25, 0.80)
    s.melanin = s.melanin + depth * s.inside * (1 + 0.18 * s.canvas.cloud(rng, 6))
    s.blood = s.blood + rng.uniform(0, 0.15) * s.inside
    bent = s.canvas.x + 0.10 * s.canvas.cloud(rng, 5)
    ridges = np.clip(np.sin(rng.uniform(20, 30) * bent), -0.3, 1)
    s.melanin += prints * rng.uniform(0.05, 0.28) * depth * s.inside * ridges
    if cysts:
        s.melanin += 0.6 * s.dots(int(rng.integers(2, 10)), 0.03, 0.06)
        milia = s.dots(int(rng.integers(5, 22)), 0.022, 0.05)
        s.cover(KERATIN, cysts * rng.uniform(0.55, 0.85) * milia)


def _pigmented_keratosis(s: Lesion) -> None:
    """Grey-brown ridges and furrows, few cysts, peppered with grey dots."""
    _keratosis(s, cysts=0.0, prints=1.8)
    s.cover((0.45, 0.42, 0.42), 0.55 * s.dots(int(s.rng.integers(25, 60)), 0.015, 0.03))


def _lentigo(s: Lesion) -> None:
    """A flat, evenly light brown patch with a sharp, moth-eaten border."""
    rng = s.rng
    bites = np.zeros_like(s.r)
    for angle in rng.uniform(0, 6.28, rng.integers(4, 8)):
        x, y = s.extent * 1.0 * np.cos(angle), s.extent * np.sin(angle)
        bites = np.maximum(bites, s.canvas.ellipse(x, y, *rng.uniform(0.08, 0.16, 2), soft=0.03))
    s.inside = s.inside * (1 - bites)
    s.melanin = s.melanin + rng.uniform(0.20, 0.42) * s.inside
    bent = s.canvas.x + 0.06 * s.canvas.cloud(rng, 6)
    s.melanin += 0.05 * s.inside * np.sin(34 * bent)


def _actinic(s: Lesion) -> None:
    """A red, rough patch: a pink net around pale follicles under yellow-white scale."""
    rng = s.rng
    s.blood = s.blood + rng.uniform(0.18, 0.42) * s.inside * (1 + 0.25 * s.canvas.cloud(rng, 9))
    s.melanin = s.melanin + rng.uniform(-0.03, 0.18) * s.inside
    follicles = s.dots(int(rng.integers(12, 34)), 0.03, 0.05, reach=1.0)
    s.cover((0.93, 0.82, 0.72), rng.uniform(0.35, 0.65) * follicles)
    flakes = np.clip(s.canvas.cloud(rng, 20) + 0.8 * s.canvas.cloud(rng, 5) - 0.9, 0, 1)
    s.cover(KERATIN, rng.uniform(0.4, 0.9) * flakes * s.inside)


def _squamous(s: Lesion) -> None:
    """A red nodule around a plug of keratin, often bleeding, with hairpin vessels at its rim."""
    rng, lines = s.rng, []
    s.blood = s.blood + rng.uniform(0.28, 0.50) * s.inside * (1 + 0.2 * s.canvas.cloud(rng, 7))
    for angle in rng.uniform(0, 6.28, 16):
        a = s.extent * np.array([np.cos(angle), np.sin(angle)])
        lines.append(([0.75 * a, 1.05 * a], 0.03, 1.0))
    s.blood = s.blood + 0.5 * s.canvas.strokes(lines)
    plug = s.canvas.blob(
        *s.scatter(1, 0.3)[0],
        *(s.extent * rng.uniform(0.35, 0.6, 2)),
        soft=0.10,
        wobble=wobble(rng, 0.15),
    )
    s.cover((0.88, 0.76, 0.55), rng.uniform(0.6, 0.9) * plug)
    crust = np.clip(s.canvas.cloud(rng, 9) - 0.7, 0, 1) * plug
    s.cover((0.36, 0.12, 0.08), rng.uniform(0.3, 0.9) * crust)


def _dermatofibroma(s: Lesion) -> None:
    """A white scar-like centre inside a delicate, fading brown net."""
    rng, depth = s.rng, s.rng.uniform(0.22, 0.50)
    s.melanin = s.melanin + depth * s.inside
    s.blood = s.blood + rng.uniform(0.03, 0.22) * s.inside
    s.melanin += s.inside * _network(s, rng.uniform(38, 50), 0.45 * depth)
    size = rng.uniform(0.30, 0.52)
    s.cover(SCAR, rng.uniform(0.40, 0.75) * ramp(size - s.r, 0.30))


def _vascular(s: Lesion) -> None:
    """Round lakes of blood, red to purple, packed on a pink ground."""
    rng = s.rng
    s.blood = s.blood + rng.uniform(0.20, 0.60) * s.inside
    lakes = s.dots(int(rng.integers(10, 24)), 0.08, 0.17, reach=0.85)
    s.blood = s.blood + rng.uniform(0.6, 1.3) * lakes
    s.melanin = s.melanin + rng.uniform(0.05, 0.5) * lakes
    if rng.random() < 0.35:
        s.cover((0.22, 0.10, 0.22), 0.7 * s.dots(5, 0.10, 0.18, reach=0.6))


# Painter, softness of the border, raggedness of the outline, spread of the elongation.
LOOKS = {
    "nv": (_nevus, 0.30, 0.03, 0.10),
    "mel": (_melanoma, 0.18, 0.10, 0.16),
    "bcc": (_basal, 0.34, 0.07, 0.12),
    "bkl": (_keratosis, 0.12, 0.07, 0.14),
    "akiec": (_actinic, 0.50, 0.09, 0.14),
    "df": (_dermatofibroma, 0.45, 0.04, 0.08),
    "vasc": (_vascular, 0.15, 0.06, 0.12),
    "squamous": (_squamous, 0.25, 0.07, 0.10),
    "pigmented": (_pigmented_keratosis, 0.16, 0.08, 0.14),
    "lentigo": (_lentigo, 0.08, 0.10, 0.2),
}
# What each look is confused with in practice.
MIMICS = {
    "nv": ("mel", "bkl", "df"),
    "mel": ("nv", "bkl", "pigmented"),
    "bcc": ("akiec", "mel"),
    "bkl": ("mel", "nv", "pigmented"),
    "akiec": ("bcc", "squamous", "bkl"),
    "df": ("nv", "bcc"),
    "vasc": ("mel", "bcc"),
    "squamous": ("akiec", "bcc"),
    "pigmented": ("lentigo", "bkl", "mel"),
    "lentigo": ("pigmented", "nv"),
}
