"""A number that carries its interval: bootstrap replicates, training seeds, per-image outcomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from . import inference


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; ``low`` and ``high`` span 95 %.

    Of one network the interval is that of its replicates, and leaves the training seed out. With
    several seeds it is crossed: that of seeds and of images (see ``inference.crossed``).

    Attributes:
        replicates: (DRAWS,) of the bootstrap over groups of images, means over the seeds.
        by_seed: the number of each training seed, once seeds are averaged.
        outcomes: (seeds, N) one number an image, where the value is their plain mean.
        groups: (N,) the patient, lesion or tile of each image, where it is known.
        paired: whether it is the difference of two on the same images.
    """

    value: float
    replicates: np.ndarray
    by_seed: Mapping[int, float] = field(default_factory=dict)
    outcomes: np.ndarray | None = None
    groups: np.ndarray | None = None
    paired: bool = False

    @property
    def low(self) -> float:
        return self._ends[0]

    @property
    def high(self) -> float:
        return self._ends[1]

    @property
    def _ends(self) -> tuple[float, float]:
        if len(self.by_seed) > 1:
            n = 0 if self.outcomes is None else self.outcomes.shape[1]
            few = self.discordant
            found = inference.crossed([*self.by_seed.values()], *self.spread, few, n)
            return float(found.low), float(found.high)
        known = self.replicates[np.isfinite(self.replicates)]
        if not len(known):
            return float("nan"), float("nan")
        return float(np.quantile(known, 0.025)), float(np.quantile(known, 0.975))

    @property
    def spread(self) -> tuple[float, float]:
        """Variance of the value over groups of images, and how many groups there are."""
        if self.rebuilds:
            return inference.cluster_variance(self.outcomes.mean(0), self.groups)
        known = self.replicates[np.isfinite(self.replicates)]
        count = np.inf if self.groups is None else len(np.unique(self.groups))
        return float(known.var(ddof=1)) if len(known) > 1 else float("nan"), count

    @property
    def rebuilds(self) -> bool:
        """Whether value and interval follow from the outcomes alone."""
        known = self.outcomes is not None and self.groups is not None
        return known and bool(np.isfinite(self.outcomes).all())

    @property
    def discordant(self) -> tuple[int, int] | None:
        """Images gained and lost, of a paired difference of right answers."""
        return inference.discordant(self.outcomes) if self.paired and self.rebuilds else None

    def __sub__(self, other: Estimate) -> Estimate:
        outcomes = None
        both = self.outcomes is not None and other.outcomes is not None
        if both and self.outcomes.shape == other.outcomes.shape:
            outcomes = self.outcomes - other.outcomes
        found = combined(lambda two: two[0] - two[1], self, other)
        return replace(found, outcomes=outcomes, paired=outcomes is not None)

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def combined(how: Callable[[np.ndarray], np.ndarray], *estimates: Estimate) -> Estimate:
    """``how`` of estimates with common draws: of the values, of each seed's, of each draw's.

    Args:
        how: (len(estimates), L) -> (L,).
    """
    seeds = [s for s in estimates[0].by_seed if all(s in one.by_seed for one in estimates)]
    rows = [[one.value, *(one.by_seed[s] for s in seeds), *one.replicates] for one in estimates]
    found = how(np.array(rows, float))
    start = 1 + len(seeds)
    by_seed = dict(zip(seeds, found[1:start].tolist(), strict=True))
    return Estimate(float(found[0]), found[start:], by_seed, groups=estimates[0].groups)


def mean(estimates: Sequence[Estimate]) -> Estimate:
    """Mean over noise seeds or radii, replicate by replicate."""
    return combined(lambda rows: rows.mean(0), *estimates)


def pooled(estimates: Sequence[Estimate | float], seeds: Sequence[int] = ()) -> Estimate | float:
    """Mean over training seeds, numbered from 0 without ``seeds``; their spread enters.

    Of exact numbers the plain mean.
    """
    if not isinstance(estimates[0], Estimate):
        return float(np.mean(estimates))
    first, outcomes = estimates[0], [one.outcomes for one in estimates]
    whole = all(one is not None and one.shape[1:] == outcomes[0].shape[1:] for one in outcomes)
    values = [one.value for one in estimates]
    return replace(
        first,
        value=float(np.mean(values)),
        replicates=np.mean([one.replicates for one in estimates], axis=0),
        by_seed=dict(zip(seeds or range(len(values)), values, strict=True)),
        outcomes=np.concatenate(outcomes) if whole else None,
    )
