"""Whether the quick attacks are as strong: accuracy under attack beside Foolbox's, eps by eps.

Foolbox's attack is ``LinfPGD`` itself, with the kit's random starts (``engine="foolbox"``), in
float32. An image that is wrong before the attack counts as wrong for all and is not attacked.
What was found is kept (see ``contest``), and a benchmark compares as many images as are known, and
a few in any case. ``python -m benchmarks.strength resnet 224`` attacks as many of the others as it
takes to judge all, which may take hours, and goes on where it was stopped.

How much weaker a mode is at most can be told without both meeting every image at every eps. Where
the mode fools an image, Foolbox at best does too and counts as if it did; and where Foolbox leaves
one, the mode at worst does too. So one answer of either kind is enough. Should that bound be too
loose to tell at some eps, both meet all at it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from . import contest
from .contest import BISECTION, FELLED, FOOLBOX, INDEPENDENT, LADDERS, STANDS, STEPS, UNKNOWN
from .networks import Victim, victim

SLACK = 0.01  # share of the images by which an attack may leave more standing than Foolbox
INSIDE, ENOUGH = (0.2, 0.8), 3  # at three eps or more Foolbox leaves such a share of the clean
TIE = 1e-9  # a share of just that much counts, however it is rounded


@dataclass(frozen=True)
class Strength:
    """Who stands under each attack, of the held-out images.

    Attributes:
        clean: bool (n,): right before the attack.
        found: of each side int8 (E, n): UNKNOWN, FELLED or STANDS (see ``contest``).
    """

    clean: np.ndarray
    found: Mapping[str, np.ndarray]

    def missing(self, mode: str) -> dict[str, np.ndarray]:
        """Bool (E, n) of each side: what it has to attack yet before ``mode`` can be judged."""
        mine, theirs = self.found[mode], self.found[FOOLBOX]
        return {
            mode: (mine == UNKNOWN) & (theirs != STANDS),
            FOOLBOX: (theirs == UNKNOWN) & (mine != FELLED),
        }

    def images(self, mode: str) -> int:
        """How many images, counted from the first, a mode can be judged on."""
        known = ~np.any(list(self.missing(mode).values()), (0, 1))
        return len(known) if known.all() else int(known.argmin())

    def at_least(self, side: str, mode: str) -> np.ndarray:
        """Share (E,) that is known to stand under ``side``, of the images ``mode`` is judged on."""
        return (self.found[side][:, : self.images(mode)] == STANDS).mean(1)

    def at_most(self, side: str, mode: str) -> np.ndarray:
        """Share (E,) of the same images if all stand that ``side`` has not met."""
        return (self.found[side][:, : self.images(mode)] != FELLED).mean(1)

    def inside(self, mode: str) -> int:
        """At how many eps Foolbox is known to leave 20 to 80 % of those right before."""
        clean = self.clean[: self.images(mode)].mean()
        lowest, highest = self.at_least(FOOLBOX, mode) / clean, self.at_most(FOOLBOX, mode) / clean
        return int(((lowest >= INSIDE[0] - TIE) & (highest <= INSIDE[1] + TIE)).sum())

    def gaps(self, mode: str) -> np.ndarray:
        """By which share (E,) of the images more stand than under Foolbox, at most."""
        return self.at_most(mode, mode) - self.at_least(FOOLBOX, mode)

    def above(self, mode: str) -> float:
        """The same at the worst eps."""
        return float(self.gaps(mode).max())

    def weaker(self, mode: str) -> bool:
        """Whether more may stand than under Foolbox, beyond SLACK."""
        return self.above(mode) > SLACK + TIE  # two images in 200 are just that

    def kept(self, mode: str) -> bool:
        """Whether the mode is as strong, on enough images and eps to tell."""
        enough = self.images(mode) >= contest.WANTED and self.inside(mode) >= ENOUGH
        return enough and not self.weaker(mode)

    def facts(self, mode: str) -> dict:
        """For the record."""
        shares = {
            "mode_at_least": self.at_least(mode, mode),
            "mode_at_most": self.at_most(mode, mode),
            "foolbox_at_least": self.at_least(FOOLBOX, mode),
            "foolbox_at_most": self.at_most(FOOLBOX, mode),
        }
        return {
            "images": self.images(mode),
            "clean_accuracy": float(self.clean[: self.images(mode)].mean()),
            "eps_inside": self.inside(mode),
            "above_foolbox": self.above(mode),
            **{name: share.round(4).tolist() for name, share in shares.items()},
        }


def measure(attacked: Victim, epsilons: Sequence[float], steps: int) -> Strength:
    """Compare the images that have been attacked before, and the first few in any case.

    Once Foolbox has met more, bisection, which takes minutes, meets all. What it leaves and
    Foolbox has not met, Foolbox meets now if that is as little: a borderline image may fall with
    one number of threads and stand with another.
    """
    job = contest.known(attacked, epsilons, steps)
    few = np.zeros_like(job.found[FOOLBOX], bool)
    few[:, : job.batch] = True
    job.ask(FOOLBOX, few)
    job.ask(INDEPENDENT, few)
    more = (job.found[FOOLBOX][:, job.batch :] == STANDS).any()
    job.ask(BISECTION, np.ones_like(few) if more else few)
    left = (job.found[BISECTION] == STANDS) & (job.found[FOOLBOX] == UNKNOWN)
    if left.sum() <= few.sum():
        job.ask(FOOLBOX, left)
    return Strength(job.clean, job.found)


def extend(attacked: Victim, epsilons: Sequence[float], steps: int) -> None:
    """Attack until both modes can be judged on all held-out images, and keep what is found."""
    job = contest.known(attacked, epsilons, steps)
    job.ask(BISECTION, np.ones_like(job.found[BISECTION], bool), f"bisection, {attacked.title}")
    _ask_foolbox(job, BISECTION)
    _show_ladder(job)
    wanted = job.found[FOOLBOX] != STANDS
    job.ask(INDEPENDENT, wanted, f"independent where Foolbox may fell, {attacked.title}")
    _ask_foolbox(job, INDEPENDENT)
    for mode in (BISECTION, INDEPENDENT):
        _settle(job, mode)


def _ask_foolbox(job: contest.Contest, mode: str) -> None:
    """Attack the images that the mode leaves."""
    wanted = job.found[mode] == STANDS
    job.ask(FOOLBOX, wanted, f"Foolbox where {mode} leaves, {job.attacked.title}")


def _settle(job: contest.Contest, mode: str) -> None:
    """Let both meet all at those eps where the bound is too loose to tell."""
    loose = Strength(job.clean, job.found).gaps(mode) > SLACK + TIE
    wanted = np.broadcast_to(loose[:, None], job.found[mode].shape)
    for side in (mode, FOOLBOX):
        job.ask(side, wanted, f"{side} where the bound is loose, {job.attacked.title}")


def _show_ladder(job: contest.Contest) -> None:
    """Attack by Foolbox until it is known to fell a fifth, at the eps where that is soonest.

    These are the largest at which it is known to leave a fifth of those right before. Should fewer
    than three be shown in that way, it meets all.
    """
    right = job.clean.sum()
    shares = (job.found[FOOLBOX] == STANDS).sum(1) / right
    for rung in (shares >= INSIDE[0] - TIE).nonzero()[0][-ENOUGH:]:
        for count in range(0, len(job.clean), job.batch):
            if (job.found[FOOLBOX][rung] != FELLED).sum() / right <= INSIDE[1] + TIE:
                break
            some = np.zeros_like(job.found[FOOLBOX], bool)
            some[rung, : count + job.batch] = True
            job.ask(FOOLBOX, some)
    if Strength(job.clean, job.found).inside(BISECTION) < ENOUGH:
        everything = np.ones_like(job.found[FOOLBOX], bool)
        job.ask(FOOLBOX, everything, f"Foolbox, {job.attacked.title}")


def main(arguments: list[str] | None = None) -> None:
    """Attack all held-out images of a network, however long that takes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.strength", description=__doc__)
    parser.add_argument("name", choices=sorted({name for name, _ in LADDERS}))
    parser.add_argument("size", type=int, choices=sorted({size for _, size in LADDERS}))
    given = parser.parse_args(arguments)
    epsilons = [level / 255 for level in LADDERS[given.name, given.size]]
    extend(victim(given.name, given.size), epsilons, STEPS)


if __name__ == "__main__":
    main()
