"""Two ways of doing something, timed in turns, so that a busy machine slows both alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import median


@dataclass(frozen=True)
class Comparison:
    """What was measured, and what was promised.

    Attributes:
        name: one line: what is compared with what.
        base, other: names of the two sides.
        base_seconds, other_seconds: median of the rounds.
        ratio: median over the rounds of the other side's time divided by the base's.
        low, high: the smallest and the largest of those ratios.
        target: the largest ratio that keeps the promise.
        rounds: how many were timed.
        facts: what else was found, such as how good the quicker answer is.
    """

    name: str
    base: str
    other: str
    base_seconds: float
    other_seconds: float
    ratio: float
    low: float
    high: float
    target: float
    rounds: int
    facts: Mapping[str, float] = field(default_factory=dict)

    @property
    def reached(self) -> bool:
        """Whether the ratio keeps the promise."""
        return self.ratio <= self.target

    def record(self) -> dict:
        """For JSON."""
        return {**asdict(self), "reached": self.reached}


def compare(
    name: str,
    base: tuple[str, Callable[[], object]],
    other: tuple[str, Callable[[], object]],
    *,
    target: float,
    rounds: int,
    facts: Mapping[str, float] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Comparison:
    """Time two sides in turns; see ``Comparison`` for what comes back.

    The two runs of a round lie next to each other in time, so their ratio says more than that of
    two medians when another process comes and goes. Every other round begins with the other side.

    Args:
        base, other: a side's name, and the call to time. The call must not return before its
            work is done (on a GPU: read a result back).
        rounds: after one that warms up and does not count.
        facts: to be kept with the times.
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for side in (0, 1) if turn % 2 else (1, 0):
            start = clock()
            (base, other)[side][1]()
            if turn:
                seconds[side].append(clock() - start)
    ratios = [theirs / ours for ours, theirs in zip(*seconds, strict=True)]
    return Comparison(
        name,
        base[0],
        other[0],
        median(seconds[0]),
        median(seconds[1]),
        median(ratios),
        min(ratios),
        max(ratios),
        target,
        rounds,
        dict(facts or {}),
    )
