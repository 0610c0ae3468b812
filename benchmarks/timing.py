"""Several ways of doing something, timed in turns, so that a busy machine slows all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median


@dataclass(frozen=True)
class Comparison:
    """What was measured, and what was promised.

    Attributes:
        name: one line: what is compared with what.
        base, other: names of the two sides; ``other`` is the one of which something is promised.
        base_seconds, other_seconds: median of the rounds, for the same work.
        ratio: median over the rounds of the promised ratio: how many times quicker the other side
            is with ``at_least``, how many times as long it takes with ``at_most``.
        low, high: the smallest and the largest of those ratios.
        at_least, at_most: what was promised, one of the two.
        rounds: how many were timed.
        facts: what else was found, such as how good the quicker answer is.
        kept: whether what besides the time was promised holds too.
        unit: of both sides' values, seconds unless said.
    """

    name: str
    base: str
    other: str
    base_seconds: float
    other_seconds: float
    ratio: float
    low: float
    high: float
    at_least: float | None
    at_most: float | None
    rounds: int
    facts: Mapping[str, float | str | list] = field(default_factory=dict)
    kept: bool = True
    unit: str = "s"

    @property
    def reached(self) -> bool:
        """Whether what was promised holds, time and all else."""
        if self.at_least is not None:
            return self.kept and self.ratio >= self.at_least
        return self.kept and self.ratio <= self.at_most

    def record(self) -> dict:
        """For JSON."""
        return {**asdict(self), "reached": self.reached}


Side = tuple[str, Callable[[], object]]


def take_turns(
    sides: Sequence[Callable[[], object]],
    rounds: int,
    *,
    warm: bool = True,
) -> list[list[float]]:
    """Seconds of each side in each round.

    The runs of a round lie next to each other in time, so their ratio says more than that of
    two medians when another process comes and goes. Every other round goes the other way round.

    Args:
        sides: the calls to time. None must return before its work is done (on a GPU: read a
            result back).
        rounds: after one that warms up and does not count, unless ``warm`` is false.
    """
    seconds: list[list[float]] = [[] for _ in sides]
    for turn in range(0 if warm else 1, rounds + 1):
        order = range(len(sides))
        for side in order if turn % 2 else reversed(order):
            start = time.perf_counter()
            sides[side]()
            if turn:
                seconds[side].append(time.perf_counter() - start)
    return seconds


def judge(
    name: str,
    base: tuple[str, Sequence[float]],
    other: tuple[str, Sequence[float]],
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    facts: Mapping | None = None,
    kept: bool = True,
    unit: str = "s",
) -> Comparison:
    """Compare the seconds of two sides, round by round; the rest is as in ``Comparison``."""
    pairs = list(zip(base[1], other[1], strict=True))
    ratios = [b / o if at_least is not None else o / b for b, o in pairs]
    return Comparison(
        name,
        base[0],
        other[0],
        median(base[1]),
        median(other[1]),
        median(ratios),
        min(ratios),
        max(ratios),
        at_least,
        at_most,
        len(ratios),
        dict(facts or {}),
        kept,
        unit,
    )


def compare(
    name: str,
    base: Side,
    other: Side,
    *,
    rounds: int,
    **promise: object,
) -> Comparison:
    """Time two sides in turns and judge them; ``promise`` is what ``judge`` takes."""
    seconds = take_turns([base[1], other[1]], rounds)
    return judge(name, (base[0], seconds[0]), (other[0], seconds[1]), **promise)
