"""The study of paper 1 on a few phantoms: arms, noise, the thousand under attack, comparisons."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from found import find, only
from PIL import Image

from medrobust_utils.reporting import protocol, results
from medrobust_utils.scoring.predict import predict
from medrobust_utils.studies import swin_noise as study
from medrobust_utils.studies import tables

PAPER = protocol.load("1_swin_noise")
TINY = (
    "phantoms=300 size=32 training.epochs.nih=1 training.epochs.isic=1 noise.seeds.variance=2 "
    "models.swin.options.img_size=32 models.swin.options.embed_dim=24 noise_images=50"
)
LIGHT = (
    "thousand.phantoms=160 thousand.fit=40 thousand.attacked=16 thousand.epochs.before=1 "
    "thousand.epochs.fit=1 thousand.attack.steps=1 thousand.attack.autoattack.steps=2 "
    "thousand.attack.autoattack.targets=1 thousand.attack.autoattack.queries=5 "
    "thousand.attack.check.images=4"
)
LEVELS = (0.0, 0.025, 0.1, 0.4)


def thousand(more="", profile="smoke"):
    """The settings of the second study, with overrides of the profile."""
    settings = PAPER.settings(profile, f"{LIGHT} {more}" if profile == "smoke" else more)
    return {**settings, **settings["thousand"]}


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
    for task in {one.arm.task.key: one.arm.task for one in trained}.values():
        run.dataset(task.raw)
        tables.record(run, study.facts(task))
    tables.record(run, study.recorded(scores))
    tables.record(run, tables.over_seeds(study.along_levels(scores, LEVELS)))
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


def test_drops_are_clean_minus_noisy_on_the_same_images(scores):
    here = {"model": "swin", "role": "isic", "reading": "variance"}
    area = tables.chosen(scores, here | {"metric": "auc_macro"}).set_index("noise")["estimate"]
    (found,) = tables.chosen(scores, here | {"metric": "auc_macro_drop", "noise": 0.4})["estimate"]
    assert found.value == pytest.approx(area[0.0].value - area[0.4].value)
    np.testing.assert_allclose(found.replicates, area[0.0].replicates - area[0.4].replicates)


def test_rows_say_what_the_headlines_ask_for(run):
    identity = find(run, "val_accuracy_minus_top1")
    assert len(identity) == 4
    assert all(row["value"] == row["low"] == row["high"] == 0 for row in identity)
    for role, name in (("nih", "multi_label"), ("nih", "single_label"), ("isic", "single_label")):
        tags = {"role": role, "protocol": name}
        scored = find(run, "auc_micro", reading="none", **tags)
        assert {row["model"] for row in scored} == {"swin", "resnet", "majority"}
        top1 = {row["model"]: row["value"] for row in find(run, "top1", reading="none", **tags)}
        ahead = only(run, "accuracy_above_majority", model="swin", **tags)["value"]
        assert ahead == pytest.approx(top1["swin"] - top1["majority"])
    assert find(run, "auc_macro", model="majority")[0]["value"] == 0.5
    both = only(run, "auc_drop_nih_minus_isic", model="swin", reading="variance", noise=0.1)
    assert both["dataset"] == "phantom-chest+phantom-dermatoscopy10"


def test_what_falls_along_the_levels_is_told_by_the_levels_of_the_paper(scores):
    here = {"model": "resnet", "role": "isic", "reading": "variance"}
    along = tables.chosen(study.along_levels(scores, LEVELS), here).set_index("metric")["estimate"]
    values = tables.chosen(scores, here)
    values = values.assign(value=[one.value for one in values["estimate"]])
    curve = values.pivot(index="noise", columns="metric", values="value").loc[list(LEVELS)]
    steps = -curve[list(study.UNDER_NOISE[:3])].diff()
    assert along["smallest_step_down"].value == pytest.approx(steps.min().min())
    first, *later = steps["top1"].dropna()
    assert along["first_minus_later_drop"].value == pytest.approx(first - sum(later))
    assert not len(study.along_levels(scores, (0.0, 0.2, 0.4)))  # a level that was not run


# --- the thousand --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chest(tmp_path_factory):
    """A network of the chest phantoms, on images of which it has ten right."""
    arm, folder = next(study.arms(thousand(), seed=0)), tmp_path_factory.mktemp("checkpoints")
    one = study.train(arm, thousand(), folder)
    task, targets = one.arm.task, one.arm.task.data.targets.copy()
    answers = predict(one.model, task.data, task.attacked) > 0
    targets[task.attacked[:10]] = answers[:10]
    targets[task.attacked[10:]] = ~answers[10:]
    task = replace(task, data=replace(task.data, targets=targets))
    return one._replace(arm=replace(one.arm, task=task))


@pytest.fixture(scope="module")
def attacked(chest):
    return study.attack(chest, thousand(), seed=0)


def test_no_patient_and_no_lesion_is_on_two_sides():
    tasks = {arm.task.key: arm.task for arm in study.arms(thousand(), seed=0)}.values()
    assert [task.role for task in tasks] == ["nih", "isic"]
    for task in tasks:
        assert len(task.split.train) == 40 and len(task.attacked) == 16
        sides = (task.split.train, task.attacked, task.before.split.train)
        first, second, third = (set(task.data.groups[side].tolist()) for side in sides)
        assert not first & second and not first & third and not second & third


def test_what_is_learnt_before_is_the_rest_another_whole_set_or_nothing(tmp_path):
    few = next(study.arms(thousand("thousand.fit=100"), seed=0)).task  # 28 of 160 are left
    assert few.before is None and len(few.split.train) == 100
    settings = thousand("thousand.before.nih=phantom-dermatoscopy10")
    before = next(study.arms(settings, seed=0)).task.before
    assert before.data.name == "phantom-dermatoscopy10"
    held = before.data.groups[before.attacked]
    assert not np.isin(before.data.groups[before.split.train], held).any()
    draw = np.random.default_rng(0)
    for name in ("cat", "dog"):  # images of one's own learn from their own rest
        (tmp_path / name).mkdir()
        for number in range(60):
            pixels = draw.integers(0, 255, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    sizes = "thousand.fit=40 thousand.attacked=16 thousand.size=32"
    task = next(study.arms(thousand(sizes, "small"), seed=0, role=f"folder:{tmp_path}")).task
    assert task.before.data is task.data and len(task.before.split.train) == 96 - 40


def test_random_weights_learn_other_images_first_and_are_read_back(chest, monkeypatch):
    arm, model, history, folder = chest
    assert (arm.start, arm.before) == ("scratch", "phantom-chest") and model.start == "scratch"
    monkeypatch.setattr("medrobust_utils.training.fit._Job._step", None)
    again = study.train(next(study.arms(thousand(), seed=0)), thousand(), folder.parent)
    assert (str(again.history), again.folder) == (str(history), folder)  # some are nan
    with pytest.raises(TypeError):  # what is learnt before is trained anew, and so are the 800
        other = thousand("training.lr.scratch=0.003")
        study.train(next(study.arms(other, seed=0)), other, folder.parent)


def right(scores, attack):
    """Right under an attack, (sizes, images)."""
    rows = tables.chosen(scores, {"metric": "accuracy_attacked", "attack": attack})
    return np.stack([one.values for one in rows["estimate"]])


def test_autoattack_is_given_what_pgd_fooled_and_nothing_rises(attacked):
    scores, left = attacked
    begin, pgd, auto = (right(scores, attack) for attack in ("none", "pgd", "autoattack"))
    assert begin.sum() == 10 and auto.shape == (3, 16) and auto.any() and not auto.all()
    assert (auto <= pgd).all() and (auto <= begin).all() and (np.diff(auto, axis=0) <= 0).all()
    assert np.array_equal(left.before, pgd.astype(bool))
    table = study.recorded(scores).set_index("metric")
    start = table.loc["accuracy_attacked"].query("attack == 'none'")["estimate"].iloc[0]
    assert start.value == 10 / 16 and start.low < start.value < start.high
    assert table.loc["sensitivity_density", "band"].nunique() == 16
    assert not {"retained", "log2_radius", "centroid"} & {*table.index}


def test_networks_are_compared_on_the_images_that_both_had_right(attacked):
    scores = attacked[0]
    other = scores.assign(model="resnet").reset_index(drop=True)
    for place in other.index[other["metric"].eq("retained")]:
        one = other.at[place, "estimate"]
        values = np.where(np.arange(16) < 7, 0.0, np.nan)  # seven of the ten, all of them fooled
        other.at[place, "estimate"] = replace(one, values=values)
    reach = other["metric"].eq("log2_radius")
    other.loc[reach, "estimate"] = [
        replace(one, values=one.values - 2) for one in other.loc[reach, "estimate"]
    ]
    both = study.recorded(pd.concat([scores, other]))
    kept = tables.chosen(
        both, {"metric": "retained_swin_minus_resnet", "attack": "pgd", "eps_255": 1.0}
    )
    assert kept["n"].tolist() == [7]
    assert kept["estimate"].iloc[0].value == right(scores, "pgd")[0][:7].mean()
    (gain,) = both[both["metric"].eq("log2_radius_gain")].to_dict("records")
    assert gain["estimate"].value == pytest.approx(2)
    assert (gain["model"], gain["against"]) == ("swin", "resnet")
    gap = tables.chosen(both, {"metric": study.NOISE_GAP, "model": "swin"})
    noise, auto = (right(scores, attack).mean(1) for attack in ("noise", "autoattack"))
    assert [one.value for one in gap["estimate"]] == pytest.approx(list(noise - auto))
    for name in ("lowpass_swin_minus_resnet", "lowpass_gain_by_learning"):
        (low,) = both[both["metric"].eq(name)]["estimate"]
        assert low.value == 0  # one network twice
    alone = study.recorded(scores)["metric"]
    assert study.NOISE_GAP in {*alone} and not alone.str.contains("swin").any()
