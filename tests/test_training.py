"""A killed and resumed training ends with the numbers of an uninterrupted one."""

import hashlib
import json
import os
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
SWIN = {
    "img_size": 32,
    "embed_dim": 24,
    "depths": [1, 1],
    "num_heads": [2, 4],
    "window_size": 4,
    "drop_path_rate": 0.3,
}  # random depth: the random state matters


def build(data):
    torch.manual_seed(0)
    return models.build(
        "swin_tiny_patch4_window7_224", len(data.classes), start="scratch", options=SWIN
    )


def fit(data, folder, settings=SETTINGS, validate=lambda model: {}, seed=0):
    model = build(data)
    history = training.fit(
        model, data, split_by_group(data, seed=0), settings, folder, seed=seed, validate=validate
    )
    numbers = [{k: v for k, v in row.items() if k != "seconds"} for row in history]
    return numbers, {k: v.clone() for k, v in model.state_dict().items()}


@pytest.fixture(scope="module")
def whole(skin, tmp_path_factory):
    """An uninterrupted run."""
    return fit(skin, tmp_path_factory.mktemp("whole"))


def same(a, b):
    return a[0] == b[0] and all(torch.equal(a[1][key], b[1][key]) for key in a[1])


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


def test_training_learns_and_repeats_itself(skin, whole, tmp_path):
    losses = [row["train_loss"] for row in whole[0]]
    assert len(losses) == 3 and losses[-1] < losses[0]
    assert same(whole, fit(skin, tmp_path))
    assert not same(whole, fit(skin, tmp_path / "other", seed=1))


@pytest.mark.parametrize("steps", [1, 6, 7, 8, 20], ids="after {} steps".format)
def test_an_interruption_changes_nothing(skin, whole, tmp_path, monkeypatch, steps):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    mend = interrupt(monkeypatch, "_step", steps)
    with pytest.raises(KeyboardInterrupt):
        fit(skin, tmp_path)
    mend()
    torch.rand(17)  # the process that resumes has another random state
    assert same(whole, fit(skin, tmp_path))


def test_a_run_keeps_the_precision_it_began_with(skin, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(training.env, "training_dtype", lambda device: torch.bfloat16)
    half = fit(skin, tmp_path / "half")
    assert {row["precision"] for row in half[0]} == {"bfloat16"}
    mend = interrupt(monkeypatch, "_step", 9)
    with pytest.raises(KeyboardInterrupt):
        fit(skin, tmp_path / "mixed")
    mend()
    monkeypatch.setattr(training.env, "training_dtype", lambda device: torch.float32)
    assert same(half, fit(skin, tmp_path / "mixed"))


def test_a_recipe_in_float32_is_trained_so_whatever_the_machine_can(skin, tmp_path, monkeypatch):
    monkeypatch.setattr(training.env, "training_dtype", lambda device: torch.bfloat16)
    history, *_ = fit(skin, tmp_path, dict(SETTINGS, epochs=1, precision="float32"))
    assert {row["precision"] for row in history} == {"float32"}
    with pytest.raises(ContractError, match="choose among auto, float32, bfloat16"):
        fit(skin, tmp_path, dict(SETTINGS, precision="half"))


def test_a_finished_run_is_read_back_without_a_step(skin, whole, tmp_path, monkeypatch):
    first = fit(skin, tmp_path)
    monkeypatch.setattr(training._Job, "_step", None)
    assert same(first, fit(skin, tmp_path))


def test_other_settings_data_or_seed_do_not_continue(skin, tmp_path):
    fit(skin, tmp_path, dict(SETTINGS, epochs=1))
    with pytest.raises(RunError, match="other settings, data or weights"):
        fit(skin, tmp_path, dict(SETTINGS, epochs=2))
    with pytest.raises(RunError, match="other settings"):
        fit(skin, tmp_path, dict(SETTINGS, epochs=1), seed=5)


def test_a_damaged_checkpoint_and_a_pickle_are_refused(skin, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'sprung'}",)

    torch.save({"identity": Trap()}, tmp_path / "checkpoint.pt")
    with pytest.raises(RunError, match=r"checkpoint.pt: cannot be read.*Delete its folder"):
        fit(skin, tmp_path)
    assert not (tmp_path / "sprung").exists()
    (tmp_path / "checkpoint.pt").write_bytes(b"half a checkpoint")
    with pytest.raises(RunError, match="cannot be read"):
        fit(skin, tmp_path)


def test_a_runaway_loss_stops_with_a_remedy(skin, tmp_path):
    with pytest.raises(RunError, match="Lower the learning rate"):
        fit(skin, tmp_path, dict(SETTINGS, lr=1e30, clip=0.0, warmup_epochs=0))


def test_validation_numbers_join_the_curve(skin, tmp_path):
    seen = []

    def validate(model):
        seen.append(model.training)
        return {"val_x": 1.5}

    numbers, _ = fit(skin, tmp_path, dict(SETTINGS, epochs=2), validate)
    assert [row["val_x"] for row in numbers] == [1.5, 1.5] and seen == [False, False]


def test_multi_label_sets_train_with_binary_cross_entropy(chest, tmp_path):
    numbers, _ = fit(chest, tmp_path, dict(SETTINGS, epochs=1, flips="none"))
    assert numbers[0]["train_loss"] < 0.9  # 15 labels; a softmax would start near log 15 = 2.7


def test_flips_mirror_the_chosen_images_only():
    images = torch.rand(4, 1, 3, 3)
    chosen = np.array([[1, 0], [0, 1], [1, 1], [0, 0]], bool)
    both = training.flip(images, chosen, "both")
    assert torch.equal(both[0], images[0].flip(2)) and torch.equal(both[1], images[1].flip(1))
    assert torch.equal(both[2], images[2].flip(1, 2)) and torch.equal(both[3], images[3])
    assert torch.equal(training.flip(images, chosen, "horizontal")[1], images[1])
    assert torch.equal(training.flip(images, chosen, "none"), images)
    with pytest.raises(ContractError, match="horizontal or both"):
        training.flip(images, chosen, "diagonal")


def read_checkpoint(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


DEFAULTS = {
    "optimiser": "adamw",
    "adam_eps": 1e-8,
    "epsilon_hat": False,
    "schedule": "cosine",
    "class_weights": False,
    "share": 1.0,
    "patience": 0,
    "min_delta": 0.0,
    "crops": 1.0,
    "batch_norm_momentum": None,
    "precision": "auto",
}


def test_defaults_leave_old_checkpoints_what_they_were(skin, tmp_path, monkeypatch):
    settings = dict(SETTINGS, epochs=1)
    first = fit(skin, tmp_path, settings)
    # the identity of a checkpoint before recipes had more than these seven settings
    parts = [
        settings,
        0,
        skin.checksum,
        split_by_group(skin, seed=0).train.tolist(),
        {k: list(v.shape) for k, v in build(skin).state_dict().items()},
    ]
    text = json.dumps(parts, sort_keys=True, default=str)
    state = read_checkpoint(tmp_path)
    assert state["identity"] == hashlib.sha256(text.encode()).hexdigest()[:10]
    del state["best"]  # which such a checkpoint does not have
    torch.save(state, tmp_path / "checkpoint.pt")
    monkeypatch.setattr(training._Job, "_step", None)
    assert same(first, fit(skin, tmp_path, settings))
    assert same(first, fit(skin, tmp_path, settings | DEFAULTS))


@pytest.mark.parametrize(
    "change",
    [
        {"optimiser": "adam"},
        {"adam_eps": 0.1},
        {"epsilon_hat": True},
        {"schedule": "constant"},
        {"class_weights": True},
        {"share": 0.5},
        {"patience": 3},
        {"min_delta": 0.01},
        {"crops": 0.5},
        {"batch_norm_momentum": 0.01},
        {"precision": "float32"},
    ],
    ids=str,
)
def test_every_setting_makes_another_recipe(change):
    essences = [recipes.essence(recipes.complete(SETTINGS | extra)) for extra in (DEFAULTS, change)]
    assert essences[0] == SETTINGS and essences[1] == SETTINGS | change


def holding(weight):
    """A model whose only parameter is ``weight``."""
    model = models.MedicalModel(torch.nn.Identity(), (0.0,), (1.0,))
    model.weight = weight
    return model


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_the_optimiser_is_adam_with_the_epsilon_asked_for(kind, decay):
    settings = recipes.complete(
        SETTINGS | {"lr": 0.01, "weight_decay": decay, "optimiser": kind, "adam_eps": 0.1}
    )
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimiser = recipes.optimiser(holding(weight), settings)
    expected, m, v = np.array([1.0, -2.0]), 0.0, 0.0
    for step in range(1, 5):  # Kingma and Ba 2015, algorithm 1
        slope = np.array([0.3, -0.02]) * step
        weight.grad = torch.tensor(slope, dtype=torch.float32)
        optimiser.step()
        if kind == "adam":
            slope = slope + decay * expected
        else:
            expected = expected * (1 - 0.01 * decay)
        m, v = 0.9 * m + 0.1 * slope, 0.999 * v + 0.001 * slope**2
        change = m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 0.1)
        expected = expected - 0.01 * change
    assert weight.tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_epsilon_hat_takes_the_steps_of_keras():
    settings = SETTINGS | {"optimiser": "adam", "adam_eps": 0.1, "epsilon_hat": True, "lr": 0.01}
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimiser = recipes.optimiser(
        holding(weight), recipes.complete(settings | {"weight_decay": 0.0})
    )
    expected, m, v = np.array([1.0, -2.0]), 0.0, 0.0
    for step in range(1, 5):
        slope = np.array([0.3, -0.02]) * step
        weight.grad = torch.tensor(slope, dtype=torch.float32)
        optimiser.param_groups[0]["eps"] = recipes.keras_eps(0.1, step, 0.999)
        optimiser.step()
        m, v = 0.9 * m + 0.1 * slope, 0.999 * v + 0.001 * slope**2
        rate = 0.01 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)  # as keras.optimizers.Adam does
        expected = expected - rate * m / (np.sqrt(v) + 0.1)
    assert weight.tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_rates_over_time():
    constant = recipes.complete(SETTINGS | {"schedule": "constant", "warmup_epochs": 2})
    rates = [recipes.rate(constant, step, 5) for step in range(15)]
    assert rates == pytest.approx([(step + 1) / 10 for step in range(10)] + [1.0] * 5)
    flat = recipes.complete(SETTINGS | {"schedule": "constant", "warmup_epochs": 0})
    assert {recipes.rate(flat, step, 5) for step in range(16)} == {1.0}
    cosine = recipes.complete(SETTINGS | {"warmup_epochs": 0})
    rates = [recipes.rate(cosine, step, 4) for step in range(13)]
    assert rates == pytest.approx([np.cos(np.pi * step / 24) ** 2 for step in range(13)])


def test_class_weights_are_scikit_learns():
    targets = np.random.default_rng(0).choice([0, 1, 3], 200, p=[0.7, 0.2, 0.1])
    weights = recipes.inverse_frequency(targets, 5)
    theirs = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=targets)
    assert weights[[0, 1, 3]].tolist() == pytest.approx(theirs.tolist(), rel=1e-6)
    assert weights[[2, 4]].tolist() == [0, 0] and weights.dtype == torch.float32
    assert weights[targets].mean().item() == pytest.approx(1, abs=1e-5)
    with pytest.raises(ContractError, match="one class an image"):
        recipes.inverse_frequency(np.zeros((3, 2), np.int64), 2)


STILL = SETTINGS | {"lr": 0.0, "epochs": 2, "flips": "none", "warmup_epochs": 0}  # nothing moves


def fixed_losses(data):
    """Losses of every image under the starting weights, without random depth."""
    options = SWIN | {"drop_path_rate": 0.0}
    torch.manual_seed(0)
    model = models.build(
        "swin_tiny_patch4_window7_224", len(data.classes), start="scratch", options=options
    )
    model.eval()
    with torch.no_grad():
        losses = per_image(model(to_float(data.images)), torch.from_numpy(data.targets))
    return model, losses.double().numpy()


def test_class_weights_and_share_enter_the_loss(skin, tmp_path, monkeypatch):
    monkeypatch.setattr(training.env, "training_dtype", lambda device: torch.float32)
    model, losses = fixed_losses(skin)
    split = split_by_group(skin, seed=0)
    weights = recipes.inverse_frequency(skin.targets[split.train], 7).numpy()
    assert weights.max() > 2 * weights.min()
    real, seen = training._Job._step, []

    def watched(job, index, *how):
        seen.append(index)
        return real(job, index, *how)

    monkeypatch.setattr(training._Job, "_step", watched)
    means = {}
    for weighted in (False, True):
        for share in (1.0, 0.25):
            seen.clear()
            settings = STILL | {"class_weights": weighted, "share": share}
            folder = tmp_path / f"{weighted}-{share}"
            history = training.fit(
                model, skin, split, settings, folder, seed=0, validate=lambda model: {}
            )
            images = -(-len(split.train) // int(1 / share))
            steps = -(-images // 16)
            epochs = [np.concatenate(seen[:steps]), np.concatenate(seen[steps:])]
            for row, epoch in zip(history, epochs, strict=True):
                assert len(epoch) == images == len(set(epoch)) and set(epoch) <= set(split.train)
                factor = weights[skin.targets[epoch]] if weighted else 1
                means[weighted, share] = (losses[epoch] * factor).mean()
                assert row["train_loss"] == pytest.approx(means[weighted, share], rel=1e-4)
            assert share == 1 or set(epochs[0]) != set(epochs[1])  # other images every epoch
    assert abs(means[True, 0.25] / means[False, 0.25] - 1) > 1e-3
    with pytest.raises(ContractError, match="one class an image"):
        training.fit(
            model,
            replace(skin, targets=np.eye(7, dtype=np.uint8)[skin.targets]),
            split,
            STILL | {"class_weights": True},
            tmp_path / "multi",
            seed=0,
            validate=lambda model: {},
        )


def test_the_best_epoch_must_gain_enough():
    assert recipes.best_epoch([0.5], 0.0) == 0
    assert recipes.best_epoch([0.5, 0.6, 0.6, 0.4], 0.0) == 1
    assert recipes.best_epoch([0.5, 0.503, 0.506, 0.512], 0.01) == 3  # over the best, not the last
    assert recipes.best_epoch([0.5, 0.509], 0.01) == 0


def scripted(scores, states):
    """A validation that returns ``scores`` one after the other and keeps the weights it saw."""

    def validate(model):
        states.append({k: v.clone() for k, v in model.state_dict().items()})
        return {"val_top1": scores[len(states) - 1]}

    return validate


def test_training_stops_after_its_patience_with_the_best_weights(skin, tmp_path, monkeypatch):
    settings = SETTINGS | {"epochs": 7, "patience": 2, "min_delta": 0.01, "share": 0.3}
    states = []
    scores = [0.1, 0.5, 0.505, 0.4, 0.9, 0.9, 0.9]
    numbers, weights = fit(skin, tmp_path, settings, scripted(scores, states))
    assert [row["val_top1"] for row in numbers] == scores[:4]  # two epochs after the second
    assert all(torch.equal(weights[k], states[1][k]) for k in weights)
    assert any(not torch.equal(weights[k], states[3][k]) for k in weights)
    monkeypatch.setattr(training._Job, "_step", None)  # and is read back so
    assert same((numbers, weights), fit(skin, tmp_path, settings, scripted(scores, [])))


def test_the_best_weights_are_taken_also_when_all_epochs_were_run(skin, tmp_path):
    settings = SETTINGS | {"epochs": 3, "share": 0.3}
    scores = [0.1, 0.7, 0.2]
    for patience, expected in ((40, 1), (0, 2)):  # without patience the last epoch counts
        states = []
        folder = tmp_path / str(patience)
        numbers, weights = fit(
            skin, folder, settings | {"patience": patience}, scripted(scores, states)
        )
        assert len(numbers) == 3
        assert all(torch.equal(weights[k], states[expected][k]) for k in weights)


def test_early_stopping_needs_a_score_to_look_at(skin, tmp_path):
    with pytest.raises(ContractError, match="val_top1.*set patience to 0"):
        fit(skin, tmp_path, SETTINGS | {"patience": 2, "share": 0.1})


STOPPING = SETTINGS | {
    "epochs": 6,
    "share": 0.4,
    "optimiser": "adam",
    "adam_eps": 0.1,
    "lr": 0.01,
    "weight_decay": 0.0,
    "schedule": "constant",
    "class_weights": True,
    "patience": 2,
    "min_delta": 0.001,
}


@pytest.fixture(scope="module")
def stopped(skin, tmp_path_factory):
    """An uninterrupted run of four epochs, the second the best, and its scores by weights."""
    script, known = [0.1, 0.6, 0.2, 0.3, 0.9, 0.9], {}

    def validate(model):
        total = sum(v.double().abs().sum().item() for v in model.state_dict().values())
        return {"val_top1": known.setdefault(total, script[len(known)])}

    run = fit(skin, tmp_path_factory.mktemp("stopped"), STOPPING, validate)
    assert len(run[0]) == len(known) == 4
    return run, validate


@pytest.mark.parametrize(
    ("method", "calls"),
    [
        ("_step", 2),
        ("_step", 4),
        ("_step", 7),
        ("_step", 11),
        ("finish_epoch", 1),
        ("finish_epoch", 3),
        ("save", 7),
        ("save", 9),
        ("save", 15),
    ],
)
def test_an_interruption_does_not_change_the_best(
    skin, stopped, tmp_path, monkeypatch, method, calls
):
    whole, validate = stopped
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    mend = interrupt(monkeypatch, method, calls)
    with pytest.raises(KeyboardInterrupt):
        fit(skin, tmp_path, STOPPING, validate)
    mend()
    torch.rand(17)
    assert same(whole, fit(skin, tmp_path, STOPPING, validate))


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


def test_crops_reach_the_network_and_come_again_with_the_seed(skin, tmp_path):
    settings = dict(SETTINGS, epochs=1, crops=0.5)
    first = fit(skin, tmp_path / "a", settings)
    assert same(first, fit(skin, tmp_path / "b", settings))
    assert not same(first, fit(skin, tmp_path / "c", dict(settings, crops=1.0)))


def test_an_interruption_changes_no_crop(skin, tmp_path, monkeypatch):
    settings = dict(SETTINGS, epochs=1, crops=0.5)
    first = fit(skin, tmp_path / "a", settings)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    mend = interrupt(monkeypatch, "_step", 3)
    with pytest.raises(KeyboardInterrupt):
        fit(skin, tmp_path / "b", settings)
    mend()
    assert same(first, fit(skin, tmp_path / "b", settings))


def test_a_recipe_may_fix_the_precision_without_asking_the_machine(skin, tmp_path, monkeypatch):
    monkeypatch.setattr(training.env, "training_dtype", None)
    for precision in ("float32", "bfloat16"):
        settings = dict(SETTINGS, epochs=1, precision=precision)
        assert fit(skin, tmp_path / precision, settings)[0][0]["precision"] == precision


@pytest.mark.parametrize(("momentum", "weight"), [(None, 0.1), (0.01, 0.01)])
def test_batch_norm_forgets_as_fast_as_the_recipe_says(skin, tmp_path, momentum, weight):
    torch.manual_seed(0)
    model = models.build("resnet10t", len(skin.classes), start="scratch")
    seen = []
    model.backbone.bn1.register_forward_pre_hook(
        lambda module, x: seen.append(x[0].mean((0, 2, 3)))
    )
    split = split_by_group(skin, seed=0)
    settings = dict(SETTINGS, epochs=1, precision="float32", batch_norm_momentum=momentum)
    settings |= {"batch": len(split.train), "lr": 0.0}
    training.fit(model, skin, split, settings, tmp_path, seed=0, validate=lambda model: {})
    assert len(seen) == 1
    assert torch.allclose(model.backbone.bn1.running_mean, weight * seen[0], rtol=1e-3, atol=1e-5)
