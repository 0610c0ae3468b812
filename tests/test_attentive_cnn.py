"""The study of paper 2 on a few phantoms and on hand-made scores: numbers are worked out twice."""

from dataclasses import fields, replace
from itertools import product

import made
import numpy as np
import pandas as pd
import pytest
import torch
from found import falling, find, only

from medrobust_utils.core.errors import DataError, ProtocolError
from medrobust_utils.data import to_float
from medrobust_utils.data.views import enhance
from medrobust_utils.explain import under_attack
from medrobust_utils.reporting import protocol, results
from medrobust_utils.studies import attentive_cnn as study
from medrobust_utils.studies import evaluation, experiment, tables

PAPER = protocol.load("2_attentive_cnn")
TINY = (
    "phantoms=90 models.resnet.backbone=resnet10t models.resnet.size=64 training.epochs.skin=1 "
    "training.epochs.fundus=1 training.epochs.chest=1 attack.images=12 attack.eps=[0.02,0.32] "
    "attack.steps=2 attack.check.images=4"
)
ARMS = [
    {"role": "skin", "filter": "none", "attention": ["none", "released"]},
    {"role": "fundus", "filter": "none", "attention": ["none"]},
    {"role": "chest", "filter": "contrast", "attention": ["none"]},
]
COMMON = {"split": "honest", "model": "resnet", "start": "scratch"}


def tiny(**changes):
    """The smoke profile made smaller, with ``changes`` at its top level."""
    values = dict(PAPER.settings("smoke", TINY)) | {"arms": [arm | COMMON for arm in ARMS]}
    return protocol.Settings(values | changes)


@pytest.fixture(scope="module")
def settings():
    return tiny()


@pytest.fixture(scope="module")
def arms(settings):
    return list(study.arms(settings, seed=0))


@pytest.fixture(scope="module")
def cells(settings):
    return study.readings(settings["attack"])


@pytest.fixture(scope="module")
def radii(cells):
    return sorted(cells["radius"].unique())


@pytest.fixture(scope="module")
def trained(settings, arms, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return [study.train(arm, settings, folder) for arm in arms]


@pytest.fixture(scope="module")
def evaluated(settings, trained, radii):
    return [evaluation.evaluate(one, settings, radii, seed=0) for one in trained]


@pytest.fixture(scope="module")
def explained(settings, trained, evaluated):
    both = zip(trained, evaluated, strict=True)
    return [evaluation.explain(*pair, settings, study.masks, seed=0) for pair in both]


@pytest.fixture
def run(tmp_path):
    return results.Run.start("02_attentive_cnn_pgd", PAPER.name, "paper", {}, tmp_path)


# --- arms and tasks ------------------------------------------------------------------------------


def test_every_arm_has_its_task_and_arms_of_one_task_share_it(arms):
    assert [(a.task.role, a.tags["filter"], a.attention) for a in arms] == [
        ("skin", "none", "none"),
        ("skin", "none", "released"),
        ("fundus", "none", "none"),
        ("chest", "contrast", "none"),
    ]
    assert arms[0].task is arms[1].task and len({arm.key for arm in arms}) == 4
    skin, fundus, chest = arms[0].task, arms[2].task, arms[3].task
    assert [len(task.data.classes) for task in (skin, fundus, chest)] == [7, 2, 2]
    assert fundus.tags["finding"] == "Moderate or Severe or Proliferative DR"
    assert chest.tags["finding"] == "Pneumothorax" and skin.tags["finding"] == ""
    for task in (skin, fundus, chest):
        assert len(task.attacked) == 12 and set(task.attacked) <= set(task.split.test)
        assert set(task.chosen) <= set(task.split.val)
        assert not set(task.split.test) & (set(task.split.train) | set(task.split.val))


def test_the_filter_changes_what_the_network_sees_and_not_the_raw_images(arms):
    skin, chest = arms[0].task, arms[3].task
    assert skin.data is skin.raw
    expected = enhance(to_float(chest.raw.images[:3]))
    assert torch.allclose(to_float(chest.data.images[:3]), expected, atol=0.5 / 255 + 1e-6)
    assert chest.data.checksum != chest.raw.checksum


@pytest.mark.parametrize(
    ("changes", "call", "error", "message"),
    [
        ({}, {"role": "liver"}, ProtocolError, "DATASET='liver'.*chest, fundus, skin"),
        ({}, {"model": "vgg"}, ProtocolError, "MODEL='vgg'.*resnet"),
        ({}, {"seed": -1}, ProtocolError, "SEED=-1"),
        ({"arms": [ARMS[0] | COMMON | {"split": "loose"}]}, {}, ProtocolError, "'loose'"),
        ({"arms": [ARMS[0] | COMMON | {"filter": "sepia"}]}, {}, ProtocolError, "'sepia'"),
        ({"arms": [ARMS[0] | COMMON | {"split": "datta"}]}, {}, DataError, "HAM10000"),
    ],
    ids=["role", "model", "seed", "split", "filter", "phantoms have no lesion numbers"],
)
def test_what_cannot_be_run_is_refused_by_name(changes, call, error, message):
    with pytest.raises(error, match=message):
        list(study.arms(tiny(**changes), **({"seed": 0} | call)))


# --- training ------------------------------------------------------------------------------------


def test_a_trained_arm_is_read_back_and_another_recipe_trains_anew(settings, trained, monkeypatch):
    arm, model, history, folder = trained[1]
    monkeypatch.setattr("medrobust_utils.training.fit._Job._step", None)
    _, again, same_history, same_folder = study.train(arm, settings, folder.parent)
    assert (repr(same_history), same_folder) == (repr(history), folder)  # an AUC may be NaN
    before, after = (one.state_dict().values() for one in (model, again))
    assert all((a == b).all() for a, b in zip(before, after, strict=True))
    slower = tiny(training=settings["training"] | {"lr": 0.001})
    for other in (slower, tiny(gamma=True)):
        with pytest.raises(TypeError):  # it would train, and training is switched off
            study.train(arm, other, folder.parent)


# --- radii ---------------------------------------------------------------------------------------


def test_the_papers_radii_meet_under_all_readings_of_their_unit():
    plan = PAPER.settings("paper")["attack"]
    found = study.readings(plan)
    assert found["radius"].max() == 0.32 and list(found["scale"].unique()) == [*plan["scales"]]
    widths = found["scale"].map(plan["scales"])
    assert (found["radius"] / (found["eps"] / widths)).between(1, 1.011).all()
    apart = np.sort(found["radius"].unique())
    assert (apart[1:] / apart[:-1]).min() > 1.9  # neighbours were merged: 0.32/255 is 0.00125
    assert len(found) == 3 * len(plan["eps"])


def test_radii_that_are_too_small_are_left_out(cells, radii):
    assert radii == pytest.approx([0.32 / 255, 0.01, 0.02, 0.16, 0.32])
    assert list(cells.query("scale == '0-255'")["eps"]) == [0.32]  # 0.02/255 is below 0.0001


# --- what a network scores -----------------------------------------------------------------------


def test_accuracies_are_those_of_the_logits_and_wrong_images_are_counted_apart(evaluated):
    for one in evaluated:
        sweep, scores = one.sweep, one.scores().set_index(["attack", "metric"])["estimate"]
        assert np.array_equal(sweep.labels, one.arm.task.data.targets[one.index])
        before = sweep.clean.argmax(1) == sweep.labels
        assert scores["none", "accuracy_attacked"].value == pytest.approx(before.mean())
        accuracies = [each.value for each in scores["bisection", "accuracy_attacked"]]
        right = sweep.logits.argmax(2) == sweep.labels
        assert accuracies == pytest.approx(list(right.mean(1)))
        if before.any():
            kept = [each.value for each in scores["bisection", "retained_accuracy"]]
            assert kept == pytest.approx(list(right[:, before].mean(1)))
        # an AUC after bisection would be an upper bound
        assert "auc_macro_attacked" not in scores.index.get_level_values("metric")


def test_a_finished_evaluation_is_read_back(settings, trained, radii, evaluated, monkeypatch):
    monkeypatch.setattr("medrobust_utils.attacks.radius_sweep.Job", None)
    again = evaluation.evaluate(trained[0], settings, radii, seed=0)
    assert np.array_equal(again.sweep.logits, evaluated[0].sweep.logits)
    with pytest.raises(TypeError):  # another seed is another sweep
        evaluation.evaluate(trained[0], settings, radii, seed=1)


def test_foolbox_attacks_in_float32_also_where_ours_is_fast(settings, trained, monkeypatch):
    monkeypatch.setattr(evaluation, "precision", lambda settings, model: torch.bfloat16)
    how = dict(seed=0, images=4)
    theirs = evaluation.evaluate(trained[0], settings, [0.02], attack="foolbox", **how)
    slow = tiny(attack=settings["attack"] | {"fast": False})
    monkeypatch.undo()
    ours = evaluation.evaluate(trained[0], slow, [0.02], attack="independent", **how)
    assert theirs.attack == "foolbox" and len(theirs.index) == 4
    assert np.array_equal(ours.sweep.right, theirs.sweep.right)


class Coarse(torch.nn.Module):
    """A network that hides its gradients: it rounds what it is given."""

    trained_in = torch.float32

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model((images * 16).round() / 16)


def test_a_network_that_hides_its_gradients_gets_the_lowest_of_three_curves(
    settings, trained, tmp_path
):
    hidden = trained[3]._replace(model=Coarse(trained[3].model).eval(), folder=tmp_path)
    light = {"steps": 2, "targets": 1, "queries": 5}
    slow = tiny(attack=settings["attack"] | {"fast": False, "autoattack": light})
    found = evaluation.evaluate(hidden, slow, [0.001, 0.02], seed=0)
    assert any(flag.raised for flag in found.flags) and found.sweep.mode == "lowest"
    cold = evaluation.evaluate(hidden, slow, [0.001, 0.02], seed=0, attack="independent")
    assert not (found.sweep.right & ~cold.sweep.right).any(), "a braver curve would be shown"
    rows = evaluation.flags(hidden, found, slow, seed=0)
    assert len(rows) > len(found.flags) and rows["estimate"].max() == 1


def test_modes_differ_is_independent_minus_bisection(settings, trained, evaluated, radii):
    found = evaluation.modes_differ(trained[0], evaluated[0], settings, seed=0)
    assert list(found["radius_255"]) == [0.02 * 255]
    how = dict(seed=0, images=4, attack="independent")
    other = evaluation.evaluate(trained[0], settings, [0.02], **how)
    here = np.isin(evaluated[0].index, other.index)
    gap = other.sweep.right[0].mean() - evaluated[0].sweep.right[2, here].mean()
    assert found["estimate"].iloc[0].value == pytest.approx(gap)


def test_sensitivity_is_told_of_two_classes_and_of_images_attacked_afresh():
    one = made.network(made.task("chest"), falling(4, [2] * 40))
    assert (one.scores()["metric"] == "sensitivity_attacked").sum() == 5  # before, and four radii
    halved = replace(one, sweep=replace(one.sweep, mode="bisection"))
    skin = made.network(made.task("skin"), falling(4, [2] * 40))
    for other in (halved, skin):
        assert "sensitivity_attacked" not in set(other.scores()["metric"])


def test_half_is_the_first_radius_that_fools_half_of_what_was_right():
    task = made.task("chest")
    clean = np.arange(40) < 20  # half are wrong before the attack, and count for nothing
    fall = [1] * 9 + [2] * 11 + [0] * 20
    assert made.network(task, falling(4, fall), clean=clean).half == 2
    assert made.network(task, falling(4, [9] * 40)).half is None
    assert made.network(task, falling(4, [0] * 40)).half == 0


# --- rows ----------------------------------------------------------------------------------------


def test_rows_of_a_task_count_leaks_and_draw_the_majority_line(arms, run):
    task = arms[0].task
    leaky = replace(task, split=task.split._replace(train=task.split.test[:4]))
    tables.record(run, experiment.describe_task(run, leaky, {"model": "majority"}))
    assert only(run, "test_images_leaked")["value"] == 4 and only(run, "classes")["value"] == 7
    targets = task.data.targets
    common = np.bincount(targets[task.split.test[:4]], minlength=7).argmax()
    line = only(run, "accuracy", model="majority")
    assert line["value"] == pytest.approx((targets[task.split.test] == common).mean())
    assert line["n"] == len(task.split.test)


def test_accuracy_and_its_loss_stand_at_every_reading(evaluated, cells):
    table = study.by_reading(evaluated[0].scores(), cells)
    sweep = evaluated[0].sweep
    right, before = sweep.right.mean(1), sweep.clean_right.mean()
    for row in cells.itertuples():
        here = table[table["scale"].eq(row.scale) & table["eps"].eq(row.eps)]
        value = here.set_index("metric")["estimate"].map(lambda one: one.value)
        accuracy = right[np.abs(sweep.epsilons - row.radius).argmin()]
        assert value["accuracy"] == pytest.approx(accuracy)
        assert value["accuracy_lost"] == pytest.approx(before - accuracy)


FOUR = pd.DataFrame(
    [("signed", 0.02, 1 / 255), ("signed", 0.04, 2 / 255), ("0-1", 0.08, 4 / 255)],
    columns=["scale", "eps", "radius"],
)
FOUR["radius_255"] = FOUR["radius"] * 255


def test_a_gain_is_the_difference_image_by_image(run):
    plain, ours = made.pair()
    run.dataset(ours.arm.task.raw)
    tables.record(run, study.gains(pd.concat([plain.scores(), ours.scores()]), FOUR))
    for (scale, eps), expected in {
        ("signed", 0.02): 2 / 40,
        ("signed", 0.04): 4 / 40,
        ("0-1", 0.08): 3 / 40,
        ("none", 0.0): 0,
    }.items():
        gain = only(run, "accuracy_gain", scale=scale, eps=eps)
        assert gain["value"] == pytest.approx(expected) and gain["attention"] == "released"
    # 2 of 40 images differ: paired, the interval is far narrower than that of either accuracy
    gain = only(run, "accuracy_gain", scale="signed", eps=0.02)
    accuracy = plain.scores().query("metric == 'accuracy_attacked'")["estimate"].iloc[1]
    assert gain["high"] - gain["low"] < 0.5 * (accuracy.high - accuracy.low)
    assert not len(study.gains(plain.scores(), FOUR)), "nothing to compare with"


def test_another_attack_than_the_profiles_is_an_override(run):
    run.add("x", 1.0)
    for parameters, wanted in (
        ({"ATTACK": ""}, ""),
        ({"ATTACK": "bisection"}, "ATTACK=bisection"),
        ({"SET": "seeds=1", "ATTACK": "foolbox"}, "seeds=1 ATTACK=foolbox"),
    ):
        run.record["parameters"] = parameters
        run.save()
        (row,) = results.rows([results.read(run.out)])
        assert row["overrides"] == wanted


# --- perturbations and maps ----------------------------------------------------------------------


def test_explained_images_are_attacked_ones_and_their_changes_stay_in_the_ball(
    explained, evaluated, arms, radii
):
    for arm, robust, seen in zip(arms, evaluated, explained, strict=True):
        assert len(seen.index) == 4 and set(seen.index) <= set(arm.task.attacked)
        assert seen.attacked.shape == (len(radii), 4, 64, 64)
        assert seen.shown == (len(radii) - 1 if robust.half is None else robust.half)
        assert 0 < np.abs(seen.change).max() <= radii[seen.shown] + 1e-6
        assert (seen.right == ~seen.fooled[0]).mean() > 0.5  # the smallest radius fools few
    names = [set(seen.names) for seen in explained]
    assert "ring_over_centre" in names[0] and "outside_over_centre" in names[2]  # lesions, eyes


def test_explanations_are_read_back(settings, trained, evaluated, explained, monkeypatch):
    monkeypatch.setattr(under_attack, "_explain", None)
    again = evaluation.explain(trained[0], evaluated[0], settings, study.masks, seed=0)
    for part in fields(again):
        ours, theirs = getattr(again, part.name), getattr(explained[0], part.name)
        equal = {"equal_nan": True} if ours.dtype.kind == "f" else {}
        assert np.array_equal(ours, theirs, **equal), part.name
    with pytest.raises(TypeError):
        evaluation.explain(trained[0], evaluated[0], settings, study.masks, seed=1)


def test_maps_for_a_figure_know_which_of_them_are_none(explained):
    seen = explained[0]
    holed = replace(seen, clean=seen.clean.copy())
    holed.clean[1] = np.nan
    found = holed.maps()
    assert not found.valid[1] and found.reasons[1] and len(found) == 4
    assert np.array_equal(seen.maps(3).valid, np.isfinite(seen.attacked[3]).all((1, 2)))
    assert len(seen.maps(first=2)) == 2


MAPPED = ["map_correlation", "map_correlation_own_class", "mask_share", "ring_over_centre"]
OTHERS = ["map_correlation_other_image", "ring_over_centre_other_outline"]


def made_maps(names, positions, n=4):
    """Explanations of four images, of which two are fooled at every radius."""
    draw = np.random.default_rng(0)
    field = draw.random((n, 16, 16)).astype(np.float16)
    return under_attack.Explained(
        index=np.arange(n),
        classes=np.zeros(n, int),
        right=np.ones(n, bool),
        fooled=np.tile(np.arange(n) < n // 2, (positions, 1)),
        clean=field,
        attacked=np.stack([field] * positions),
        change=np.zeros((n, 1, 16, 16), np.float32),
        strength=np.ones((n, 16, 16), np.float16),
        shown=np.array(0),
        names=np.array(sorted(names)),
        before=draw.random((len(names), n)),
        after=draw.random((len(names), positions, n)),
    )


def test_rows_on_maps_are_of_the_radius_that_fools_half_with_what_chance_would_show(run):
    robust, seen = made.pair()[0], made_maps([*MAPPED, *OTHERS], 4)
    names = list(seen.names)
    seen.before[names.index("ring_over_centre")] = np.nan
    run.dataset(robust.arm.task.raw)
    tables.record(run, study.map_rows(robust, seen).drop(columns="seed"))
    ring, _ = find(run, "ring_over_centre", half_fooled=True)  # and its baseline
    after = seen.after[names.index("ring_over_centre"), 1]
    assert ring["radius_255"] == 2  # 20 of 40 are right at the second
    assert ring["value"] == pytest.approx(after[:2].mean()) and ring["n"] == 2  # those it fooled
    assert not find(run, "ring_over_centre", attack="none")  # no change, no ring
    other = only(run, "ring_over_centre", baseline="outline of another image")
    elsewhere = seen.after[names.index("ring_over_centre_other_outline"), 1]
    assert other["value"] == pytest.approx(elsewhere[:2].mean())
    unrelated = only(run, "map_correlation", baseline="map of another image")
    assert unrelated["value"] == pytest.approx(
        seen.before[names.index("map_correlation_other_image")].mean()
    )
    assert only(run, "mask_share", attack="none")["scale"] == "none"
    assert len(find(run, "map_correlation_by_radius")) == 4
    for name in MAPPED[:2]:
        change = seen.after[names.index(name), 1]
        for outcome, value in (("successful", change[:2]), ("failed", change[2:])):
            row = only(run, f"{name}_{outcome}")
            assert row["value"] == pytest.approx(value.mean()) and row["n"] == 2


def test_maps_of_two_networks_are_compared_on_the_same_images(run):
    plain, ours = made.pair()
    run.dataset(ours.arm.task.raw)
    seen = made_maps({"map_entropy"}, 4)
    turned = np.concatenate([1 - seen.clean[:3], seen.clean[3:]])
    other = replace(seen, clean=turned, classes=np.array([0, 0, 0, 1]))
    tables.record(run, study.map_rows(ours, other, plain=seen).drop(columns="seed"))
    row = only(run, "map_correlation_between_models")  # the last explains another class
    assert row["value"] == pytest.approx(-1, abs=1e-3) and row["n"] == 3
    assert row["attention"] == "released" and row["scale"] == "none"
    mismatch, _ = find(run, "map_top_mismatch", against="none")
    assert mismatch["value"] == 1, "brightest here, darkest there"
    assert only(run, "map_top_mismatch", baseline="two images")["n"] == 4


def test_every_network_is_held_against_its_next_seed_and_its_twin(run, monkeypatch):
    skin, seen = made.task("skin"), made_maps({"map_entropy"}, 4)
    work = study.Study(run, tiny(), seed=0)
    for seed, form in product((0, 1), ("none", "released")):
        made_one = made.network(skin, falling(4, [1] * 40), seed=seed, attention=form)
        work.measured.append((evaluation.Trained(made_one.arm, None, [], None), made_one))
    run.dataset(skin.raw)
    shades = iter([seen.clean, 1 - seen.clean, seen.clean, seen.clean])
    monkeypatch.setattr(evaluation, "explain", lambda *a, **k: replace(seen, clean=next(shades)))
    assert [one.arm.attention for one, *_ in work.explain()] == ["none", "released"]
    twins = only(run, "map_correlation_between_models", against="none")
    assert twins["by_seed"] == pytest.approx([-1, 1], abs=1e-3)
    again = find(run, "map_top_mismatch", baseline="another seed")
    assert [row["attention"] for row in again] == ["none", "released"]
    assert [row["value"] for row in again] == pytest.approx([0, 1])
