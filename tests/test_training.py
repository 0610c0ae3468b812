"""A killed and resumed training ends with the numbers of an uninterrupted one."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from medrobust_utils import models, training
from medrobust_utils.data import split_by_group
from medrobust_utils.errors import ContractError, RunError

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


def test_training_learns_and_repeats_itself(skin, whole, tmp_path):
    losses = [row["train_loss"] for row in whole[0]]
    assert len(losses) == 3 and losses[-1] < losses[0]
    assert same(whole, fit(skin, tmp_path))
    assert not same(whole, fit(skin, tmp_path / "other", seed=1))


@pytest.mark.parametrize("steps", [1, 6, 7, 8, 20], ids="after {} steps".format)
def test_an_interruption_changes_nothing(skin, whole, tmp_path, monkeypatch, steps):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    real, done = training._Job._step, []

    def interrupted(job, *args):
        if len(done) == steps:
            raise KeyboardInterrupt
        done.append(1)
        return real(job, *args)

    monkeypatch.setattr(training._Job, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(skin, tmp_path)
    monkeypatch.setattr(training._Job, "_step", real)
    torch.rand(17)  # the process that resumes has another random state
    assert same(whole, fit(skin, tmp_path))


CHILD = """
import json, sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from pathlib import Path
import test_training as t
from medrobust_utils import training
from medrobust_utils.data.phantoms import phantom_set
training.CHECKPOINT_SECONDS = 0.0
step = training._Job._step
def told(job, *args):
    print("step", flush=True)
    return step(job, *args)
training._Job._step = told
numbers, state = t.fit(phantom_set("dermatoscopy7", 140, size=32), Path({folder!r}))
total = sum(float(v.double().abs().sum()) for v in state.values())
print(json.dumps([numbers, total]), flush=True)
"""


def run_child(folder, kill_in_step=None):
    """Train in a process of its own; kill -9 lands somewhere in its n-th step, if told so."""
    source = CHILD.format(tests=os.path.dirname(__file__), folder=str(folder))
    child = subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL
    )
    for _ in range(kill_in_step or 0):
        assert child.stdout.readline() == "step\n"
    if kill_in_step:
        time.sleep(random.uniform(0, 0.05))
        child.send_signal(signal.SIGKILL)
    out = child.communicate()[0]
    return child.returncode if kill_in_step else json.loads(out.splitlines()[-1])


def test_kill_9_at_random_moments_changes_nothing(tmp_path):
    expected = run_child(tmp_path / "whole")
    steps = [random.randint(2, 9), random.randint(1, 8)]  # 21 in all, so both land in training
    print("killed in steps", steps)
    for step in steps:
        assert run_child(tmp_path / "killed", step) == -signal.SIGKILL
    assert run_child(tmp_path / "killed") == expected


def test_a_run_keeps_the_precision_it_began_with(skin, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(training.env, "training_dtype", lambda device: torch.bfloat16)
    half = fit(skin, tmp_path / "half")
    assert {row["precision"] for row in half[0]} == {"bfloat16"}
    real, done = training._Job._step, []

    def interrupted(job, *args):
        if len(done) == 9:
            raise KeyboardInterrupt
        done.append(1)
        return real(job, *args)

    monkeypatch.setattr(training._Job, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(skin, tmp_path / "mixed")
    monkeypatch.setattr(training._Job, "_step", real)
    monkeypatch.setattr(training.env, "training_dtype", lambda device: torch.float32)
    assert same(half, fit(skin, tmp_path / "mixed"))


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
