"""The tidy table of a study: comparisons on hand-made estimates, and the grid of its arms."""

from dataclasses import replace
from types import SimpleNamespace

import made
import numpy as np
import pandas as pd
import pytest
import torch
from found import find, only

from medrobust_utils.reporting import results
from medrobust_utils.scoring import metrics
from medrobust_utils.scoring.metrics import Estimate
from medrobust_utils.studies import experiment, tables

NOISE = np.random.default_rng(0).normal(0, 0.01, 500)


def rows(**columns):
    """A table of accuracies whose estimates share their draws."""
    table = pd.DataFrame({"metric": "accuracy", **columns})
    table["estimate"] = [Estimate(value, value + NOISE) for value in table.pop("value")]
    return table


def values(table):
    return [one.value for one in table["estimate"]]


def test_rows_that_differ_in_one_column_alone_are_compared_image_by_image():
    scores = rows(
        net=["a", "a", "b", "b"],
        size=[1.0, np.nan, 1.0, np.nan],
        seed=0,
        value=[0.3, 0.2, 0.5, 0.6],
    )
    gains = tables.compare(scores, "net", "b", "a")
    assert values(gains) == pytest.approx([0.2, 0.4]) and set(gains["net"]) == {"b"}
    assert list(gains["metric"]) == ["accuracy_gain"] * 2
    # shared draws cancel: the difference is known far better than either side
    assert gains["estimate"][0].high - gains["estimate"][0].low < 1e-9
    assert not len(tables.compare(scores, "net", "c", "a"))


def test_seeds_are_averaged_and_their_spread_widens_the_interval():
    scores = rows(net="a", seed=[0, 1], value=[0.4, 0.6])
    (row,) = tables.over_seeds(scores).to_dict("records")
    assert row["estimate"].value == pytest.approx(0.5) and row["seeds"] == 2
    assert row["estimate"].low < 0.42 and row["estimate"].high > 0.58
    assert row["estimate"].by_seed == {0: 0.4, 1: 0.6}, "what a verdict is judged by"
    exact = rows(net="a", seed=[0, 1], value=[0, 0]).assign(estimate=[1, 2])
    assert tables.over_seeds(exact)["estimate"].tolist() == [1.5]


def test_a_whole_axis_becomes_one_row():
    scores = rows(net=["a", "a", "b"], eps=[1, 2, 1], value=[0.2, 0.4, 0.9])
    least = tables.along(scores, "eps", "least", tables.smallest)
    assert dict(zip(least["net"], values(least), strict=True)) == {"a": 0.2, "b": 0.9}


def test_a_mean_leaves_out_what_is_not_known():
    weights = np.ones((3, 4))
    assert metrics.weighted_mean(np.array([1, np.nan, 3, np.nan]), weights).value == 2
    nothing = metrics.weighted_mean(np.full(4, np.nan), weights)
    assert np.isnan(nothing.value) and np.isnan(nothing.low)
    table = tables.image_means({"a": np.array([1, np.nan, 3, np.nan])}, np.arange(4))
    assert values(table) == [2] and table["n"].tolist() == [2]


def test_a_tag_that_a_row_lacks_is_not_recorded(tmp_path):
    run = results.Run.start("02_x", "2_attentive_cnn", "paper", {}, tmp_path)
    table = rows(net=["a", "b"], n=[4.0, np.nan], half_fooled=[1.0, np.nan], value=[0.25, 0.75])
    table["eps"] = table["net"].map({"b": 0.0})
    tables.record(run, table)
    first, second = run.record["rows"]
    assert first["n"] == 4 and first["half_fooled"] is True and "eps" not in first
    assert second["n"] is None and "half_fooled" not in second and second["eps"] == 0.0
    assert first["low"] < 0.25 < first["high"]
    shown = tables.side_by_side(run, "accuracy", ["metric"], "net")
    assert shown.loc["accuracy", "a"].startswith("0.25 [")
    assert isinstance(tables.side_by_side(run, "retained_accuracy", ["net"]), str)
    assert only(run, "accuracy", net="a") and not find(run, "accuracy", net="c")


SETTINGS = {
    "seeds": 2,
    "arms": [
        {"role": "skin", "model": "resnet", "attention": ["none", "released"]},
        {"role": "chest", "model": "vgg", "attention": ["none"]},
    ],
}
OWN = ("model", "attention")


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (
            "",
            [("none", 3), ("none", 4), ("released", 3), ("released", 4), ("none", 3), ("none", 4)],
        ),
        ("vgg", [("none", 3), ("none", 4)]),
        ("resnet-released", [("released", 3), ("released", 4)]),
        ("resnet-released-4", [("released", 4)]),
        ("any-4", [("none", 4), ("released", 4), ("none", 4)]),
    ],
)
def test_a_run_can_be_one_arm_and_one_seed(model, expected):
    found = experiment.grid(SETTINGS, OWN, seed=3, model=model)
    assert [(arm["attention"], seed) for arm, seed in found] == expected


def test_deviations_are_the_settings_that_differ(arm_of):
    ours = {"training": {"lr": 0.1, "epochs": {"skin": 3, "chest": 1}}, "arms": [{"role": "skin"}]}
    ours |= {"datasets": {"skin": "ham10000", "chest": "b"}}
    paper = ours | {"training": {"lr": 0.1, "epochs": {"skin": 9, "chest": 9}, "clip": 5}}
    paper["arms"] = [{"role": "skin"}, {"role": "chest"}]
    assert experiment.deviations(ours, paper, [arm_of], "foolbox") == [
        "attack: foolbox in place of the profile's.",
        "training.epochs.skin: 3 (paper: 9).",
        "training.clip: not set (paper: 5).",
        "chest: not run.",
    ]
    other = experiment.deviations(ours, paper | {"datasets": {"skin": "isic"}}, [arm_of])
    assert other[0] == "skin-honest-none: ham10000 stands in for isic."
    phantoms = replace(arm_of.task.data, synthetic=True)
    task = replace(arm_of.task, data=phantoms, attacked=np.arange(3))
    assert experiment.deviations(ours, ours, [replace(arm_of, task=task)])[:2] == [
        "skin-honest-none: 40 phantoms, not real images.",
        "skin-honest-none: 3 of 40 test images attacked.",
    ]


@pytest.fixture
def arm_of():
    return made.pair()[0].arm


def test_the_best_epoch_is_the_last_where_training_never_stops_early(arm_of, tmp_path):
    run = results.Run.start("02_x", "2_attentive_cnn", "paper", {}, tmp_path)
    model = SimpleNamespace(source="random", warnings=["slow"], parameters=lambda: [torch.zeros(7)])
    curve = [
        {"epoch": n, "val_top1": score, "seconds": 2.4, "precision": "float32"}
        for n, score in enumerate([0.5, 0.9, 0.7], 1)
    ]
    for patience, best in ((5, 2), (0, 3)):
        one = experiment.Trained(arm_of, model, curve, tmp_path)
        experiment.note(run, one, {"patience": patience})
        about = run.record["models"][arm_of.key]
        assert about["best_epoch"] == best and about["training_seconds"] == 7
        assert about["parameters"] == 7 and run.record["warnings"] == ["slow"]
