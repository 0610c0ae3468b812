"""Two ways of doing something, timed in turns, so that a busy machine slows both alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from medrobust_utils.core import env

Work = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One comparison, and what is promised.

    Attributes:
        what: one line: what both sides do.
        base, kit: name of each side, with its seconds (or megabytes) round by round.
        bound: the kit is to be at least so many times as fast as the base, or with ``at_most`` to
            take at most so many times as long.
        facts: what else was found; ``kept`` says whether what is promised of it holds.
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
        ratio = median(ratios)
        reached = self.kept and (ratio <= self.bound if self.at_most else ratio >= self.bound)
        sides = {side: [name, median(spent)] for side, (name, spent) in self._sides()}
        found = {"what": self.what, **sides, "ratio": ratio, "rounds": len(ratios)}
        bound = f"{'at most' if self.at_most else 'at least'} {self.bound:g}"
        spread = [min(ratios), max(ratios)]
        return found | {"spread": spread, "bound": bound, "reached": reached, **self.facts}

    def _sides(self) -> Sequence[tuple[str, tuple[str, Sequence[float]]]]:
        return (("base", self.base), ("kit", self.kit))


def take_turns(*sides: Work, rounds: int, warm: bool = True) -> list[list[float]]:
    """Seconds of each side in each round; every other round goes the other way round.

    Args:
        sides: none may return before its work is done (on a GPU: read a result back).
        warm: whether a first round does not count.
    """
    seconds: list[list[float]] = [[] for _ in sides]
    for turn in range(1 - warm, rounds + 1):
        order = range(len(sides))
        for side in order if turn % 2 else reversed(order):
            start = time.perf_counter()
            sides[side]()
            if turn:
                seconds[side].append(time.perf_counter() - start)
    return seconds


def kind() -> str:
    """Which of the machines that promises are made for this is."""
    if env.pick_device().type == "cuda":
        return "gpu"
    flags = env.processor_flags()
    if not flags & env.BFLOAT16:
        return "avx2"
    return "amd-bf16" if "AuthenticAMD" in env.CPUINFO.read_text() else "intel-bf16"


def promised(
    avx2: float, intel: float, amd: float | None = None, gpu: float | None = None
) -> float:
    """What is promised on this kind of machine; AMD and GPUs as Intel unless given."""
    table = {"avx2": avx2, "intel-bf16": intel, "amd-bf16": amd, "gpu": gpu}
    return table[kind()] or intel
