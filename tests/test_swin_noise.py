"""The study of paper 1 on a few phantoms: arms, noise, rows, and what they are held against."""

import numpy as np
import pandas as pd
import pytest
from found import find, only

from medrobust_utils.core.errors import ProtocolError
from medrobust_utils.plots.results import curves
from medrobust_utils.reporting import protocol, results
from medrobust_utils.studies import swin_noise as study
from medrobust_utils.studies import tables

TINY = (
    "phantoms=300 size=32 training.epochs.nih=1 training.epochs.isic=1 noise.seeds.variance=2 "
    "models.swin.options.img_size=32 models.swin.options.embed_dim=24 noise_images=50"
)
PAPER = protocol.load("1_swin_noise")
LEVELS = (0.0, 0.025, 0.1, 0.4)


@pytest.fixture(scope="module")
def settings():
    return PAPER.settings("smoke", TINY)


@pytest.fixture(scope="module")
def trained(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return [study.train(arm, settings, folder) for arm in study.arms(settings, seed=0)]


@pytest.fixture(scope="module")
def scores(settings, trained):
    return pd.concat([study.evaluate(one, settings, seed=0) for one in trained])


@pytest.fixture(scope="module")
def run(trained, scores, tmp_path_factory):
    """A record, made as the notebook makes it."""
    run = results.Run.start("01_x", PAPER.name, "smoke", {}, tmp_path_factory.mktemp("run"))
    tasks = {one.arm.task.key: one.arm.task for one in trained}.values()
    for task in tasks:
        run.dataset(task.raw)
        tables.record(run, study.facts(task))
    tables.record(run, study.imbalance(tasks))
    for table in (scores, study.along_levels(scores, LEVELS), study.comparisons(scores)):
        tables.record(run, study.over_seeds(table))
    return run


def test_the_chest_set_comes_with_both_labellings(trained):
    sound, copies, skin = (trained[place].arm.task for place in (0, 2, 4))
    assert [(t.role, t.tags["protocol"], t.tags["sound"]) for t in (sound, copies, skin)] == [
        ("nih", "multi_label", True),
        ("nih", "single_label", False),
        ("isic", "single_label", True),
    ]
    assert len(sound.attacked) == 50 and set(sound.attacked) <= set(sound.split.test)
    assert len(copies.data) == sound.data.targets.sum()


def test_bad_settings_are_refused_before_anything_runs(settings):
    with pytest.raises(ProtocolError, match="isic, nih"):
        next(study.arms(settings, seed=0, role="mnist"))
    with pytest.raises(ProtocolError, match="patient, official"):
        next(study.arms(PAPER.settings("smoke", "nih_split=oficial"), seed=0))


def test_a_trained_arm_is_read_back_and_another_recipe_has_another_folder(
    settings, trained, monkeypatch
):
    arm, _, history, folder = trained[0]
    monkeypatch.setattr("medrobust_utils.training.fit._Job._step", None)
    again = study.train(arm, settings, folder.parent)
    assert (again.history, again.folder) == (history, folder)
    other = PAPER.settings("smoke", TINY + " training.lr.scratch=0.003")
    with pytest.raises(TypeError):  # it would train, and training is switched off
        study.train(arm, other, folder.parent)


def test_drops_are_clean_minus_noisy_on_the_same_images(scores):
    here = {"model": "swin", "role": "isic", "reading": "variance"}
    top1 = tables.chosen(scores, here | {"metric": "top1"}).set_index("noise")["estimate"]
    drop = tables.chosen(study.drops(scores), here | {"metric": "top1_drop", "noise": 0.4})
    (found,) = drop["estimate"]
    assert found.value == pytest.approx(top1[0.0].value - top1[0.4].value)
    np.testing.assert_allclose(found.replicates, top1[0.0].replicates - top1[0.4].replicates)


def test_rows_say_what_the_claims_ask_for(run):
    identity = find(run, "val_accuracy_minus_top1")
    assert len(identity) == 4
    assert all(row["value"] == row["low"] == row["high"] == 0 for row in identity)
    for role, name in (("nih", "multi_label"), ("nih", "single_label"), ("isic", "single_label")):
        tags = {"role": role, "protocol": name}
        scored = find(run, "auc_micro", reading="none", **tags)
        assert {row["model"] for row in scored} == {"swin", "resnet", "majority"}
        lost = find(run, "top1_drop_resnet_minus_swin", **tags)
        assert len(lost) == 8 and all(row["n"] == 50 and "model" not in row for row in lost)
    assert find(run, "auc_macro", model="majority")[0]["value"] == 0.5
    both = only(run, "auc_drop_nih_minus_isic", model="swin", reading="variance", noise=0.1)
    assert both["dataset"] == "phantom-chest+phantom-dermatoscopy10"


def test_what_falls_along_the_levels_is_told_by_the_levels_of_the_paper(scores):
    here = {"model": "resnet", "role": "isic", "reading": "variance"}
    along = tables.chosen(study.along_levels(scores, LEVELS), here).set_index("metric")["estimate"]
    values = tables.chosen(scores, here)
    values = values.assign(value=[one.value for one in values["estimate"]])
    curve = values.pivot(index="noise", columns="metric", values="value").loc[list(LEVELS)]
    steps = -curve[list(study.FALLING)].diff()
    assert along["smallest_step_down"].value == pytest.approx(steps.min().min())
    first, *later = steps["top1"].dropna()
    assert along["first_minus_later_drop"].value == pytest.approx(first - sum(later))
    assert not len(study.along_levels(scores, (0.0, 0.2, 0.4)))  # a level that was not run


def test_a_run_of_one_network_has_nothing_to_compare(scores):
    one = tables.chosen(scores, {"model": "swin", "protocol": "multi_label"})
    assert not len(study.over_seeds(study.comparisons(one)))


def test_several_training_seeds_are_averaged_and_counted(scores):
    one = tables.chosen(scores, {"model": "swin", "role": "isic"})
    both = study.over_seeds(pd.concat([one, one.assign(seed=1)]))
    assert len(both) == len(one) and set(both["seeds"]) == {2}


def test_the_pixel_range_is_that_of_normalised_images(trained):
    task = trained[-1].arm.task
    low, high = study.pixel_range(task)
    pixels = task.data.images[task.split.test] / 255
    normal = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert (low, high) == pytest.approx((normal.min(), normal.max()), abs=1e-5)


def test_a_curve_begins_at_the_images_without_noise(run):
    rows = tables.frame(run, "top1", role="isic", model="swin", reading="variance")
    rows = rows.assign(panel="a", line="swin").sample(frac=1, random_state=0)
    how = {"panel": "panel", "line": "line", "xlabel": "", "ylabel": ""}
    (axis,) = curves(rows, "noise", doublings=True, **how).axes
    x, y = axis.lines[0].get_data()
    assert list(y) == list(rows.sort_values("noise")["value"])
    assert 0 < x[0] == axis.get_xticks()[0] and axis.get_xticklabels()[0].get_text() == "0"
