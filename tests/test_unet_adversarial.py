"""The study of paper 4 on a few phantoms and on hand-made scores: numbers are worked out twice."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from medrobust_utils import data, segmentation
from medrobust_utils.attacks import Attack, Layered, Selective
from medrobust_utils.core.errors import ProtocolError, RunError
from medrobust_utils.core.losses import IGNORED
from medrobust_utils.data import ImageSet, ThreeWay, to_float
from medrobust_utils.data.imageset import rows_of
from medrobust_utils.reporting import protocol, results
from medrobust_utils.scoring import metrics
from medrobust_utils.scoring import segmentation as scoring
from medrobust_utils.studies import unet_adversarial as study
from medrobust_utils.studies import unet_adversarial_attack as attack
from medrobust_utils.studies import unet_adversarial_methods as methods
from medrobust_utils.studies import unet_adversarial_record as record
from medrobust_utils.studies import unet_adversarial_rows as rows
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
def measured(settings, trained):
    clean = trained["clean"]
    wanted = ("clean", "layered", "union")
    return {name: attack.measure(trained[name], settings, clean) for name in wanted}


@pytest.fixture
def run(tmp_path):
    return results.Run.start("04_unet_adversarial_training", PAPER.name, "paper", {}, tmp_path)


# --- hand-made networks --------------------------------------------------------------------------


def made_task(n=12, **changes):
    """A task whose images nobody looks at, of 4 x 4 pixels; two images a tile, all attacked."""
    maps = np.zeros((n, 4, 4), np.uint8)
    for row, label_map in enumerate(maps):
        label_map[:2, :2] = 1 + row % 5
        label_map[3, 3] = IGNORED
    everything = np.arange(n)
    made = ImageSet(
        FULL.datasets["histology"],
        np.zeros((n, 4, 4, 3), np.uint8),
        maps,
        CLASSES,
        everything // 2,
        tuple(map(str, everything)),
        synthetic=False,
        complete=True,
        checksum="made",
    )
    ways = ThreeWay(everything, everything, everything)
    return study.Task("histology", replace(made, **changes), ways, everything)


def arm_of(task, scheme="clean", **changes):
    ball, classes = study.MAIN if scheme in study.METHOD_ONE else ("none", "none")
    return study.Arm(task, scheme, **{"ball": ball, "classes": classes, "seed": 0} | changes)


def answered(task, lost):
    """Tally of an answer that is right but for the nuclei of the first ``lost`` images."""
    maps = np.where(task.data.targets == IGNORED, 0, task.data.targets)
    maps[:lost] = 0
    logits = 10 * torch.eye(len(CLASSES))[torch.from_numpy(maps).long()].permute(0, 3, 1, 2)
    return scoring.tally(logits, torch.from_numpy(task.data.targets))


def made(arm, *, lost=(), clean=0):
    """A network that loses the nuclei of ``lost[cell]`` images (6 unless told) when attacked."""
    lost = {attack.CLEAN: clean} | dict(lost)
    cells = [*attack.INSIDE, attack.PER_STEP]
    if arm.scheme != "clean":
        cells.append(attack.TRANSFERRED)
    tallies = {cell: answered(arm.task, lost.get(cell, 6)) for cell in cells}
    worst, by = scoring.worst([tallies[cell] for cell in attack.INSIDE])
    n = len(arm.task.attacked)
    moved = {cell: np.full((2, n), [[0.2], [0.1]]) for cell in tallies}
    weights = metrics.group_weights(arm.task.data.groups)
    return attack.Robustness(arm, tallies | {attack.WORST: worst}, moved, weights, by)


# --- arms and tasks ------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["smoke", "small", "paper", "reference"])
def test_every_arm_of_a_profile_has_a_key_of_its_own(profile, monkeypatch):
    monkeypatch.setattr(study, "make_task", lambda settings, role, seed: made_task())
    settings = PAPER.settings(profile)
    found = list(study.arms(settings, seed=0))
    seeds = [group.get("seeds", settings["seeds"]) for group in settings["arms"]]
    assert len(found) == sum(seeds) == len({arm.key for arm in found})
    assert len({arm.group for arm in found}) == len(seeds)
    assert len({id(arm.task) for arm in found}) == 1
    main = [arm.scheme for arm in found if arm.variant == "main" and arm.seed == 0]
    assert main[:4] == list(study.SCHEMES[:4])
    assert set(main[4:]) <= set(study.SCHEMES[4:])
    for arm in found:
        assert (arm.ball == "none") is (arm.scheme not in study.METHOD_ONE)


def test_the_paper_is_run_with_every_reading_of_method_one(monkeypatch):
    monkeypatch.setattr(study, "make_task", lambda settings, role, seed: made_task())
    found = {(arm.ball, arm.classes) for arm in study.arms(FULL, seed=0, model="layered")}
    assert found == {(b, c) for b in ("stage", "image") for c in ("all", "present")}
    assert FULL.seeds == 3 and FULL.attack["images"] == 561 and FULL.attack["steps"] == 100


def test_seeds_multiply_arms_and_a_group_may_have_fewer(monkeypatch):
    monkeypatch.setattr(study, "make_task", lambda settings, role, seed: made_task())
    groups = [{"role": "histology", "scheme": "clean"}, TWO | {"seeds": 1}]
    found = list(study.arms(tiny(seeds=3, arms=groups), seed=4))
    assert [(arm.scheme, arm.seed) for arm in found] == [
        *(("clean", 4 + k) for k in range(3)),
        ("layered", 4),
    ]


def test_an_arm_that_two_groups_name_is_run_once(monkeypatch):
    monkeypatch.setattr(study, "make_task", lambda settings, role, seed: made_task())
    assert len(list(study.arms(tiny(arms=[TWO, TWO]), seed=0))) == 1


@pytest.mark.parametrize(
    ("group", "call", "message"),
    [
        ({}, {"role": "skin"}, "DATASET='skin'.*this profile has histology"),
        ({}, {"model": "union"}, "MODEL='union'.*layered"),
        ({}, {"seed": -1}, "SEED=-1"),
        ({"scheme": "prayer"}, {}, "'prayer': choose among clean, layered, selective, union"),
        ({"classes": "some"}, {}, "'some': choose all or present"),
    ],
    ids=["role", "model", "seed", "scheme", "classes"],
)
def test_what_cannot_be_run_is_refused_by_name(group, call, message, monkeypatch):
    monkeypatch.setattr(study, "make_task", lambda settings, role, seed: made_task())
    with pytest.raises(ProtocolError, match=message):
        list(study.arms(tiny(arms=[TWO | group]), **{"seed": 0} | call))


def test_phantoms_are_split_by_group_and_some_of_the_test_images_attacked(settings):
    task = study.make_task(settings, "histology", seed=0)
    assert task.data.segmentation and task.data.synthetic and task.size == 32
    sides = np.concatenate(task.split)
    assert sorted(sides) == list(range(40)), "every image on one side"
    assert len(task.attacked) == 6 and set(task.attacked) <= set(task.split.test)
    other = study.make_task(settings, "histology", seed=1)
    assert other.data.checksum != task.data.checksum


def test_a_publishers_split_is_kept(monkeypatch):
    parts = tuple("test" if k % 3 == 0 else "train" for k in range(60))
    published = made_task(60, groups=np.arange(60), parts=parts).data
    monkeypatch.setattr(study, "load", lambda name, **how: published)
    task = study.make_task(FULL, "histology", seed=0)
    assert list(task.split.test) == list(range(0, 60, 3)) == list(task.attacked)
    assert task.data is published


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
    clean, train = trained["clean"], trained["clean"].arm.task.split.train
    for name in ("layered", "variant", "selective"):
        one = trained[name]
        ((method, made_images),) = one.sets.items()
        how = study.methods(one.arm, settings)[method]
        again, told = segmentation.harden(
            clean.model,
            clean.arm.task.data,
            train,
            how,
            clean.folder / "again",
            dtype=attack.precision(settings, clean.model),
        )
        assert np.array_equal(made_images.images, again.images)
        if method == "selective":
            assert np.array_equal(one.signs, told["signs"])
    assert trained["layered"].signs is None
    assert np.array_equal(trained["union"].signs, trained["selective"].signs)
    for method in ("layered", "selective"):
        own, shared = trained[method].sets[method], trained["union"].sets[method]
        assert np.array_equal(own.images, shared.images)


def test_each_network_is_trained_on_its_own_images(settings, arms, checkpoints, monkeypatch):
    asked = {}

    def remember(model, given, split, recipe, folder, *, seed, clean=None, objective=None):
        asked[folder.name.rpartition("-")[0]] = given, split, clean, objective
        folder.mkdir(parents=True, exist_ok=True)  # where the card is left
        return []

    monkeypatch.setattr(segmentation, "fit", remember)
    monkeypatch.setattr(
        segmentation,
        "harden",
        lambda model, given, index, how, folder, dtype: (
            replace(rows_of(given, index), checksum=repr(how)),
            {},
        ),
    )
    monkeypatch.setattr(study, "precision", lambda settings, model: torch.float32)
    task, n = arms[0].task, len(arms[0].task.split.train)
    for arm in arms:
        study.train(arm, settings, checkpoints)
        given, split, clean, objective = asked[arm.key]
        sets = {"layered": 1, "selective": 1, "union": 3, "clean_layered": 2}
        perturbed = sets.get(arm.scheme, 0)
        if perturbed:
            assert len(given) == perturbed * n and list(split.train) == list(range(len(given)))
            assert np.array_equal(
                given.targets, np.tile(task.data.targets[task.split.train], (perturbed, 1, 1))
            )
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
    def never(*args, **how):
        raise AssertionError("computed again")

    monkeypatch.setattr(Layered, "__call__", never)
    monkeypatch.setattr(Selective, "__call__", never)
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
    other = study.Task(**vars(arm.task) | {"split": arm.task.split._replace(train=np.arange(9))})
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


# --- measuring -----------------------------------------------------------------------------------


def test_attacks_are_those_of_the_profile():
    found = attack.attacks({"attack": {"eps": 0.01, "steps": 100}})
    assert found == {
        attack.BACKGROUND: Attack("background", 0.01, 100),
        attack.INSIDE[2]: Attack("pgd", 0.01, 100),
        attack.INSIDE[3]: Attack("segpgd", 0.01, 100),
        attack.PER_STEP: Attack("background", 1.0, 100, 0.01),
    }


def test_scores_are_those_of_the_network_on_the_images_it_was_shown(settings, trained, measured):
    task = trained["clean"].arm.task
    dtype = attack.precision(settings, trained["clean"].model)
    for name, source in (("union", "union"), ("union", "clean"), ("clean", "clean")):
        cell = attack.BACKGROUND if source == name else attack.TRANSFERRED
        how = attack.attacks(settings)[attack.BACKGROUND]
        shown = segmentation.attack(
            trained[source].model, task.data, task.attacked, how, dtype=dtype
        )
        counts = segmentation.tallied(trained[name].model, shown, np.arange(len(shown)))
        found = measured[name].tallies[cell]
        assert np.array_equal(found.confusion, counts.confusion)
    for name, robust in measured.items():
        counts = segmentation.tallied(trained[name].model, task.data, task.attacked)
        assert np.array_equal(robust.tallies[attack.CLEAN].confusion, counts.confusion)


def test_every_network_meets_every_attack_within_its_bound(settings, measured):
    for name, robust in measured.items():
        wanted = {attack.CLEAN, attack.WORST, *attack.attacks(settings)}
        assert set(robust.tallies) == wanted | (
            {attack.TRANSFERRED} - {attack.CLEAN} if name != "clean" else set()
        )
        largest = {cell: moved[0].max() for cell, moved in robust.moved.items()}
        assert largest[attack.CLEAN] == 0
        for cell in set(largest) - {attack.CLEAN, attack.PER_STEP}:
            assert 0 < largest[cell] <= 0.01 + 1e-6
        assert 0.01 < largest[attack.PER_STEP] <= 0.02 + 1e-6, "two steps of 0.01, unbounded"
        for moved in robust.moved.values():
            assert (moved[1] <= moved[0]).all()


def test_the_worst_is_the_lowest_mean_iou_of_each_image(measured):
    for robust in measured.values():
        scores = np.stack(
            [scoring.per_image(robust.tallies[cell])["mean_iou"] for cell in attack.INSIDE]
        )
        found = scoring.per_image(robust.tallies[attack.WORST])["mean_iou"]
        assert found == pytest.approx(scores.min(0))
        assert scores[robust.worst_by, np.arange(6)] == pytest.approx(scores.min(0))


def test_a_measurement_is_read_back(settings, trained, measured, monkeypatch):
    def never(*args, **how):
        raise AssertionError("attacked again")

    monkeypatch.setattr(segmentation, "attack", never)
    again = attack.measure(trained["union"], settings, trained["clean"])
    for cell, counts in measured["union"].tallies.items():
        assert np.array_equal(again.tallies[cell].confusion, counts.confusion)
    with pytest.raises(AssertionError, match="attacked again"):
        attack.measure(trained["union"], tiny("attack.steps=3"), trained["clean"])


def test_background_everywhere_is_as_right_as_there_is_background(measured):
    robust = measured["clean"]
    task = robust.arm.task
    truth = task.data.targets[task.attacked]
    assert robust.majority["pixel_accuracy"].value == pytest.approx((truth == 0).mean())
    assert robust.majority["foreground_accuracy"].value == 0
    shown = len(np.unique(truth))
    assert robust.majority["mean_iou"].value == pytest.approx((truth == 0).mean() / shown)


def test_gates_open_for_a_network_that_finds_nuclei_and_not_for_one_that_finds_none():
    task = made_task()
    assert made(arm_of(task)).gates == {"beats_prior": True, "beats_majority": True}
    assert made(arm_of(task), clean=12).gates == {"beats_prior": False, "beats_majority": False}


# --- the methods ---------------------------------------------------------------------------------


def test_regions_share_an_edge_and_a_class():
    drawn = np.array([[1, 1, 0], [0, 2, 2], [1, 0, 2]])
    assert methods.regions(drawn) == 6  # 1 above, 1 below, 2, three pieces of 0
    assert methods.regions(np.zeros((3, 3), int)) == 1


def test_costs_grow_linearly_and_by_powers_of_three(trained):
    table = methods.costs(trained["clean"], tiny("method_one.steps=1"))
    layered = [line for line in table if line["method"] == "layered"]
    selective = [line for line in table if line["method"] == "selective"]
    assert [line["classes"] for line in layered] == [1, 2, 3, 4, 5, 6]
    assert [line["gradients"] for line in layered] == [1, 2, 3, 4, 5, 6]
    assert [line["gradients"] for line in selective] == [1, 2, 3, 4, 5, 6]
    for line in selective:
        # beside the candidates: a check, the clean and the chosen image, and ties one by one
        assert 3 <= line["evaluations"] - 3 ** line["classes"] <= 9
    assert all(line["seconds"] > 0 for line in table)


def test_likeness_is_one_for_equal_images_and_counts_the_change():
    task = made_task()
    plain = rows_of(task.data, np.arange(2))
    textured = np.random.default_rng(0).random((2, 16, 16, 3), np.float32)
    original = replace(plain, images=textured, targets=np.zeros((2, 16, 16), np.uint8))
    moved = textured.copy()
    moved[1, 0, 0, 0] = textured[1, 0, 0, 0] + 0.3
    found = methods.likeness(original, np.arange(2), replace(original, images=moved))
    assert found["similarity"][0] == 1 > found["similarity"][1]
    assert found["largest"] == pytest.approx([0, 0.3], abs=1e-6)
    assert found["mean"] == pytest.approx([0, 0.3 / (16 * 16 * 3)], abs=1e-6)
    with pytest.raises(RunError, match="2 perturbed images for 1 originals"):
        methods.likeness(original, np.arange(1), original)


# --- rows ----------------------------------------------------------------------------------------

PGD = attack.INSIDE[2]


ONES = np.ones((1, 2))


# --- the record, and the claims ------------------------------------------------------------------


def test_deviations_of_a_small_run_are_said_in_words(settings, arms):
    words = record.deviations(settings, FULL, arms)
    assert any("phantom-histology (40 phantoms) in place of PanNuke" in text for text in words)
    for text in (
        "size 32 (profile paper: 256)",
        "6 test images (paper: 561)",
        "unet: width 4 (profile paper: 64)",
        "method_two: search greedy",
    ):
        assert any(text in word for word in words), text


def test_the_protocol_itself_deviates_only_where_the_draft_is_silent():
    task = made_task(561)
    every = [arm_of(task, scheme, seed=k) for k in range(3) for scheme in study.SCHEMES]
    (silent,) = record.deviations(FULL, FULL, every)
    assert "not in the draft" in silent
    fewer = record.deviations(FULL, FULL, every[:-1])
    assert fewer[0] == f"{every[-1].group}: 2 training seed(s)."


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A full run of the paper, with networks and measurements made by hand."""
    folder = tmp_path_factory.mktemp("whole")
    run = results.Run.start("04_unet_adversarial_training", PAPER.name, "paper", {}, folder)
    task = made_task()
    rows.add_task(run, task)
    groups = {}
    for scheme in study.SCHEMES:
        for seed in range(3):
            arm = arm_of(task, scheme, seed=seed)
            groups.setdefault(arm.group, []).append(made(arm))
    variant = arm_of(task, "layered", ball="image")
    groups[variant.group] = [made(variant)]
    base = next(iter(groups.values()))[0]
    rows.add_majority(run, base)
    for group in groups.values():
        rows.add_arm(run, group)
    for plain, defended in rows.pairs(groups):
        rows.add_pair(run, groups[plain], groups[defended])
    about = {"role": "histology", "dataset": task.data.name} | rows.gates([base])
    values = {measure: np.ones(2) for measure in (*methods.SHAPES, "moved")}
    ways = [
        f"layered, {ball}, {which}" for ball in ("stage", "image") for which in ("all", "present")
    ]
    rows.add_shapes(run, about, dict.fromkeys(["plain", "plain, K times", *ways], values), ONES)
    for method in ("layered", "selective"):
        found = {"similarity": np.ones(2), "largest": np.ones(2), "mean": np.ones(2)}
        rows.add_likeness(run, about, method, found, ONES)
    counted = {"loss": np.ones(2), "before": np.ones(2), "evaluations": np.full(2, 729)}
    rows.add_searches(run, about, {"exhaustive": counted}, ONES)
    table = [
        dict(method=method, classes=k, gradients=100 * k, evaluations=3**k + 3, seconds=k)
        for method in ("layered", "selective")
        for k in (1, 6)
    ]
    rows.add_costs(run, about, table)
    curve = [dict(val_loss=loss) for loss in (2, 1, 2, 1, 2)]
    where = {"role": "histology", "dataset": task.data.name}
    rows.add_curves(run, where, {scheme: [curve] * 3 for scheme in study.SCHEMES})
    return results.read(run.save())


def test_phantoms_of_the_smoke_profile_show_every_class_on_every_side():
    task = study.make_task(PAPER.settings("smoke"), "histology", seed=0)
    for side in task.split:
        assert len(np.unique(task.data.targets[side])) == len(CLASSES)
    assert isinstance(task.data, data.ImageSet)
