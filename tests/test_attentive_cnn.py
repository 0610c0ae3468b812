"""The study of paper 2 on a few phantoms and on hand-made scores: numbers are worked out twice."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from found import falling, find, only

from medrobust_utils.core.errors import ProtocolError
from medrobust_utils.data import ImageSet, ThreeWay, to_float
from medrobust_utils.data.contrast import enhance
from medrobust_utils.reporting import protocol, results
from medrobust_utils.scoring import metrics
from medrobust_utils.studies import attentive_cnn as study
from medrobust_utils.studies import attentive_cnn_attack as attack
from medrobust_utils.studies import attentive_cnn_gains as comparisons
from medrobust_utils.studies import attentive_cnn_map_rows as map_rows
from medrobust_utils.studies import attentive_cnn_maps as maps
from medrobust_utils.studies import attentive_cnn_radii as radii
from medrobust_utils.studies import attentive_cnn_record as record
from medrobust_utils.studies import attentive_cnn_rows as rows

PAPER = protocol.load("2_attentive_cnn")
TINY = (
    "phantoms=90 models.resnet.size=64 training.epochs.skin=1 training.epochs.fundus=1 "
    "training.epochs.chest=1 attack.images=12 attack.eps=[0.02,0.32] attack.steps=2 "
    "attack.check.images=4 attack.through=5"
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
def ladder(settings):
    return radii.radii(settings["attack"])


@pytest.fixture(scope="module")
def trained(settings, arms, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return [study.train(arm, settings, folder) for arm in arms]


@pytest.fixture(scope="module")
def measured(settings, trained, ladder):
    return [
        attack.measure(arm, model, settings, ladder, folder, seed=0)
        for arm, model, _, folder in trained
    ]


@pytest.fixture(scope="module")
def explained(settings, trained, ladder):
    return [
        maps.explain(arm, model, settings, ladder, folder, shown=2, seed=0)
        for arm, model, _, folder in trained
    ]


@pytest.fixture
def run(tmp_path):
    return results.Run.start("02_attentive_cnn_pgd", PAPER.name, "paper", {}, tmp_path)


# --- arms and tasks ------------------------------------------------------------------------------


def test_every_arm_has_its_task_and_arms_of_one_task_share_it(arms):
    assert [(a.task.role, a.task.filter, a.attention) for a in arms] == [
        ("skin", "none", "none"),
        ("skin", "none", "released"),
        ("fundus", "none", "none"),
        ("chest", "contrast", "none"),
    ]
    assert arms[0].task is arms[1].task
    assert len({arm.key for arm in arms}) == 4
    skin, fundus, chest = arms[0].task, arms[2].task, arms[3].task
    assert [len(task.data.classes) for task in (skin, fundus, chest)] == [7, 2, 2]
    assert fundus.finding == "Moderate or Severe or Proliferative DR"
    assert chest.finding == "Pneumothorax" and skin.finding == ""
    for task in (skin, fundus, chest):
        assert len(task.attacked) == 12 and set(task.attacked) <= set(task.split.test)
        assert set(task.chosen) <= set(task.split.val)
        assert not set(task.split.test) & (set(task.split.train) | set(task.split.val))


def test_the_filter_changes_what_the_network_sees_and_not_the_raw_images(arms):
    skin, chest = arms[0].task, arms[3].task
    assert skin.data is skin.raw
    expected = enhance(to_float(chest.raw.images[:3]))
    assert torch.allclose(to_float(chest.data.images[:3]), expected, atol=0.5 / 255 + 1e-6)
    assert (chest.data.images[0] != chest.raw.images[0]).mean() > 0.5
    assert chest.data.checksum != chest.raw.checksum


# --- training ------------------------------------------------------------------------------------


def test_a_trained_arm_is_read_back_and_another_recipe_trains_anew(settings, trained, monkeypatch):
    arm, model, history, folder = trained[1]
    monkeypatch.setattr("medrobust_utils.training.fit._Job._step", None)
    _, again, same_history, same_folder = study.train(arm, settings, folder.parent)
    assert (repr(same_history), same_folder) == (repr(history), folder)  # an AUC may be NaN
    assert all(
        (a == b).all()
        for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )
    slower = tiny(training=settings["training"] | {"lr": 0.001})
    for other in (slower, tiny(gamma=True)):
        with pytest.raises(TypeError):  # it would train, and training is switched off
            study.train(arm, other, folder.parent)


def test_without_weights_an_arm_is_what_it_is_not_what_was_asked(settings, trained):
    arm, _, _, folder = trained[0]  # no hub answers in the tests
    asked = replace(arm, start="imagenet")
    really, model, _, same = study.train(asked, settings, folder.parent)
    assert really.tags["start"] == "scratch" and same == folder
    assert "no ImageNet weights" in model.warnings[0]


# --- radii ---------------------------------------------------------------------------------------


def test_the_papers_ladder_lies_on_one_ladder_under_all_readings():
    plan = PAPER.settings("paper")["attack"]
    found = radii.radii(plan)
    assert list(found.values) == sorted(found.values) and found.values[-1] == 0.32
    assert found.scales() == ["0-1", "signed", "0-255"]
    for scale, width in plan["scales"].items():
        assert sorted(found.at(scale)) == plan["eps"]
        for eps, place in found.at(scale).items():
            assert found.values[place] == pytest.approx(eps / width, rel=0.011)
    gaps = np.array(found.values[1:]) / found.values[:-1]
    assert gaps.min() > 1.9  # neighbours were merged: 0.32/255 and 0.00125 are one radius
    assert found.at("0-255")[0.32] == found.at("0-1")[0.00125]


def test_radii_that_are_too_small_are_left_out(ladder):
    assert ladder.values == pytest.approx([0.32 / 255, 0.01, 0.02, 0.16, 0.32])
    assert ladder.at("0-255") == {0.32: 0}  # 0.02/255 is below 0.0001
    assert ladder.at("signed") == {0.02: 1, 0.32: 3}


# --- what a network scores -----------------------------------------------------------------------


def test_accuracies_are_those_of_the_logits_and_wrong_images_are_counted_apart(measured):
    for robust in measured:
        sweep = robust.sweep
        assert np.array_equal(sweep.labels, robust.arm.task.data.targets[robust.arm.task.attacked])
        before = sweep.clean.argmax(1) == sweep.labels
        assert robust.start.value == pytest.approx(before.mean())
        for k, logits in enumerate(sweep.logits):
            right = logits.argmax(1) == sweep.labels
            assert robust.accuracy[k].value == pytest.approx(right.mean())
            if before.any():
                assert robust.kept[k].value == pytest.approx(right[before].mean())


def test_clean_scores_are_of_all_test_images(measured, trained):
    arm, model, *_ = trained[0]
    test = arm.task.split.test
    with torch.no_grad():
        right = model(to_float(arm.task.data.images[test])).argmax(1).numpy()
    right = right == arm.task.data.targets[test]
    assert measured[0].clean["top1"].value == pytest.approx(right.mean())
    assert len(test) > len(arm.task.attacked)


def test_a_finished_measurement_is_read_back(settings, trained, ladder, measured, monkeypatch):
    monkeypatch.setattr("medrobust_utils.attacks.radius_sweep.climb", None)
    arm, model, _, folder = trained[0]
    again = attack.measure(arm, model, settings, ladder, folder, seed=0)
    assert np.array_equal(again.sweep.logits, measured[0].sweep.logits)
    with pytest.raises(TypeError):  # another seed is another sweep
        attack.measure(arm, model, settings, ladder, folder, seed=1)


def test_an_unknown_attack_is_refused(settings, trained, ladder, tmp_path):
    with pytest.raises(ProtocolError, match="ATTACK='cw'.*nested, independent, foolbox"):
        attack.measure(*trained[0][:2], settings, ladder, tmp_path, seed=0, attack="cw")


def test_foolbox_attacks_in_float32_also_where_ours_is_fast(settings, trained, tmp_path):
    arm, model, *_ = trained[0]
    one = radii.Radii((0.02,), {})
    ours, theirs = (
        attack.measure(arm, model, settings, one, tmp_path, seed=0, attack=which, images=4)
        for which in ("independent", "foolbox")
    )
    assert theirs.attack == "foolbox" and len(theirs.sweep.labels) == 4
    assert np.array_equal(ours.sweep.right, theirs.sweep.right)


def test_through_the_filter_the_network_is_attacked_on_the_images_before_it(
    settings, trained, ladder, run
):
    arm, model, _, folder = trained[3]
    variant, whole = attack.through_filter(arm, model)
    assert variant.tags["filter"] == "through" and variant.task.data is arm.task.raw
    assert whole.trained_in == model.trained_in is not None
    raw = to_float(arm.task.raw.images[:3])
    with torch.no_grad():
        assert torch.allclose(whole(raw), model(enhance(raw)), atol=1e-5)
    robust = attack.measure(variant, whole, settings, ladder, folder, seed=0, images=5)
    run.dataset(arm.task.raw)
    rows.add_arm(run, [robust], ladder)
    assert {row["n"] for row in find(run, "accuracy_attacked", filter="through")} == {5}


# --- rows ----------------------------------------------------------------------------------------


def test_rows_of_a_task_count_leaks_and_draw_the_majority_line(arms, run):
    task = arms[0].task
    leaky = replace(task, split=task.split._replace(train=task.split.test[:4]))
    rows.add_task(run, leaky)
    assert only(run, "test_images_leaked")["value"] == 4
    targets = task.data.targets
    common = np.bincount(targets[task.split.test[:4]], minlength=7).argmax()
    line = only(run, "accuracy", model="majority")
    assert line["value"] == pytest.approx((targets[task.split.test] == common).mean())
    assert line["n"] == len(task.split.test)


def test_rows_of_an_arm_hold_its_accuracy_under_every_reading(measured, ladder, run):
    run.dataset(measured[0].arm.task.raw)
    rows.add_arm(run, [measured[0]], ladder)
    sweep = measured[0].sweep
    right = (sweep.logits.argmax(2) == sweep.labels).mean(1)
    before = (sweep.clean.argmax(1) == sweep.labels).mean()
    for (scale, eps), k in ladder.cells.items():
        row = only(run, "accuracy", scale=scale, eps=eps)
        assert row["value"] == pytest.approx(right[k]) and row["low"] <= row["value"] <= row["high"]
        assert row["radius_255"] == pytest.approx(ladder.values[k] * 255)
        assert only(run, "accuracy_lost", scale=scale, eps=eps)["value"] == pytest.approx(
            before - right[k]
        )
    assert only(run, "accuracy_attacked", attack="none")["value"] == pytest.approx(before)
    assert len(find(run, "accuracy_attacked", attack="nested")) == len(ladder.values)
    assert only(run, "accuracy", attack="none")["n"] == len(measured[0].arm.task.split.test)
    row = only(run, "balanced_accuracy_attacked", radius_255=ladder.values[1] * 255)
    recalls = [
        (sweep.logits[1].argmax(1) == k)[sweep.labels == k].mean() for k in set(sweep.labels)
    ]
    assert row["value"] == pytest.approx(np.mean(recalls))


# --- hand-made networks --------------------------------------------------------------------------


def made_task(role, split="honest", filter="none", n=40):
    """A task whose images nobody looks at: all are tested on and attacked."""
    classes = 7 if role == "skin" else 2
    names = {"skin": "ham10000", "fundus": "retinopathy", "chest": "nih"}
    everything = np.arange(n)
    data = ImageSet(
        names[role],
        np.zeros((n, 8, 8, 1), np.uint8),
        everything % classes,
        tuple(f"class {k}" for k in range(classes)),
        everything,
        tuple(map(str, everything)),
        synthetic=False,
        complete=True,
        checksum=role,
    )
    finding = "Pneumothorax" if role == "chest" else ""
    ways = ThreeWay(everything, everything, everything)
    return study.Task(role, split, filter, data, data, ways, everything, everything, finding)


def made(task, right, *, model="resnet", attention="none", seed=0, clean=None):
    """A network that is right under attack where ``right`` (E, N) says so."""
    labels, n = task.data.targets, len(task.attacked)
    clean = np.ones(n, bool) if clean is None else clean
    hot = metrics.one_hot(labels, len(task.data.classes)).astype(np.float32)
    signs = [np.where(row, 1, -1)[:, None].astype(np.float32) for row in (clean, *right)]
    logits = np.stack([hot * sign for sign in signs])
    weights = metrics.group_weights(task.data.groups, 0, draws=60)
    sweep = attack.SweepResult(np.arange(len(right)), logits[1:], logits[0], labels, "independent")
    scores = metrics.score(logits[0], labels, weights)
    arm = study.Arm(task, model, attention, "imagenet", seed)
    gates = {"beats_prior": True, "competent": True, "beats_majority": True}
    return attack.Robustness(arm, scores, gates, sweep, weights, "independent")


FOUR = radii.Radii(
    (0.01, 0.02, 0.04, 0.08),
    {("signed", 0.02): 0, ("signed", 0.04): 1, ("0-1", 0.08): 3},
    (0.02, 0.04),
)


def pair():
    task = made_task("skin")
    plain = made(task, falling(4, [0] * 10 + [1] * 10 + [2] * 19 + [9]))  # 30, 20, 1, 1 stand
    ours = made(
        task, falling(4, [0] * 8 + [1] * 8 + [2] * 14 + [3] * 6 + [9] * 4), attention="released"
    )  # 32, 24, 10, 4
    return plain, ours


def test_a_gain_is_the_difference_image_by_image(run):
    plain, ours = pair()
    run.dataset(ours.arm.task.raw)
    comparisons.add_pair(run, [plain], [ours], FOUR)
    for (scale, eps), expected in {
        ("signed", 0.02): (2 / 40, 32 / 30),
        ("signed", 0.04): (4 / 40, 24 / 20),
        ("0-1", 0.08): (3 / 40, 4.0),
    }.items():
        gain = only(run, "accuracy_gain", scale=scale, eps=eps)
        assert gain["value"] == pytest.approx(expected[0]) and gain["attention"] == "released"
        assert only(run, "accuracy_gap", scale=scale, eps=eps)["value"] == gain["value"]
        ratio = only(run, "accuracy_ratio", scale=scale, eps=eps)
        assert ratio["value"] == pytest.approx(expected[1])
    # 2 of 40 images differ: paired, the interval is far narrower than that of either accuracy
    gain = only(run, "accuracy_gain", scale="signed", eps=0.02)
    assert gain["high"] - gain["low"] < 0.5 * (plain.accuracy[0].high - plain.accuracy[0].low)
    over = only(run, "excess_over_twenty", scale="0-1", eps=0.08)
    assert over["value"] == pytest.approx((4 - 20 * 1) / 40)
    assert only(run, "mean_gain", scale="signed")["value"] == pytest.approx(3 / 40)
    assert only(run, "largest_gap", scale="signed")["value"] == pytest.approx(4 / 40)
    assert not find(run, "mean_gain", scale="0-1")  # one of two radii is not the whole ladder
    saved = only(run, "later_loss_saved")  # from 0.02 to 0.04: 10 of the plain, 8 of the other
    assert saved["scale"] == "signed" and saved["value"] == pytest.approx((10 - 8) / 40)
    assert only(run, "gain_beyond", scale="signed")["value"] == pytest.approx((9 + 3) / 80)
    assert not find(run, "gain_beyond", scale="0-1")  # no larger radius was attacked


def test_equal_networks_gain_nothing_surely(run):
    plain, _ = pair()
    run.dataset(plain.arm.task.raw)
    comparisons.add_pair(run, [plain], [plain], FOUR)
    for row in find(run, "accuracy_gain"):
        assert (row["value"], row["low"], row["high"]) == (0, 0, 0)
    assert {row["value"] for row in find(run, "accuracy_ratio")} == {1}


def test_typical_and_extreme_are_where_the_plain_network_says(run):
    plain, ours = pair()
    run.dataset(ours.arm.task.raw)
    comparisons.add_pair(run, [plain], [ours], FOUR)
    assert only(run, "gain_typical")["value"] == pytest.approx(4 / 40)  # 20 of 40: half is left
    assert only(run, "gain_typical_relative")["value"] == pytest.approx(4 / 20)
    assert only(run, "gain_extreme")["value"] == pytest.approx(9 / 40)  # the first with 1 of 40
    assert only(run, "gain_extreme_relative")["value"] == pytest.approx(9.0)  # 10 to 1 is 900 %


def test_one_task_keeps_more_of_its_right_answers_than_another(run):
    weak = made(made_task("skin"), falling(4, [1] * 40))  # 1, 0, 0, 0 of what was right
    strong = made(made_task("fundus"), falling(4, [3] * 40))  # 1, 1, 1, 0
    for robust in (weak, strong):
        run.dataset(robust.arm.task.raw)
    comparisons.add_between_tasks(run, [weak], [strong])
    row = only(run, "kept_difference", pair="fundus-skin")
    assert row["value"] == pytest.approx(0.75 - 0.25) and row["dataset"] == "retinopathy+ham10000"


def test_another_attack_than_the_profiles_is_an_override(run):
    run.add("x", 1.0)
    for parameters, wanted in (
        ({"ATTACK": ""}, ""),
        ({"ATTACK": "nested"}, "ATTACK=nested"),
        ({"SET": "seeds=1", "ATTACK": "foolbox"}, "seeds=1 ATTACK=foolbox"),
    ):
        run.record["parameters"] = parameters
        run.save()
        (row,) = results.rows([results.read(run.out)])
        assert row["overrides"] == wanted


def test_gates_need_every_network(run):
    plain, ours = pair()
    dull = replace(ours, gates=plain.gates | {"competent": False})
    assert rows.gates([plain, dull], [ours]) == plain.gates | {"competent": False}
    run.dataset(ours.arm.task.raw)
    comparisons.add_pair(run, [plain], [dull], FOUR)
    assert {row["competent"] for row in run.record["rows"]} == {False}


def test_half_fallen_is_the_first_radius_that_fells_half_of_what_was_right():
    task = made_task("chest")
    clean = np.arange(40) < 20  # half are wrong before the attack, and count for nothing
    fall = [1] * 9 + [2] * 11 + [0] * 20
    assert made(task, falling(4, fall), clean=clean).half_fallen == 2
    assert made(task, falling(4, [9] * 40)).half_fallen is None
    assert made(task, falling(4, [0] * 40)).half_fallen == 0


def test_the_filter_costs_what_is_lost_on_the_same_images(run):
    sharp, filtered = made_task("fundus"), made_task("fundus", filter="contrast")
    run.dataset(sharp.raw)
    without = made(sharp, falling(4, [9] * 40))
    with_filter = made(filtered, falling(4, [9] * 40), clean=np.arange(40) < 30)
    comparisons.add_filter(run, [without], [with_filter])
    row = only(run, "balanced_accuracy_lost_by_filter", role="fundus")
    assert row["value"] == pytest.approx(0.25) and "filter" not in row


# --- perturbations and maps ----------------------------------------------------------------------


def test_explained_images_are_attacked_ones_and_their_changes_stay_in_the_ball(
    explained, arms, ladder
):
    for arm, seen in zip(arms, explained, strict=True):
        assert len(seen.index) == 4 and set(seen.index) <= set(arm.task.attacked)
        assert seen.attacked.shape == (len(ladder.values), 4, 64, 64)
        size = np.abs(seen.change).max()
        assert 0 < size <= ladder.values[2] + 1e-6
        assert (seen.right == ~seen.fallen[0]).mean() > 0.5  # the smallest radius fells few
    names = [set(seen.names) for seen in explained]
    assert "ring_over_centre" in names[0] and "sparse_shape" in names[2]  # lesions, eyes


MAPPED = ["map_correlation", "map_correlation_own_class", "map_regions", "ring_over_centre"]


def made_maps(names, positions, n=4):
    """Explanations of four images, of which two fall at every radius."""
    draw = np.random.default_rng(0)
    field = draw.random((n, 16, 16)).astype(np.float16)
    return maps.Explained(
        index=np.arange(n),
        classes=np.zeros(n, int),
        right=np.ones(n, bool),
        fallen=np.tile(np.arange(n) < n // 2, (positions, 1)),
        clean=field,
        attacked=np.stack([field] * positions),
        change=np.zeros((n, 1, 16, 16), np.float32),
        shown=np.array(0),
        names=np.array(sorted(names)),
        before=draw.random((len(names), n)),
        after=draw.random((len(names), positions, n)),
    )


def test_rows_on_maps_mark_the_radius_that_fells_half(run):
    robust, seen = pair()[0], made_maps(MAPPED, 4)
    seen.before[2], seen.before[3] = 1, np.nan
    run.dataset(robust.arm.task.raw)
    ladder = radii.Radii(
        FOUR.values, {("signed", 0.00125): 0, ("signed", 0.01): 3, ("0-1", 0.01): 2}
    )
    map_rows.add_maps(run, robust, seen, ladder, 0)
    half = only(run, "ring_over_centre", half_fallen=True)
    assert half["radius_255"] == FOUR.values[1] * 255  # 20 of 40 stand at the second
    assert half["value"] == pytest.approx(seen.after[3, 1].mean())
    assert not find(run, "ring_over_centre", attack="none")  # no change, no ring
    fall = only(run, "ring_fall")  # under the one reading that has both radii
    assert fall["scale"] == "signed"
    assert fall["value"] == pytest.approx((seen.after[3, 0] - seen.after[3, 3]).mean())
    assert only(run, "single_region")["value"] == 1
    for number, name in enumerate(MAPPED[:2]):
        change = seen.after[number, 1]
        for outcome, value in (("successful", change[:2]), ("failed", change[2:])):
            row = only(run, f"{name}_{outcome}")
            assert row["value"] == pytest.approx(value.mean()) and row["n"] == 2


def test_maps_of_two_networks_are_compared_on_the_same_images(run):
    plain, ours = pair()
    run.dataset(ours.arm.task.raw)
    seen = made_maps({"map_regions", "map_entropy", "sparse_shape"}, 4)
    opposite = np.concatenate([1 - seen.clean[:3], seen.clean[3:]])
    other = replace(
        seen,
        clean=opposite,
        classes=np.array([0, 0, 0, 1]),
        before=seen.before - 0.1,
        after=seen.after - 0.2,
    )
    known = {plain.arm.key: seen, ours.arm.key: other}
    map_rows.add_maps_between(run, plain, ours, known, FOUR, 0)
    row = only(run, "map_correlation_between_models")  # the last explains another class
    assert row["value"] == pytest.approx(-1, abs=1e-3) and row["n"] == 3
    assert row["attention"] == "released"
    assert only(run, "map_entropy_gain")["value"] == pytest.approx(-0.1)
    shape = only(run, "sparse_shape_gain")
    assert shape["value"] == pytest.approx(-0.2) and shape["radius_255"] == FOUR.values[1] * 255


# --- the record ----------------------------------------------------------------------------------


def test_attention_adds_what_the_paper_says_to_the_block_and_a_little_more_to_seven_classes(run):
    table = record.add_parameters(run)
    assert {line["block"] for line in table} == {294_928}
    assert only(run, "parameter_share", part="block")["value"] < 0.013
    assert only(run, "parameter_share", part="network", classes=2)["value"] < 0.013
    assert only(run, "parameter_share", part="network", classes=7)["value"] > 0.013


def test_deviations_say_what_was_changed(settings, arms):
    found = " ".join(record.deviations(settings, PAPER.settings("paper"), arms))
    for word in (
        "skin: 90 phantoms of 64 pixels",
        "skin: epochs 1 (paper: 300)",
        "share 1 (paper: 0.1)",
        "nested PGD, 2 shrinking steps",
        "fastest precision",
        "at most 32 images",
        "51,699",
        "not run: chest with inception",
        "12 of 18 test images attacked",
        "resnet: resnet10t in place of resnet50.",
        "resnet: images of 64 pixels instead of 224.",
    ):
        assert word in found, word
    assert "lr" not in found and "Pneumonia" not in found
    other = tiny(positive=settings["positive"] | {"chest": ["Effusion"]})
    chest = list(study.arms(other, seed=0, role="chest"))
    found = record.deviations(other, PAPER.settings("paper"), chest)
    assert "chest: Effusion in place of Pneumothorax." in found


@pytest.fixture(scope="module")
def whole(explained, tmp_path_factory):
    """The record of a run of the profile ``paper`` by hand-made networks on hand-made images."""
    run = results.Run.start(
        "02_attentive_cnn_pgd", PAPER.name, "paper", {}, tmp_path_factory.mktemp("whole")
    )
    settings = PAPER.settings("paper")
    ladder = radii.radii(settings["attack"])
    positions, groups = len(ladder.values), {}
    names = {name for seen in explained for name in seen.names}
    for spec in settings["arms"]:
        task = made_task(spec["role"], spec["split"], spec["filter"])
        rows.add_task(run, task)
        members = {}
        for later, attention in enumerate(spec["attention"]):
            fall = [later + i * positions // 39 for i in range(39)] + [99]
            how = {"model": spec["model"], "attention": attention}
            robust = members[attention] = made(task, falling(positions, fall), **how)
            rows.add_arm(run, [robust], ladder)
            groups[task.role, task.filter, spec["model"], attention] = [robust]
            if spec["model"] == "resnet":
                map_rows.add_maps(run, robust, made_maps(names, positions), ladder, 0)
        for attention in ("released", "intended"):
            both = members["none"], members[attention]
            comparisons.add_pair(run, *([one] for one in both), ladder)
            seen = {one.arm.key: made_maps(names, positions) for one in both}
            map_rows.add_maps_between(run, *both, seen, ladder, 0)
    for attention in ("none", "released"):
        with_filter = groups["fundus", "contrast", "resnet", attention]
        comparisons.add_filter(run, groups["fundus", "none", "resnet", attention], with_filter)
        trio = [
            groups["skin", "none", "resnet", attention],
            groups["fundus", "none", "resnet", attention],
            groups["chest", "contrast", "resnet", attention],
        ]
        for fragile, robust in itertools.pairwise(trio):
            comparisons.add_between_tasks(run, fragile, robust)
    record.add_parameters(run)
    run.save()
    return results.read(run.out)


def test_no_claim_is_spoken_to_by_rows_that_mean_different_things(whole):
    """One network, one form, one task: else the newest row would decide."""
    single = ("attention", "model", "filter", "split", "role", "radius_255")
    for claim in PAPER.claims:
        speaking = [
            row
            for row in whole["rows"]
            if row["metric"] == claim.metric and claim.select.items() <= row.items()
        ]
        assert speaking, claim.id
        for tag in single:
            assert len({row.get(tag) for row in speaking}) == 1, (claim.id, tag)
