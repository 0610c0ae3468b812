"""Whether the quick attacks are as strong: accuracy under attack beside Foolbox's, eps by eps.

Foolbox's attack is ``LinfPGD`` itself, with the kit's random starts (``engine="foolbox"``), in
float32. An image that is wrong before the attack counts as wrong for all and is not attacked.
What Foolbox found is kept, a few images at a time, and so is what the kit's modes found, as long as
the attacks' source stays the same. A benchmark compares as many images as are kept, and a few in
any case. ``python -m benchmarks.strength resnet 224`` attacks all the others, which may take hours,
and goes on where it was stopped.

Foolbox meets each image at every eps, or only where the nested mode leaves it standing: the images
that Foolbox fells there bound by how many more the nested mode leaves, for those it felled itself
can only count against Foolbox. That is half the work or less, and done first.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medrobust_utils import env
from medrobust_utils.errors import DataError

from .contest import FOOLBOX, KEPT, LADDERS, NESTED, STEPS, WANTED, Contest, contest
from .networks import Victim, victim

SLACK = 0.01  # share of the images by which an attack may leave more standing than Foolbox
INSIDE, ENOUGH = (0.2, 0.8), 3  # at three eps or more Foolbox leaves such a share of the clean


@dataclass(frozen=True)
class Strength:
    """Who stands under each attack, of the first held-out images.

    Attributes:
        clean: bool (n,): right before the attack.
        standing: for ``foolbox``, ``nested`` and ``independent`` bool (E, m): right at each eps,
            of the first m images.
        missed: bool (E, m): left standing by the nested mode and felled by Foolbox, of the first m
            images that Foolbox met at least where the nested mode leaves them.
    """

    clean: np.ndarray
    standing: Mapping[str, np.ndarray]
    missed: np.ndarray

    def met(self, mode: str) -> int:
        """How many images a mode was compared with Foolbox on at every eps."""
        return min(self.standing[name].shape[1] for name in (mode, FOOLBOX))

    def images(self, mode: str) -> int:
        """How many images a mode was compared with Foolbox on, be it where it leaves them."""
        return max(self.met(mode), self.missed.shape[1] if mode == NESTED else 0)

    def accuracy(self, name: str, images: int) -> np.ndarray:
        """Share (E,) of the first images that stand."""
        return self.standing[name][:, :images].mean(1)

    def inside(self, mode: str) -> int:
        """At how many eps Foolbox leaves 20 to 80 % of those right before, met at every eps."""
        count = self.met(mode)
        share = self.accuracy(FOOLBOX, count) / self.clean[:count].mean()
        return int(((share >= INSIDE[0]) & (share <= INSIDE[1])).sum())

    def above(self, mode: str) -> float:
        """By which share of the images more stand than Foolbox leaves, at the worst eps; at most.

        It is exact where all images were met at every eps.
        """
        count = self.met(mode)
        if self.images(mode) > count:
            return float(self.missed.mean(1).max())
        return float((self.accuracy(mode, count) - self.accuracy(FOOLBOX, count)).max())

    def weaker(self, mode: str) -> bool:
        """Whether more stand than Foolbox leaves, beyond SLACK."""
        return self.above(mode) > SLACK + 1e-9  # two images in 200 are just that

    def kept(self, mode: str) -> bool:
        """Whether the mode is as strong, on enough images and eps to tell."""
        enough = self.images(mode) >= WANTED and self.inside(mode) >= ENOUGH
        return enough and not self.weaker(mode)

    def facts(self, mode: str) -> dict:
        """For the record."""
        met, count = self.met(mode), self.images(mode)
        shares = {
            f"{name}_accuracy": self.accuracy(name, images).round(4).tolist()
            for name, images in ((mode, count), (FOOLBOX, met))
        }
        return {
            "images": count,
            "met_at_every_eps": met,
            "clean_accuracy": float(self.clean[:count].mean()),
            "eps_inside": self.inside(mode),
            "above_foolbox": self.above(mode),
            **shares,
            **({"missed": self.missed.mean(1).round(4).tolist()} if mode == NESTED else {}),
        }


def measure(attacked: Victim, epsilons: Sequence[float], steps: int) -> Strength:
    """Compare the images that have been attacked before, and the first few in any case."""
    job = contest(attacked, epsilons, steps)
    standing, met = {}, 0
    for name in KEPT:
        found = []
        for part in job.parts(name):
            asked = part.start == 0 or (name == NESTED and part.start < met)
            if not asked and not job.known(name, part):
                break
            found.append(job.standing(name, part))
        standing[name] = np.concatenate(found, 1)
        met = standing[FOOLBOX].shape[1]
    return Strength(job.clean, standing, _missed(job, standing))


def _missed(job: Contest, standing: Mapping[str, np.ndarray]) -> np.ndarray:
    """Bool (E, m): as in ``Strength``."""
    nested, met = standing[NESTED], standing[FOOLBOX].shape[1]
    found = [nested[:, :met] & ~standing[FOOLBOX][:, : nested.shape[1]]]
    for part in job.parts(NESTED):
        here = nested[:, part]
        if part.stop > met:
            if not here.size or not job.known_where_left(part, here):
                break
            found.append(job.missed(part, here)[:, max(0, met - part.start) :])
    return np.concatenate(found, 1)


def extend(attacked: Victim, epsilons: Sequence[float], steps: int) -> None:
    """Attack all held-out images, and keep what is found, the most telling first."""
    job = contest(attacked, epsilons, steps)
    if not all(job.known(FOOLBOX, part) for part in job.parts(FOOLBOX)):
        for part in env.progress(job.parts(NESTED), desc=f"{NESTED} and {FOOLBOX} where it leaves"):
            job.missed(part, job.standing(NESTED, part))
    for name in KEPT:
        for part in env.progress(job.parts(name), desc=name):
            job.standing(name, part)


def main(arguments: list[str] | None = None) -> None:
    """Attack all held-out images of a network, however long that takes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.strength", description=__doc__)
    parser.add_argument("name", choices=sorted({name for name, _ in LADDERS}))
    parser.add_argument("size", type=int, choices=sorted({size for _, size in LADDERS}))
    given = parser.parse_args(arguments)
    epsilons = [level / 255 for level in LADDERS[given.name, given.size]]
    try:
        extend(victim(given.name, given.size), epsilons, STEPS)
    except DataError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
