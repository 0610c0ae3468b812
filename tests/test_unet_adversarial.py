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
from medrobust_utils.data.splits import leaks
from medrobust_utils.reporting import protocol, results
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


OWN = [{"role": "histology", "scheme": "adversarial"}, TWO | {"ball": "image"}]
OWN += [TWO | {"scheme": scheme} for scheme in ("clean_layered", "on_the_fly")]
SETTINGS = tiny(arms=[*PAPER.settings("smoke").arms, *OWN])


@pytest.fixture(scope="module")
def arms():
    return list(study.arms(SETTINGS, seed=0))


@pytest.fixture(scope="module")
def trained(arms, tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("checkpoints"), {arm.scheme: arm for arm in arms}
    return {name: study.train(found[name], SETTINGS, folder) for name in ("clean", "union")}


@pytest.fixture(scope="module")
def union(trained):
    return segmented.evaluate(trained["union"], SETTINGS, trained["clean"])


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
    monkeypatch.setattr(study, "load", lambda name, **how: made_set())


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
    tags |= {"metric": metric, **(cell._asdict() if cell else {})}
    found = tables.chosen(table, tags)["estimate"]
    return [round(getattr(one, "value", one), 6) for one in found]


def test_networks_that_are_trained_keep_their_names(published):
    keys = [arm.key for arm in study.arms(PAPER.settings("reference"), seed=0)]
    assert len(keys) == len(set(keys)) == 70
    assert {f"histology-pannuke-64-{k}" for k in ("clean-0", "on_the_fly-stage-all-9")} < set(keys)


def test_seeds_multiply_arms_and_one_may_be_picked(published):
    settings = tiny(seeds=3, arms=[TWO | {"scheme": "clean"}, TWO | {"seeds": 1}, TWO])
    found = [(arm.scheme, arm.seed) for arm in study.arms(settings, seed=4)]
    # the third line names the first seed of the second again: one network is no two seeds
    assert found == [(scheme, 4 + k) for scheme in ("clean", "layered") for k in range(3)]
    (one,) = study.arms(settings, seed=4, model="layered-stage-5")
    assert one.key.endswith("-layered-stage-all-5")
    with pytest.raises(ProtocolError, match="'some': choose among all, present"):
        list(study.arms(tiny(arms=[TWO | {"classes": "some"}]), seed=0))


def test_a_publishers_split_is_kept(published):
    task = next(study.arms(PAPER.settings("paper"), seed=0)).task
    test = [row for row in range(60) if row % 6 < 2]
    assert list(task.split.test) == test == list(task.attacked)
    assert leaks(task.data, task.split) == 0


def test_all_schemes_of_a_seed_begin_with_the_same_network(arms):
    first, *others = (study.build_arm(arm, SETTINGS).state_dict() for arm in arms)
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)


def test_schemes_take_equally_many_steps(arms):
    found = {arm.scheme: study.recipe_of(arm, SETTINGS) for arm in arms}
    assert found["clean"] == found["selective"] == found["on_the_fly"] == SETTINGS["training"]
    assert (found["union"]["epochs"], found["clean_layered"]["epochs"]) == (1, 2)  # of 3
    assert found["adversarial"] == SETTINGS["training"] | {"patience": 0}


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


def test_each_network_is_trained_on_its_own_images(arms, planned, tmp_path):
    task, n = arms[0].task, len(arms[0].task.split.train)
    one, two = Layered(0.01, 2, "stage", False), Selective(0.01, 0.06, "greedy")
    wanted = {"layered": [one], "selective": [two], "union": [0, one, two]}
    wanted |= {"clean_layered": [0, one], "variant": [Layered(0.01, 2, "image", False)]}
    for arm in arms:
        given, split, clean, objective = planned[study.train(arm, SETTINGS, tmp_path).folder]
        assert clean[0] is task.data and np.array_equal(clean[1], task.split.val)
        assert (objective is not None) is (arm.scheme in ("adversarial", "on_the_fly"))
        sets = wanted.get(arm.scheme if arm.variant == "main" else "variant")
        assert len(given) == (len(sets) * n if sets else 40)
        names = [repr(how) if how else task.data.ids[task.split.train[0]] for how in sets or ()]
        assert not sets or list(given.ids[::n]) == [f"{k}/{name}" for k, name in enumerate(names)]
    assert objective == LayeredTraining(0.01, study.ON_THE_FLY, "stage", False)


def test_another_recipe_network_or_split_is_trained_elsewhere(arms, planned, tmp_path):
    split = arms[0].task.split._replace(train=np.arange(9))
    other = replace(arms[0], task=replace(arms[0].task, split=split))
    fierce = replace(arms[0], scheme="adversarial")
    changes = ["", "training.lr=0.5", "unet.width=8"]
    cases = [(arms[0], change) for change in changes]
    cases += [(other, ""), (fierce, ""), (fierce, "adversarial.steps=7")]
    for arm, change in cases:
        study.train(arm, tiny(change), tmp_path)
    assert len(planned) == len(cases)


def test_scores_are_those_of_the_network_on_the_images_it_was_shown(trained, union):
    task = trained["clean"].arm.task
    plain, change = to_float(task.data.images[task.attacked]), {}
    for cell in segmented.CELLS:
        source = trained["clean" if cell == segmented.TRANSFERRED else "union"]
        images = segmented.shown(source, cell, SETTINGS)
        counts = segmentation.tallied(trained["union"].model, images, range(len(images)))
        assert np.array_equal(union[cell].confusion, counts.confusion)
        assert np.array_equal(images.targets, task.data.targets[task.attacked])
        change[cell] = to_float(images.images) - plain
    assert not change[segmented.CLEAN].any()
    for cell in (BACKGROUND, PGD, SEGPGD, segmented.TRANSFERRED, segmented.FORTIFIED):
        assert 0 < change[cell].abs().max() <= 0.01 + 1e-6
    assert change[segmented.PER_STEP].abs().max() > 0.01  # two steps of 0.01
    for cell in (segmented.LOWER, segmented.UPPER):  # of equal strength but for clipping
        assert change[cell].square().mean((1, 2, 3)).sqrt().numpy() == pytest.approx(0.02, rel=0.1)
    fortified = segmented.shown(trained["union"], segmented.FORTIFIED, SETTINGS)
    own = segmentation.predict(trained["union"].model, task.data, task.attacked)
    given = fortified, rows_of(task.data, task.attacked)
    sets = (replace(one, targets=own) for one in given)
    after, before = (segmentation.tallied(trained["union"].model, one, range(6)) for one in sets)
    assert after.loss.mean() < before.loss.mean(), "surer of its own answer"


def test_a_measurement_is_read_back(trained, union, monkeypatch):
    monkeypatch.setattr(segmentation, "attack", None)
    again = segmented.evaluate(trained["union"], SETTINGS, trained["clean"])
    assert all(np.array_equal(again[cell].loss, counts.loss) for cell, counts in union.items())
    with pytest.raises(TypeError):  # attacked anew
        segmented.evaluate(trained["union"], tiny("attack.steps=3"), trained["clean"])


def test_the_ensemble_leaves_no_more_than_the_attacks_it_goes_on_from(trained, union, tmp_path):
    """A gain under attack would be believed that a stronger attack takes away."""
    tallies = {
        "union": union,
        "clean": segmented.evaluate(trained["clean"], SETTINGS, trained["clean"]),
    }
    left = pd.concat(
        [segmented.under_ensemble(trained[k], SETTINGS, t) for k, t in tallies.items()]
    )
    found = left.set_index(["scheme", "metric"])["estimate"].map(lambda one: one.value)
    for scheme in tallies:
        inside = found[scheme]
        assert inside["mean_iou_ensemble"] <= inside["mean_iou_worst"] + 1e-9
        assert inside["mean_iou_worst"] <= inside["mean_iou_background"] + 1e-9
    run = results.Run.start("04_x", PAPER.name, "smoke", {}, tmp_path)
    work = study.Study(run, SETTINGS, [trained[k].arm for k in tallies])
    work.trained, work.tallies = [trained[k] for k in tallies], [*tallies.values()]
    run.dataset(work.task.data)
    scores = [segmented.scores(trained[k].arm, t) for k, t in tallies.items()]
    tables.record(run, segmented.compared(pd.concat(scores)))
    work.decide()
    rows = [row for row in run.record["rows"] if row["metric"] == "mean_iou_gain"]
    told = {row["attack"]: row for row in rows if "autoattack_low" in row}
    assert set(told) == {"background", "worst"}
    gain = found["union"]["mean_iou_background"] - found["clean"]["mean_iou_background"]
    assert told["background"]["autoattack_sweep"] == pytest.approx(gain, abs=1e-6)


def test_a_record_of_every_image_names_its_worst_attack(trained, union):
    table = segmented.per_image(trained["union"].arm, union)
    assert table["image"].nunique() == 6
    inside = {cell.attack: cell for cell in segmented.INSIDE}
    for _, rows in table.groupby("image"):
        scores = rows.set_index(["attack", "reading", "made_for"])["mean_iou"]
        (by,) = set(rows["worst_by"])
        least = min(scores[tuple(cell)] for cell in segmented.INSIDE)
        assert scores[tuple(inside[by])] == least == scores[tuple(segmented.WORST)]


def test_what_an_attack_takes_is_told_for_each_network():
    lost = {"background_total_own": 0, "pgd_total_own": 12}
    table = segmented.compared(made_scores(made_arm("union"), **lost))
    for cell, drop in ((BACKGROUND, 0), (SEGPGD, 0.5), (segmented.WORST, 1)):
        assert values(table, "foreground_accuracy_drop", cell) == [drop]
    (clean,), (pgd,) = (values(table, "mean_iou", cell) for cell in (segmented.CLEAN, PGD))
    assert values(table, "mean_iou_below_rivals") == [pytest.approx(pgd - clean, abs=1e-5)]
    assert values(table, "mean_iou_change") == [0] and values(table, "worst_of_all", PGD) == [1]


def test_networks_are_held_against_the_clean_one_and_those_of_the_paper_against_each_other():
    halves = {"noise_lower half_none": 0, "noise_upper half_none": 12}
    parts = [
        made_scores(made_arm(), background_total_own=9, **halves),
        made_scores(made_arm("layered"), background_total_own=3),
        made_scores(made_arm("union"), background_total_own=0),
        made_scores(made_arm("layered", ball="image")),
    ]
    gains = segmented.compared(pd.concat(parts))
    seen = gains[gains["metric"].eq("foreground_accuracy_gain") & gains["variant"].eq("main")]
    pairs = set(zip(seen["against"], seen["scheme"], strict=True))
    assert pairs == {("clean", "layered"), ("clean", "union"), ("layered", "union")}
    assert set(gains["against"][gains["variant"].eq("image, all")].dropna()) == {"clean"}
    plain = {"against": "clean", "scheme": "layered", "variant": "main"}
    assert values(gains, "foreground_accuracy_gain", BACKGROUND, **plain) == [0.5]
    # one attacked test set for all: the clean network meets it as its own
    assert values(gains, "foreground_accuracy_gain", segmented.TRANSFERRED, **plain) == [0.25]
    (taken,) = values(gains, "band_noise", scheme="clean")
    assert taken < 0 and values(gains, "band_noise_gain", **plain) == [-taken]


def test_every_headline_finds_its_primary_cell_once(trained, monkeypatch):
    arms = [made_arm(scheme, seed) for seed in (0, 1) for scheme in study.SCHEMES]
    history = [{"val_loss": loss} for loss in (9, 1, 2)]
    maps = np.zeros((12, 4, 4), np.uint8)
    nets = [experiment.Trained(arm, maps + arm.seed, history, None) for arm in arms]
    monkeypatch.setattr(segmentation, "predict", lambda model, *images: model)
    parts = [made_scores(arm) for arm in arms]
    table = segmented.compared(
        pd.concat([*parts, segmented.agreement(nets), segmented.fluctuations(nets)])
    )
    monkeypatch.undo()
    rows = pd.concat([table, segmented.shapes(trained["clean"], SETTINGS)]).to_dict("records")
    for headline in PAPER.headlines:
        if not headline.missing:
            (cell,) = cells(headline.primary)
            assert sum(carries(row, cell) for row in rows) == 1, headline.id


def test_models_two_and_three_agree_more_than_two_seeds_of_model_two(monkeypatch):
    alike = {("layered", 0): 0, ("layered", 1): 1, ("selective", 0): 0, ("selective", 1): 2}
    maps = {key: np.full((12, 4, 4), value, np.uint8) for key, value in alike.items()}
    monkeypatch.setattr(segmentation, "predict", lambda model, *images: model)
    nets = [experiment.Trained(made_arm(*key), maps[key], [], None) for key in alike]
    rows = segmented.agreement(nets)
    assert [one.outcomes.tolist() for one in rows["estimate"]] == [[[1] * 12], [[0] * 12]]
    assert not len(segmented.agreement(nets[::2])), "one seed has no other to be held against"


def test_fluctuation_is_that_of_the_last_half_of_the_epochs_about_its_line():
    curves = {"clean": (9, 9, 9, 9, 1, 2, 4), "layered": (9, 9, 9, 9, 1, 9, 1)}
    curves |= {scheme: curves["layered"] for scheme in ("selective", "union")}
    history = {name: [{"val_loss": loss} for loss in curve[1:]] for name, curve in curves.items()}
    nets = [experiment.Trained(made_arm(k), None, curve, None) for k, curve in history.items()]
    table = segmented.fluctuations(nets)
    spread = np.std([1, 2, 4]) / np.mean([1, 2, 4])
    assert values(table, "val_loss_spread", scheme="clean") == [pytest.approx(spread, abs=1e-6)]
    line = np.std([1 / 6, -1 / 3, 1 / 6]) / np.mean([1, 2, 4])  # 1, 2, 4 about 5/6, 7/3, 23/6
    assert values(table, "val_loss_spread_above") == [pytest.approx(line - 0.05, abs=1e-6)]
    assert not values(segmented.fluctuations(nets[:3]), "val_loss_spread_above")
