"""The study of paper 3 on a few phantoms and on hand-made scores: numbers are worked out twice."""

from dataclasses import replace

import made as hand
import numpy as np
import pandas as pd
import pytest
import torch
from found import falling, only

from medrobust_utils.attacks import SweepResult
from medrobust_utils.core.errors import ProtocolError
from medrobust_utils.data import to_float
from medrobust_utils.data.phantoms import phantom_set
from medrobust_utils.data.splits import leaks, some
from medrobust_utils.explain import measures, sharpness
from medrobust_utils.explain.cams import grad_cam
from medrobust_utils.models.assimilation import ConvColour, DeconvColour, TextureModule
from medrobust_utils.models.complexity import operations
from medrobust_utils.reporting import evidence, protocol, results
from medrobust_utils.scoring import metrics
from medrobust_utils.studies import domain_assimilation as study
from medrobust_utils.studies import evaluation, tables
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


@pytest.fixture
def run(tmp_path):
    return results.Run.start("03_domain_assimilation", PAPER.name, "paper", {}, tmp_path)


# --- hand-made networks --------------------------------------------------------------------------


def arm_of(task, defence="none", attacks="all", **changes):
    own = {"alpha": 0.9, "colour": "conv", "rows": "areas"} | study.LACKS.get(defence, {})
    own = {"backbone": "resnet50", "start": "imagenet", "defence": defence, **own, **changes}
    return study.Arm(task, 0, **own, attacks=attacks)


def made(arm, right, special=None):
    """A network right under every attack where ``right`` (E, n) says so, from 1/255 upwards.

    ``special`` holds what differs, by (attack, step); bisection is None, and that at quarters of
    1/255 is FINE.
    """
    task, special = arm.task, {study.FINE: np.ones((2, 40), bool)} | (special or {})
    labels, hot = task.data.targets, np.eye(2, dtype=np.float32)[task.data.targets]

    def sweep(cell):
        outcomes = [np.ones(40, bool), *special.get(cell, right)]
        logits = np.stack([hot * np.where(one, 1, -1)[:, None] for one in outcomes])
        epsilons = np.arange(1, len(outcomes)) / 255 / (4 if cell == study.FINE else 1)
        return SweepResult(epsilons, logits[1:], logits[0], labels, "x")

    scores = metrics.score(sweep(None).clean, labels, metrics.group_weights(task.data.groups, [0]))
    scores = {name: scores[name] for name in evaluation.CLEAN}
    sweeps = {cell: sweep(cell) for cell in study.RUN[arm.attacks]}
    return study.put_together(arm, scores, [0], sweeps, sweep(None), sweep(study.FINE))


def pair():
    """Vanilla and assimilated on one task: 30, 20, 1, 1 and 32, 24, 10, 4 of 40 stay right."""
    task = hand.task("ct")
    plain = made(arm_of(task), falling(4, [0] * 10 + [1] * 10 + [2] * 19 + [9]))
    fall = [0] * 8 + [1] * 8 + [2] * 14 + [3] * 6 + [9] * 4
    return plain, made(arm_of(task, "glcm"), falling(4, fall))


# --- arms and tasks ------------------------------------------------------------------------------


GROUP = {"role": "ct", "backbone": "test_resnet", "start": "scratch", "split": "honest"}


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"split": "loose"}, "'loose': choose among honest, by image"),
        ({"defence": ["prayer"]}, "'prayer': choose among none, modules, glcm, adversarial"),
        ({"attacks": "some"}, "'some': choose among all, quarter, pgd"),
    ],
)
def test_what_cannot_be_run_is_refused_by_name(group, message):
    with pytest.raises(ProtocolError, match=message):
        list(study.arms(tiny(arms=[GROUP | {"defence": ["none"]} | group]), seed=0))


def test_a_run_can_be_one_arm_with_one_seed_and_alpha_is_a_setting():
    settings = tiny(seeds=3, alpha=0.5)
    (one,) = study.arms(settings, seed=4, model="test_resnet-glcm-5")
    assert (one.defence, one.alpha, one.rows, one.seed) == ("glcm", 0.5, "areas", 5)
    assert "attacks" not in one.tags and one.tags["colour"] == "conv"


def doubled(name, *, size, phantoms, seed, duplicates):
    """Phantoms in pairs that belong together; every picture four times where copies stay."""
    data = phantom_set("ct", 120, size=size, seed=seed)
    keep = np.arange(120).repeat(4 if duplicates else 1)
    parts = {"images": data.images[keep], "targets": data.targets[keep], "masks": None}
    parts |= {"groups": data.groups[keep // 2 * 2], "ids": tuple(map(str, range(len(keep))))}
    return replace(data, name="scans", census={}, checksum=str(duplicates), **parts)


def test_an_honest_task_leaks_nothing_and_one_by_image_keeps_every_copy(monkeypatch):
    monkeypatch.setattr(study, "load", doubled)
    both = [GROUP | {"defence": ["none"], "split": split} for split in study.SPLITS]
    settings = tiny(arms=both, class_size={"ct": 60})
    honest, leaky = (arm.task for arm in study.arms(settings, seed=0))
    assert (len(honest.raw), len(leaky.raw)) == (120, 480)
    for task in (honest, leaky):
        assert len(set(task.data.class_counts().values())) == 1
        shares = np.array([len(side) for side in task.split]) / len(task.data)
        assert shares.sum() == 1 and np.abs(shares - [0.7, 0.1, 0.2]).max() < 0.04
        assert len(task.attacked) == 10 and {*task.attacked} <= {*task.split.test}
        assert task.raw.census["class_size_listed"] == 60  # what the slides count, copies and all
    assert leaks(honest.data, honest.split) == 0
    assert leaks(leaky.data, leaky.split) > len(leaky.split.test) / 2
    assert min(honest.data.class_counts().values()) < 60 == leaky.data.class_counts()["positive"]
    assert leaky.key == "ct-scans-with-duplicates-64-by-image"


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


def test_each_defence_trains_by_its_own_objective(settings, arms):
    aims = {arm.defence: study.objective(arm, settings) for arm in arms}
    assert aims["none"] is None
    assert repr(aims["modules"]) == "Assimilation(alpha=1.0, levels=8, softness=1.0, rows='areas')"
    assert repr(aims["glcm"]) == "Assimilation(alpha=0.9, levels=8, softness=1.0, rows='areas')"
    attacker = aims["adversarial"]
    assert (attacker.eps, attacker.steps) == (4 / 255, 2)
    assert attacker.step_size == pytest.approx(3 / 255)
    # the epoch of best clean accuracy is not the most robust one
    patience = [study.recipe(arm, settings)["patience"] for arm in arms]
    assert patience == [0 if arm.defence == "adversarial" else 30 for arm in arms]
    flipped = tiny(training=dict(tiny()["training"]) | {"flips": "both"})
    with pytest.raises(ProtocolError, match="flips=both"):
        study.objective(next(arm for arm in arms if arm.defence == "glcm"), flipped)


# --- what a network scores -----------------------------------------------------------------------


def test_scores_are_those_of_the_network(settings, trained):
    for defence, met in (("none", "all"), ("modules", "quarter"), ("glcm", "pgd")):
        arm, model, *_ = trained[defence]
        task, test = arm.task, arm.task.split.test
        one = trained[defence]._replace(arm=replace(arm, attacks=met))
        found = study.measure(one, settings, seed=0)
        with torch.no_grad():
            right = model(to_float(task.data.images[test])).argmax(1).numpy()
        expected = (right == task.data.targets[test]).mean()
        assert found.clean["top1"].value == pytest.approx(expected)
        rows = found.scores().set_index(["metric", "attack", "step", "eps_255"])["estimate"]
        before = found.sweep.clean_right
        start = rows["accuracy_attacked", "none", "none", 0.0]
        assert start.value == pytest.approx(before.mean()) and len(test) > len(task.attacked)
        modes = {cell: sweep.mode for cell, sweep in found.sweeps.items()}
        assert modes.get(study.FGSM, "independent") == "independent"
        assert modes[study.PGD] == "skip_fooled" and modes[study.FINE] == "bisection"
        for cell, sweep in found.sweeps.items():
            for eps, here in zip(sweep.epsilons * 255, sweep.right, strict=True):
                one = rows["accuracy_attacked", *cell, round(eps, 6)]
                assert one.value == pytest.approx(here.mean())


def test_the_worst_is_no_worse_than_what_fooled_an_image():
    right, odd = falling(3, [9] * 40), np.ones((3, 40), bool)
    odd[0, 0] = False  # fooled at the smallest eps only, as FGSM does
    special = {study.FGSM: odd, None: falling(3, [9] * 39 + [2])}
    found = made(arm_of(hand.task("ct")), right, special)
    expected = np.ones((3, 40), bool)
    expected[2, 39] = False
    assert np.array_equal(found.sweeps[study.STRONG].right, expected)
    expected[:, 0] = False  # stays lost
    assert np.array_equal(found.sweeps[study.WORST].right, expected)
    assert study.WORST not in made(arm_of(hand.task("ct"), attacks="pgd"), right).sweeps


def test_attacks_take_the_steps_that_the_profile_states(settings, trained, monkeypatch):
    asked = []
    monkeypatch.setattr(study, "put_together", lambda *args: None)
    monkeypatch.setattr(study, "attack_sweep", lambda *args, **how: asked.append((args, how)))
    one, plan = trained["none"], protocol.Settings(dict(settings) | {"attack": FULL.attack})
    study.measure(one, plan, seed=7)
    assert all(how["seed"] == 7 and how["folder"] == one.folder for _, how in asked)
    assert all(args[3] == [eps / 255 for eps in range(1, 9)] for args, _ in asked[:-1])
    assert asked[-1][0][3][-1] < 1 / 255
    names = ("attack", "mode", "steps", "rel_step", "step_size")
    iterative = ("bim", "mifgsm", "pgd")
    assert [tuple(how.get(name) for name in names) for _, how in asked] == [
        ("fgsm", "independent", None, None, None),
        *((name, "independent", 40, 0.25, None) for name in iterative),
        *((name, "independent", 10, None, 2 / 255) for name in iterative),
        (None, None, 20, None, None),
        (None, None, 20, None, None),
    ]


def test_doublings_and_half_begin_at_the_fine_eps():
    climbs, fine = [0] * 10 + [1] * 10 + [9] * 20, [0] * 10 + [9] * 30
    special = {None: falling(4, climbs), study.FINE: falling(2, fine)}
    found = made(arm_of(hand.task("ct")), falling(4, [9] * 40), special)
    doublings = np.log2(np.array([0.25] * 10 + [2] * 10 + [4] * 20) / 255)
    np.testing.assert_allclose(found.log2_radius, doublings)
    assert found.half_radius * 255 == pytest.approx(2)  # of the fine ones a quarter is lost
    special[study.FINE] = falling(2, [1] * 30 + [9] * 10)
    found = made(arm_of(hand.task("ct")), falling(4, [9] * 40), special)
    assert found.half_radius * 255 == pytest.approx(0.5)


# --- what is held against what -------------------------------------------------------------------


def test_a_defence_is_held_against_vanilla_and_the_loss_against_its_own_modules(run):
    (plain, ours), right = pair(), falling(4, [0] * 8 + [9] * 32)
    task = plain.arm.task
    nets = [made(arm_of(task, "modules", colour=c), right) for c in ("conv", "deconv")]
    nets += [plain, ours, made(arm_of(task, start="scratch"), right)]
    run.dataset(task.raw)
    tables.record(run, study.gains(pd.concat([one.scores() for one in nets])))
    cell = {"attack": "pgd", "step": "quarter"}
    glcm = {"defence": "glcm", "against": "none"}
    for eps, gain in ((1, 2), (2, 4), (3, 9), (4, 3)):
        row = only(run, "accuracy_gain", eps_255=float(eps), **glcm, **cell)
        assert row["value"] == pytest.approx(gain / 40)
    assert only(run, "mean_gain", **glcm, **cell)["value"] == pytest.approx(18 / 160)
    assert only(run, "accuracy_gain", **glcm, attack="none")["value"] == 0
    row = only(run, "mean_gain", against="modules", **cell)  # those with the same colours
    assert row["value"] == pytest.approx((70 - 128) / 160) and row["colour"] == "conv"
    reach = [one.log2_radius.mean() for one in (ours, plain, nets[-1])]
    assert only(run, "log2_radius_gain", **glcm)["value"] == pytest.approx(reach[0] - reach[1])
    start = only(run, "log2_radius_gain", against="imagenet")
    assert start["value"] == pytest.approx(reach[2] - reach[1])
    assert (start["defence"], start["start"]) == ("none", "scratch")


def test_a_curve_that_rises_again_is_odd_and_pgd_spares_what_a_smaller_eps_fooled(run):
    right = falling(3, [0] * 10 + [9] * 30)
    single = falling(3, [1] * 20 + [9] * 20)
    single[2, :10] = True  # right again at the largest eps, and fooled all the same
    found = made(arm_of(hand.task("ct")), right, {study.FGSM: single})
    rows = found.scores().set_index("metric")["estimate"]
    assert rows["fgsm_rebound"].value == pytest.approx(10 / 40)
    assert rows["fgsm_above_pgd"].value == pytest.approx((20 - 30) / 40)
    assert "fgsm_rebound" not in {
        *made(arm_of(hand.task("ct"), attacks="pgd"), right).scores()["metric"]
    }


# --- reasons -------------------------------------------------------------------------------------


def reasons_of(one, settings):
    """What a network's reasons are on four of its attacked images."""
    task = one.arm.task
    index = some(task.attacked, 4, 0)
    about = settings["glcm"], one.folder, 0
    table = study.reasons(one.model, task.data, index, *about).assign(**one.arm.tags, seed=0)
    return to_float(task.data.images[index]), table


def test_reasons_are_measured_for_the_networks_own_answers(settings, trained):
    images, table = reasons_of(trained["glcm"], settings)
    found = {row.metric: row.estimate.values for row in table.itertuples()}
    model = trained["glcm"].model
    with torch.no_grad():
        said = model(images).argmax(1)
        gray = glcm.grayscale(model.adapt(images))
    area = measures.area(grad_cam(model, images, said).maps)
    assert found["attention_area"] == pytest.approx(area, nan_ok=True)
    rise = sharpness.rise(model, images, said)
    assert found["loss_rise"] == pytest.approx(rise, rel=1e-3, abs=1e-6)
    counted = [glcm.texture(part, levels=8, softness=0.0) for part in (gray, images)]
    expected = glcm.texture_distance(*counted).numpy()
    assert found["texture_distance"] == pytest.approx(expected, rel=1e-4) and expected.min() > 0
    _, plain = reasons_of(trained["none"], settings)
    assert list(plain["metric"]) == ["attention_area", "loss_rise"]
    change = study.changes(pd.concat([table, plain])).set_index("metric")["estimate"]
    rise = found["loss_rise"] - plain.set_index("metric")["estimate"]["loss_rise"].values
    assert change["loss_rise_change"].value == pytest.approx(rise.mean())


def made_reasons(found, shift=0.0):
    """One number an image: 0, 1, ... plus ``shift``; the first map says nothing."""
    values = {name: np.arange(40) + shift for name in ("loss_rise", "attention_area")}
    values["attention_area"] = np.where(np.arange(40) == 0, np.nan, values["attention_area"])
    if found.arm.colour != "none":
        values["texture_distance"] = np.arange(40) + shift
    rows = [(name, tables.PerImage(one, found.weights)) for name, one in values.items()]
    return pd.DataFrame(rows, columns=["metric", "estimate"]).assign(**found.tags)


def made_photos():
    ten = tables.PerImage(np.full(6, 10.0), np.ones((1001, 6)))
    rows = [(name, ten) for name in ("loss_rise", "attention_area")]
    tags = {"dataset": "natural-photographs", "backbone": "resnet50", "start": "imagenet"}
    return pd.DataFrame(rows, columns=["metric", "estimate"]).assign(**tags)


def test_a_medical_network_is_held_against_photographs_and_the_loss_against_its_modules():
    nets = [
        made(arm_of(hand.task("ct"), name), falling(4, [9] * 40)) for name in ("modules", "glcm")
    ]
    reasons = [made_reasons(one, shift) for one, shift in zip(nets, (20.5, 0.5), strict=True)]
    gap = study.against_natural(reasons[1], made_photos())
    assert set(gap["dataset"]) == {f"{FULL.datasets['ct']}+natural-photographs"}
    value = {row.metric: row.estimate.value for row in gap.itertuples()}
    assert value["loss_rise_medical_minus_natural"] == pytest.approx(20 - 10)
    assert value["attention_area_medical_minus_natural"] == pytest.approx(20.5 - 10)  # one is NaN
    found = study.changes(pd.concat(reasons)).set_index("metric")["estimate"]
    assert found["texture_distance_saved"].value == pytest.approx(1 - 20 / 40)
    assert found["texture_distance_change"].value == pytest.approx(-20)


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


def test_the_registered_profile_has_a_row_for_every_headline(run, monkeypatch):
    monkeypatch.setattr(study, "_task", lambda settings, role, split, seed: hand.task(role, split))
    settings = protocol.Settings({**PAPER.settings("reference"), "seeds": 1})
    arms = list(study.arms(settings, seed=0))
    for task in {arm.task.key: arm.task for arm in arms}.values():
        run.dataset(task.raw)
        run.add("class_size_listed", task.raw.census["class_size_listed"], **task.tags)
    right = [falling(8, [(later + i) % 9 for i in range(40)]) for later in range(len(arms))]
    found = [made(*one) for one in zip(arms, right, strict=True)]
    scores = pd.concat([one.scores() for one in found])
    tables.record(run, tables.over_seeds(scores))
    tables.record(run, study.gains(scores))
    reasons = [made_reasons(one, later + 1) for later, one in enumerate(found)]
    tables.record(run, study.changes(pd.concat(reasons)))
    run.save()
    rows = results.read(run.out)["rows"]
    silent = {
        headline.id
        for headline in PAPER.headlines
        for cell in evidence.cells(headline.primary)
        if not headline.missing and sum(evidence.carries(row, cell) for row in rows) != 1
    }
    assert not silent
