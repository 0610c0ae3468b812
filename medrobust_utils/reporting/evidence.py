"""The rows that speak to a headline: what they are worth, and what they say over seeds and images.

A row that a verdict may rest on has, beside its tags, ``by_seed`` (a difference for each training
seed, ``seed_ids`` naming them), ``cluster_variance`` (of their mean over ``clusters`` of test
images) and, for shares, ``discordant`` (images gained, images lost). Rows of earlier records lack
them: their interval of percentiles stands for the images' share, which makes them no narrower.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from ..scoring import inference
from .headlines import Headline
from .protocol import Protocol

_SLACK = 1e-9  # 0.46 + 0.02 must not miss 0.48 by a rounding error
_OWN = "folder-"  # what the names of sets of one's own begin with, see ``data.own``


@dataclass(frozen=True)
class Evidence:
    """A row with its grade and what keeps it from deciding; ``beside`` is not the primary cell."""

    row: dict[str, Any]
    grade: str
    lacks: tuple[str, ...] = ()
    beside: bool = False


def evidence(headline: Headline, paper: Protocol, rows: Sequence[dict[str, Any]]) -> list[Evidence]:
    """Every row that speaks to a headline, best first; those of its primary cells before others."""
    found = []
    for beside, several in ((False, [headline.primary]), (True, headline.evidence)):
        for place, cell in enumerate(cell for tags in several for cell in cells(tags)):
            matching = [row for row in rows if carries(row, cell)]
            runs = Counter(row.get("path") for row in matching if not row.get("baseline"))
            for row in matching:
                lacks = barred(row, paper)
                if not beside and runs[row.get("path")] > 1:
                    lacks += (f"one of {runs[row.get('path')]} rows that fit the primary cell",)
                one = Evidence(row, grade(row, paper), lacks, beside)
                # other quantities stay in the order in which the headline names them
                found.append(((beside, bool(lacks), place if beside else 0, *rank(one)), one))
    return [one for _, one in sorted(found, key=lambda pair: pair[0])]


def grade(row: dict[str, Any], paper: Protocol) -> str:
    """A to D, or F for a row without images."""
    if row.get("synthetic"):
        return "D"
    if not row.get("dataset"):
        return "F"
    if names(row) <= own(paper) and row.get("complete"):
        return "A" if row.get("profile") == "paper" else "B"
    return "C"


def names(row: dict[str, Any]) -> set[str]:
    return set(row["dataset"].split("+"))


def own(paper: Protocol) -> set[str]:
    """The data sets that the paper itself used."""
    return set(paper.profiles.get("paper", {}).get("datasets", {}).values())


def carries(row: dict[str, Any], tags: dict[str, Any]) -> bool:
    """Whether a row has every one of the tags; numbers are compared to rounding."""
    return all(_same(row.get(tag), want) for tag, want in tags.items())


def _same(have: Any, want: Any) -> bool:
    """Equal, with numbers compared to rounding; True is not 1 and a missing tag equals nothing."""
    if isinstance(have, bool) or isinstance(want, bool):
        return have is want
    if isinstance(have, int | float) and isinstance(want, int | float):
        return math.isclose(have, want, abs_tol=_SLACK)
    return have == want


def cells(tags: dict[str, Any]) -> list[dict[str, Any]]:
    """The cells that tags name, one for each combination of the values of their lists."""
    lists = [value if isinstance(value, list) else [value] for value in tags.values()]
    return [dict(zip(tags, values, strict=True)) for values in product(*lists)]


def barred(row: dict[str, Any], paper: Protocol) -> tuple[str, ...]:
    """Why a row never decides, whatever its headline asks for."""
    found = {
        "the run did not finish": row.get("status", "complete") != "complete",
        "no number": row.get("value") is None,
        "phantoms": bool(row.get("synthetic")),
        f"changed settings ({row.get('overrides')})": bool(row.get("overrides")),
        f"{row.get('profile')} is no registered profile": row.get("profile") not in paper.profiles,
        "images of one's own": _OWN in str(row.get("dataset", "")),
    }
    return tuple(reason for reason, holds in found.items() if holds)


def by_seed(row: dict[str, Any]) -> dict[Any, float]:
    """The differences of a row by training seed; a row without them has one."""
    values = row.get("by_seed") or [row["value"]]
    first = row.get("run_seed") or 0
    return dict(zip(row.get("seed_ids") or range(first, first + len(values)), values, strict=True))


def measured(row: dict[str, Any], others: Sequence[dict[str, Any]], planned: int) -> dict[str, Any]:
    """A row with the seeds of ``others``, as many as were planned and no later ones.

    The images' variance stays the row's own, which is too large rather than too small where each
    run had one seed.
    """
    seeds: dict[Any, float] = {}
    for one in (row, *others):
        seeds = by_seed(one) | seeds
    kept = {seed: seeds[seed] for seed in sorted(seeds)[: max(planned, 1)]}
    pooled = row | {"by_seed": list(kept.values()), "seed_ids": list(kept)}
    return pooled | _autoattack((row, *others), list(kept))


def _autoattack(rows: Sequence[dict[str, Any]], seeds: Sequence[Any]) -> dict[str, Any]:
    """Gain under AutoAttack over the seeds of several rows, and the sweep's on the same images.

    Nothing where a seed has not met it: what one seed shows says nothing of the others.
    """
    found: dict[Any, tuple[float, dict[str, Any]]] = {}
    for row in reversed(rows):
        gains = row.get("autoattack_by_seed") or []
        found |= {seed: (gain, row) for seed, gain in zip(by_seed(row), gains, strict=False)}
    if len(rows) < 2 or len(seeds) < 2 or not found:
        return {}
    if not set(seeds) <= found.keys():
        return {"autoattack_low": None, "autoattack_high": None}
    first, gains = rows[0], [found[seed][0] for seed in seeds]
    spread = (first["autoattack_variance"], first["autoattack_clusters"])
    _, low, high = inference.over_seeds(gains, *spread)
    sweep = sum(found[seed][1]["autoattack_sweep"] for seed in seeds) / len(seeds)
    least = {k: min(found[s][1][f"autoattack_{k}"] for s in seeds) for k in ("steps", "images")}
    told = {"low": float(low), "high": float(high), "sweep": sweep, **least}
    return {f"autoattack_{name}": value for name, value in told.items()}


def ends(row: dict[str, Any], level: float = inference.LEVEL) -> tuple[float, float, float]:
    """Value, low and high: over seeds and images where there are two seeds, else over images."""
    values = list(by_seed(row).values())
    if len(values) < 2 or not spans(row):
        low, high = (row["value"] if row.get(k) is None else row[k] for k in ("low", "high"))
        return row["value"], low, high
    variance, clusters = spread(row)
    few, n = row.get("discordant"), row.get("n") or 0
    found = inference.crossed(values, variance, clusters, few, n, level)
    return float(found.value), float(found.low), float(found.high)


def spans(row: dict[str, Any]) -> bool:
    """Whether a row has an interval, or the variance that one is made of."""
    return row.get("low") is not None or row.get("cluster_variance") is not None


def spread(row: dict[str, Any]) -> tuple[float, int]:
    """Variance over clusters of images, and their number; of an old row, from its percentiles."""
    clusters = row.get("clusters") or row.get("n") or 2
    variance = row.get("cluster_variance")
    return ((row["high"] - row["low"]) / 3.92) ** 2 if variance is None else variance, clusters


def rank(one: Evidence) -> tuple:
    """What orders evidence: grade, size, images, seeds."""
    row = one.row
    return one.grade, -(row.get("size") or 0), -(row.get("n") or 0), -len(by_seed(row))
