"""Paper 1's thousand under attack: who is on which side, hand-made outcomes, a few phantoms."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from medrobust_utils.reporting import protocol
from medrobust_utils.scoring.predict import predict
from medrobust_utils.studies import swin_noise, tables
from medrobust_utils.studies import swin_subset as study

PAPER = protocol.load("1_swin_noise")
LIGHT = (
    "thousand.phantoms=160 thousand.fit=40 thousand.attacked=16 thousand.epochs.before=1 "
    "thousand.epochs.fit=1 thousand.attack.pgd_steps=1 thousand.attack.steps=2 "
    "thousand.attack.targets=1 thousand.attack.queries=5 thousand.attack.check=4"
)


@pytest.fixture(scope="module")
def settings():
    return PAPER.settings("smoke", LIGHT)


@pytest.fixture(scope="module")
def arms(settings):
    return list(study.arms(settings, seed=0))


@pytest.fixture(scope="module")
def chest(settings, arms, tmp_path_factory):
    """A network of the chest phantoms."""
    return study.train(arms[0], settings, tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="module")
def knowing(chest):
    """The same network, which has hardly learnt, on images of which it has ten right.

    Eight of the images show the first finding, so that its AUC can be attacked.
    """
    task, targets = chest.arm.task, chest.arm.task.data.targets.copy()
    answers = predict(chest.model, task.data, task.attacked) > 0
    targets[task.attacked[:10]] = answers[:10]
    targets[task.attacked[10:]] = ~answers[10:]
    task = replace(task, data=replace(task.data, targets=targets))
    return chest._replace(arm=replace(chest.arm, task=task))


@pytest.fixture(scope="module")
def evaluated(settings, knowing):
    return study.evaluate(knowing, settings, seed=0)


def of_thousand(settings, **picked):
    return next(study.arms(settings, **{"seed": 0} | picked)).task


# --- who is on which side ------------------------------------------------------------------------


def test_no_patient_and_no_lesion_is_on_two_sides(arms):
    tasks = list({arm.task.key: arm.task for arm in arms}.values())
    assert [task.role for task in tasks] == ["nih", "isic"]
    for task in tasks:
        assert len(task.split.train) == 40 and len(task.attacked) == 16
        assert task.before.data is task.data  # the rest of the same set
        sides = (task.split.train, task.attacked, task.before.split.train)
        first, second, third = (set(task.data.groups[side].tolist()) for side in sides)
        assert not first & second and not first & third and not second & third


def test_where_hardly_an_image_is_left_nothing_is_learnt_before():
    few = PAPER.settings("smoke", LIGHT + " thousand.fit=100")  # 28 of 160 phantoms are left
    task = of_thousand(few)
    assert task.before is None and len(task.split.train) == 100


def test_another_set_before_is_whole_and_of_its_own():
    other = PAPER.settings("smoke", LIGHT + " thousand.before.nih=phantom-dermatoscopy10")
    before = of_thousand(other).before
    assert before.data.name == "phantom-dermatoscopy10"
    held = before.data.groups[before.attacked]
    assert not np.isin(before.data.groups[before.split.train], held).any()


def test_images_of_ones_own_learn_from_their_own_rest(tmp_path):
    from PIL import Image

    draw = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(60):
            pixels = draw.integers(0, 255, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    other = PAPER.settings("small", "thousand.fit=40 thousand.attacked=16 thousand.size=32")
    task = of_thousand(other, role=f"folder:{tmp_path}")
    assert task.before.data is task.data and task.data.classes == ("cat", "dog")
    assert len(task.before.split.train) == 96 - 40


# --- training ------------------------------------------------------------------------------------


def test_random_weights_learn_other_images_first_and_say_so(chest):
    arm, model, history, _ = chest
    assert (arm.start, arm.before) == ("scratch", "phantom-chest") and model.start == "scratch"
    assert [row["part"] for row in history] == ["before", "fit"]
    counts = study.facts(arm.task).set_index("side")["estimate"]
    assert counts.to_dict() == {
        "fit": 40,
        "attacked": 16,
        "before": len(arm.task.before.split.train),
    }


def test_a_trained_arm_is_read_back(chest, settings, arms, monkeypatch):
    monkeypatch.setattr("medrobust_utils.training.fit._Job._step", None)
    again = study.train(arms[0], settings, chest.folder.parent)
    assert (str(again.history), again.folder) == (str(chest.history), chest.folder)  # some are nan
    both = zip(chest.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    assert all((a.cpu() == b.cpu()).all() for a, b in both)


def test_what_was_learnt_before_is_taken_over_but_not_a_head_of_other_classes(
    chest, arms, settings
):
    skin = replace(arms[-1], model="swin", seed=1)  # ten classes, not fifteen
    fresh = swin_noise.build_arm(skin, study.own(settings))
    head = [key for key in fresh.state_dict() if "head" in key and key.endswith("weight")][-1]
    before = fresh.state_dict()[head].clone()
    study.take_over(fresh, chest.model)
    for key, value in fresh.state_dict().items():
        theirs = chest.model.state_dict()[key].cpu()
        assert (value == (theirs if value.shape == theirs.shape else value)).all()
    assert (fresh.state_dict()[head] == before).all()


# --- measured on phantoms ------------------------------------------------------------------------


def right(scores, attack):
    """Right under an attack, (sizes, images)."""
    rows = tables.chosen(scores, {"metric": "accuracy_attacked", "attack": attack})
    return np.stack([one.values for one in rows["estimate"]])


def test_autoattack_is_given_what_pgd_fooled_and_nothing_rises(evaluated):
    scores, flags = evaluated
    begin, pgd, auto = (right(scores, attack) for attack in ("none", "pgd", "autoattack"))
    assert begin.sum() == 10 and auto.shape == (3, 16) and auto.any() and not auto.all()
    assert (auto <= pgd).all() and (auto <= begin).all() and (np.diff(auto, axis=0) <= 0).all()
    fooled = scores[scores["metric"].eq("fooled_by") & scores["eps_255"].eq(1.0)]
    shares = fooled.set_index("member")["estimate"]
    assert shares["wrong before"] == 6 / 16 and sum(shares) == pytest.approx(1)
    assert shares["earlier attack"] == (begin[0] > pgd[0]).mean()
    assert len(flags) and set(flags["metric"]) == {"red_flag"}


def test_the_record_holds_means_and_how_many_images_they_are_of(evaluated):
    table = study.settled(evaluated[0]).set_index("metric")
    assert "retained" not in table.index and set(table["n"]) == {16}
    begin = table.loc["accuracy_attacked"].query("attack == 'none'")["estimate"].iloc[0]
    assert begin.value == 10 / 16 and begin.low < begin.value < begin.high
    assert (table.loc["sensitivity_density", "band"].nunique()) == 16


def test_networks_are_compared_on_the_images_that_both_had_right(evaluated):
    scores = evaluated[0]
    other = scores.assign(model="resnet", beats_constant=False).reset_index(drop=True)
    for place in other.index[other["metric"].eq("retained")]:
        one = other.at[place, "estimate"]
        values = np.where(np.arange(16) < 7, 0.0, np.nan)  # seven of the ten, all of them fooled
        other.at[place, "estimate"] = replace(one, values=values)
    both = study.comparisons(pd.concat([scores, other]))
    kept = tables.chosen(
        both, {"metric": "retained_swin_minus_resnet", "attack": "pgd", "eps_255": 1.0}
    )
    assert kept["n"].tolist() == [7] and not kept["beats_constant"].any()
    assert kept["estimate"].iloc[0].value == right(scores, "pgd")[0][:7].mean()
    gap = tables.chosen(both, {"metric": "accuracy_noise_minus_adversarial", "model": "swin"})
    noise, auto = (right(scores, attack).mean(1) for attack in ("noise", "autoattack"))
    assert [one.value for one in gap["estimate"]] == pytest.approx(list(noise - auto))
    (low,) = both[both["metric"].eq("lowpass_swin_minus_resnet")]["estimate"]
    assert low.value == 0  # one network twice


def test_without_a_pair_noise_is_still_held_against_autoattack(evaluated):
    alone = study.comparisons(evaluated[0])
    assert set(alone["metric"]) == {"accuracy_noise_minus_adversarial"} and len(alone) == 3


def test_the_constant_answer_is_the_commonest_of_the_fitted_as_a_whole(arms):
    chest, skin = arms[0].task, arms[-1].task
    targets, fitted = np.zeros_like(chest.data.targets), chest.split.train
    targets[fitted[:15], 2] = 1  # fifteen of forty: rarer than nothing, commoner than pairs
    targets[fitted[15:], 4] = 1
    targets[fitted[15:27], 5] = 1
    targets[chest.attacked[:6], 2] = 1
    found = study.always(replace(chest, data=replace(chest.data, targets=targets)))
    assert found.tolist() == [True] * 6 + [False] * 10
    counts = np.bincount(skin.data.targets[skin.split.train])
    expected = skin.data.targets[skin.attacked] == counts.argmax()
    assert (study.always(skin) == expected).all()


def test_the_auc_of_a_finding_falls_under_an_attack_on_it(settings, chest, tmp_path):
    task = chest.arm.task
    targets = task.data.targets.copy()
    targets[task.attacked] = 0
    targets[task.attacked[:4], 1] = 1  # four images with the second finding say nothing
    targets[task.attacked[:8], 0] = 1
    task = replace(task, data=replace(task.data, targets=targets))
    asked = chest._replace(arm=replace(chest.arm, task=task), folder=tmp_path)
    how = settings["thousand"]["attack"] | {"findings": 2, "auc_eps_255": 8, "eps_255": [8]}
    scores, _ = study.evaluate(asked, {"thousand": {"attack": how}}, seed=0)
    areas = scores[scores["metric"].eq("auc_attacked")].set_index("attack")
    assert set(areas["finding"]) == {task.data.classes[0]}
    assert areas.at["autoattack", "estimate"].value < areas.at["none", "estimate"].value
