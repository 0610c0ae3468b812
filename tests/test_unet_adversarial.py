"""The study of paper 4 on a few phantoms and on hand-made scores: numbers are worked out twice."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from medrobust_utils import segmentation
from medrobust_utils.attacks import Layered, Selective
from medrobust_utils.core.errors import ProtocolError
from medrobust_utils.core.losses import IGNORED
from medrobust_utils.data import ImageSet, ThreeWay, to_float
from medrobust_utils.data.imageset import rows_of
from medrobust_utils.reporting import protocol
from medrobust_utils.reporting.evidence import carries, cells
from medrobust_utils.scoring import segmentation as scoring
from medrobust_utils.studies import experiment, segmented, tables
from medrobust_utils.studies import unet_adversarial as study
from medrobust_utils.training.adversarial import LayeredTraining

PAPER = protocol.load("4_unet_adversarial_training")
TINY = (
    "phantoms=40 size=32 unet.width=4 unet.depth=2 training.epochs=3 adversarial.steps=1 "
    "method_one.steps=2 method_two.search=greedy attack.images=6 attack.steps=2 probe=2"
)
CLASSES = ("background", "neoplastic", "inflammatory", "connective", "epithelial", "other")
TWO = {"role": "histology", "scheme": "layered", "ball": "stage", "classes": "all"}
BACKGROUND, PGD, SEGPGD = segmented.BACKGROUND, segmented.PGD, segmented.SEGPGD


def tiny(overrides="", **changes):
    """The smoke profile made smaller, with ``changes`` at its top level."""
    found = dict(PAPER.settings("smoke", f"{TINY} {overrides}"))
    return protocol.Settings(found | changes)


@pytest.fixture(scope="module")
def settings():
    own = [{"role": "histology", "scheme": "adversarial"}, TWO | {"ball": "image"}]
    own += [TWO | {"scheme": scheme} for scheme in ("clean_layered", "on_the_fly")]
    return tiny(arms=[*PAPER.settings("smoke").arms, *own])


@pytest.fixture(scope="module")
def arms(settings):
    return list(study.arms(settings, seed=0))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def trained(settings, arms, checkpoints):
    """By scheme, ``variant`` the other reading of method one."""
    names = [arm.scheme if arm.variant == "main" else "variant" for arm in arms]
    return {k: study.train(arm, settings, checkpoints) for k, arm in zip(names, arms, strict=True)}


@pytest.fixture(scope="module")
def evaluated(settings, trained):
    clean = trained["clean"]
    return {name: segmented.evaluate(trained[name], settings, clean) for name in ("clean", "union")}


def made_set(n=60):
    """Label maps of 4 x 4 pixels, two images a tile; every third one is for testing."""
    maps = np.zeros((n, 4, 4), np.uint8)
    maps[:, :2, :2] = 1 + np.arange(n)[:, None, None] % 5
    maps[:, 3, 3] = IGNORED
    parts = tuple("test" if row % 6 < 2 else "train" for row in range(n))
    about = {"synthetic": False, "complete": True, "checksum": "made", "parts": parts}
    given = np.zeros((n, 4, 4, 3), np.uint8), maps, CLASSES, np.arange(n) // 2
    return ImageSet("pannuke", *given, tuple(map(str, range(n))), **about)


@pytest.fixture
def published(monkeypatch):
    """``study.load`` gives a set that its publisher has split."""
    found = made_set()
    monkeypatch.setattr(study, "load", lambda name, **how: found)
    return found


def made_arm(scheme="clean", seed=0, **changes):
    data, every = made_set(12), np.arange(12)
    tags = {"role": "histology", "dataset": data.name}
    ways = ThreeWay(every, every, every)
    task = experiment.Task("made", tags, data, data, ways, chosen=every, attacked=every)
    ball, classes = study.MAIN if scheme in study.METHOD_ONE else study.NONE
    return study.Arm(task, seed, **{"scheme": scheme, "ball": ball, "classes": classes} | changes)


def made_scores(arm, **lost):
    """A network that loses the nuclei of no clean and of 6 attacked images, or of ``lost``."""

    def tally(count):
        maps = np.where(arm.task.data.targets == IGNORED, 0, arm.task.data.targets)
        maps[:count] = 0
        logits = 10 * torch.eye(len(CLASSES))[torch.from_numpy(maps).long()].permute(0, 3, 1, 2)
        return scoring.tally(logits, torch.from_numpy(arm.task.data.targets))

    shown = [c for c in segmented.CELLS if arm.scheme != "clean" or c != segmented.TRANSFERRED]
    lost = {"none_none_none": 0} | lost
    return segmented.scores(arm, {cell: tally(lost.get("_".join(cell), 6)) for cell in shown})


def values(table, metric, cell=None, **tags):
    """Estimates of the rows of a metric under one cell."""
    tags |= {"metric": metric, **(cell._asdict() if cell else {})}
    found = tables.chosen(table, tags)["estimate"]
    return [round(getattr(one, "value", one), 6) for one in found]


# --- arms and tasks ------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["smoke", "small", "paper", "reference"])
def test_every_arm_of_a_profile_has_a_key_of_its_own(profile, published):
    settings = PAPER.settings(profile)
    found = list(study.arms(settings, seed=0))
    seeds = [spec.get("seeds", settings["seeds"]) for spec in settings["arms"]]
    assert len(found) == sum(seeds) == len({arm.key for arm in found})
    assert len({arm.group for arm in found}) == len(seeds)
    for arm in found:
        assert (arm.ball == "none") is (arm.scheme not in study.METHOD_ONE)
    keys = {arm.key.removeprefix("histology-pannuke-") for arm in found}
    if profile == "reference":  # folders of trained networks are found by these
        assert keys >= {"64-clean-0", "64-on_the_fly-stage-all-9"}


def test_seeds_multiply_arms_and_one_may_be_picked(published):
    settings = tiny(seeds=3, arms=[TWO | {"scheme": "clean"}, TWO | {"seeds": 1}, TWO])
    found = [(arm.scheme, arm.seed) for arm in study.arms(settings, seed=4)]
    # the third line names the first seed of the second again: one network is no two seeds
    assert found == [(scheme, 4 + k) for scheme in ("clean", "layered") for k in range(3)]
    assert next(study.arms(settings, seed=4)).ball == "none", "method one has no part in it"
    (one,) = study.arms(settings, seed=4, model="layered-stage-5")
    assert one.key.endswith("-layered-stage-all-5")


@pytest.mark.parametrize(
    ("group", "model", "message"),
    [
        ({}, "union", "MODEL='union'.*layered"),
        ({"scheme": "prayer"}, "", "'prayer': choose among clean, layered, selective, union"),
        ({"classes": "some"}, "", "'some': choose among all, present"),
    ],
    ids=["model", "scheme", "classes"],
)
def test_what_cannot_be_run_is_refused_by_name(group, model, message, published):
    with pytest.raises(ProtocolError, match=message):
        list(study.arms(tiny(arms=[TWO | group]), seed=0, model=model))


def test_a_publishers_split_is_kept_and_phantoms_are_split_by_group(published, arms):
    task = next(study.arms(PAPER.settings("paper"), seed=0)).task
    test = [row for row in range(60) if row % 6 < 2]
    assert list(task.split.test) == test == list(task.attacked)
    rows = study.task_rows(task)
    assert list(rows.query("metric == 'test_images_leaked'")["estimate"]) == [0]
    shares = rows.query("metric == 'pixel_share' and side == 'all'").set_index("kind")["estimate"]
    assert shares.sum() == pytest.approx(1) and shares["background"] == 11 / 15
    drawn = arms[0].task
    assert sorted(np.concatenate(drawn.split)) == list(range(40)), "every image on one side"
    assert len(drawn.attacked) == 6 and set(drawn.attacked) <= set(drawn.split.test)


# --- training ------------------------------------------------------------------------------------


def test_all_schemes_of_a_seed_begin_with_the_same_network(settings, arms):
    first, *others = (study.build_arm(arm, settings).state_dict() for arm in arms)
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)


def test_schemes_take_equally_many_steps(settings, arms):
    found = {arm.scheme: study.recipe_of(arm, settings) for arm in arms}
    assert found["clean"] == found["layered"] == found["selective"] == settings["training"]
    assert (found["union"]["epochs"], found["clean_layered"]["epochs"]) == (1, 2)  # of 3
    assert found["adversarial"] == settings["training"] | {"patience": 0}
    assert found["on_the_fly"] == found["layered"], "what is compared is chosen by one rule"


@pytest.fixture
def planned(monkeypatch):
    """What trainings that only note what they are given were asked for, by folder."""
    asked = {}

    def fit(model, given, split, recipe, folder, *, seed, clean=None, objective=None):
        asked[folder] = given, split, clean, objective
        folder.mkdir(parents=True, exist_ok=True)  # where the card is left
        return []

    def harden(model, given, index, how, folder, dtype):
        return replace(rows_of(given, index), checksum=repr(how), ids=(repr(how),) * len(index)), {}

    monkeypatch.setattr(segmentation, "fit", fit)
    monkeypatch.setattr(segmentation, "harden", harden)
    monkeypatch.setattr(study, "precision", lambda settings, model: torch.float32)
    return asked


def test_each_network_is_trained_on_its_own_images(settings, arms, planned, tmp_path):
    task, n = arms[0].task, len(arms[0].task.split.train)
    one, two = Layered(0.01, 2, "stage", False), Selective(0.01, 0.06, "greedy")
    wanted = {"layered": [one], "selective": [two], "union": [0, one, two]}
    wanted |= {"clean_layered": [0, one], "variant": [Layered(0.01, 2, "image", False)]}
    for arm in arms:
        given, split, clean, objective = planned[study.train(arm, settings, tmp_path).folder]
        assert clean[0] is task.data and np.array_equal(clean[1], task.split.val)
        assert (objective is not None) is (arm.scheme in ("adversarial", "on_the_fly"))
        sets = wanted.get(arm.scheme if arm.variant == "main" else "variant")
        assert len(given) == (len(sets) * n if sets else 40)
        names = [repr(how) if how else task.data.ids[task.split.train[0]] for how in sets or ()]
        assert not sets or list(given.ids[::n]) == [f"{k}/{name}" for k, name in enumerate(names)]
    assert objective == LayeredTraining(0.01, study.ON_THE_FLY, "stage", False)


def test_another_recipe_network_or_split_is_trained_elsewhere(arms, planned, tmp_path):
    arm = arms[0]
    other = replace(arm.task, split=arm.task.split._replace(train=np.arange(9)))
    for changed, theirs in (
        (arm, tiny()),
        (arm, tiny("training.lr=0.5")),
        (arm, tiny("unet.width=8")),
        (replace(arm, task=other), tiny()),
        (replace(arm, scheme="adversarial"), tiny()),
        (replace(arm, scheme="adversarial"), tiny("adversarial.steps=7")),
    ):
        before = len(planned)
        study.train(changed, theirs, tmp_path)
        assert len(planned) == before + 1


def test_a_trained_arm_is_read_back(settings, trained, checkpoints, monkeypatch):
    monkeypatch.setattr(Layered, "__call__", None)
    monkeypatch.setattr(Selective, "__call__", None)
    monkeypatch.setattr(torch.optim.AdamW, "step", None)
    for one in trained.values():
        again = study.train(one.arm, settings, checkpoints)
        assert again.history == one.history and again.folder == one.folder


# --- scores --------------------------------------------------------------------------------------


def test_scores_are_those_of_the_network_on_the_images_it_was_shown(settings, trained, evaluated):
    task = trained["clean"].arm.task
    plain, change = to_float(task.data.images[task.attacked]), {}
    for cell in segmented.CELLS:
        source = trained["clean" if cell == segmented.TRANSFERRED else "union"]
        images = segmented.shown(source, cell, settings)
        counts = segmentation.tallied(trained["union"].model, images, range(len(images)))
        assert np.array_equal(evaluated["union"][cell].confusion, counts.confusion)
        assert np.array_equal(images.targets, task.data.targets[task.attacked])
        change[cell] = to_float(images.images) - plain
    assert not change[segmented.CLEAN].any()
    for cell in (BACKGROUND, PGD, SEGPGD, segmented.TRANSFERRED, segmented.FORTIFIED):
        assert 0 < change[cell].abs().max() <= 0.01 + 1e-6
    assert change[segmented.PER_STEP].abs().max() > 0.01  # two steps of 0.01
    for cell in (segmented.LOWER, segmented.UPPER):  # of equal strength but for clipping
        assert change[cell].square().mean((1, 2, 3)).sqrt().numpy() == pytest.approx(0.02, rel=0.1)
    assert segmented.TRANSFERRED not in evaluated["clean"]
    fortified = segmented.shown(trained["union"], segmented.FORTIFIED, settings)
    own = {"targets": segmented.answers(trained["union"])}
    sets = (replace(one, **own) for one in (fortified, rows_of(task.data, task.attacked)))
    after, before = (segmentation.tallied(trained["union"].model, one, range(6)) for one in sets)
    assert after.loss.mean() < before.loss.mean(), "surer of its own answer"


def test_a_measurement_is_read_back(settings, trained, evaluated, monkeypatch):
    monkeypatch.setattr(segmentation, "attack", None)
    again = segmented.evaluate(trained["union"], settings, trained["clean"])
    for cell, counts in evaluated["union"].items():
        assert np.array_equal(again[cell].confusion, counts.confusion)
    with pytest.raises(TypeError):  # attacked anew
        segmented.evaluate(trained["union"], tiny("attack.steps=3"), trained["clean"])


def test_a_record_of_every_image_names_its_worst_attack(trained, evaluated):
    arm = trained["union"].arm
    table = segmented.per_image(arm, evaluated["union"])
    assert set(table["image"]) == {arm.task.data.ids[row] for row in arm.task.attacked}
    cells = {cell.attack: cell for cell in segmented.INSIDE}
    for _, rows in table.groupby("image"):
        scores = rows.set_index(["attack", "reading", "made_for"])["mean_iou"]
        (by,) = set(rows["worst_by"])
        least = min(scores[tuple(cell)] for cell in segmented.INSIDE)
        assert scores[tuple(cells[by])] == least == scores[tuple(segmented.WORST)]


def test_what_an_attack_takes_is_told_for_each_network():
    lost = {"background_total_own": 0, "pgd_total_own": 12}
    table = study.compared(made_scores(made_arm("union"), **lost))
    for cell, drop in ((BACKGROUND, 0), (SEGPGD, 0.5), (segmented.WORST, 1)):
        assert values(table, "foreground_accuracy_drop", cell) == [drop]
    (clean,), (pgd,) = (values(table, "mean_iou", cell) for cell in (segmented.CLEAN, PGD))
    assert values(table, "mean_iou_below_rivals") == [pytest.approx(pgd - clean, abs=1e-5)]
    assert values(table, "mean_iou_change") == [0] and values(table, "worst_of_all", PGD) == [1]


def test_networks_are_held_against_the_clean_one_and_those_of_the_paper_against_each_other():
    parts = [
        made_scores(made_arm(), background_total_own=9),
        made_scores(made_arm("layered"), background_total_own=3),
        made_scores(made_arm("union"), background_total_own=0),
        made_scores(made_arm("layered", ball="image")),
    ]
    gains = study.compared(pd.concat(parts))
    gains = gains[gains["metric"].eq("foreground_accuracy_gain")]
    pairs = set(gains[["against", "scheme", "variant"]].itertuples(index=False, name=None))
    assert pairs == {
        ("clean", "layered", "main"),
        ("clean", "union", "main"),
        ("clean", "layered", "image, all"),
        ("layered", "union", "main"),
    }
    plain = {"against": "clean", "scheme": "layered", "variant": "main"}
    assert values(gains, "foreground_accuracy_gain", BACKGROUND, **plain) == [0.5]
    # one attacked test set for all: the clean network meets it as its own
    transferred = values(gains, "foreground_accuracy_gain", segmented.TRANSFERRED, **plain)
    assert transferred == [0.25] and set(gains["seeds"]) == {1}
    alone = study.compared(parts[2])
    assert not alone["metric"].str.endswith("accuracy_gain").any(), "nothing to compare"


def test_every_headline_finds_its_primary_cell_once(settings, trained, monkeypatch):
    arms = [made_arm(scheme, seed) for seed in (0, 1) for scheme in study.SCHEMES]
    nets = [
        experiment.Trained(arm, None, [{"val_loss": x} for x in (9, 1, 2)], None) for arm in arms
    ]
    maps = np.zeros((12, 4, 4), np.uint8)
    monkeypatch.setattr(study, "answers", lambda one: maps + one.arm.seed)
    parts = [made_scores(arm) for arm in arms]
    table = study.compared(pd.concat([*parts, study.agreement(nets), study.fluctuations(nets)]))
    rows = pd.concat([table, segmented.shapes(trained["clean"], settings)]).to_dict("records")
    for headline in PAPER.headlines:
        if not headline.missing:
            (cell,) = cells(headline.primary)
            assert sum(carries(row, cell) for row in rows) == 1, headline.id


def test_models_two_and_three_agree_more_than_two_seeds_of_model_two(monkeypatch):
    alike = {("layered", 0): 0, ("layered", 1): 1, ("selective", 0): 0, ("selective", 1): 2}
    answers = {key: np.full((12, 4, 4), value, np.uint8) for key, value in alike.items()}
    monkeypatch.setattr(study, "answers", lambda one: answers[one.arm.scheme, one.arm.seed])
    nets = [experiment.Trained(made_arm(*key), None, [], None) for key in alike]
    rows = study.agreement(nets)
    assert [one.value for one in rows["estimate"]] == [1, 0] and list(rows["seed"]) == [0, 1]
    assert rows["estimate"].iloc[0].outcomes.shape == (1, 12)
    assert not len(study.agreement(nets[::2])), "one seed has no other to be held against"


def test_fluctuation_is_that_of_the_last_half_of_the_epochs_about_its_line():
    curves = {"clean": (9, 9, 9, 9, 1, 2, 4), "layered": (9, 9, 9, 9, 1, 9, 1)}
    curves |= {scheme: curves["layered"] for scheme in ("selective", "union")}
    history = {name: [{"val_loss": loss} for loss in curve[1:]] for name, curve in curves.items()}
    nets = [experiment.Trained(made_arm(k), None, curve, None) for k, curve in history.items()]
    table = study.fluctuations(nets)
    spread = np.std([1, 2, 4]) / np.mean([1, 2, 4])
    assert values(table, "val_loss_spread", scheme="clean") == [pytest.approx(spread, abs=1e-6)]
    line = np.std([1 / 6, -1 / 3, 1 / 6]) / np.mean([1, 2, 4])  # 1, 2, 4 about 5/6, 7/3, 23/6
    assert values(table, "val_loss_spread_above") == [pytest.approx(line - 0.05, abs=1e-6)]
    assert not values(study.fluctuations(nets[:3]), "val_loss_spread_above")


# --- the methods ---------------------------------------------------------------------------------


def test_costs_grow_linearly_and_by_powers_of_three(trained):
    rows = segmented.costs(trained["clean"], tiny("method_one.steps=1"))
    table = rows.pivot_table("estimate", ["method", "count"], "metric", aggfunc="first")
    for method in ("layered", "selective"):
        assert table.loc[method]["cost_gradients"].tolist() == [1, 2, 3, 4, 5, 6]
    for count, evaluations in table.loc["selective"]["cost_evaluations"].items():
        # beside the candidates: a check, the clean and the chosen image, and ties one by one
        assert 3 <= evaluations - 3**count <= 9


def test_layers_are_held_against_plain_pgd(settings, trained):
    found = segmented.shapes(trained["clean"], settings)
    found = found.set_index(["perturbed", "metric"])["estimate"]
    name = "layered, stage, all"
    for rival, word in (("plain", "plain"), ("plain, K times", "strong")):
        gain = found[name, "regions"].value - found[rival, "regions"].value
        assert found[name, f"regions_above_{word}"].value == pytest.approx(gain)
