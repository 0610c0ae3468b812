"""Tidy tables into the record of a run and out of it again: a row a number, its tags beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ..scoring.metrics import Estimate
from . import claims, protocol
from .results import Run

GAINS = ("gain_before_autoattack", "autoattack_gain")
# What a table with gaps would turn into floats.
KINDS = {"n": int, "seeds": int, "images": int, "half_fooled": bool}


def chosen(rows: pd.DataFrame, tags: Mapping[str, object]) -> pd.DataFrame:
    """The rows that carry every tag; a list of values stands for any of them."""
    keep = np.ones(len(rows), bool)
    for tag, value in tags.items():
        keep &= rows[tag].isin(np.atleast_1d(value)).to_numpy() if tag in rows else False
    return rows[keep]


def record(run: Run, table: pd.DataFrame) -> None:
    """Write a table's rows into the record of a run; a tag that a row lacks is NaN in the table.

    What several seeds back, or a headline asks for, carries what a verdict may rest on: the seeds
    of several runs are pooled (see ``reporting.evidence``).
    """
    asked = protocol.load(run.record["paper"]).measured if run.record["headlines"] else set()
    for row in table.drop(columns="seed", errors="ignore").to_dict("records"):
        estimate, metric = row.pop("estimate"), row["metric"]
        tags = {name: value for name, value in row.items() if not pd.isna(value)}
        tags |= {name: kind(tags[name]) for name, kind in KINDS.items() if name in tags}
        value, ends = estimate, ()
        if isinstance(estimate, Estimate):
            value, ends = estimate.value, (estimate.low, estimate.high)
            if len(estimate.by_seed) > 1 or (estimate.by_seed and metric in asked):
                tags |= _support(run, estimate, metric, tags)
        run.add(tags.pop("metric"), value, *ends, **tags)


def _support(run: Run, estimate: Estimate, metric: str, tags: Mapping) -> dict[str, object]:
    variance, clusters = estimate.spread
    found = {
        "by_seed": [*estimate.by_seed.values()],
        "seed_ids": [*estimate.by_seed],
        "cluster_variance": variance,
    }
    if np.isfinite(clusters):
        found["clusters"] = clusters
    if estimate.discordant is not None:
        found["discordant"] = estimate.discordant
    if estimate.rebuilds:
        found["outcomes"] = run.outcome(metric, tags, estimate.outcomes, estimate.groups)
    return found


def write_autoattack(
    run: Run,
    gains: pd.DataFrame,
    names: Sequence[str],
    keys: Sequence[str],
    steps: int,
    size: str = "radius_255",
    of: Sequence[str] = GAINS,
) -> None:
    """Write beside gains of the record what ``ledger.after_autoattack`` asks for.

    Args:
        gains: before and under AutoAttack.
        names: metrics of the rows meant, which agree with a gain in all of ``keys``, and, where
            both have one, in the radius (the tag ``size``).
        steps: of AutoAttack, or of what stands for it.
        of: metrics of the gains before and under it.
    """
    for _, pair in gains.groupby([*keys, *{size} & {*gains}], sort=False):
        before, under = (pair[pair["metric"].eq(name)].iloc[0] for name in of)
        gain, images = under["estimate"], int(under["n"])
        variance, clusters = gain.spread
        numbers = {
            "low": gain.low,
            "high": gain.high,
            "steps": steps,
            "images": images,
            "by_seed": [*gain.by_seed.values()],
            "variance": variance,
            "clusters": clusters if np.isfinite(clusters) else images,
            "sweep": before["estimate"].value,
        }
        for row in run.record["rows"]:
            same = row["metric"] in names and all(row.get(key) == under[key] for key in keys)
            radius = under.get(size, row.get(size, 0.0))
            if same and np.isclose(row.get(size, radius), radius, atol=1e-6):
                row |= {f"autoattack_{name}": value for name, value in numbers.items()}


def frame(run: Run, metric: str | Sequence[str] = (), **tags: object) -> pd.DataFrame:
    """Rows of the record, with value and interval in one more column, ``ours``."""
    table, rows = pd.DataFrame(run.record["rows"]), run.record["rows"]
    table["ours"] = [
        f"{claims.number(row['value'])} {claims.interval(row)}".strip() for row in rows
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
