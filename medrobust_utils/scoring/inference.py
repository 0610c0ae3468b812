"""How far a difference may be trusted: training seeds and test images, crossed, in one interval.

Numpy and scipy alone. A difference of two networks is measured once a training seed, every time
on the same test images; so its standard error has two parts, the seeds' and the images'.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import beta, t

LEVEL = 0.95
FEW = 10  # discordant images below which the exact test decides


class Interval(NamedTuple):
    """A value (...) and both ends of its interval."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def over_seeds(
    by_seed: Sequence[float], variance: float, clusters: float, level: float = LEVEL
) -> Interval:
    """The t interval of a difference that was measured once a seed.

    SE squared is s squared / n + ``variance``: s is the standard deviation of the n differences,
    which no other pair lends (seed noise differs between arms). Each part has its own degrees of
    freedom and its own t; the squares of both half widths are added, which errs no more often
    than ``level`` says. (Satterthwaite's formula does with three seeds: in 7.5 % for 5.)

    Args:
        by_seed: differences (..., n) of n seeds, 2 or more.
        variance: of their mean over what they share, the clusters of test images (...).
        clusters: how many patients, lesions or tiles stand behind it.
    """
    values = np.asarray(by_seed, float)
    n = values.shape[-1]
    if n < 2:
        raise ValueError("one seed has no spread: it is a pilot, and has no interval")
    mean, half = values.mean(-1), _half(values.var(-1, ddof=1) / n, n, variance, clusters, level)
    return Interval(mean, mean - half, mean + half)


def _half(seeds, n: int, images, clusters: float, level: float) -> np.ndarray:
    """Half the width, from the variance of the mean over seeds and of that over images."""
    by_seeds, by_images = t.ppf((1 + level) / 2, [n - 1, max(clusters - 1, 1)])
    return np.sqrt(by_seeds**2 * seeds + by_images**2 * np.asarray(images, float))


def crossed(
    by_seed: Sequence[float],
    variance: float,
    clusters: float,
    discordant: Sequence[int] | None = None,
    n: int = 0,
    level: float = LEVEL,
) -> Interval:
    """``over_seeds``, widened to what the exact test allows where it is about a few images.

    Args:
        discordant: of ``n`` images those gained and those lost, of a difference of two shares.
    """
    found = over_seeds(by_seed, variance, clusters, level)
    if discordant is None or sum(discordant) >= FEW:
        return found
    low, high = exact_difference(*discordant, n, level)
    return found._replace(low=min(found.low, low), high=max(found.high, high))


def next_run(
    by_seed: Sequence[float], variance: float, level: float = LEVEL
) -> tuple[float, float]:
    """Where the difference of one more seed is expected: the prediction interval over seeds."""
    values = np.asarray(by_seed, float)
    spread = np.sqrt(values.var(ddof=1) * (1 + 1 / len(values)) + variance)
    half = t.ppf((1 + level) / 2, len(values) - 1) * spread
    return float(values.mean() - half), float(values.mean() + half)


def cluster_variance(values: np.ndarray, groups: np.ndarray) -> tuple[float, int]:
    """Variance of the mean of ``values`` (N,) when whole ``groups`` (N,) are drawn; their number.

    To first order what a bootstrap over groups gives, without its draws.
    """
    values = np.asarray(values, float)
    _, which = np.unique(groups, return_inverse=True)
    sums = np.bincount(which, values - values.mean())
    count = len(sums)
    return float((sums**2).sum() / len(values) ** 2 * count / max(count - 1, 1)), count


def exact_share(hits: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Clopper and Pearson's interval of the share ``hits`` of ``n``."""
    tail = (1 - level) / 2
    low = beta.ppf(tail, hits, n - hits + 1) if hits else 0.0
    high = beta.ppf(1 - tail, hits + 1, n - hits) if hits < n else 1.0
    return float(low), float(high)


def exact_difference(gained: int, lost: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Interval of a paired difference of shares from its few discordant images.

    The sign is that of McNemar's exact test; the size allows for as many discordant images as
    Clopper and Pearson do, so that three images of 203 never refute a thing.
    """
    discordant = gained + lost
    most = exact_share(discordant, n, level)[1]
    low, high = exact_share(gained, discordant, level) if discordant else (0.0, 1.0)
    return (2 * low - 1) * most, (2 * high - 1) * most


def paired(outcomes: np.ndarray, groups: np.ndarray, level: float = LEVEL) -> Interval:
    """The interval of a difference from its outcomes (seeds, N), one an image and seed."""
    outcomes = np.asarray(outcomes, float)
    variance, clusters = cluster_variance(outcomes.mean(0), groups)
    few, n = discordant(outcomes), outcomes.shape[1]
    return crossed(outcomes.mean(1), variance, clusters, few, n, level)


def discordant(outcomes: np.ndarray) -> tuple[int, int] | None:
    """Images gained and lost in differences (seeds, N) of right answers; None of other numbers."""
    if not np.isin(outcomes, (-1, 0, 1)).all():
        return None
    means = outcomes.mean(0)
    return int((means > 0).sum()), int((means < 0).sum())


def wilson_low(hits: float, n: int, level: float = LEVEL) -> float:
    """The lower end of Wilson's interval of the share ``hits`` of ``n``."""
    z = t.ppf((1 + level) / 2, np.inf)
    share = hits / n
    centre = share + z**2 / (2 * n)
    spread = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return float((centre - spread) / (1 + z**2 / n))


def holm(p_values: Sequence[float], alpha: float = 1 - LEVEL) -> list[float]:
    """The level of each interval when several primary cells are judged at ``alpha`` in all."""
    order = np.argsort(p_values, kind="stable")
    levels = np.empty(len(order))
    levels[order] = 1 - alpha / (len(order) - np.arange(len(order)))
    return levels.tolist()


def detectable(
    spread: float, seeds: int, variance: float, clusters: int, power: float = 0.8
) -> float:
    """The effect that a plan finds with ``power``: printed before a run starts.

    Args:
        spread: expected standard deviation of the pair's difference between seeds.
        variance: expected of the mean over test images.
    """
    random, draws = np.random.default_rng(0), 20_000
    parts = np.array([[spread**2 / seeds], [variance]])
    free = np.array([[seeds - 1], [max(clusters - 1, 1)]])
    seen = parts * random.chisquare(free, (2, draws)) / free  # what the plan's runs will estimate
    noise = random.normal(0, np.sqrt(parts.sum()), draws)
    half = _half(seen[0], seeds, seen[1], clusters, LEVEL)
    return float(np.quantile(half - noise, power))
