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


def test_the_slides_figure_has_a_panel_an_attack_and_a_curve_a_defence():
    table = attacked()
    figure = figures.by_eps(table.sample(frac=1, random_state=0), majority=0.5)
    assert [axis.get_title() for axis in figure.axes] == list(figures.CELLS.values())
    for axis in figure.axes:
        drawn = curves(axis)
        for defence, left in DEFENCES.items():
            line = drawn[figures.NAMES[defence]]
            assert list(line.get_xdata()) == [0, *EPS]
            assert list(line.get_ydata()) == pytest.approx([0.9, *[left / eps for eps in EPS]])
        assert set(drawn["constant answer"].get_ydata()) == {0.5}
        bands = [band.get_paths()[0].vertices[:, 1] for band in axis.collections]
        assert [band.min() for band in bands] == pytest.approx(
            [left / EPS[-1] - 0.05 for left in DEFENCES.values()]
        )
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == [*[figures.NAMES[name] for name in DEFENCES], "constant answer"]


def test_small_eps_stand_on_a_log_scale_beside_the_slides_smallest():
    table = attacked()
    table = table[table["attack"].isin(["none", "fgsm"])]
    small = table[table["eps_255"].eq(1)].assign(eps_255=0.25, value=0.8)
    vanilla = small[small["defence"].eq("none")]
    figure = figures.below({"mri": vanilla, "ct": pd.concat([table, small])})
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == [figures.NAMES[name] for name in DEFENCES], "of all panels, not the first"
    axis = figure.axes[1]
    line = curves(axis)[figures.NAMES["glcm"]]
    assert axis.get_xscale() == "log"
    assert list(line.get_xdata()) == [0.125, 0.25, *EPS], "0 has a place of its own"
    assert list(line.get_ydata())[:2] == [0.9, 0.8]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == [
        "0",
        "0.25",
        "0.5",
        "1",
        "2",
        "4",
    ]
    assert [1, 1] in [list(line.get_xdata()) for line in axis.lines]


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
