"""Results as one tidy table: a row an arm, seed, attack, radius and metric.

The column ``estimate`` holds `metrics.Estimate` objects: a value and its bootstrap replicates. All
rows of a task share their draws, so the difference of two rows is a paired difference.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ..reporting import claims, protocol
from ..reporting.results import Run
from ..scoring import metrics
from ..scoring.metrics import Estimate, pooled

# What a table with gaps would turn into floats.
KINDS = {"n": int, "seeds": int, "images": int, "half_fooled": bool}


def chosen(rows: pd.DataFrame, tags: Mapping[str, object]) -> pd.DataFrame:
    """The rows that carry every tag; a list of values stands for any of them."""
    keep = np.ones(len(rows), bool)
    for tag, value in tags.items():
        keep &= rows[tag].isin(np.atleast_1d(value)).to_numpy() if tag in rows else False
    return rows[keep]


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

    Returns:
        The rows of ``ours`` with the new estimates.
    """
    keys = [name for name in ours if name not in {"estimate", *apart} and name in theirs]
    both = ours.merge(theirs, on=keys, suffixes=("", "_old"))
    pairs = zip(both["estimate"], both["estimate_old"], strict=True)
    estimates = [how(new, old) for new, old in pairs]
    names = [name.format(metric) for metric in both["metric"]]
    old = [column for column in both if column.endswith("_old")]
    return both.drop(columns=old).assign(metric=names, estimate=estimates)


def compare(
    scores: pd.DataFrame,
    column: str,
    new: str,
    old: str,
    name: str = "{}_gain",
    how: Callable[[Estimate, Estimate], Estimate] = operator.sub,
    apart: Iterable[str] = (),
) -> pd.DataFrame:
    """Rows that differ in ``column`` (and ``apart``) alone, image by image.

    ``compare(scores, "attention", "released", "none")`` is what attention gains.
    """
    ours, theirs = (scores[scores[column].eq(value)] for value in (new, old))
    return paired(ours, theirs, name, how, {column, *apart})


def against(
    scores: pd.DataFrame,
    column: str,
    old: str,
    name: str = "{}_gain",
    how: Callable[[Estimate, Estimate], Estimate] = operator.sub,
    apart: Iterable[str] = (),
) -> pd.DataFrame:
    """Every other value of ``column`` held against one (see ``compare``), the tag ``against``."""
    this = scores[column].eq(old)
    pairs = paired(scores[~this], scores[this], name, how, {column, *apart})
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
    whole = groups.agg(lambda estimates: how(list(estimates)))
    return whole.reset_index().assign(metric=name)


def smallest(estimates: Sequence[Estimate]) -> Estimate:
    """The smallest value, replicate by replicate."""
    return metrics.combined(lambda rows: rows.min(0), *estimates)


def known_mean(values: np.ndarray, weights: np.ndarray) -> Estimate:
    """Mean of one number an image (N,) under weights (1 + draws, N), NaN left out."""
    known = np.isfinite(values)
    if not known.any():
        return Estimate(float("nan"), np.full(len(weights) - 1, np.nan))
    with np.errstate(invalid="ignore"):  # a draw may hold none of the known images
        found = metrics.weighted_mean(np.asarray(values)[known], weights[:, known])
    return replace(found, outcomes=np.asarray(values, float)[None])


def image_means(values: Mapping[str, np.ndarray], groups: np.ndarray) -> pd.DataFrame:
    """Rows of means of one number an image (N,) each, by whole groups; NaN is left out."""
    weights = metrics.group_weights(groups)
    rows = []
    for name, numbers in values.items():
        mean = replace(known_mean(numbers, weights), groups=groups)
        rows.append((name, mean, np.isfinite(numbers).sum()))
    return pd.DataFrame(rows, columns=["metric", "estimate", "n"])


def tagged(table: pd.DataFrame, where: Mapping[str, object], tags: Mapping) -> pd.DataFrame:
    """The table with more tags on the rows that carry ``where``."""
    here = table.index.isin(chosen(table, where).index)
    new = {name: np.where(here, value, table.get(name)) for name, value in tags.items()}
    return table.assign(**{name: pd.Series(v, table.index, object) for name, v in new.items()})


@dataclass(frozen=True)
class PerImage:
    """One number an image (n,), NaN where it is not known, and the weights that average it.

    ``groups`` are the patient, lesion or tile of each image, where they are known.
    """

    values: np.ndarray
    weights: np.ndarray
    groups: np.ndarray | None = None

    def __sub__(self, other: PerImage) -> PerImage:
        return replace(self, values=self.values - other.values)

    @property
    def value(self) -> float:
        return self.mean().value

    def mean(self) -> Estimate:
        """Mean with an interval."""
        return replace(known_mean(self.values, self.weights), groups=self.groups)


def means(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the means of what is ``PerImage``; ``n`` counts the images that are known.

    Of rows that differ in their training seed alone, ``n`` is the fewest; 0 leaves a row out.
    """
    found, known = [], []
    for one, n in zip(table["estimate"], table.get("n", [0] * len(table)), strict=True):
        inside = isinstance(one, PerImage)
        found.append(one.mean() if inside else one)
        known.append(np.isfinite(one.values).sum() if inside else n)
    table = table.assign(estimate=found, n=known)[np.not_equal(known, 0)]
    keys = [name for name in table if name not in {"estimate", "seed", "n"}]
    return table.assign(n=table.groupby(keys, dropna=False)["n"].transform("min"))


def record(run: Run, table: pd.DataFrame) -> None:
    """Write a table's rows into the record of a run; a tag that a row lacks is NaN in the table.

    What several seeds back, or a headline asks for, carries what a verdict may rest on: the seeds
    of several runs are pooled (see ``reporting.evidence``).
    """
    asked = protocol.load(run.record["paper"]).measured if run.record["headlines"] else set()
    for row in table.to_dict("records"):
        tags = {k: v for k, v in row.items() if k not in {"estimate", "seed"} and not _missing(v)}
        tags |= {name: kind(tags[name]) for name, kind in KINDS.items() if name in tags}
        one = row["estimate"]
        ends = (one.low, one.high) if isinstance(one, Estimate) else ()
        if ends and (len(one.by_seed) > 1 or (one.by_seed and row["metric"] in asked)):
            tags |= _support(run, one, row["metric"], tags)
        run.add(tags.pop("metric"), one.value if ends else one, *ends, **tags)


def _support(run: Run, one: Estimate, metric: str, tags: Mapping) -> dict[str, object]:
    variance, clusters = one.spread
    found = {
        "by_seed": [*one.by_seed.values()],
        "seed_ids": [*one.by_seed],
        "cluster_variance": variance,
    }
    if np.isfinite(clusters):
        found["clusters"] = clusters
    if one.discordant is not None:
        found["discordant"] = one.discordant
    if one.rebuilds:
        found["outcomes"] = run.outcome(metric, tags, one.outcomes, one.groups)
    return found


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value))


def frame(run: Run, metric: str | Sequence[str] = (), **tags: object) -> pd.DataFrame:
    """Rows of the record, with value and interval in one more column, ``ours``."""
    table = pd.DataFrame(run.record["rows"])
    table["ours"] = [
        f"{claims.number(row['value'])} {claims.interval(row)}".strip()
        for row in run.record["rows"]
    ]
    return chosen(table, tags | ({"metric": metric} if metric else {}))


def side_by_side(
    run: Run, metric: str | Sequence[str], by: Sequence[str], across: str = "metric", **tags: object
) -> pd.DataFrame | str:
    """``ours`` of some rows as a small table, a line for each ``by``."""
    table = frame(run, metric, **tags)
    if not len(table):
        return "Nothing in this run speaks to it."
    table = table.astype(object).where(table.notna(), "").groupby([*by, across], sort=False)
    return table["ours"].first().unstack(fill_value="")
