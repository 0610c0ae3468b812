"""Figures of study 3, drawn from small tables of rows that were made by hand."""

import pandas as pd
import pytest

from medrobust_utils.studies import domain_assimilation_plots as figures

EPS = (1.0, 2.0, 4.0)
DEFENCES = {"none": 0.1, "glcm": 0.3, "adversarial": 0.5}  # what is left under every attack


def attacked():
    """``accuracy_attacked`` rows of three networks, 0.9 before the attack."""
    table = []
    for defence, left in DEFENCES.items():
        cells = [(("none", "none"), 0.0, 0.9)]
        cells += [(cell, eps, left / eps) for cell in figures.CELLS for eps in EPS]
        for (attack, step), eps, value in cells:
            table.append(
                {
                    "attack": attack,
                    "step": step,
                    "eps_255": eps,
                    "defence": defence,
                    "value": value,
                    "low": value - 0.05,
                    "high": value + 0.05,
                }
            )
    return pd.DataFrame(table)


def curves(axis):
    return {line.get_label(): line for line in axis.lines}


def rows_of(**values):
    """One line a label and defence, written ``label__defence=(value, low, high)``."""
    table = []
    for key, (value, low, high) in values.items():
        label, defence = key.split("__")
        table.append(dict(label=label, defence=defence, value=value, low=low, high=high))
    return pd.DataFrame(table)


def test_dots_stand_at_their_label_with_their_interval_and_do_not_hide_each_other():
    table = rows_of(ct__none=(0.5, 0.4, 0.7), ct__glcm=(0.6, 0.5, 0.8), mri__glcm=(0.9, None, None))
    axis = figures.dots({"clean": table}, "accuracy", line=0.0).axes[0]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["ct", "mri"]
    found = {}
    for container in axis.containers:
        points, _, (bars,) = container
        spans = [tuple(part[:, 0]) for part in bars.get_segments()]
        for x, y, span in zip(points.get_xdata(), points.get_ydata(), spans, strict=True):
            found[x] = (y, span)
    assert found[0.5][1] == pytest.approx((0.4, 0.7))
    assert found[0.9][1] == pytest.approx((0.9, 0.9)), "a row without interval is exact"
    assert [round(found[x][0]) for x in (0.5, 0.6, 0.9)] == [0, 0, 1]
    assert found[0.5][0] != found[0.6][0]
    assert axis.get_ylim()[0] > axis.get_ylim()[1], "the first label is on top"
