"""How far networks hold, in doublings of the radius (see ``scoring.robustness``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from ..scoring import robustness
from . import tables
from .evaluation import Evaluation


def radii(asked: Iterable[float], grid: Mapping[str, float] | None) -> list[float]:
    """The radii of a sweep: those asked for, and a geometric ``grid`` (count, lowest, highest)."""
    fine = np.geomspace(grid["lowest"], grid["highest"], grid["count"]) if grid else ()
    return sorted({*asked, *map(float, fine)})


def rows(evaluated: Iterable[Evaluation], chance: float, early: float) -> pd.DataFrame:
    """Tidy rows of single networks (see ``robustness.doublings``)."""
    found = []
    for one in evaluated:
        held = robustness.doublings(one.sweep, one.weights, chance, early)
        cells = [(one.attack, np.nan, one.index, *cell) for cell in held.items()]
        found.append(one.table(cells).drop(columns="radius_255"))
    table = pd.concat(found)
    share = table["metric"].map({"log2_radius_survived": robustness.FEW})
    return table.assign(
        share=share, accuracy=table["metric"].map({"log2_radius_at_accuracy": chance})
    )


def gains(reached: pd.DataFrame, column: str, pairs: Iterable[Sequence[str]]) -> pd.DataFrame:
    """What one network gains over another, image by image, for pairs of values of ``column``."""
    held = reached[reached["metric"].ne("doublings_spared")]
    gained = [tables.compare(held, column, *pair).assign(against=pair[1]) for pair in pairs]
    return pd.concat(gained)
