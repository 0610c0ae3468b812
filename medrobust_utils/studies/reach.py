"""How far networks hold, in doublings of the radius: the unit of the paper's radii cancels.

An image's reach is log2 of the smallest radius that fools it (see ``Evaluation.log2_radius``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from ..scoring import metrics
from . import tables
from .evaluation import Evaluation

FEW = 0.05  # share of images that still count as some


def radii(asked: Iterable[float], grid: Mapping[str, float] | None) -> list[float]:
    """The radii of a sweep: those asked for, and a geometric ``grid`` (count, lowest, highest)."""
    fine = np.geomspace(grid["lowest"], grid["highest"], grid["count"]) if grid else ()
    return sorted({*asked, *map(float, fine)})


def rows(evaluated: Iterable[Evaluation], chance: float, early: float) -> pd.DataFrame:
    """Tidy rows of single networks.

    ``log2_radius`` is the mean over images, ``log2_radius_survived`` what a share of FEW survives,
    ``log2_radius_at_accuracy`` where accuracy passes ``chance``, and ``doublings_spared`` two
    minus the doublings from where ``early`` of the clean accuracy is gone to there.
    """
    found = []
    for one in evaluated:
        clean = one.weights @ one.sweep.clean_right / one.weights.sum(1)
        left, lost = one.survived(chance), one.survived((1 - early) * clean)
        spared = metrics.combined(lambda two: 2 - (two[0] - two[1]), left, lost)
        mean = metrics.weighted_mean(one.log2_radius, one.weights)
        for name, estimate, tags in (
            ("log2_radius", mean, {}),
            ("log2_radius_survived", one.survived(FEW), {"share": FEW}),
            ("log2_radius_at_accuracy", left, {"accuracy": chance}),
            ("doublings_spared", spared, {}),
        ):
            row = one.table([(one.attack, np.nan, one.index, name, estimate)])
            found.append(row.drop(columns="radius_255").assign(**tags))
    return pd.concat(found)


def gains(reached: pd.DataFrame, column: str, pairs: Iterable[Sequence[str]]) -> pd.DataFrame:
    """What one network gains over another, image by image, for pairs of values of ``column``."""
    held = reached[reached["metric"].ne("doublings_spared")]
    gained = [tables.compare(held, column, *pair).assign(against=pair[1]) for pair in pairs]
    return pd.concat(gained)
