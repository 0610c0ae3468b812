"""Whether the quick attacks are as strong: accuracy under attack beside Foolbox's, eps by eps.

Foolbox's attack is ``LinfPGD`` itself, with the kit's random starts (``engine="foolbox"``), in
float32. An image that is wrong before the attack counts as wrong for all and is not attacked.
What Foolbox found is kept, a few images at a time, so a measurement that was stopped, or that ran
out of time, goes on from there; the kit's own modes are run anew each time. The independent mode,
Foolbox's own steps, comes last.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medrobust_utils import env
from medrobust_utils.attacks import Plan, attack_sweep
from medrobust_utils.evaluation import predict

from . import limits
from .networks import Victim

WANTED = 200  # held-out images
SLACK = 0.01  # share of the images by which an attack may leave more standing than Foolbox
INSIDE, ENOUGH = (0.2, 0.8), 3  # at three eps or more Foolbox leaves such a share of the clean
# Images at a time: nested and Foolbox, and independent.
CHUNK = {"cpu": {64: (25, 10), 224: (4, 2)}, "cuda": {64: (100, 100), 224: (100, 100)}}
NESTED_STEPS = 2 * Plan().steps, Plan().steps  # of an image that stands: first eps, later ones
LIMIT = 30.0  # seconds for images that are not kept yet; those begun are finished


@dataclass(frozen=True)
class Strength:
    """Who stands under each attack, of the first held-out images.

    Attributes:
        clean: bool (n,): right before the attack.
        standing: for ``foolbox``, ``nested`` and ``independent`` bool (E, m): right at each eps;
            the time may not have sufficed for all.
    """

    clean: np.ndarray
    standing: Mapping[str, np.ndarray]

    def images(self, mode: str) -> int:
        """How many images a mode was compared with Foolbox on."""
        return min(self.standing[name].shape[1] for name in (mode, "foolbox"))

    def accuracy(self, name: str, images: int) -> np.ndarray:
        """Share (E,) of the first images that stand."""
        return self.standing[name][:, :images].mean(1)

    def inside(self, mode: str) -> int:
        """At how many eps Foolbox leaves 20 to 80 % of those right before."""
        count = self.images(mode)
        share = self.accuracy("foolbox", count) / self.clean[:count].mean()
        return int(((share >= INSIDE[0]) & (share <= INSIDE[1])).sum())

    def above(self, mode: str) -> float:
        """The largest share of the images that a mode leaves standing and Foolbox does not."""
        count = self.images(mode)
        return float((self.accuracy(mode, count) - self.accuracy("foolbox", count)).max())

    def weaker(self, mode: str) -> bool:
        """Whether more stand than Foolbox leaves, beyond SLACK."""
        return self.above(mode) > SLACK + 1e-9  # two images in 200 are just that

    def kept(self, mode: str) -> bool:
        """Whether the mode is as strong, on enough images and eps to tell."""
        enough = self.images(mode) >= WANTED and self.inside(mode) >= ENOUGH
        return enough and not self.weaker(mode)

    def gradients(self) -> float:
        """Of the nested mode, for an image that was right before."""
        standing = self.standing["nested"]
        right = self.clean[: standing.shape[1]].sum()
        first, later = NESTED_STEPS
        return float((first * right + later * standing[:-1].sum()) / max(1, right))

    def facts(self, mode: str) -> dict:
        """For the record."""
        count = self.images(mode)
        shares = {name: self.accuracy(name, count).round(4).tolist() for name in (mode, "foolbox")}
        return {
            "images": count,
            "clean_accuracy": float(self.clean[:count].mean()),
            "eps_inside": self.inside(mode),
            "above_foolbox": self.above(mode),
            **({"gradients_an_image": self.gradients()} if mode == "nested" else {}),
            **{f"{name}_accuracy": share for name, share in shares.items()},
        }


def measure(
    attacked: Victim, epsilons: Sequence[float], steps: int, limit: float = LIMIT
) -> Strength:
    """Attack the held-out images, a few at a time, until all are done or the time is over."""
    few = limits.by_device(CHUNK)[attacked.data.images.shape[1]]
    quick = env.training_dtype(env.pick_device())
    plans = {
        "nested": dict(mode="nested", dtype=quick),
        "foolbox": dict(mode="independent", steps=steps, engine="foolbox", folder=attacked.folder),
        "independent": dict(mode="independent", steps=steps, dtype=quick),
    }
    chosen = attacked.held_out[:WANTED]
    logits = predict(attacked.model, attacked.data, chosen)
    clean = logits.argmax(1) == attacked.data.targets[chosen]
    standing: dict[str, list[np.ndarray]] = {name: [] for name in plans}
    for names, size in zip((("nested", "foolbox"), ("independent",)), few, strict=True):
        spent = 0.0  # what is read back, and the nested mode, cost next to nothing
        parts = [slice(start, start + size) for start in range(0, len(chosen), size)]
        for part in env.progress(parts, desc=f"{' and '.join(names)}, {attacked.title}"):
            if part.start and spent > limit:  # the first images are never left out
                break
            for name in names:
                began = time.monotonic()
                standing[name].append(
                    _standing(attacked, chosen[part], clean[part], epsilons, plans[name])
                )
                spent += 0 if name == "nested" else time.monotonic() - began
    return Strength(clean, {name: np.concatenate(found, 1) for name, found in standing.items()})


def _standing(
    attacked: Victim, rows: np.ndarray, clean: np.ndarray, epsilons: Sequence[float], how: dict
) -> np.ndarray:
    """Bool (E, n): right at each eps, of these rows."""
    right = np.zeros((len(epsilons), len(rows)), bool)
    if clean.any():
        right[:, clean] = attack_sweep(
            attacked.model, attacked.data, rows[clean], epsilons, batch=len(rows),
            **how,
        ).right  # fmt: skip
    return right
