"""Paper 1's thousand under attack: who is on which side, hand-made outcomes, a few phantoms."""

from dataclasses import replace

import numpy as np
import pytest

from medrobust_utils.core.errors import ProtocolError
from medrobust_utils.reporting import protocol
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


def test_attacks_are_by_bisection_and_autoattack_is_given_what_pgd_fooled(attacked, settings):
    one = attacked
    assert one.epsilons * 255 == pytest.approx([1, 4, 8])
    assert one.noise.shape == (3, 2, 16) and one.pgd.clean_right.sum() == 10
    assert one.auto.right.any() and not one.auto.right.all()
    assert not (one.auto.right & ~one.pgd.right).any()
    fell = one.auto.won == "earlier attack"
    assert (fell[0] == (~one.pgd.right[0] & one.pgd.clean_right)).all() and fell.any()
    assert not (fell & one.pgd.right).any()  # AutoAttack keeps those that it fooled at less
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
