"""Two ways of doing something, timed in turns, so that a busy machine slows both alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from medrobust_utils.core import env


@dataclass(frozen=True)
class Row:
    """One comparison: what both sides do, each side's name and seconds round by round.

    The kit is to be at least ``bound`` times as fast as the base, or with ``at_most`` to take at
    most so many times as long; ``kept`` tells whether what is promised of the ``facts`` holds.
    """

    what: str
    base: tuple[str, Sequence[float]]
    kit: tuple[str, Sequence[float]]
    bound: float
    at_most: bool = False
    facts: Mapping[str, object] = field(default_factory=dict)
    kept: bool = True

    def record(self) -> dict:
        """For JSON: the ratio is the median over rounds, with the smallest and the largest."""
        pairs = zip(self.base[1], self.kit[1], strict=True)
        ratios = [k / b if self.at_most else b / k for b, k in pairs]
        far = median(ratios) - self.bound
        return {
            "what": self.what,
            "base": [self.base[0], median(self.base[1])],
            "kit": [self.kit[0], median(self.kit[1])],
            "ratio": median(ratios),
            "spread": [min(ratios), max(ratios)],
            "bound": f"at {'most' if self.at_most else 'least'} {self.bound:.4g}",
            "reached": self.kept and (far <= 0 if self.at_most else far >= 0),
            **self.facts,
        }


def take_turns(*sides: Callable, rounds: int, warm: bool = True) -> list[list[float]]:
    """Seconds of each side in each round; every other round goes the other way round.

    No side may return before its work is done (on a GPU: read a result back). With ``warm`` a
    first round does not count.
    """
    seconds: list[list[float]] = [[] for _ in sides]
    for turn in range(1 - warm, rounds + 1):
        for side in sorted(range(len(sides)), reverse=not turn % 2):
            start = time.perf_counter()
            sides[side]()
            if turn:
                seconds[side].append(time.perf_counter() - start)
    return seconds


def kind() -> str:
    """Which of the kinds of machine that promises are made for this is."""
    if env.pick_device().type == "cuda":
        return "gpu"
    if not env.processor_flags() & env.BFLOAT16:
        return "avx2"
    return "amd-bf16" if "AuthenticAMD" in env.CPUINFO.read_text() else "intel-bf16"
