"""A killed and resumed training ends with the numbers of an uninterrupted one."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from medrobust_utils import models
from medrobust_utils.core.errors import ContractError, RunError
from medrobust_utils.core.losses import per_image
from medrobust_utils.data import split_by_group, to_float
from medrobust_utils.training import fit as training
from medrobust_utils.training import recipes

SETTINGS = {
    "epochs": 3,
    "batch": 16,
    "lr": 1e-3,
    "weight_decay": 0.05,
    "warmup_epochs": 0.5,
    "clip": 5.0,
    "flips": "both",
}
BEST = {
    "epochs": 6,
    "share": 0.4,
    "optimiser": "adam",
    "adam_eps": 0.1,
    "schedule": "constant",
    "class_weights": True,
    "patience": 2,
    "min_delta": 0.001,
}
RECIPES = {
    "last epoch": SETTINGS,
    "crops": SETTINGS | {"epochs": 1, "crops": 0.5},
    "best epoch": SETTINGS | BEST,
}


def build(data, drop_path_rate=0.3):
    """A small Swin; its random depth makes the random state matter."""
    torch.manual_seed(0)
    options = {"img_size": 32, "embed_dim": 24, "depths": [1, 1], "num_heads": [2, 4]}
    options |= {"window_size": 4, "drop_path_rate": drop_path_rate}
    name = "swin_tiny_patch4_window7_224"
    return models.build(name, len(data.classes), start="scratch", options=options)


def fit(data, folder, settings=SETTINGS, model=None, validate=None, seed=0, objective=None):
    """Learning curve without seconds, and weights, of a training on an honest split."""
    model = model or build(data)
    history = training.fit(
        model,
        data,
        split_by_group(data, seed=0),
        settings,
        folder,
        seed=seed,
        validate=validate or (lambda model: {}),
        objective=objective,
    )
    numbers = [{k: v for k, v in row.items() if k != "seconds"} for row in history]
    return numbers, {k: v.clone() for k, v in model.state_dict().items()}


def equal(a, b):
    return all(torch.equal(a[key], b[key]) for key in a)


def same(a, b):
    return a[0] == b[0] and equal(a[1], b[1])


def interrupt(monkeypatch, name, calls):
    """A keyboard interrupt instead of the call of a _Job's method after ``calls`` of them."""
    real, done = getattr(training._Job, name), []

    def interrupted(job, *args):
        if len(done) == calls:
            raise KeyboardInterrupt
        done.append(1)
        return real(job, *args)

    monkeypatch.setattr(training._Job, name, interrupted)
    return lambda: monkeypatch.setattr(training._Job, name, real)


def judge(scores):
    """A validation with one score after the other, and the same one for weights it has seen."""
    known = {}

    def validate(model):
        assert not model.training
        total = sum(v.double().abs().sum().item() for v in model.state_dict().values())
        return {"val_top1": known.setdefault(total, scores[len(known)])}

    return validate


@pytest.fixture(scope="module")
def runs(skin, tmp_path_factory):
    """Uninterrupted runs and their validations, by recipe; one stops with its second epoch."""
    found = {}
    for name, settings in RECIPES.items():
        validate = judge([0.1, 0.6, 0.2, 0.3, 0.9, 0.9])
        run = fit(skin, tmp_path_factory.mktemp("whole"), settings, validate=validate)
        found[name] = run, validate
    return found


def test_training_learns_and_follows_recipe_and_seed(skin, runs, tmp_path):
    whole, _ = runs["last epoch"]
    losses = [row["train_loss"] for row in whole[0]]
    assert len(losses) == 3 and losses[-1] < losses[0]
    assert not equal(whole[1], fit(skin, tmp_path, seed=1)[1])
    assert runs["crops"][0][0][0]["train_loss"] != losses[0]
    assert len(runs["best epoch"][0][0]) == 4


@pytest.mark.parametrize(
    ("recipe", "method", "calls"),
    [
        ("last epoch", "_step", 1),
        ("last epoch", "_step", 7),  # the end of an epoch
        ("last epoch", "_step", 20),
        ("crops", "_step", 3),
        ("best epoch", "_step", 4),
        ("best epoch", "_step", 11),
        ("best epoch", "finish_epoch", 1),
        ("best epoch", "finish_epoch", 3),
        ("best epoch", "save", 7),
        ("best epoch", "save", 15),
    ],
)
def test_an_interruption_changes_nothing(skin, runs, tmp_path, monkeypatch, recipe, method, calls):
    whole, validate = runs[recipe]
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    mend = interrupt(monkeypatch, method, calls)
    with pytest.raises(KeyboardInterrupt):
        fit(skin, tmp_path, RECIPES[recipe], validate=validate)
    mend()
    torch.rand(17)  # the process that resumes has another random state
    assert same(whole, fit(skin, tmp_path, RECIPES[recipe], validate=validate))


def test_a_run_keeps_the_precision_it_began_with(skin, tmp_path, monkeypatch):
    monkeypatch.setattr(training.env, "training_dtype", lambda device: torch.bfloat16)
    half = fit(skin, tmp_path / "half")
    assert {row["precision"] for row in half[0]} == {"bfloat16"}
    mend = interrupt(monkeypatch, "_step", 9)
    with pytest.raises(KeyboardInterrupt):
        fit(skin, tmp_path / "mixed")
    mend()
    monkeypatch.setattr(training.env, "training_dtype", lambda device: torch.float32)
    assert same(half, fit(skin, tmp_path / "mixed"))


def test_a_recipe_may_fix_the_precision_without_asking_the_machine(skin, tmp_path, monkeypatch):
    monkeypatch.setattr(training.env, "training_dtype", None)
    for precision in ("float32", "bfloat16"):
        settings = SETTINGS | {"epochs": 1, "precision": precision}
        assert fit(skin, tmp_path / precision, settings)[0][0]["precision"] == precision


def test_other_settings_or_another_seed_do_not_continue(skin, tmp_path):
    once = SETTINGS | {"epochs": 1}
    fit(skin, tmp_path, once)
    for settings, seed in ((once | {"epochs": 2}, 0), (once, 5)):
        with pytest.raises(RunError, match="other settings"):
            fit(skin, tmp_path, settings, seed=seed)


def test_a_runaway_loss_stops_with_a_remedy(skin, tmp_path):
    with pytest.raises(RunError, match="Lower the learning rate"):
        fit(skin, tmp_path, SETTINGS | {"lr": 1e30, "clip": 0.0, "warmup_epochs": 0})


def test_one_image_left_over_does_not_end_a_training(skin, tmp_path):
    """Batch norm over one place of one image has nothing to average: torch refuses it."""
    model = models.build("resnet10t", len(skin.classes), start="scratch")
    batch = len(split_by_group(skin, seed=0).train) - 1
    numbers, _ = fit(skin, tmp_path, SETTINGS | {"epochs": 1, "batch": batch}, model)
    assert np.isfinite(numbers[0]["train_loss"])


def test_multi_label_sets_train_with_binary_cross_entropy(chest, tmp_path):
    numbers, _ = fit(chest, tmp_path, SETTINGS | {"epochs": 1, "flips": "none"})
    assert numbers[0]["train_loss"] < 0.9  # 15 labels; a softmax would start near log 15 = 2.7


def test_flips_mirror_the_chosen_images_only():
    images = torch.rand(4, 1, 3, 3)
    chosen = np.array([[1, 0], [0, 1], [1, 1], [0, 0]], bool)
    both = training.flip(images, chosen, "both")
    assert torch.equal(both[0], images[0].flip(2)) and torch.equal(both[1], images[1].flip(1))
    assert torch.equal(both[2], images[2].flip(1, 2)) and torch.equal(both[3], images[3])
    assert torch.equal(training.flip(images, chosen, "horizontal")[1], images[1])
    assert torch.equal(training.flip(images, chosen, "none"), images)


def test_checkpoints_from_before_a_setting_existed_are_still_read(skin, tmp_path, monkeypatch):
    once = SETTINGS | {"epochs": 1}
    first = fit(skin, tmp_path, once)
    shapes = {k: list(v.shape) for k, v in first[1].items()}
    parts = [once, 0, skin.checksum, split_by_group(skin, seed=0).train.tolist(), shapes]
    text = json.dumps(parts, sort_keys=True, default=str)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["identity"] == hashlib.sha256(text.encode()).hexdigest()[:10]
    del state["best"]
    torch.save(state, tmp_path / "checkpoint.pt")
    monkeypatch.setattr(training._Job, "_step", None)
    assert same(first, fit(skin, tmp_path, once | recipes.DEFAULTS))


def test_every_setting_but_a_default_makes_another_recipe():
    changes = {
        "optimiser": "adam",
        "adam_eps": 0.1,
        "epsilon_hat": True,
        "schedule": "constant",
        "class_weights": True,
        "share": 0.5,
        "new_lr_factor": 10.0,
        "patience": 3,
        "monitor": "val_loss",
        "min_delta": 0.01,
        "crops": 0.5,
        "batch_norm_momentum": 0.01,
        "precision": "float32",
    }
    assert changes.keys() == recipes.DEFAULTS.keys()
    for key, value in changes.items():
        assert recipes.essence(recipes.complete(SETTINGS | {key: value}))[key] == value


@pytest.mark.parametrize(
    ("kind", "decay", "keras"),
    [("adam", 0.0, False), ("adam", 0.1, False), ("adamw", 0.1, False), ("adam", 0.0, True)],
)
def test_steps_are_those_of_adam_adamw_and_keras_adam(kind, decay, keras):
    settings = {"lr": 0.01, "weight_decay": decay, "optimiser": kind, "adam_eps": 0.1}
    model = models.MedicalModel(torch.nn.Identity(), (0.0,), (1.0,))
    model.weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimiser = recipes.optimiser(model, recipes.complete(SETTINGS | settings))
    expected, m, v = np.array([1.0, -2.0]), 0.0, 0.0
    for step in range(1, 5):  # Kingma and Ba 2015, algorithm 1, and the end of section 2
        slope = np.array([0.3, -0.02]) * step
        model.weight.grad = torch.tensor(slope, dtype=torch.float32)
        if keras:
            optimiser.param_groups[0]["eps"] = recipes.keras_eps(0.1, step, 0.999)
        optimiser.step()
        if kind == "adam":
            slope = slope + decay * expected
        else:
            expected = expected * (1 - 0.01 * decay)
        m, v = 0.9 * m + 0.1 * slope, 0.999 * v + 0.001 * slope**2
        correction = np.sqrt(1 - 0.999**step)
        below = np.sqrt(v) + 0.1 if keras else np.sqrt(v) + 0.1 * correction
        expected = expected - 0.01 * correction / (1 - 0.9**step) * m / below
    assert model.weight.tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_rates_over_time():
    constant = recipes.complete(SETTINGS | {"schedule": "constant", "warmup_epochs": 2})
    rates = [recipes.rate(constant, step, 5) for step in range(15)]
    assert rates == pytest.approx([(step + 1) / 10 for step in range(10)] + [1.0] * 5)
    cosine = recipes.complete(SETTINGS | {"warmup_epochs": 0})
    rates = [recipes.rate(cosine, step, 4) for step in range(13)]
    assert rates == pytest.approx([np.cos(np.pi * step / 24) ** 2 for step in range(13)])


def test_class_weights_are_scikit_learns():
    targets = np.random.default_rng(0).choice([0, 1, 3], 200, p=[0.7, 0.2, 0.1])
    weights = recipes.inverse_frequency(targets, 5)
    theirs = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=targets)
    assert weights[[0, 1, 3]].tolist() == pytest.approx(theirs.tolist(), rel=1e-6)
    assert weights[[2, 4]].tolist() == [0, 0]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("share", [1.0, 0.25])
def test_class_weights_and_share_enter_the_loss(skin, tmp_path, monkeypatch, weighted, share):
    model = build(skin, drop_path_rate=0.0).eval()
    with torch.no_grad():
        losses = per_image(model(to_float(skin.images)), torch.from_numpy(skin.targets)).numpy()
    train = split_by_group(skin, seed=0).train
    if weighted:
        losses = losses * recipes.inverse_frequency(skin.targets[train], 7).numpy()[skin.targets]
    real, seen = training._Job._step, []
    monkeypatch.setattr(
        training._Job,
        "_step",
        lambda job, index, *how: seen.append(index) or real(job, index, *how),
    )
    settings = {"lr": 0.0, "epochs": 2, "flips": "none", "precision": "float32"}
    settings |= {"class_weights": weighted, "share": share}
    history, _ = fit(skin, tmp_path, SETTINGS | settings, model)
    epochs = np.split(np.concatenate(seen), 2)
    for row, epoch in zip(history, epochs, strict=True):
        assert len(set(epoch)) == len(epoch) == len(train) * share and set(epoch) <= set(train)
        assert row["train_loss"] == pytest.approx(losses[epoch].mean(), rel=1e-4)
    assert share == 1 or set(epochs[0]) != set(epochs[1])  # other images every epoch


def test_class_weights_need_one_class_an_image(skin, tmp_path):
    several = replace(skin, targets=np.eye(7, dtype=np.uint8)[skin.targets])
    with pytest.raises(ContractError, match="one class an image"):
        fit(several, tmp_path, SETTINGS | {"class_weights": True})


@pytest.mark.parametrize(
    ("patience", "scores", "epochs", "best"),
    [
        (2, [0.1, 0.5, 0.505, 0.512, 0.4, 0.4, 0.9], 6, 3),  # a gain over the best, not the last
        (40, [0.1, 0.7, 0.2], 3, 1),
        (0, [0.1, 0.7, 0.2], 3, 2),  # without patience the last epoch counts
    ],
)
def test_patience_ends_with_the_best_weights(
    skin, tmp_path, monkeypatch, patience, scores, epochs, best
):
    settings = SETTINGS | {"epochs": len(scores), "share": 0.3}
    settings |= {"patience": patience, "min_delta": 0.01}
    states = []

    def validate(model):
        states.append({k: v.clone() for k, v in model.state_dict().items()})
        return {"val_top1": scores[len(states) - 1]}

    found = fit(skin, tmp_path, settings, validate=validate)
    assert [row["val_top1"] for row in found[0]] == scores[:epochs]
    assert [equal(found[1], state) for state in states] == [k == best for k in range(epochs)]
    monkeypatch.setattr(training._Job, "_step", None)  # and is read back so
    assert same(found, fit(skin, tmp_path, settings))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patience": 2, "share": 0.1}, "val_top1.*set patience to 0"),  # no score to look at
        ({"flips": "diagonal"}, "horizontal or both"),
        ({"precision": "half"}, "auto, float32, bfloat16"),
        ({"optimiser": "sgd"}, "adamw or adam"),
        ({"schedule": "linear"}, "cosine or constant"),
        ({"crops": 0}, "more than 0"),
        ({"momentum": 0.9}, "knows no"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused(skin, tmp_path, change, message):
    with pytest.raises(ContractError, match=message):
        fit(skin, tmp_path, SETTINGS | change)


def test_a_crop_is_the_part_that_its_box_names():
    rows = torch.arange(8.0).view(1, 1, 8, 1).expand(5, 2, 8, 8)
    ramp = rows + 100 * rows.transpose(2, 3)  # 100 a column, 1 a row
    corners = [(0, 0), (0, 1), (1, 0), (1, 1), (0.5, 0.5)]
    boxes = np.array([(0.0, top, left) for top, left in corners])
    parts = training.crop(ramp, boxes, 0.25)  # half the side
    for part, (top, left) in zip(parts, corners, strict=True):
        centre = (1.5 + 4 * top) + 100 * (1.5 + 4 * left)
        assert part[:, 2:-2, 2:-2].mean().item() == pytest.approx(centre, rel=1e-4)
        assert part[0, -1, 0] > part[0, 0, 0] and part.shape == (2, 8, 8)
    whole = training.crop(ramp, np.array([(1.0, 0.3, 0.7)] * 5), 0.25)
    assert torch.allclose(whole, ramp, atol=1e-3)


@pytest.mark.parametrize(("momentum", "weight"), [(None, 0.1), (0.01, 0.01)])
def test_batch_norm_forgets_as_fast_as_the_recipe_says(skin, tmp_path, momentum, weight):
    torch.manual_seed(0)
    model = models.build("resnet10t", len(skin.classes), start="scratch")
    norm, seen = model.backbone.bn1, []
    norm.register_forward_pre_hook(lambda module, x: seen.append(x[0].mean((0, 2, 3))))
    settings = {"epochs": 1, "precision": "float32", "batch_norm_momentum": momentum}
    settings |= {"batch": len(skin), "lr": 0.0}
    fit(skin, tmp_path, SETTINGS | settings, model)
    assert len(seen) == 1
    assert torch.allclose(norm.running_mean, weight * seen[0], rtol=1e-3, atol=1e-5)
