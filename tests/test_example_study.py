"""CONTRIBUTING's worked example runs as it is written there."""

import example_study as study
import pandas as pd
import pytest
import yaml
from found import find, only

from medrobust_utils.reporting import results
from medrobust_utils.studies import evaluation, experiment, tables

PROFILE = """
datasets: {skin: phantom-dermatoscopy7}
phantoms: 60
size: 32
arms:
  - {role: skin, model: resnet10t, decay: [0.0, 0.1], start: scratch}
seeds: 1
validation_images: 0
training: {epochs: 1, batch: 16, lr: 0.01, flips: none, warmup_epochs: 0.0, clip: 0.0}
attack: {mode: bisection, images: 6, steps: 2, fast: false}
"""


def test_a_study_of_forty_lines_trains_attacks_and_compares(tmp_path):
    settings = yaml.safe_load(PROFILE)
    run = results.Run.start("05_x", "5_weight_decay", "smoke", {}, tmp_path)
    trained = [study.train(arm, settings, tmp_path) for arm in study.arms(settings, seed=0)]
    for one in trained:
        experiment.note(run, one, settings["training"])
    found = [evaluation.evaluate(one, settings, [1 / 255, 8 / 255], seed=0) for one in trained]
    scores = pd.concat([one.scores() for one in found])
    task = trained[0].arm.task
    tables.record(run, experiment.describe_task(run, task, {"model": "majority"}))
    tables.record(run, tables.over_seeds(scores))
    tables.record(run, study.gains(scores))
    for decay, one in zip((0.0, 0.1), found, strict=True):
        for radius, right in zip(one.sweep.epsilons * 255, one.sweep.right, strict=True):
            row = only(run, "accuracy_attacked", decay=decay, radius_255=radius)
            assert row["value"] == pytest.approx(right.mean()) and row["n"] == 6
    gain = only(run, "accuracy_attacked_gain", radius_255=8.0)
    right = [one.sweep.right[1].mean() for one in found]
    assert gain["value"] == pytest.approx(right[1] - right[0]) and gain["decay"] == 0.1
    assert len(find(run, "accuracy")) == 3  # the constant answer, and two networks
    run.save()


def test_another_arm_and_another_seed_are_a_line_of_yaml():
    settings = yaml.safe_load(PROFILE.replace("[0.0, 0.1]", "[0.0, 0.1, 0.5]"))
    settings["seeds"] = 2
    assert len({arm.key for arm in study.arms(settings, seed=0)}) == 6
    (one,) = study.arms(settings, seed=0, model="resnet10t-0.5-1")
    assert (one.decay, one.seed) == (0.5, 1)
