"""Sharpness on losses that are known in closed form, and on a net that was sharpened."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from medrobust_utils import attacks, models
from medrobust_utils.core.errors import ContractError
from medrobust_utils.core.losses import per_image
from medrobust_utils.data import to_float
from medrobust_utils.explain import sharpness

SHAPE = (3, 8, 8)
COUNT = math.prod(SHAPE)


class Slope(nn.Module):
    """Two classes, apart by ``steep`` times the signed sum of an image, less ``offset``."""

    def __init__(self, steep, offset=0.0):
        super().__init__()
        signs = torch.randint(0, 2, SHAPE, generator=torch.Generator().manual_seed(1)) * 2 - 1
        self.register_buffer("weights", steep * signs)
        self.offset = offset

    def forward(self, images):
        margin = (images * self.weights).sum((1, 2, 3)) - self.offset
        return torch.stack([margin / 2, -margin / 2], 1)


def softplus(margin):
    return np.logaddexp(0, -np.asarray(margin, float))


@pytest.fixture
def images():
    """Far enough from black and white that nothing is clipped."""
    draw = torch.Generator().manual_seed(0)
    return 0.2 + 0.6 * torch.rand(40, *SHAPE, generator=draw)


def margins(model, images):
    logits = model(images)
    return (logits[:, 0] - logits[:, 1]).numpy()


@pytest.mark.parametrize("sure", [False, True])
def test_rise_of_a_linear_net_is_exact_even_where_float32_would_round_it_away(images, sure):
    model, labels = Slope(0.5).eval(), torch.zeros(40, dtype=torch.int64)
    if sure:
        model.offset = float((images * model.weights).sum((1, 2, 3)).min()) - 18
    before = margins(model, images)
    expected = softplus(before - 0.5 * COUNT / 255) - softplus(before)
    found = sharpness.rise(model, images, labels)
    assert found.shape == (40,) and found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert (found.max() < 1e-6) == sure
    assert (sharpness.rise(model, images, labels, 0.0) == 0).all()


def test_more_steps_and_larger_balls_find_more(skin):
    torch.manual_seed(0)
    model = models.build("test_resnet", 7, start="scratch").eval()
    images, labels = to_float(skin.images[:20]), torch.from_numpy(skin.targets[:20])
    with torch.no_grad():
        clean = per_image(model(images), labels)
    rise = [sharpness.rise(model, images, labels, k / 255) for k in (1, 4)]
    assert (rise[0] > 0).all() and (rise[1] > rise[0]).all()
    attacked = attacks.pgd(model, images, labels, 4 / 255, steps=40, random_start=False)
    with torch.no_grad():
        best = (per_image(model(attacked), labels) - clean).numpy()
    np.testing.assert_allclose(rise[1].mean(), best.mean(), rtol=0.1)
    few = sharpness.rise(model, images, labels, 4 / 255, steps=1)
    assert few.mean() < 0.5 * rise[1].mean()


@pytest.mark.parametrize("outputs", [1, 4])
def test_single_logits_and_several_labels_have_a_sharpness_whatever_the_batch(
    images, outputs, monkeypatch
):
    labels = torch.arange(40) % 2 if outputs == 1 else (torch.arange(160) % 2).view(40, 4)
    torch.manual_seed(0)
    model = models.build("test_resnet", outputs, start="scratch").eval()
    whole = sharpness.rise(model, images, labels)
    assert (whole > 0).all()
    monkeypatch.setattr(sharpness, "BATCH", 7)
    found = sharpness.rise(model, images, labels)
    np.testing.assert_allclose(found, whole, rtol=0.02, atol=1e-5)


def test_no_image_is_refused(images):
    with pytest.raises(ContractError, match="at least one"):
        sharpness.rise(Slope(0.5).eval(), images[:0], torch.zeros(0, dtype=torch.int64))
