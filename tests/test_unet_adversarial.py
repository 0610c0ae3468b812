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
from medrobust_utils.scoring import segmentation as scoring
from medrobust_utils.studies import experiment, tables
from medrobust_utils.studies import unet_adversarial as study
from medrobust_utils.studies import unet_adversarial_attack as attack
from medrobust_utils.studies.common import precision
from medrobust_utils.training.adversarial import LayeredTraining

PAPER = protocol.load("4_unet_adversarial_training")
FULL = PAPER.settings("paper")
TINY = (
    "phantoms=40 size=32 unet.width=4 unet.depth=2 training.epochs=3 adversarial.steps=1 "
    "method_one.steps=2 method_two.search=greedy attack.images=6 attack.steps=2 probe=2"
)
CLASSES = ("background", "neoplastic", "inflammatory", "connective", "epithelial", "other")
TWO = {"role": "histology", "scheme": "layered", "ball": "stage", "classes": "all"}


def tiny(overrides="", **changes):
    """The smoke profile made smaller, with ``changes`` at its top level."""
    found = dict(PAPER.settings("smoke", f"{TINY} {overrides}"))
    return protocol.Settings(found | changes)


@pytest.fixture(scope="module")
def settings():
    return tiny(
        arms=[
            *PAPER.settings("smoke").arms,
            {"role": "histology", "scheme": "adversarial"},
            TWO | {"ball": "image", "classes": "present"},
            TWO | {"scheme": "clean_layered"},
            TWO | {"scheme": "on_the_fly"},
        ]
    )


@pytest.fixture(scope="module")
def arms(settings):
    return list(study.arms(settings, seed=0))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def trained(settings, arms, checkpoints):
    """By scheme, ``variant`` the other reading of method one."""
    return {
        arm.scheme if arm.variant == "main" else "variant": study.train(arm, settings, checkpoints)
        for arm in arms
    }


@pytest.fixture(scope="module")
def evaluated(settings, trained):
    clean = trained["clean"]
    return {name: attack.evaluate(trained[name], settings, clean) for name in ("clean", "union")}


# --- hand-made data and networks -----------------------------------------------------------------


def made_set(n=60, **changes):
    """Label maps of 4 x 4 pixels, two images a tile; every third one is for testing."""
    maps = np.zeros((n, 4, 4), np.uint8)
    for row, label_map in enumerate(maps):
        label_map[:2, :2] = 1 + row % 5
        label_map[3, 3] = IGNORED
    found = ImageSet(
        "pannuke",
        np.zeros((n, 4, 4, 3), np.uint8),
        maps,
        CLASSES,
        np.arange(n) // 2,
        tuple(map(str, range(n))),
        synthetic=False,
        complete=True,
        checksum="made",
        parts=tuple("test" if row % 6 < 2 else "train" for row in range(n)),
    )
    return replace(found, **changes)


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
    ball, classes = study.MAIN if scheme in study.METHOD_ONE else ("none", "none")
    return study.Arm(task, seed, **{"scheme": scheme, "ball": ball, "classes": classes} | changes)


def made_evaluation(arm, *, clean=0, **lost):
    """A network that loses the nuclei of 6 images when attacked, or as many as are told."""

    def tally(count):
        maps = np.where(arm.task.data.targets == IGNORED, 0, arm.task.data.targets)
        maps[:count] = 0
        logits = 10 * torch.eye(len(CLASSES))[torch.from_numpy(maps).long()].permute(0, 3, 1, 2)
        return scoring.tally(logits, torch.from_numpy(arm.task.data.targets))

    cells = [*attack.INSIDE[1:], attack.PER_STEP] + [attack.TRANSFERRED] * (arm.scheme != "clean")
    tallies = {attack.CLEAN: tally(clean)}
    tallies |= {cell: tally(lost.get("_".join(cell), 6)) for cell in cells}
    return attack.Evaluation(arm, tallies)


# --- arms and tasks ------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["smoke", "small", "paper", "reference"])
def test_every_arm_of_a_profile_has_a_key_of_its_own(profile, published):
    settings = PAPER.settings(profile)
    found = list(study.arms(settings, seed=0))
    seeds = [spec.get("seeds", settings["seeds"]) for spec in settings["arms"]]
    assert len(found) == sum(seeds) == len({arm.key for arm in found})
    assert len({arm.group for arm in found}) == len(seeds)
    assert len({id(arm.task) for arm in found}) == 1
    main = [arm.scheme for arm in found if arm.variant == "main" and arm.seed == 0]
    assert main[:4] == list(study.SCHEMES)[:4] and set(main) <= set(study.SCHEMES)
    for arm in found:
        assert (arm.ball == "none") is (arm.scheme not in study.METHOD_ONE)


def test_networks_that_are_trained_keep_their_names(published):
    """Folders of the reference networks are found by these."""
    keys = [arm.key for arm in study.arms(PAPER.settings("reference"), seed=0)]
    assert "histology-pannuke-64-clean-0" in keys
    assert "histology-pannuke-64-on_the_fly-stage-all-9" in keys


def test_the_paper_is_run_with_every_reading_of_method_one(published):
    found = {(arm.ball, arm.classes) for arm in study.arms(FULL, seed=0, model="layered")}
    assert found == {(b, c) for b in ("stage", "image") for c in ("all", "present")}
    assert FULL.seeds == 3 and FULL.attack["images"] == 561 and FULL.attack["steps"] == 100


def test_seeds_multiply_arms_and_one_may_be_picked(published):
    groups = [TWO | {"scheme": "clean"}, TWO | {"seeds": 1}, TWO]
    settings = tiny(seeds=3, arms=groups)
    found = [(arm.scheme, arm.seed) for arm in study.arms(settings, seed=4)]
    # the third line names the first seed of the second again: one network is no two seeds
    assert found == [(scheme, 4 + k) for scheme in ("clean", "layered") for k in range(3)]
    assert next(study.arms(settings, seed=4)).ball == "none", "method one has no part in it"
    (one,) = study.arms(settings, seed=4, model="layered-stage-5")
    assert one.key.endswith("-layered-stage-all-5")


@pytest.mark.parametrize(
    ("group", "call", "message"),
    [
        ({}, {"role": "skin"}, "DATASET='skin'.*this profile has histology"),
        ({}, {"model": "union"}, "MODEL='union'.*layered"),
        ({}, {"seed": -1}, "SEED=-1"),
        ({"scheme": "prayer"}, {}, "'prayer': choose among clean, layered, selective, union"),
        ({"classes": "some"}, {}, "'some': choose among all, present"),
    ],
    ids=["role", "model", "seed", "scheme", "classes"],
)
def test_what_cannot_be_run_is_refused_by_name(group, call, message, published):
    with pytest.raises(ProtocolError, match=message):
        list(study.arms(tiny(arms=[TWO | group]), **{"seed": 0} | call))


def test_phantoms_are_split_by_group_and_some_of_the_test_images_attacked(settings, arms):
    task = arms[0].task
    assert task.data.segmentation and task.data.synthetic and task.size == 32
    assert sorted(np.concatenate(task.split)) == list(range(40)), "every image on one side"
    assert len(task.attacked) == 6 and set(task.attacked) <= set(task.split.test)
    other = next(study.arms(settings, seed=1)).task
    assert other.data.checksum != task.data.checksum


def test_a_publishers_split_is_kept(published):
    task = next(study.arms(FULL, seed=0)).task
    test = [row for row in range(60) if row % 6 < 2]
    assert list(task.split.test) == test == list(task.attacked) and task.data is published
    rows = study.task_rows(task).set_index("metric")["estimate"]
    assert rows["test_images_leaked"] == 0
    shares = study.task_rows(task).query("metric == 'pixel_share' and side == 'all'")
    assert shares["estimate"].sum() == pytest.approx(1)
    assert dict(zip(shares["kind"], shares["estimate"], strict=True))["background"] == 11 / 15


def test_phantoms_of_the_smoke_profile_show_every_class_on_every_side():
    task = next(study.arms(PAPER.settings("smoke"), seed=0)).task
    for side in task.split:
        assert len(np.unique(task.data.targets[side])) == len(CLASSES)


# --- training ------------------------------------------------------------------------------------


def test_all_schemes_of_a_seed_begin_with_the_same_network(settings, arms):
    first, *others = (study.build_arm(arm, settings).state_dict() for arm in arms)
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)
    elsewhere = study.build_arm(replace(arms[0], seed=1), settings).state_dict()
    assert not all(torch.equal(first[name], elsewhere[name]) for name in first)


def test_the_union_trains_for_a_third_of_the_epochs(settings, arms):
    found = {arm.scheme: study.recipe_of(arm, settings) for arm in arms}
    assert found["clean"] == found["layered"] == found["selective"] == settings["training"]
    assert (found["clean"]["epochs"], found["union"]["epochs"]) == (3, 1)
    assert FULL.training["epochs"] == 3 * study.recipe_of(replace(arms[3]), FULL)["epochs"]
    assert found["adversarial"] == settings["training"] | {"patience": 0}
    assert found["on_the_fly"] == found["layered"], "what is compared is chosen by one rule"
    assert found["clean_layered"]["epochs"] == 2  # half of three, of twice the images


def test_each_scheme_is_perturbed_by_its_own_methods(settings, arms):
    found = {(arm.scheme, arm.variant): study.methods(arm, settings) for arm in arms}
    one, two = Layered(0.01, 2, "stage", False), Selective(0.01, 0.06, "greedy")
    assert found["clean", "main"] == found["adversarial", "main"] == {}
    assert found["layered", "main"] == {"layered": one}
    assert found["selective", "main"] == {"selective": two}
    assert found["union", "main"] == {"layered": one, "selective": two}
    assert found["clean_layered", "main"] == {"layered": one} and found["on_the_fly", "main"] == {}
    assert found["layered", "image, present"] == {"layered": Layered(0.01, 2, "image", True)}


def test_perturbed_images_are_made_against_the_clean_network_of_the_seed(settings, trained):
    clean = trained["clean"]
    dtype, train = precision(settings, clean.model), clean.arm.task.split.train
    shared = study.hardened(trained["union"].arm, settings, clean)
    assert [*shared] == ["layered", "selective"]
    for name, (images, told) in shared.items():
        own, signs = study.hardened(trained[name].arm, settings, clean)[name]
        how = study.methods(trained[name].arm, settings)[name]
        folder = clean.folder / "again"
        again, _ = segmentation.harden(
            clean.model, clean.arm.task.data, train, how, folder, dtype=dtype
        )
        assert np.array_equal(images.images, again.images)
        assert np.array_equal(images.images, own.images)
        assert told.keys() == signs.keys() and ("signs" in told) is (name == "selective")


def test_each_network_is_trained_on_its_own_images(settings, arms, checkpoints, monkeypatch):
    asked = {}

    def remember(model, given, split, recipe, folder, *, seed, clean=None, objective=None):
        asked[folder.name.rpartition("-")[0]] = given, split, clean, objective
        folder.mkdir(parents=True, exist_ok=True)  # where the card is left
        return []

    def harden(model, given, index, how, folder, dtype):
        return replace(rows_of(given, index), checksum=repr(how)), {}

    monkeypatch.setattr(segmentation, "fit", remember)
    monkeypatch.setattr(segmentation, "harden", harden)
    monkeypatch.setattr(study, "precision", lambda settings, model: torch.float32)
    task, n = arms[0].task, len(arms[0].task.split.train)
    for arm in arms:
        study.train(arm, settings, checkpoints)
        given, split, clean, objective = asked[arm.key]
        sets = {"layered": 1, "selective": 1, "union": 3, "clean_layered": 2}
        perturbed = sets.get(arm.scheme, 0)
        if perturbed:
            assert len(given) == perturbed * n and list(split.train) == list(range(len(given)))
            truth = np.tile(task.data.targets[task.split.train], (perturbed, 1, 1))
            assert np.array_equal(given.targets, truth)
        else:
            assert given is task.data and split is task.split
        assert clean[0] is task.data and np.array_equal(clean[1], task.split.val)
        assert (objective is not None) is (arm.scheme in ("adversarial", "on_the_fly"))
    shown = {arm.scheme: asked[arm.key][0] for arm in arms if arm.variant == "main"}
    plain = to_float(task.data.images[task.split.train]).permute(0, 2, 3, 1)
    for scheme in ("union", "clean_layered"):
        assert np.array_equal(shown[scheme].images[:n], plain)
    rest = shown["clean_layered"].images[n:]
    assert np.array_equal(rest, shown["union"].images[n : 2 * n])  # layered, and no method two
    assert asked[arms[-1].key][3] == LayeredTraining(0.01, study.ON_THE_FLY, "stage", False)


def test_a_trained_arm_is_read_back(settings, trained, checkpoints, monkeypatch):
    monkeypatch.setattr(Layered, "__call__", None)
    monkeypatch.setattr(Selective, "__call__", None)
    monkeypatch.setattr("medrobust_utils.training.fit._Job._step", None)
    for one in trained.values():
        again = study.train(one.arm, settings, checkpoints)
        assert again.history == one.history and again.folder == one.folder
        theirs = again.model.state_dict()
        assert all(torch.equal(v, theirs[k]) for k, v in one.model.state_dict().items())


def test_another_recipe_network_or_split_is_trained_elsewhere(settings, trained, monkeypatch):
    folders = []

    def remember(model, data, split, recipe, folder, **how):
        folders.append(folder)
        folder.mkdir(parents=True, exist_ok=True)  # where the card is left
        return []

    monkeypatch.setattr(segmentation, "fit", remember)
    arm, origin = trained["clean"].arm, trained["clean"].folder
    other = replace(arm.task, split=arm.task.split._replace(train=np.arange(9)))
    for changed, theirs in (
        (arm, settings),
        (arm, tiny("training.lr=0.5")),
        (arm, tiny("unet.width=8")),
        (replace(arm, task=other), settings),
        (replace(arm, scheme="adversarial"), settings),
        (replace(arm, scheme="adversarial"), tiny("adversarial.steps=7")),
    ):
        study.train(changed, theirs, origin.parent)
    assert folders[0] == origin
    assert len(set(folders)) == len(folders)


def test_fluctuation_is_that_of_the_last_half_of_the_epochs():
    history = [{"val_loss": loss} for loss in (9, 1, 2, 4)]
    rows = study.fluctuations([experiment.Trained(made_arm(), None, history, None)])
    values = dict(zip(rows["metric"], rows["estimate"], strict=True))
    assert values == {
        "val_loss_spread": pytest.approx(1 / 3),
        "val_loss_rises": pytest.approx(2 / 3),
        "best_epoch_share": 0.5,
    }


# --- scores --------------------------------------------------------------------------------------


def test_scores_are_those_of_the_network_on_the_images_it_was_shown(settings, trained, evaluated):
    task = trained["clean"].arm.task
    for name, source, cell in (
        ("union", "union", attack.BACKGROUND),
        ("union", "clean", attack.TRANSFERRED),
        ("clean", "clean", attack.PER_STEP),
    ):
        net = trained[source].model
        how, dtype = attack.attack_of(cell, settings), precision(settings, net)
        shown = segmentation.attack(net, task.data, task.attacked, how, dtype=dtype)
        counts = segmentation.tallied(trained[name].model, shown, np.arange(len(shown)))
        assert np.array_equal(evaluated[name].tallies[cell].confusion, counts.confusion)
        change = (to_float(shown.images) - to_float(task.data.images[task.attacked])).abs().max()
        bounds = (0.01, 0.02) if cell == attack.PER_STEP else (0, 0.01)  # two steps of 0.01
        assert bounds[0] < change <= bounds[1] + 1e-6
    for name, one in evaluated.items():
        counts = segmentation.tallied(trained[name].model, task.data, task.attacked)
        assert np.array_equal(one.tallies[attack.CLEAN].confusion, counts.confusion)
    assert attack.TRANSFERRED not in evaluated["clean"].tallies


def test_a_measurement_is_read_back(settings, trained, evaluated, monkeypatch):
    monkeypatch.setattr(segmentation, "attack", None)
    again = attack.evaluate(trained["union"], settings, trained["clean"])
    for cell, counts in evaluated["union"].tallies.items():
        assert np.array_equal(again.tallies[cell].confusion, counts.confusion)
    with pytest.raises(TypeError):  # attacked anew
        attack.evaluate(trained["union"], tiny("attack.steps=3"), trained["clean"])


def test_a_record_of_every_image_names_its_worst_attack(evaluated):
    table = evaluated["union"].per_image()
    task = evaluated["union"].arm.task
    assert set(table["image"]) == {task.data.ids[row] for row in task.attacked}
    cells = {cell.attack: cell for cell in attack.INSIDE}
    for _, rows in table.groupby("image"):
        scores = rows.set_index(["attack", "reading", "made_for"])["mean_iou"]
        (worst_by,) = set(rows["worst_by"])
        least = min(scores[tuple(cell)] for cell in attack.INSIDE)
        assert scores[tuple(cells[worst_by])] == least == scores[tuple(attack.WORST)]


def test_background_everywhere_is_as_right_as_there_is_background(evaluated):
    task, found = evaluated["clean"].arm.task, evaluated["clean"].majority
    truth = task.data.targets[task.attacked]
    assert found["pixel_accuracy"].value == pytest.approx((truth == 0).mean())
    assert found["foreground_accuracy"].value == 0
    assert found["mean_iou"].value == pytest.approx((truth == 0).mean() / len(np.unique(truth)))


def test_gates_open_for_a_network_that_finds_nuclei_and_not_for_one_that_finds_none():
    assert made_evaluation(made_arm()).gates == {"beats_prior": True, "beats_majority": True}
    blind = made_evaluation(made_arm(), clean=12).gates
    assert blind == {"beats_prior": False, "beats_majority": False}


def scores_of(*evaluations):
    return pd.concat([one.scores() for one in evaluations])


def values(table, metric, cell, **tags):
    """Estimates of the rows of a metric under one cell."""
    found = tables.chosen(table, {"metric": metric, **cell._asdict(), **tags})
    return [round(one.value, 6) for one in found["estimate"]]


def test_what_an_attack_takes_is_told_for_each_network():
    kept = made_evaluation(made_arm("union"), background_total_own=0, pgd_total_own=12)
    drops = study.drops(scores_of(kept))
    assert values(drops, "foreground_accuracy_drop", attack.BACKGROUND) == [0]
    assert values(drops, "foreground_accuracy_drop", attack.SEGPGD) == [0.5]
    assert values(drops, "foreground_accuracy_drop", attack.WORST) == [1]
    assert drops["alive"].all()


def test_networks_are_held_against_the_clean_one_and_those_of_the_paper_against_each_other():
    other = made_arm("layered", ball="image")
    table = scores_of(
        made_evaluation(made_arm(), background_total_own=9),
        made_evaluation(made_arm("layered"), background_total_own=3, background_total_clean=6),
        made_evaluation(made_arm("union"), background_total_own=0),
        made_evaluation(other),
    )
    gains = study.gains(table)
    pairs = gains[["against", "against_variant", "scheme", "variant"]].drop_duplicates()
    main, image = "main", "image, all"
    assert {tuple(pair) for pair in pairs.to_numpy()} == {
        ("clean", main, "layered", main),
        ("clean", main, "union", main),
        ("clean", main, "layered", image),
        ("layered", main, "union", main),
    }
    plain = {"against": "clean", "scheme": "layered", "variant": main}
    assert values(gains, "foreground_accuracy_gain", attack.BACKGROUND, **plain) == [0.5]
    # one attacked test set for all: the clean network meets it as its own
    assert values(gains, "foreground_accuracy_gain", attack.TRANSFERRED, **plain) == [0.25]
    gain = tables.chosen(gains, {"metric": "loss_gain", "against": "layered", "attack": "none"})
    assert list(gain["alive"]) == [True] and list(gain["seeds"]) == [1]
    assert not len(study.gains(table[table["scheme"].eq("union")])), "nothing to compare"


def test_a_gain_among_ruins_is_not_alive_and_seeds_in_common_are_averaged():
    ruined = {"background_total_own": 12}
    table = scores_of(
        *(made_evaluation(made_arm(seed=seed), **ruined) for seed in range(2)),
        *(made_evaluation(made_arm("union", seed=seed), **ruined) for seed in range(3)),
    )
    gains = study.gains(table)
    assert set(gains["seeds"]) == {2}
    alive = gains.groupby(list(attack.Cell._fields))["alive"].all()
    assert not alive[tuple(attack.BACKGROUND)] and alive[tuple(attack.PGD)]


# --- the methods ---------------------------------------------------------------------------------


def test_costs_grow_linearly_and_by_powers_of_three(trained):
    rows = attack.costs(trained["clean"], tiny("method_one.steps=1"))
    table = rows.pivot_table("estimate", ["method", "count"], "metric", aggfunc="first")
    for method in ("layered", "selective"):
        assert table.loc[method]["cost_gradients"].tolist() == [1, 2, 3, 4, 5, 6]
    for count, evaluations in table.loc["selective"]["cost_evaluations"].items():
        # beside the candidates: a check, the clean and the chosen image, and ties one by one
        assert 3 <= evaluations - 3**count <= 9
    assert (table["cost_seconds"] > 0).all()
    growth = rows[rows["metric"].eq("gradient_growth")]
    assert list(growth["estimate"]) == [6, 6]


def test_layers_are_held_against_plain_pgd_and_searches_against_the_least(settings, trained):
    clean = trained["clean"]
    rows = attack.shapes(clean, settings)
    found = rows.set_index(["perturbed", "metric"])["estimate"]
    assert found["clean", "moved"].value == 0 < found["plain", "moved"].value
    name = "layered, stage, all"
    for measure in ("regions", "largest_area", "target_area", "moved"):
        for rival, word in (("plain", "plain"), ("plain, K times", "strong")):
            gain = found[name, measure].value - found[rival, measure].value
            assert found[name, f"{measure}_above_{word}"].value == pytest.approx(gain)
    assert ("layered, stage, present", "target_area") not in found.index
    table = attack.searches(clean, settings).set_index(["search", "metric"])["estimate"]
    assert table["exhaustive", "misses"] == 0 and table["greedy", "evaluations"] == 13
    assert table["exhaustive", "loss_above_least"].value == 0
    assert table["greedy", "loss_above_least"].value >= -1e-6
