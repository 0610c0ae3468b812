"""Figures on tidy rows: what is drawn is what the rows say, and panels can be told apart."""

import numpy as np
import pandas as pd
import pytest

from medrobust_utils.data import phantom_set
from medrobust_utils.plots import learning_curves, samples
from medrobust_utils.plots.results import curves, intervals

ROWS = pd.DataFrame(
    [
        {"panel": panel, "form": form, "model": model, "eps": eps, "value": value}
        for panel in ("honest", "by image")
        for form, start in (("vanilla", 0.9), ("defended", 0.8))
        for model, less in (("resnet", 0.0), ("swin", 0.05))
        for eps, value in (
            (2.0, start - less - 0.4),
            (0.0, start - less),
            (1.0, start - less - 0.2),
        )
    ]
)
ROWS = ROWS.assign(low=ROWS["value"] - 0.05, high=ROWS["value"] + 0.05)
HOW = {"panel": "panel", "line": "form", "xlabel": "eps", "ylabel": "accuracy"}


def words(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_curves_are_the_rows_in_order_and_begin_before_the_attack():
    level = pd.DataFrame({"panel": ["honest"], "label": ["majority line"], "value": [0.6]})
    mark = pd.DataFrame({"panel": ["honest"], "eps": [1.0], "value": [0.5], "mark": ["above"]})
    order = ["other", "vanilla", "defended"]
    how = HOW | {"fill": "model", "order": order, "levels": level, "marks": mark}
    figure = curves(ROWS, "eps", doublings=True, **how)
    honest, other = figure.axes
    assert (honest.get_title(), other.get_title()) == ("honest", "by image")
    drawn = {tuple(np.round(line.get_ydata(), 6)): line for line in honest.lines}
    line, hollow = drawn[0.9, 0.7, 0.5], drawn[0.85, 0.65, 0.45]  # resnet and swin, not defended
    assert list(line.get_xdata()) == [0.25, 1.0, 2.0]
    assert honest.get_xticklabels()[0].get_text() == "0"
    looks = [(one.get_color(), one.get_marker(), one.get_linestyle()) for one in drawn.values()]
    assert len({*looks[:4]}) == 2, "defences look different, and each the same for both models"
    assert line.get_markerfacecolor() != hollow.get_markerfacecolor()
    assert (0.6, 0.6) in drawn and (0.5,) in drawn and len(other.lines) == len(honest.lines) - 4
    assert {"vanilla", "defended", "resnet", "swin", "majority line"} <= {*words(figure)}


def test_intervals_stand_one_below_the_other_beside_what_is_reported():
    rows = ROWS[ROWS["eps"].eq(0)]
    mark = pd.DataFrame({"panel": ["honest"], "form": ["defended"], "value": [0.905]})
    figure = intervals(
        rows, "form", panel="panel", by="model", xlabel="score", marks=mark, zero=True
    )
    honest, other = figure.axes
    assert [text.get_text() for text in honest.get_yticklabels()] == ["vanilla", "defended"]
    crosses = [
        [line.get_xdata()[0] for line in a.lines if line.get_marker() == "X"]
        for a in (honest, other)
    ]
    assert crosses == [[0.905], []]
    dots = [point for part in honest.collections for point in part.get_offsets().tolist()]
    assert sorted(x for x, _ in dots)[-1] == pytest.approx(0.9)
    first, last = honest.get_ylim()
    assert first > last, "the first line is on top"
    assert {"resnet", "swin", "reported"} <= {*words(figure)}


def test_learning_curves_keep_a_look_for_each_arm():
    history = [
        {"epoch": k, "train_loss": 2 / k, "val_loss": 3 / k, "val_auc_macro": 0.6} for k in (1, 2)
    ]
    figure = learning_curves({"b": history}, ["a", "b"])
    alone = learning_curves({"a": history}, ["a", "b"])
    assert [axis.get_title() for axis in figure.axes][0] == "training loss (nats)"
    colours = [one.axes[0].lines[0].get_color() for one in (figure, alone)]
    assert colours[0] != colours[1] and "chance" in words(figure)


def test_samples_show_as_many_classes_as_there_is_room_for():
    data = phantom_set("dermatoscopy7", 70, size=32)
    titles = [axis.get_title() for axis in samples(data, 7).axes[:7]]
    present = {data.classes[k] for k in data.targets}
    assert {*titles} == present and len(present) > 4
