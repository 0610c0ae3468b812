"""The study of paper 3 on a few phantoms and on hand-made scores: numbers are worked out twice."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from found import falling

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
from medrobust_utils.studies import domain_assimilation_attack as attack
from medrobust_utils.studies import domain_assimilation_reasons as why
from medrobust_utils.studies import domain_assimilation_record as record
from medrobust_utils.studies import domain_assimilation_rows as rows
from medrobust_utils.studies import tables
from medrobust_utils.training import glcm

PAPER = protocol.load("3_domain_assimilation")
FULL = PAPER.settings("paper")
TINY = (
    "phantoms=100 size=64 training.epochs.ct=1 training.epochs.test_resnet=1 attack.images.ct=10 "
    "attack.eps_255=[1,16] attack.quarter.steps=2 attack.torchattacks.steps=2 "
    "attack.strong_steps=2 attack.fine_255=[0.5] attack.check=4 explained=4"
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
    for defence, (arm, model, _, folder) in trained.items():
        arm = replace(arm, attacks=attacks.get(defence, "all"))
        found[defence] = attack.measure(arm, model, settings, folder, seed=0)
    return found


@pytest.fixture(scope="module")
def explained(settings, trained):
    return {
        defence: why.explain(arm, model, settings, folder, seed=0)
        for defence, (arm, model, _, folder) in trained.items()
        if defence != "adversarial"
    }


@pytest.fixture(scope="module")
def photos(settings, tmp_path_factory):
    return why.natural(settings, "test_resnet", "scratch", tmp_path_factory.mktemp("n"), seed=0)


@pytest.fixture
def run(tmp_path):
    return results.Run.start("03_domain_assimilation", PAPER.name, "paper", {}, tmp_path)


# --- hand-made networks --------------------------------------------------------------------------


def made_task(role="ct", split="honest", size=20, **changes):
    """A task of ``size`` images a class that nobody looks at: all are tested on and attacked."""
    everything = np.arange(2 * size)
    data = ImageSet(
        FULL.datasets[role],
        np.zeros((2 * size, 8, 8, 1), np.uint8),
        everything % 2,
        ("negative", "positive"),
        everything,
        tuple(map(str, everything)),
        synthetic=False,
        complete=True,
        checksum=role,
    )
    data = replace(data, **changes)
    ways = ThreeWay(everything, everything, everything)
    return study.Task(role, split, data, data, ways, size + 3, everything)


def arm_of(task, defence="none", **changes):
    modules = defence in ("modules", "glcm")
    how = {
        "alpha": 0.9 if defence == "glcm" else 1.0,
        "colour": "conv" if modules else "none",
        "rows": "areas" if defence == "glcm" else "none",
        "seed": 0,
    }
    return study.Arm(task, "resnet50", "imagenet", defence, **(how | changes))


def made(arm, right, *, special=None, clean=None):
    """A network right under every attack where ``right`` (E, n) says so.

    ``special`` holds what differs, by (attack, step); those by bisection are ("strong", "") and,
    at quarters of 1/255, ("fine", "").
    """
    task, special = arm.task, special or {}
    labels, n = task.data.targets, len(task.attacked)
    clean = np.ones(n, bool) if clean is None else clean
    hot = np.eye(2, dtype=np.float32)[labels]

    def logits(good):
        return hot * np.where(good, 1, -1)[:, None].astype(np.float32)

    def sweep(cell, unit=1 / 255):
        robust = special.get(cell, right)
        scored = np.stack([logits(one) for one in robust])
        epsilons = np.arange(1, len(robust) + 1) * unit
        return SweepResult(epsilons, scored, logits(clean), labels, "x")

    weights = metrics.group_weights(task.data.groups, 0, draws=60)
    scores = metrics.score(logits(clean), labels, weights)
    gates = {"beats_prior": True, "competent": True, "beats_majority": True}
    sweeps = {cell: sweep(cell) for cell in attack.RUN[arm.attacks]}
    special.setdefault(("fine", ""), np.ones((2, n), bool) & clean)
    fine = sweep(("fine", ""), 0.25 / 255)
    return attack.Robustness(arm, scores, gates, sweeps, sweep(("strong", "")), weights, fine)


def pair(**how):
    """Vanilla and assimilated on one task: 30, 20, 1, 1 and 32, 24, 10, 4 of 40 stand."""
    task = made_task()
    plain = made(arm_of(task), falling(4, [0] * 10 + [1] * 10 + [2] * 19 + [9]))
    fall = [0] * 8 + [1] * 8 + [2] * 14 + [3] * 6 + [9] * 4
    return plain, made(arm_of(task, "glcm", **how), falling(4, fall))


# --- its rows, as the notebook records them ------------------------------------------------------


def add_task(run, task):
    tables.record(run, rows.task_rows(run, task))


def add_arm(run, group):
    tables.record(run, tables.over_seeds(pd.concat([one.scores() for one in group])))


def add_pair(run, plain, defended):
    scores = pd.concat([one.scores() for one in (*plain, *defended)])
    tables.record(run, rows.gains(scores))


def add_photos(run, photos, backbone, start):
    tables.record(run, rows.photo_rows(run, photos, backbone, start))


def add_natural(run, photos, robust, reasons):
    tables.record(run, rows.natural_rows(photos, robust, reasons))


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
        ("paper", itertools.product(study.ROLES, record.BACKBONES)),
    ):
        _, found = planned(profile, monkeypatch)
        defences = {}
        for arm in found:
            if (arm.task.split_name, arm.alpha, arm.rows) in (
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
        leaky = [arm for arm in found if arm.task.split_name == "by image"]
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
    assert honest.listed == leaky.listed == leaky.data.class_counts()["positive"] == 60
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

    monkeypatch.setattr(study, "fit", spy)
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
    for defence, robust in measured.items():
        arm, model, *_ = trained[defence]
        task, test = arm.task, arm.task.split.test
        with torch.no_grad():
            right = model(to_float(task.data.images[test])).argmax(1).numpy()
        assert robust.clean["top1"].value == pytest.approx(
            (right == task.data.targets[test]).mean()
        )
        assert len(test) > len(task.attacked)
        before = robust.strong.clean_right
        assert robust.start.value == pytest.approx(before.mean())
        for cell, sweep in robust.sweeps.items():
            expected = sweep.right.mean(1)
            assert [one.value for one in robust.accuracy(cell)] == pytest.approx(list(expected))
            assert np.array_equal(sweep.clean_right, before)
            assert np.array_equal(sweep.labels, task.data.targets[task.attacked])


def test_the_worst_is_no_worse_than_what_felled_an_image():
    task = made_task()
    right = falling(3, [9] * 40)
    odd = np.ones((3, 40), bool)
    odd[0, 0] = False  # fooled at the smallest eps only, as FGSM does
    climbed = falling(3, [9] * 39 + [2])
    robust = made(arm_of(task), right, special={("fgsm", "single"): odd, ("strong", ""): climbed})
    expected = np.ones((3, 40), bool)
    expected[2, 39] = False
    assert np.array_equal(robust.right["worst", "pgd"], expected)
    expected[:, 0] = False  # stays lost
    assert np.array_equal(robust.right["worst", "all"], expected)


def test_fgsm_meets_every_eps_afresh_and_the_others_spare_the_fallen(measured, trained):
    robust, model = measured["none"], trained["none"][1]
    modes = {cell: sweep.mode for cell, sweep in robust.sweeps.items()}
    assert modes.pop(("fgsm", "single")) == "independent"
    assert set(modes.values()) == {"skip_fooled"} and len(modes) == 6
    assert robust.strong.mode == "bisection"
    task = robust.arm.task
    images = to_float(task.data.images[task.attacked])
    labels = torch.from_numpy(task.data.targets[task.attacked])
    for eps, logits in zip(
        robust.epsilons.tolist(), robust.sweeps["fgsm", "single"].logits, strict=True
    ):
        with torch.no_grad():
            expected = model(fgsm(model, images, labels, eps))
        # mixed precision may turn the sign of a gradient that is nearly zero
        assert np.abs(expected.numpy() - logits).mean() < 0.1 * np.abs(logits).mean()


def test_attacks_take_the_steps_that_the_profile_states(settings, trained, measured, monkeypatch):
    asked = []
    monkeypatch.setattr(attack, "attack_sweep", lambda *args, **how: asked.append((args, how)))
    arm, model, _, folder = trained["none"]
    plan = protocol.Settings(dict(settings) | {"attack": FULL.attack})
    attack.measure(arm, model, plan, folder, seed=7)
    assert all(how["seed"] == 7 and how["folder"] == folder for _, how in asked)
    assert all(args[3] == [eps / 255 for eps in range(1, 9)] for args, _ in asked[:-1])
    fine = asked[-1][0][3]
    assert fine == sorted(fine) and fine[-1] < 1 / 255
    steps = [
        tuple(how.get(name) for name in ("attack", "mode", "steps", "rel_step", "step_size"))
        for _, how in asked
    ]
    iterative = ("bim", "mifgsm", "pgd")
    assert steps == [
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
        attack.measure(replace(arm, attacks=attacks), model, plan, folder, seed=7)
        assert [how.get("attack") for _, how in asked] == expected
        assert {how.get("rel_step") for _, how in asked} == {0.25, None}
        assert {how.get("step_size") for _, how in asked} == {None}


def test_every_arm_is_measured_on_the_same_images_and_draws(settings, trained, measured):
    first = measured["none"]
    for robust in measured.values():
        assert np.array_equal(robust.weights, first.weights)
        assert np.array_equal(robust.strong.labels, first.strong.labels)
    assert first.weights.shape == (1001, 10) and not (first.weights[1:] == 1).all()
    gain = first.clean["top1"] - measured["glcm"].clean["top1"]
    assert len(gain.replicates) == 1000
    # images of one patient are drawn together
    arm, model, _, folder = trained["none"]
    data = replace(arm.task.data, groups=np.arange(len(arm.task.data)) % 3)
    joined = replace(arm, task=replace(arm.task, data=data))
    weights = attack.measure(joined, model, settings, folder, seed=0).weights
    groups = data.groups[arm.task.attacked]
    for group in set(groups.tolist()):
        assert (weights[:, groups == group] == weights[:, groups == group][:, :1]).all()
    assert len({tuple(column) for column in weights.T.tolist()}) == len(set(groups.tolist()))


def test_a_finished_measurement_is_read_back(settings, trained, measured, monkeypatch):
    monkeypatch.setattr("medrobust_utils.attacks.radius_sweep.Job", None)
    # a busy machine's probe may choose another precision than the training had
    monkeypatch.setattr("medrobust_utils.core.env.training_dtype", lambda device: torch.float16)
    arm, model, _, folder = trained["glcm"]
    assert model.trained_in in (torch.float32, torch.bfloat16)
    again = attack.measure(arm, model, settings, folder, seed=0)
    assert np.array_equal(again.strong.logits, measured["glcm"].strong.logits)
    with pytest.raises(TypeError):  # another seed is another sweep
        attack.measure(arm, model, settings, folder, seed=1)


def test_half_eps_is_the_first_of_all_that_fells_half_of_what_was_right():
    task = made_task()
    clean = np.arange(40) < 20  # half are wrong before the attack, and count for nothing
    right = falling(4, [9] * 40)
    climbs = [1] * 9 + [2] * 11 + [0] * 20

    def half(fall, fine=None, clean=None, **how):
        special = {("strong", ""): falling(4, fall)}
        if fine:
            special["fine", ""] = falling(2, fine)
        robust = made(arm_of(task, **how), right, special=special, clean=clean)
        return robust.half_eps * 255

    assert half(climbs, clean=clean) == pytest.approx(3)
    assert half([1] * 9 + [9] * 11 + [0] * 20, clean=clean) == pytest.approx(4)  # none: the last
    assert half([0] * 20 + [9] * 20) == pytest.approx(1)  # exactly half
    assert half([0] * 40, [1] * 30 + [9] * 10) == pytest.approx(0.5)
    assert half([0] * 40, [1] * 19 + [9] * 21, attacks="pgd") == pytest.approx(1)


# --- reasons -------------------------------------------------------------------------------------


def test_reasons_are_measured_for_the_networks_own_answers(settings, trained, explained):
    arm, model, _, _ = trained["glcm"]
    found = explained["glcm"]
    index = study.some(arm.task.attacked, 4, 0)
    images = to_float(arm.task.data.images[index])
    with torch.no_grad():
        said = model(images).argmax(1)
        gray = glcm.grayscale(model.adapt(images))
    area = measures.area(grad_cam(model, images, said).maps)
    assert found.values["attention_area"] == pytest.approx(area, nan_ok=True)
    rise = sharpness.rise(model, images, said)
    assert found.values["loss_rise"] == pytest.approx(rise, rel=1e-3, abs=1e-6)
    norm = sharpness.gradient_norm(model, images, said)
    assert found.values["gradient_norm"] == pytest.approx(norm, rel=1e-3)
    counted = [glcm.texture(part, levels=8, softness=0.0) for part in (gray, images)]
    expected = glcm.texture_distance(*counted).numpy()
    assert found.texture == pytest.approx(expected, rel=1e-4) and expected.min() > 0
    assert explained["none"].texture is None and explained["modules"].texture is not None
    assert np.array_equal(found.weights, explained["none"].weights)


def test_photographs_are_gray_and_labelled_by_the_networks_own_answers(photos):
    data = photos.photos
    assert data.images.shape == (40, 64, 64, 1) and data.images.dtype == np.uint8
    assert data.name == "natural-photographs" and not data.synthetic
    assert photos.robust.shape == (40,) and photos.robust.dtype == bool
    assert data.targets.max() > 1  # of the 1000 classes of ImageNet
    assert {name: len(v) for name, v in photos.reasons.values.items()} == dict.fromkeys(
        why.MEASURES, 40
    )
    # crops of one photograph are drawn together
    weights = photos.reasons.weights.reshape(1001, 8, 5)
    assert (weights == weights[:, :, :1]).all()


# --- rows ----------------------------------------------------------------------------------------


def made_reasons(shift=0.0, texture=None, n=6):
    """One number an image: 0, 1, ... plus ``shift``; the first map says nothing."""
    values = {name: np.arange(n) + shift for name in why.MEASURES}
    values["attention_area"] = np.where(np.arange(n) == 0, np.nan, values["attention_area"])
    weights = metrics.group_weights(np.arange(n), 0, draws=60)
    texture = None if texture is None else np.arange(n) + texture
    return why.Reasons(values, weights, texture)


def made_photos():
    data = made_task(size=3).data
    photos = replace(data, name="natural-photographs")
    return why.Natural(photos, made_reasons(10.0), np.arange(6) < 5)


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


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    """The rows and the table on what the modules cost."""
    made = results.Run.start("03", PAPER.name, "paper", {}, tmp_path_factory.mktemp("modules"))
    return made, record.add_modules(made)


def test_the_protocol_itself_deviates_only_where_the_slides_are_silent(monkeypatch):
    sizes = FULL.class_size
    monkeypatch.setattr(
        study, "_task", lambda settings, role, split, seed: made_task(role, split, sizes[role])
    )
    (only_one,) = record.deviations(FULL, FULL, study.arms(FULL, seed=0))
    assert only_one.endswith("not on the slides.") and "alpha" in only_one


# --- claims --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(modules, tmp_path_factory):
    """The record of a run of the profile ``paper`` by hand-made networks on hand-made images."""
    run = results.Run.start(
        "03_domain_assimilation", PAPER.name, "paper", {}, tmp_path_factory.mktemp("whole")
    )
    settings = protocol.Settings(dict(FULL) | {"seeds": 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "_task", lambda settings, role, split, seed: made_task(role, split))
        arms = list(study.arms(settings, seed=0))
    for task in {arm.task.key: arm.task for arm in arms}.values():
        add_task(run, task)
    photos, scores, reasoned = made_photos(), [], []
    add_photos(run, photos, "resnet50", "imagenet")
    for later, arm in enumerate(arms):
        right = falling(8, [(later + i) % 9 for i in range(40)])
        reasons = made_reasons(later, later if arm.colour != "none" else None)
        robust = made(arm, right)
        scores.append(robust.scores())
        reasoned.append(rows.reason_rows(robust, reasons))
        if arm.defence == "none":
            add_natural(run, photos, robust, reasons)
    scores, reasoned = pd.concat(scores), pd.concat(reasoned)
    tables.record(run, tables.over_seeds(scores))
    tables.record(run, rows.gains(scores))
    tables.record(run, rows.averaged(reasoned))
    tables.record(run, rows.averaged(rows.pairs(reasoned, "{}_change")))
    run.record["rows"] += modules[0].record["rows"]
    run.save()
    return results.read(run.out)


def test_a_full_run_of_the_paper_has_a_row_for_every_claim(whole):
    rows = whole["rows"]
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


def test_no_overridden_run_decides_a_claim():
    for claim in PAPER.claims:
        assert claim.requires.get("overrides") == "" or claim.requires == {"layers": "published"}
