"""Noise is what the paper says it is, the same for every model and batch; sweeps resume."""

import numpy as np
import pytest
import torch
from torch import nn

from medrobust_utils import attacks, models
from medrobust_utils.attacks.noise import signs
from medrobust_utils.core import env
from medrobust_utils.core.errors import ContractError, RunError
from medrobust_utils.data import to_float
from medrobust_utils.models.complexity import attention_costs, growth_exponent
from medrobust_utils.scoring import predict

IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Linear(models.MedicalModel):
    """Returns channel means as logits, so that noise can be followed by hand."""

    def __init__(self, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)):
        super().__init__(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), mean, std)


def test_the_two_readings_of_a_level():
    assert attacks.noise_std(0.04, "variance") == pytest.approx(0.2)
    assert attacks.noise_std(0.04, "multiplier") == 0.04
    with pytest.raises(ContractError, match="variance, multiplier"):
        attacks.noise_std(0.04, "sigma")
    with pytest.raises(ContractError, match="negative"):
        attacks.noise_std(-1, "variance")


def test_noise_is_standard_normal_and_belongs_to_seed_and_image():
    noise = attacks.gaussian((3, 64, 64), range(20), seed=1)
    assert torch.equal(signs((3, 8, 8), [4, 9], 1)[1], signs((3, 8, 8), [9], 1)[0])
    assert abs(noise.mean().item()) < 0.01 and abs(noise.std().item() - 1) < 0.01
    assert torch.equal(noise[7], attacks.gaussian((3, 64, 64), [7], seed=1)[0])
    assert not torch.equal(noise[7], attacks.gaussian((3, 64, 64), [7], seed=2)[0])
    assert not torch.equal(noise[7], noise[8])


def test_noise_is_added_after_normalisation_and_not_clipped():
    model, noise = Linear(), torch.full_like(IMAGES, 50.0)
    moved = attacks.noisy_logits(model, IMAGES, noise, 0.2)
    assert torch.allclose(moved - model(IMAGES), torch.full((4, 3), 10.0), atol=1e-4)


def test_models_with_another_normalisation_see_the_same_noise():
    noise = attacks.gaussian((3, 16, 16), range(4), 0)
    usual, caffe = Linear(), Linear((0.4, 0.4, 0.4), (1 / 255,) * 3)

    def change(model):
        return (
            attacks.noisy_logits(model, IMAGES, noise, 0.3) - model(IMAGES)
        ) * model.std.flatten()

    assert torch.allclose(change(usual), change(caffe), atol=1e-5)


@pytest.fixture
def model(skin):
    torch.manual_seed(0)
    return models.build("resnet18", len(skin.classes), start="scratch").eval()


def test_prediction_is_the_same_for_every_batch_size(model, skin):
    index = np.arange(10, 30)
    a, b = (predict.predict(model, skin, index, batch=batch) for batch in (3, 20))
    assert a.shape == (20, 7) and a.dtype == np.float32
    assert np.allclose(a, b, atol=1e-5)
    with torch.inference_mode():
        assert np.allclose(a, model(to_float(skin.images[index])).numpy(), atol=1e-5)
    with pytest.raises(ContractError, match="empty"):
        predict.predict(model, skin, np.arange(0))


def sweep(model, data, folder, seeds=None):
    return predict.noise_sweep(
        model,
        data,
        np.arange(12),
        folder,
        levels=[0, 0.1, 0.4],
        seeds=seeds or {"variance": 2, "multiplier": 1},
        first_seed=5,
    )


def test_a_sweep_has_every_cell_and_noise_matters(model, skin, tmp_path):
    cells = sweep(model, skin, tmp_path)
    assert set(cells) == {("none", 0.0, 0)} | {
        (reading, level, seed)
        for reading, seeds in (("variance", (5, 6)), ("multiplier", (5,)))
        for level in (0.1, 0.4)
        for seed in seeds
    }
    clean = cells["none", 0.0, 0]
    assert np.allclose(clean, predict.predict(model, skin, np.arange(12)))
    strong = np.abs(cells["variance", 0.4, 5] - clean).mean()
    weak = np.abs(cells["multiplier", 0.1, 5] - clean).mean()
    assert strong > 2 * weak > 0
    assert not np.array_equal(cells["variance", 0.4, 5], cells["variance", 0.4, 6])


def test_an_interrupted_sweep_goes_on(model, skin, tmp_path, monkeypatch):
    expected = sweep(model, skin, tmp_path / "whole")
    real, calls = predict.predict, []

    def stops(*args, **kwargs):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(predict, "predict", stops)
    with pytest.raises(KeyboardInterrupt):
        sweep(model, skin, tmp_path / "part")
    monkeypatch.setattr(predict, "predict", lambda *a, **k: calls.append(2) or real(*a, **k))
    cells = sweep(model, skin, tmp_path / "part")
    assert calls.count(2) == len(expected) - 3
    assert all(np.array_equal(cells[key], expected[key]) for key in expected)


def test_kept_logits_are_those_of_the_images_asked_for(model, skin, tmp_path):
    predict.kept(tmp_path / "logits.npz", model, skin, np.arange(6))
    with pytest.raises(RunError, match="other images"):
        predict.kept(tmp_path / "logits.npz", model, skin, np.arange(7))


def test_float32_is_not_shortened_while_scoring():
    matmul, before = torch.backends.cuda.matmul, torch.backends.cuda.matmul.allow_tf32
    try:
        matmul.allow_tf32 = True
        with env.full_float32():
            assert not matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32
        assert matmul.allow_tf32
    finally:
        matmul.allow_tf32 = before


def test_attention_costs_what_the_equations_say():
    costs = attention_costs([14, 28, 56, 112], channels=96, window=7)
    assert (costs["counted"] == costs["formula"]).all()
    by_hand = costs.set_index(["kind", "patches"])["formula"]
    assert by_hand["global", 196] == 4 * 196 * 96**2 + 2 * 196**2 * 96
    assert by_hand["window", 196] == 4 * 196 * 96**2 + 2 * 49 * 196 * 96
    growth = {
        kind: growth_exponent([*part["counted"]], [*part["patches"]])
        for kind, part in costs.groupby("kind")
    }
    assert growth["window"] == pytest.approx(1) and growth["global"] > 1.9
    with pytest.raises(ContractError, match="do not tile"):
        attention_costs([15], channels=96, window=7)
