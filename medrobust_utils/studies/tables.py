"""Results as one tidy table: a row an arm, seed, attack, radius and metric.

The column ``estimate`` holds `metrics.Estimate` objects: a value and its bootstrap replicates. All
rows of a task share their draws, so the difference of two rows is a paired difference.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence

import pandas as pd

from ..reporting.rows import chosen, frame, record, side_by_side  # noqa: F401  where users look
from ..scoring import metrics
from ..scoring.imagesets import PerImage, image_means, means  # noqa: F401
from ..scoring.metrics import Estimate, pooled


def paired(
    ours: pd.DataFrame,
    theirs: pd.DataFrame,
    name: str = "{}_gain",
    how: Callable[[Estimate, Estimate], Estimate] = operator.sub,
    apart: Iterable[str] = (),
) -> pd.DataFrame:
    """Rows of two tables that agree in every column but ``apart``, held against each other.

    Args:
        name: of the new metric, with ``{}`` for the old one.
        how: what becomes of two estimates.
        apart: columns that may differ; those of ``ours`` stay.
    """
    keys = [name for name in ours if name not in {"estimate", *apart} and name in theirs]
    both = ours.merge(theirs, on=keys, suffixes=("", "_old"))
    estimates = list(map(how, both["estimate"], both["estimate_old"]))
    names = list(map(name.format, both["metric"]))
    old = [column for column in both if column.endswith("_old")]
    return both.drop(columns=old).assign(metric=names, estimate=estimates)


def compare(
    scores: pd.DataFrame,
    column: str,
    new: object,
    old: object,
    name: str = "{}_gain",
    how: Callable[[Estimate, Estimate], Estimate] = operator.sub,
    apart: Iterable[str] = (),
) -> pd.DataFrame:
    """Rows that differ in ``column`` (and ``apart``) alone, image by image; the tag ``against``.

    ``compare(scores, "attention", "released", "none")`` is what attention gains. Without a ``new``
    value (None) every other one is held against the old.
    """
    theirs = scores[column].eq(old)
    ours = ~theirs if new is None else scores[column].eq(new)
    pairs = paired(scores[ours], scores[theirs], name, how, {column, *apart})
    return pairs.assign(against=old)


def over_seeds(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean over the training seeds, and how many there were."""
    keys = [name for name in scores if name not in {"seed", "estimate"}]
    groups = scores.groupby(keys, sort=False, dropna=False)
    mean = [pooled([*part["estimate"]], [*part["seed"]]) for _, part in groups]
    return groups.size().rename("seeds").to_frame().assign(estimate=mean).reset_index()


def along(
    table: pd.DataFrame, axis: str, name: str, how: Callable[[list[Estimate]], Estimate]
) -> pd.DataFrame:
    """One row for a whole axis: ``along(gains, "eps", "mean_gain", metrics.mean)``."""
    keys = [column for column in table if column not in {axis, "metric", "estimate"}]
    groups = table.groupby(keys, sort=False, dropna=False)["estimate"]
    return groups.agg(lambda estimates: how(list(estimates))).reset_index().assign(metric=name)


def smallest(estimates: Sequence[Estimate]) -> Estimate:
    """The smallest value, replicate by replicate."""
    return metrics.combined(lambda rows: rows.min(0), *estimates)
