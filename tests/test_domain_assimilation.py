"""The study of paper 3 on a few phantoms and on hand-made scores: numbers are worked out twice."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from found import falling, only

from medrobust_utils.attacks import SweepResult, fgsm
from medrobust_utils.core.errors import ProtocolError
from medrobust_utils.data import ImageSet, ThreeWay, to_float
from medrobust_utils.data.phantoms import phantom_set
from medrobust_utils.data.splits import leaks, split_by_image, split_three_ways
from medrobust_utils.explain import measures, sharpness
from medrobust_utils.explain.cams import grad_cam
from medrobust_utils.models.assimilation import ConvColour, DeconvColour, TextureModule
from medrobust_utils.models.complexity import operations
from medrobust_utils.reporting import protocol, results
from medrobust_utils.scoring import metrics
from medrobust_utils.studies import domain_assimilation as study
from medrobust_utils.studies import domain_assimilation_compare as compare
from medrobust_utils.studies import evaluation, tables
from medrobust_utils.studies.common import some
from medrobust_utils.training import glcm

PAPER = protocol.load("3_domain_assimilation")
FULL = PAPER.settings("paper")
TINY = (
    "phantoms=100 size=64 training.epochs.ct=1 training.epochs.test_resnet=1 attack.images.ct=10 "
    "attack.eps_255=[1,16] attack.quarter.steps=2 attack.torchattacks.steps=2 "
    "attack.strong_steps=2 attack.fine_255=[0.5] attack.check.images=4 explained=4"
)


def tiny(**changes):
    """The smoke profile made smaller, with ``changes`` at its top level."""
    return protocol.Settings(dict(PAPER.settings("smoke", TINY)) | changes)


@pytest.fixture(scope="module")
def settings():
    return tiny()


@pytest.fixture(scope="module")
def arms(settings):
    return list(study.arms(settings, seed=0))


@pytest.fixture(scope="module")
def trained(settings, arms, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return {arm.defence: study.train(arm, settings, folder) for arm in arms}


@pytest.fixture(scope="module")
def measured(settings, trained):
    """By defence; each met by other attacks."""
    found, attacks = {}, {"modules": "quarter", "adversarial": "pgd"}
    for defence, one in trained.items():
        arm = replace(one.arm, attacks=attacks.get(defence, "all"))
        found[defence] = study.measure(one._replace(arm=arm), settings, seed=0)
    return found


@pytest.fixture
def run(tmp_path):
    return results.Run.start("03_domain_assimilation", PAPER.name, "paper", {}, tmp_path)


# --- hand-made networks --------------------------------------------------------------------------


def made_task(role="ct", split="honest", size=20):
    """A task of ``size`` images a class that nobody looks at: all are tested on and attacked."""
    every = np.arange(2 * size)
    pixels, ids = np.zeros((2 * size, 8, 8, 1), np.uint8), tuple(map(str, every))
    about = {"synthetic": False, "complete": True, "checksum": role}
    about["census"] = {"class_size_listed": size + 3}
    name, classes = FULL.datasets[role], ("negative", "positive")
    data = ImageSet(name, pixels, every % 2, classes, every, ids, **about)
    tags = {"role": role, "dataset": name, "split": split}
    ways = ThreeWay(every, every, every)
    return study.Task(f"{role}-{split}", tags, data, data, ways, every, every)


def arm_of(task, defence="none", attacks="all", **changes):
    own = {"alpha": 0.9, "colour": "conv", "rows": "areas"} | study.LACKS.get(defence, {})
    own = {"backbone": "resnet50", "start": "imagenet", "defence": defence, **own, **changes}
    return study.Arm(task, 0, **own, attacks=attacks)


def made(arm, right, *, special=None, clean=None):
    """A network right under every attack where ``right`` (E, n) says so, from 1/255 upwards.

    ``special`` holds what differs, by (attack, step); bisection is None, and that at quarters of
    1/255 is FINE.
    """
    task, special = arm.task, {study.FINE: np.ones((2, 40), bool)} | (special or {})
    labels, clean = task.data.targets, np.ones(40, bool) if clean is None else clean
    hot = np.eye(2, dtype=np.float32)[labels]

    def sweep(cell):
        outcomes = [clean, *(clean & one for one in special.get(cell, right))]
        logits = np.stack([hot * np.where(one, 1, -1)[:, None] for one in outcomes])
        epsilons = np.arange(1, len(outcomes)) / 255 / (4 if cell == study.FINE else 1)
        return SweepResult(epsilons, logits[1:], logits[0], labels, "x")

    scores = metrics.score(sweep(None).clean, labels, metrics.group_weights(task.data.groups, [0]))
    scores = {name: scores[name] for name in evaluation.CLEAN}
    gates = {"beats_prior": True, "competent": True, "beats_majority": True}
    sweeps = {cell: sweep(cell) for cell in (*study.RUN[arm.attacks], study.FINE)}
    return study.Robustness(
        arm, scores, gates, task.attacked, sweep(None), [0], "bisection", sweeps
    )


def pair(**how):
    """Vanilla and assimilated on one task: 30, 20, 1, 1 and 32, 24, 10, 4 of 40 stay right."""
    task = made_task()
    plain = made(arm_of(task), falling(4, [0] * 10 + [1] * 10 + [2] * 19 + [9]))
    fall = [0] * 8 + [1] * 8 + [2] * 14 + [3] * 6 + [9] * 4
    return plain, made(arm_of(task, "glcm", **how), falling(4, fall))


# --- arms and tasks ------------------------------------------------------------------------------


def planned(profile, monkeypatch, **changes):
    """The arms of a profile, on hand-made tasks."""
    monkeypatch.setattr(study, "_task", lambda settings, role, split, seed: made_task(role, split))
    settings = protocol.Settings(dict(PAPER.settings(profile)) | changes)
    return settings, list(study.arms(settings, seed=0))


def test_the_profiles_hold_every_network_that_was_asked_for(monkeypatch):
    for profile, places in (
        (
            "small",
            [
                *((role, "resnet50") for role in study.ROLES),
                ("ct", "resnet18"),
                ("ct", "densenet121"),
            ],
        ),
        ("paper", itertools.product(study.ROLES, compare.BACKBONES)),
    ):
        _, found = planned(profile, monkeypatch)
        defences = {}
        for arm in found:
            if (arm.task.tags["split"], arm.alpha, arm.rows) in (
                ("honest", 1.0, "none"),
                ("honest", 0.9, "areas"),
            ):
                place = arm.task.role, arm.backbone
                defences.setdefault(place, set()).add(arm.defence)
        assert sorted(defences) == sorted(places)
        for place, known in defences.items():
            assert known >= {"none", "modules", "glcm"}, place
        assert "adversarial" in defences["ct", "resnet50"]
        assert len({arm.alpha for arm in found}) >= 4  # with 1: a sweep
        leaky = [arm for arm in found if arm.task.tags["split"] == "by image"]
        assert "none" in {arm.defence for arm in leaky}


GROUP = {"role": "ct", "backbone": "test_resnet", "start": "scratch", "split": "honest"}


@pytest.mark.parametrize(
    ("group", "call", "message"),
    [
        ({}, {"role": "liver"}, "DATASET='liver'.*this profile has ct"),
        ({}, {"role": "mri"}, "DATASET='mri'"),  # known, and not in this profile
        ({"role": "mri"}, {"role": "mri", "model": "test_resnet"}, "both DATASET='mri' and MODEL"),
        ({}, {"model": "vgg"}, "MODEL='vgg'.*test_resnet"),
        ({}, {"seed": -1}, "SEED=-1"),
        ({"split": "loose"}, {}, "'loose': choose among honest, by image"),
        ({"defence": ["prayer"]}, {}, "'prayer': choose among none, modules, glcm, adversarial"),
        ({"attacks": "some"}, {}, "'some': choose among all, quarter, pgd"),
    ],
    ids=["role", "absent role", "no such pair", "model", "seed", "split", "defence", "attacks"],
)
def test_what_cannot_be_run_is_refused_by_name(group, call, message):
    arms = [GROUP | {"defence": ["none"]} | group]
    if call.keys() >= {"role", "model"}:  # each is there, and never together
        arms[0] |= {"backbone": "resnet18"}
        arms.append(GROUP | {"defence": ["none"]})
    with pytest.raises(ProtocolError, match=message):
        list(study.arms(tiny(arms=arms), **({"seed": 0} | call)))


def test_a_run_can_be_one_arm_with_one_seed_and_alpha_is_a_setting():
    settings = tiny(seeds=3, alpha=0.5)
    (one,) = study.arms(settings, seed=4, model="test_resnet-glcm-5")
    assert (one.defence, one.alpha, one.rows, one.seed) == ("glcm", 0.5, "areas", 5)
    assert "attacks" not in one.tags and one.tags["colour"] == "conv"


def doubled(name, *, size, phantoms, seed, duplicates):
    """Phantoms in pairs that belong together; every picture four times where copies stay."""
    data = phantom_set("ct", 120, size=size, seed=seed)
    keep = np.arange(120).repeat(4 if duplicates else 1)
    return replace(
        data,
        name="scans",
        images=data.images[keep],
        targets=data.targets[keep],
        groups=data.groups[keep // 2 * 2],
        ids=tuple(map(str, range(len(keep)))),
        masks=None,
        census={},
        checksum=str(duplicates),
        synthetic=False,
    )


def test_an_honest_task_leaks_nothing_and_one_by_image_keeps_every_copy(monkeypatch):
    monkeypatch.setattr(study, "load", doubled)
    both = [GROUP | {"defence": ["none"], "split": split} for split in study.SPLITS]
    settings = tiny(arms=both, class_size={"ct": 60})
    honest, leaky = (arm.task for arm in study.arms(settings, seed=0))
    assert (len(honest.raw), len(leaky.raw)) == (120, 480)
    assert len(leaky.data) == 120 >= len(honest.data)
    for task in (honest, leaky):
        assert len(set(task.data.class_counts().values())) == 1
        sides = [set(side.tolist()) for side in task.split]
        assert not any(a & b for a, b in itertools.combinations(sides, 2))
        shares = np.array([len(side) for side in sides]) / len(task.data)
        assert shares.sum() == 1 and np.abs(shares - [0.7, 0.1, 0.2]).max() < 0.04
        assert len(task.attacked) == 10 and set(task.attacked) <= sides[2]
    cut = split_three_ways(honest.data, seed=0, val_folds=8), split_by_image(leaky.data, seed=0)
    for task, expected in zip((honest, leaky), cut, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(task.split, expected, strict=True))
    assert leaks(honest.data, honest.split) == 0
    assert leaks(leaky.data, leaky.split) > len(leaky.split.test) / 2
    # what the slides count, copies and all
    listed = [task.raw.census["class_size_listed"] for task in (honest, leaky)]
    assert listed == [60, 60] and leaky.data.class_counts()["positive"] == 60
    assert min(honest.data.class_counts().values()) < 60
    assert honest.key != leaky.key and leaky.key == "ct-scans-with-duplicates-64-by-image"


def test_classes_are_as_large_as_the_slides_allow(arms):
    counts = arms[0].task.data.class_counts()
    assert set(counts) == {"negative", "positive"}
    whole = arms[0].task.raw.class_counts()
    positive = whole["malignant"]
    assert set(counts.values()) == {min(536, positive, sum(whole.values()) - positive)}
    (arm, *_) = study.arms(tiny(class_size={"ct": 12}), seed=0)
    assert set(arm.task.data.class_counts().values()) == {12}


# --- training ------------------------------------------------------------------------------------


def test_all_defences_of_a_seed_begin_with_the_same_backbone_and_head(settings, arms):
    models = {arm.defence: study.build_arm(arm, settings) for arm in arms}
    plain = models["none"].backbone.state_dict()
    for model in models.values():
        state = model.backbone.state_dict()
        assert all(torch.equal(state[key], plain[key]) for key in plain)
    assert len(models["none"].new_parameters()) == 0 < len(models["glcm"].new_parameters())
    other = study.build_arm(replace(arms[0], seed=1), settings).backbone.state_dict()
    assert any(not torch.equal(other[key], plain[key]) for key in plain)


def test_a_trained_arm_is_read_back_and_another_recipe_trains_anew(settings, trained, monkeypatch):
    arm, model, history, folder = trained["glcm"]
    assert history[0]["glcm_gradient"] > 0 and "glcm_gradient" not in trained["none"].history[0]
    monkeypatch.setattr("medrobust_utils.training.fit._Job._step", None)
    _, again, same_history, same_folder = study.train(arm, settings, folder.parent)
    assert (repr(same_history), same_folder) == (repr(history), folder)  # an AUC may be NaN
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )
    faster = tiny(training=settings["training"] | {"new_lr_factor": 5.0})
    finer = tiny(glcm=settings["glcm"] | {"levels": 9})
    for changed, plan in ((arm, faster), (arm, finer), (replace(arm, alpha=0.5), settings)):
        with pytest.raises(TypeError):  # it would train, and training is switched off
            study.train(changed, plan, folder.parent)


def test_each_defence_trains_by_its_own_objective(settings, arms, tmp_path, monkeypatch):
    asked = {}

    def spy(model, data, split, recipe, folder, *, objective, **how):
        asked[arm.defence] = recipe, objective
        raise ZeroDivisionError

    monkeypatch.setattr("medrobust_utils.studies.experiment.fit", spy)
    for arm in arms:
        with pytest.raises(ZeroDivisionError):
            study.train(arm, settings, tmp_path)
    assert asked["none"][1] is None
    assert repr(asked["modules"][1]) == (
        "Assimilation(alpha=1.0, levels=8, softness=1.0, rows='areas')"
    )
    assert repr(asked["glcm"][1]) == "Assimilation(alpha=0.9, levels=8, softness=1.0, rows='areas')"
    attacker = asked["adversarial"][1]
    assert (attacker.eps, attacker.steps) == (4 / 255, 2)
    assert attacker.step_size == pytest.approx(3 / 255)
    # the epoch of best clean accuracy is not the most robust one
    assert {defence: recipe["patience"] for defence, (recipe, _) in asked.items()} == {
        "none": 30,
        "modules": 30,
        "glcm": 30,
        "adversarial": 0,
    }


# --- what a network scores -----------------------------------------------------------------------


def test_scores_are_those_of_the_network(measured, trained):
    for defence, found in measured.items():
        arm, model, *_ = trained[defence]
        task, test = arm.task, arm.task.split.test
        with torch.no_grad():
            right = model(to_float(task.data.images[test])).argmax(1).numpy()
        expected = (right == task.data.targets[test]).mean()
        assert found.clean["top1"].value == pytest.approx(expected)
        rows = found.scores().set_index(["metric", "attack", "step", "eps_255"])["estimate"]
        before = found.sweep.clean_right
        start = rows["accuracy_attacked", "none", "none", 0.0]
        assert start.value == pytest.approx(before.mean()) and len(test) > len(task.attacked)
        for cell, sweep in found.sweeps.items():
            for eps, here in zip(sweep.epsilons * 255, sweep.right, strict=True):
                one = rows["accuracy_attacked", *cell, round(eps, 6)]
                assert one.value == pytest.approx(here.mean())
            assert np.array_equal(sweep.clean_right, before)
            assert np.array_equal(sweep.labels, task.data.targets[task.attacked])


def test_the_worst_is_no_worse_than_what_fooled_an_image():
    right, odd = falling(3, [9] * 40), np.ones((3, 40), bool)
    odd[0, 0] = False  # fooled at the smallest eps only, as FGSM does
    special = {study.FGSM: odd, None: falling(3, [9] * 39 + [2])}
    found = made(arm_of(made_task()), right, special=special)
    expected = np.ones((3, 40), bool)
    expected[2, 39] = False
    assert np.array_equal(found.cells[study.STRONG], expected)
    expected[:, 0] = False  # stays lost
    assert np.array_equal(found.cells[study.WORST], expected)


def test_fgsm_meets_every_eps_afresh_and_the_others_spare_what_is_fooled(measured, trained):
    found, model = measured["none"], trained["none"].model
    modes = {cell: sweep.mode for cell, sweep in found.sweeps.items()}
    assert modes.pop(study.FGSM) == "independent" and modes.pop(study.FINE) == "bisection"
    assert set(modes.values()) == {"skip_fooled"} and len(modes) == 6
    assert found.sweep.mode == "bisection"
    task = found.arm.task
    images = to_float(task.data.images[task.attacked])
    labels = torch.from_numpy(task.data.targets[task.attacked])
    sweep = found.sweeps[study.FGSM]
    for eps, logits in zip(sweep.epsilons.tolist(), sweep.logits, strict=True):
        with torch.no_grad():
            expected = model(fgsm(model, images, labels, eps))
        # mixed precision may turn the sign of a gradient that is nearly zero
        assert np.abs(expected.numpy() - logits).mean() < 0.1 * np.abs(logits).mean()


def test_attacks_take_the_steps_that_the_profile_states(settings, trained, monkeypatch):
    asked = []
    monkeypatch.setattr(study, "attack_sweep", lambda *args, **how: asked.append((args, how)))
    one, plan = trained["none"], protocol.Settings(dict(settings) | {"attack": FULL.attack})
    study.measure(one, plan, seed=7)
    assert all(how["seed"] == 7 and how["folder"] == one.folder for _, how in asked)
    assert all(args[3] == [eps / 255 for eps in range(1, 9)] for args, _ in asked[:-1])
    fine = asked[-1][0][3]
    assert fine == sorted(fine) and fine[-1] < 1 / 255
    names = ("attack", "mode", "steps", "rel_step", "step_size")
    iterative = ("bim", "mifgsm", "pgd")
    assert [tuple(how.get(name) for name in names) for _, how in asked] == [
        ("fgsm", "independent", None, None, None),
        *((name, "independent", 40, 0.25, None) for name in iterative),
        *((name, "independent", 10, None, 2 / 255) for name in iterative),
        (None, None, 20, None, None),
        (None, None, 20, None, None),
    ]
    assert "dtype" not in asked[-2][1] and asked[0][1]["dtype"] == torch.float32
    for attacks, expected in (
        ("quarter", ["fgsm", "bim", "mifgsm", "pgd", None, None]),
        ("pgd", ["pgd", None, None]),
    ):
        asked.clear()
        study.measure(one._replace(arm=replace(one.arm, attacks=attacks)), plan, seed=7)
        assert [how.get("attack") for _, how in asked] == expected


def test_every_arm_is_measured_on_the_same_images_and_draws(measured):
    first = measured["none"]
    for found in measured.values():
        assert np.array_equal(found.weights, first.weights)
        assert np.array_equal(found.sweep.labels, first.sweep.labels)
    assert first.weights.shape == (1001, 10) and not (first.weights[1:] == 1).all()


def test_a_finished_measurement_is_read_back(settings, trained, measured, monkeypatch):
    monkeypatch.setattr("medrobust_utils.attacks.radius_sweep.Job", None)
    # a busy machine's probe may choose another precision than the training had
    monkeypatch.setattr("medrobust_utils.core.env.training_dtype", lambda device: torch.float16)
    assert trained["glcm"].model.trained_in in (torch.float32, torch.bfloat16)
    again = study.measure(trained["glcm"], settings, seed=0)
    assert np.array_equal(again.sweep.logits, measured["glcm"].sweep.logits)
    with pytest.raises(TypeError):  # another seed is another sweep
        study.measure(trained["glcm"], settings, seed=1)


def test_half_is_the_first_eps_of_all_that_fools_half_of_what_was_right():
    clean = np.arange(40) < 20  # half are wrong before the attack, and count for nothing
    climbs = [1] * 9 + [2] * 11 + [0] * 20

    def half(fall, fine=(9,) * 40, clean=None):
        special = {None: falling(4, fall), study.FINE: falling(2, fine)}
        found = made(arm_of(made_task()), falling(4, [9] * 40), special=special, clean=clean)
        return found.half_radius * 255

    assert half(climbs, clean=clean) == pytest.approx(3)
    assert half([1] * 9 + [9] * 11 + [0] * 20, clean=clean) == pytest.approx(4)  # none: the last
    assert half([0] * 20 + [9] * 20) == pytest.approx(1)  # exactly half
    assert half([0] * 40, [1] * 30 + [9] * 10) == pytest.approx(0.5)
    assert half([0] * 40, [1] * 19 + [9] * 21) == pytest.approx(1)


# --- what is held against what -------------------------------------------------------------------


def test_a_defence_is_held_against_vanilla_and_the_loss_against_its_own_modules(run):
    (plain, ours), right = pair(), falling(4, [0] * 8 + [9] * 32)
    task = plain.arm.task
    modules = [made(arm_of(task, "modules", colour=c), right) for c in ("conv", "deconv")]
    run.dataset(task.raw)
    tables.record(run, compare.gains(pd.concat([p.scores() for p in (plain, ours, *modules)])))
    cell = {"attack": "pgd", "step": "quarter"}
    glcm = {"defence": "glcm", "against": "none"}
    for eps, gain in ((1, 2), (2, 4), (3, 9), (4, 3)):
        row = only(run, "accuracy_gain", eps_255=float(eps), **glcm, **cell)
        assert row["value"] == pytest.approx(gain / 40) and row["alive"]
    assert only(run, "mean_gain", **glcm, **cell)["value"] == pytest.approx(18 / 160)
    assert only(run, "accuracy_gain", **glcm, attack="none")["value"] == 0
    row = only(run, "mean_gain", against="modules", **cell)  # those with the same colours
    assert row["value"] == pytest.approx((70 - 128) / 160) and row["colour"] == "conv"
    assert {row["defence"] for row in run.record["rows"]} == {"glcm", "modules"}


def test_a_curve_that_rises_again_is_odd_and_pgd_spares_what_a_smaller_eps_fooled(run):
    right = falling(3, [0] * 10 + [9] * 30)
    single = falling(3, [1] * 20 + [9] * 20)
    single[2, :10] = True  # right again at the largest eps, and fooled all the same
    found = made(arm_of(made_task()), right, special={study.FGSM: single})
    rows = compare.fgsm_rows(found).set_index("metric")["estimate"]
    assert rows["fgsm_rebound"].value == pytest.approx(10 / 40)
    assert rows["fgsm_above_pgd"].value == pytest.approx((20 - 30) / 40)
    assert not len(compare.fgsm_rows(made(arm_of(made_task(), attacks="pgd"), right)))


# --- reasons -------------------------------------------------------------------------------------


def test_reasons_are_measured_for_the_networks_own_answers(settings, trained, measured):
    arm, model, *_ = trained["glcm"]
    table = compare.explain(trained["glcm"], measured["glcm"], settings, seed=0)
    found = {row.metric: row.estimate.values for row in table.itertuples()}
    images = to_float(arm.task.data.images[some(arm.task.attacked, 4, 0)])
    with torch.no_grad():
        said = model(images).argmax(1)
        gray = glcm.grayscale(model.adapt(images))
    area = measures.area(grad_cam(model, images, said).maps)
    assert found["attention_area"] == pytest.approx(area, nan_ok=True)
    rise = sharpness.rise(model, images, said)
    assert found["loss_rise"] == pytest.approx(rise, rel=1e-3, abs=1e-6)
    norm = sharpness.gradient_norm(model, images, said)
    assert found["gradient_norm"] == pytest.approx(norm, rel=1e-3)
    counted = [glcm.texture(part, levels=8, softness=0.0) for part in (gray, images)]
    expected = glcm.texture_distance(*counted).numpy()
    assert found["texture_distance"] == pytest.approx(expected, rel=1e-4) and expected.min() > 0
    plain = compare.explain(trained["none"], measured["none"], settings, seed=0)
    assert list(plain["metric"]) == list(compare.MEASURES)
    change = compare.pairs(pd.concat([table, plain]), "{}_change").set_index("metric")["estimate"]
    rise = found["loss_rise"] - plain.set_index("metric")["estimate"]["loss_rise"].values
    assert change["loss_rise_change"].values == pytest.approx(rise)


def test_photographs_are_gray_and_labelled_by_the_networks_own_answers(settings, tmp_path):
    data, table = compare.natural(settings, "test_resnet", "scratch", tmp_path, seed=0)
    assert data.images.shape == (40, 64, 64, 1) and data.images.dtype == np.uint8
    assert data.name == "natural-photographs" and not data.synthetic
    assert data.targets.max() > 1  # of the 1000 classes of ImageNet
    assert list(table["metric"]) == [*compare.MEASURES, "retained"]
    assert 0 <= table["estimate"].iloc[-1].value <= 1


def made_reasons(found, shift=0.0):
    """One number an image: 0, 1, ... plus ``shift``; the first map says nothing."""
    values = {name: np.arange(40) + shift for name in (*compare.MEASURES, "texture_distance")}
    values["attention_area"] = np.where(np.arange(40) == 0, np.nan, values["attention_area"])
    if found.arm.colour == "none":
        del values["texture_distance"]
    rows = [(name, tables.PerImage(one, found.weights)) for name, one in values.items()]
    return pd.DataFrame(rows, columns=["metric", "estimate"]).assign(**found.tags)


def made_photos():
    values = {name: np.full(6, 10.0) for name in compare.MEASURES} | {"retained": np.ones(6)}
    weights = np.ones((1001, 6))
    rows = [(name, tables.PerImage(one, weights)) for name, one in values.items()]
    table = tables.means(pd.DataFrame(rows, columns=["metric", "estimate"]))
    tags = {"dataset": "natural-photographs", "defence": "natural"}
    return table.assign(**tags, backbone="resnet50", start="imagenet")


def test_a_medical_network_is_held_against_photographs_at_the_eps_that_both_met(run):
    plain, _ = pair()
    gap = compare.against_natural(plain, made_reasons(plain), made_photos())
    assert set(gap["dataset"]) == {f"{FULL.datasets['ct']}+natural-photographs"}
    value = {row.metric: row.estimate.value for row in gap.itertuples()}
    assert value["loss_rise_medical_minus_natural"] == pytest.approx(19.5 - 10)
    assert value["attention_area_medical_minus_natural"] == pytest.approx(20 - 10)
    assert value["retained_medical_minus_natural"] == pytest.approx(30 / 40 - 1)
    last = gap[gap["metric"].eq("retained_medical_minus_natural")].iloc[0]
    assert last["alive"] and last["eps_255"] == 1 and gap["alive"].notna().sum() == 1


# --- the record ----------------------------------------------------------------------------------


def test_operations_are_those_counted_by_hand():
    side, quarter = 32 * 40, 8 * 10
    assert operations(TextureModule(), 1, 1, 32, 40) == side * 2 * 9 * 16
    conv = side * 9 * (16 + 16 * 16 + 16 * 3)
    assert operations(ConvColour(), 2, 1, 32, 40) == 2 * conv  # two images
    stem = side // 4 * 49 * 64
    residual = 8 * 2 * quarter * 9 * 64 * 64
    tail = quarter * 64 * 3 + quarter * 64 * 3 * 3  # 1x1, and 8x8 from every place
    assert operations(DeconvColour(), 1, 1, 32, 40) == stem + residual + tail


def test_deviations_say_what_was_changed(monkeypatch):
    sizes = FULL.class_size
    monkeypatch.setattr(
        study, "_task", lambda settings, role, split, seed: made_task(role, split, sizes[role])
    )
    assert compare.deviations(FULL, FULL, study.arms(FULL, seed=0)) == []
    small = PAPER.settings("small")
    found = compare.deviations(small, FULL, study.arms(small, seed=0, role="xray"))
    assert {"training.epochs.xray: 2 (paper: 300).", "size: 128 (paper: 224)."} <= set(found)
    assert any("met FGSM, BIM, MI-FGSM, PGD alone" in line for line in found)
    assert "mri: not run." in found and not any("epochs.mri" in line for line in found)


def test_a_full_run_of_the_paper_has_a_row_for_every_claim(run, monkeypatch):
    monkeypatch.setattr(study, "_task", lambda settings, role, split, seed: made_task(role, split))
    arms = list(study.arms(protocol.Settings(dict(FULL) | {"seeds": 1}), seed=0))
    for task in {arm.task.key: arm.task for arm in arms}.values():
        tables.record(run, compare.task_rows(run, task))
    run.dataset(replace(arms[0].task.data, name="natural-photographs"))
    right = [falling(8, [(later + i) % 9 for i in range(40)]) for later in range(len(arms))]
    found = [made(*one) for one in zip(arms, right, strict=True)]
    seen = [made_reasons(one, later) for later, one in enumerate(found)]
    for one, reasons in zip(found, seen, strict=True):
        if one.arm.defence == "none":
            tables.record(run, compare.against_natural(one, reasons, made_photos()))
    scores, reasons = pd.concat([one.scores() for one in found]), pd.concat(seen)
    odd = pd.concat([compare.fgsm_rows(one) for one in found])
    tables.record(run, tables.over_seeds(pd.concat([scores, odd])))
    tables.record(run, compare.gains(scores))
    tables.record(run, tables.means(compare.pairs(reasons, "{}_change")))
    tables.record(run, compare.module_rows())
    run.save()
    rows = results.read(run.out)["rows"]
    silent = {
        claim.id
        for claim in PAPER.claims
        if not any(claim.metric == r["metric"] and claim.select.items() <= r.items() for r in rows)
    }
    assert silent == set()


def test_flipped_images_are_no_match_for_a_texture_that_was_computed_once(arms, tmp_path):
    (arm,) = (one for one in arms if one.defence == "glcm")
    flipped = tiny(training=dict(tiny()["training"]) | {"flips": "both"})
    with pytest.raises(ProtocolError, match="flips=both"):
        study.train(arm, flipped, tmp_path)
