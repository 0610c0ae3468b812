"""Paper 1's thousand under attack: who is on which side, hand-made outcomes, a few phantoms."""

from dataclasses import replace

import numpy as np
import pytest
from found import find, only

from medrobust_utils.attacks import AutoResult, SweepResult
from medrobust_utils.core.errors import ProtocolError
from medrobust_utils.reporting import ledger, protocol, results
from medrobust_utils.scoring import metrics
from medrobust_utils.scoring.predict import predict
from medrobust_utils.studies import swin_noise_attack as study
from medrobust_utils.studies import swin_noise_attack_rows as rows
from medrobust_utils.studies import swin_noise_thousand as thousand

PAPER = protocol.load("1_swin_noise")
LIGHT = (
    "thousand.phantoms=160 thousand.fit=40 thousand.attacked=16 thousand.epochs.before=1 "
    "thousand.epochs.fit=1 thousand.attack.pgd_steps=1 thousand.attack.steps=2 "
    "thousand.attack.targets=1 thousand.attack.queries=5 thousand.attack.check=4"
)
GATES = {"beats_prior": True, "competent": True, "beats_majority": True, "beats_constant": True}
EPS = np.array([0.5, 1.0, 2.0]) / 255


@pytest.fixture(scope="module")
def settings():
    return PAPER.settings("smoke", LIGHT)


@pytest.fixture(scope="module")
def tasks(settings):
    return thousand.thousands(settings, seed=0)


@pytest.fixture(scope="module")
def chest(settings, tasks, tmp_path_factory):
    """A network of the chest phantoms: arm, model, history, folder."""
    (planned,) = thousand.arms(settings, tasks[:1], "swin")
    return thousand.train(planned, settings, tmp_path_factory.mktemp("checkpoints"), seed=0)


@pytest.fixture(scope="module")
def knowing(chest):
    """The same network, which has hardly learnt, on images of which it has ten right."""
    arm, model, _, folder = chest
    task, targets = arm.task, arm.task.data.targets.copy()
    answers = predict(model, task.data, task.attacked) > 0
    targets[task.attacked[:10]] = answers[:10]
    targets[task.attacked[10:]] = ~answers[10:]
    data = replace(task.data, targets=targets)
    return replace(arm, task=replace(task, data=data)), model, folder


@pytest.fixture(scope="module")
def attacked(settings, knowing):
    arm, model, folder = knowing
    return study.measure(arm, model, settings, folder, seed=0)


# --- who is on which side ------------------------------------------------------------------------


def test_no_patient_and_no_lesion_is_on_two_sides(tasks):
    assert [task.role for task in tasks] == ["nih", "isic"]
    for task in tasks:
        assert len(task.fit) == 40 and len(task.attacked) == 16
        assert task.before is task.data  # the rest of the same set
        sides = [task.fit, task.attacked, task.before_split.train]
        groups = [set(task.data.groups[side].tolist()) for side in sides]
        assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    assert tasks[0].ignore == (14,) and tasks[1].ignore == ()


def test_where_hardly_an_image_is_left_nothing_is_learnt_before(settings):
    few = PAPER.settings("smoke", LIGHT + " thousand.fit=100")  # 28 of 160 phantoms are left
    (task,) = thousand.thousands(few, seed=0, role="nih")
    assert task.before is None and len(task.fit) == 100


def test_another_set_before_is_whole_and_of_its_own(settings):
    other = PAPER.settings("smoke", LIGHT + " thousand.before.nih=phantom-dermatoscopy10")
    (task,) = thousand.thousands(other, seed=0, role="nih")
    assert task.before.name == "phantom-dermatoscopy10" and task.before is not task.data
    held = task.before.groups[task.before_split.val]
    assert not np.isin(task.before.groups[task.before_split.train], held).any()
    assert len(task.fit) == 40


def test_part_model_and_data_set_are_checked(settings, tasks):
    assert thousand.parts("") == (True, True)
    assert thousand.parts("noise") == (True, False)
    assert thousand.parts("attack") == (False, True)
    with pytest.raises(ProtocolError, match="noise or attack"):
        thousand.parts("both")
    with pytest.raises(ProtocolError, match="resnet, swin"):
        list(thousand.arms(settings, tasks, "vgg"))
    with pytest.raises(ProtocolError, match="nih or isic"):
        thousand.thousands(settings, seed=0, role="mnist")


def test_images_of_ones_own_learn_from_their_own_rest(settings, tmp_path):
    from PIL import Image

    draw = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(60):
            pixels = draw.integers(0, 255, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    other = PAPER.settings("small", "thousand.fit=40 thousand.attacked=16 thousand.size=32")
    (task,) = thousand.thousands(other, seed=0, role=f"folder:{tmp_path}")
    assert task.before is task.data and task.data.classes == ("cat", "dog")
    assert len(task.before_split.train) == 96 - 40


# --- training ------------------------------------------------------------------------------------


def test_random_weights_learn_other_images_first_and_say_so(chest, settings):
    arm, model, history, _ = chest
    assert (arm.start, arm.before) == ("scratch", "phantom-chest") and model.start == "scratch"
    assert [row["part"] for row in history] == ["before", "fit"]
    told = rows.describe(arm, model, history, settings)
    assert told["images before"] == len(arm.task.before_split.train)
    assert told["images fitted"] == 40 and told["epochs before"] == told["epochs fitted"] == 1
    assert "random weights, phantom-chest" in arm.title


def test_a_trained_arm_is_read_back(chest, settings, tasks, monkeypatch):
    _, model, history, folder = chest
    monkeypatch.setattr("medrobust_utils.training.fit._Job._step", None)
    (planned,) = thousand.arms(settings, tasks[:1], "swin")
    _, again, same, where = thousand.train(planned, settings, folder.parent, seed=0)
    assert (str(same), where) == (str(history), folder)  # scores of few images may be nan
    both = zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    assert all((a.cpu() == b.cpu()).all() for a, b in both)


def test_what_was_learnt_before_is_taken_over_but_not_a_head_of_other_classes(chest, tasks):
    arm, model, _, _ = chest
    settings = PAPER.settings("smoke", LIGHT)
    fresh = thousand._build(arm, settings, tasks[1].data, seed=1)  # ten classes, not fifteen
    head = [key for key in fresh.state_dict() if "head" in key and key.endswith("weight")][-1]
    before = fresh.state_dict()[head].clone()
    thousand._take_over(fresh, model)
    for key, value in fresh.state_dict().items():
        theirs = model.state_dict()[key].cpu()
        assert (value == (theirs if value.shape == theirs.shape else value)).all()
    assert (fresh.state_dict()[head] == before).all()


# --- measured on phantoms ------------------------------------------------------------------------


def test_attacks_are_nested_and_autoattack_is_given_what_pgd_felled(attacked, settings):
    one = attacked
    assert one.epsilons * 255 == pytest.approx([1, 4, 8])
    assert one.noise.shape == (3, 2, 16) and one.pgd.clean_right.sum() == 10
    assert one.auto.right.any() and not one.auto.right.all()
    assert not (one.auto.right & ~one.pgd.right).any()
    fell = one.auto.won == "earlier attack"
    assert (fell[0] == (~one.pgd.right[0] & one.pgd.clean_right)).all() and fell.any()
    assert not (fell & one.pgd.right).any()  # AutoAttack keeps whom it felled at less
    assert (one.auto.won[:, ~one.pgd.clean_right] == "wrong before").all()
    assert one.density.shape == (16, 16) and one.in_bands.shape == (16, 16)
    for curve in one.curves.values():
        assert len(curve) == 3 and all(0 <= estimate.value <= 1 for estimate in curve)


def test_the_constant_answer_is_the_commonest_of_the_fitted_as_a_whole(tasks):
    task = tasks[0]
    targets = np.zeros_like(task.data.targets)
    targets[task.fit[:15], 2] = 1  # fifteen of forty: rarer than nothing, commoner than pairs
    targets[task.fit[15:], 4] = 1
    targets[task.fit[15:27], 5] = 1
    targets[task.attacked[:6], 2] = 1
    found = study._constant(replace(task, data=replace(task.data, targets=targets)))
    assert found.tolist() == [True] * 6 + [False] * 10
    skin = tasks[1]
    counts = np.bincount(skin.data.targets[skin.fit])
    expected = skin.data.targets[skin.attacked] == counts.argmax()
    assert (study._constant(skin) == expected).all()


def test_the_auc_of_a_finding_falls_under_an_attack_on_it(settings, chest):
    arm, model, _, folder = chest
    task = arm.task
    targets = task.data.targets.copy()
    targets[task.attacked, 0] = np.arange(16) < 8  # half of them show the first finding
    asked = replace(arm, task=replace(task, data=replace(task.data, targets=targets)))
    how = settings["thousand"]["attack"] | {"findings": 1, "auc_eps_255": 8}
    weights = np.ones((2, 16))
    clean = study.kept(folder / "auc.npz", model, asked.task.data, task.attacked)
    found = study._aucs(asked, model, how, clean, weights, {"folder": None, "seed": 0})
    ((before, under),) = found.values()
    assert under.value < before.value
    few = targets.copy()
    few[task.attacked] = 0
    few[task.attacked[:4], 0] = 1  # four images with the finding say nothing
    asked = replace(arm, task=replace(task, data=replace(task.data, targets=few)))
    assert study._aucs(asked, model, how, clean, weights, {"folder": None, "seed": 0}) == {}


# --- hand-made outcomes --------------------------------------------------------------------------


def right(*counts, n=40):
    """Bool (E, n): at each eps the first so many images stand."""
    return np.arange(n)[None] < np.array(counts)[:, None]


def made(task, model, *, clean=32, noise=(32, 30, 28), pgd=(20, 10, 4), auto=(16, 8, 0), low=0.1):
    """A network that had the first ``clean`` of 40 images right."""
    n, labels = 40, np.zeros(40, np.int64)
    hit = np.zeros((n, 2), np.float32)
    hit[np.arange(n), np.where(np.arange(n) < clean, 0, 1)] = 1.0

    def logits(stand):
        answers = np.zeros((len(EPS), n, 2), np.float32)
        answers[..., 0], answers[..., 1] = stand, ~stand
        return answers

    was, now = right(*pgd), right(*auto)
    won = np.where(now, "", np.where(was, "square", "earlier attack"))
    won[:, ~right(clean)[0]] = "wrong before"
    queries = np.where(was, 100, 0)
    sweep = SweepResult(EPS, logits(was), hit, labels, "nested")
    result = AutoResult(EPS, logits(now), hit, labels, "standing", now, won, queries)
    centroid = np.full(n, low)
    centroid[:5] = np.nan  # five images without a gradient
    weights = metrics.group_weights(np.arange(n), 0, draws=200)
    some = metrics.weighted_mean(np.ones(n), weights)
    arm = thousand.Arm(task, model, "imagenet", "nothing")
    return study.Attack(
        arm,
        {"top1": some},
        GATES,
        np.repeat(right(*noise)[:, None], 3, 1),
        sweep,
        result,
        {"Effusion": (some, some)},
        np.ones((n, 16)),
        centroid,
        np.repeat(right(20), 16, 0),
        weights,
        0.6,
    )


@pytest.fixture
def pair(tasks):
    """Swin-T: 32 right, 16 of them stand AutoAttack at 0.5/255; ResNet-50: 40 right, 10 stand."""
    swin = made(tasks[1], "swin")
    other = made(
        tasks[1], "resnet", clean=40, noise=(40, 40, 40), pgd=(20, 4, 0), auto=(10, 0, 0), low=0.3
    )
    return swin, other


@pytest.fixture
def run(tmp_path, tasks):
    run = results.Run.start("01_swin_noise", PAPER.name, "paper", {}, tmp_path)
    for task in tasks:
        run.dataset(task.data)
    return run


def test_rows_of_a_network(run, pair):
    rows.add_attack(run, pair[0])
    assert only(run, "accuracy_constant")["value"] == 0.6
    at = {"eps_255": 1.0}
    assert only(run, "accuracy_attacked", attack="none")["value"] == pytest.approx(0.8)
    for attack, value in (("noise", 30), ("pgd", 10), ("autoattack", 8)):
        row = only(run, "accuracy_attacked", attack=attack, **at)
        assert row["value"] == pytest.approx(value / 40) and row["n"] == 40
    assert only(run, "accuracy_noise_minus_adversarial", **at)["value"] == pytest.approx(22 / 40)
    shares = {row["member"]: row["value"] for row in find(run, "felled_by", **at)}
    assert shares == pytest.approx(
        {"standing": 8 / 40, "square": 2 / 40, "earlier attack": 22 / 40, "wrong before": 8 / 40}
    )
    assert only(run, "autoattack_queries", **at)["value"] == 100
    assert only(run, "sensitivity_centroid")["n"] == 35
    assert len(find(run, "accuracy_band_noise")) == len(find(run, "sensitivity_density")) == 16
    assert {row["attack"] for row in find(run, "auc_attacked", finding="Effusion")} == {
        "none",
        "autoattack",
    }


def test_the_comparison_is_paired_and_above_zero_speaks_for_swin(run, pair):
    assert list(rows.pairs(list(pair)[::-1])) == [pair]
    rows.add_comparisons(run, pair)
    assert not run.record["warnings"]
    cell = {"attack": "autoattack", "eps_255": 0.5}
    assert only(run, "kept_swin_minus_resnet", **cell)["value"] == pytest.approx(16 / 32 - 10 / 32)
    assert only(run, "kept_swin_minus_resnet", **cell)["n"] == 32  # what both had right
    assert only(run, "accuracy_swin_minus_resnet", **cell)["value"] == pytest.approx(6 / 40)
    lost = (40 - 10) / 40 - (32 - 16) / 40
    assert only(run, "drop_resnet_minus_swin", **cell)["value"] == pytest.approx(lost)
    noise = only(run, "kept_swin_minus_resnet", attack="noise", eps_255=2.0)
    assert noise["value"] == pytest.approx(28 / 32 - 1)
    lowpass = only(run, "lowpass_swin_minus_resnet")
    assert lowpass["value"] == pytest.approx(0.2) and lowpass["n"] == 35
    assert lowpass["low"] == pytest.approx(0.2)  # the same images, so nothing of them is left


def test_only_networks_of_one_thousand_and_start_are_compared(run, pair, tasks):
    swin, resnet = pair
    scratch = replace(resnet, arm=replace(resnet.arm, start="scratch", before="kermany"))
    elsewhere = replace(resnet, arm=replace(resnet.arm, task=tasks[0]))
    assert list(rows.pairs([swin, scratch, elsewhere])) == []
    rows.add_comparisons(run, [swin, scratch, elsewhere])
    assert "they are not compared" in run.record["warnings"][0]
    rows.add_comparisons(run, [swin])  # one network alone was asked for
    assert len(run.record["warnings"]) == 1


def test_the_headlines_find_their_rows(run, pair):
    """The rows carry what the headlines name; one seed is a pilot, and phantoms are not run."""
    run.record["status"] = "complete"
    real = {"dataset": "isic", "complete": True, "synthetic": False}
    for one in pair:
        rows.add_attack(run, one)
    rows.add_comparison(run, *pair)
    measured = [
        row | real | {"profile": "paper", "overrides": ""} for row in results.rows([run.record])
    ]
    names = {"hypothesis": "kept_swin_minus_resnet", "low-pass": "lowpass_swin_minus_resnet"}
    for name, metric in names.items():
        headline = next(h for h in PAPER.headlines if h.id == name)
        found = ledger.judge(headline, PAPER, measured)
        assert (found.word, found.why) == ("pilot", f"measured otherwise, as {metric}")
        phantom = [row | {"synthetic": True} for row in measured]
        assert ledger.judge(headline, PAPER, phantom).word == "not run"
