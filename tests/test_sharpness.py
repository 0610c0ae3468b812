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


def test_rise_of_a_linear_net_is_exact(images):
    model, labels = Slope(0.5).eval(), torch.zeros(40, dtype=torch.int64)
    before = margins(model, images)
    for eps in (1 / 255, 0.05):
        expected = softplus(before - 0.5 * COUNT * eps) - softplus(before)
        found = sharpness.rise(model, images, labels, eps)
        assert found.shape == (40,) and found.dtype == np.float64
        np.testing.assert_allclose(found, expected, atol=2e-5, rtol=1e-4)
    assert (sharpness.rise(model, images, labels, 0.0) == 0).all()
    one = sharpness.rise(model, images, labels)
    assert (one == sharpness.rise(model, images, labels, 1 / 255)).all()


def test_gradient_norm_of_a_linear_net_is_exact(images):
    model, labels = Slope(0.5).eval(), torch.zeros(40, dtype=torch.int64)
    expected = 0.5 * COUNT / (1 + np.exp(margins(model, images)))
    found = sharpness.gradient_norm(model, images, labels)
    assert found.shape == (40,) and found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_gradient_norm_is_the_rise_at_a_small_eps(images):
    torch.manual_seed(0)
    model, labels = models.build("test_resnet", 3, start="scratch").eval(), torch.arange(40) % 3
    eps = 1e-4
    slope = sharpness.gradient_norm(model, images, labels)
    ratio = sharpness.rise(model, images, labels, eps) / (eps * slope)
    assert np.median(ratio) == pytest.approx(1, abs=0.01)  # a kink may lie between
    assert (np.abs(ratio - 1) < 0.25).all()


def test_the_loss_of_a_net_that_is_sure_is_not_lost_in_rounding(images):
    model, labels = Slope(0.5).eval(), torch.zeros(40, dtype=torch.int64)
    model.offset = float((images * model.weights).sum((1, 2, 3)).min()) - 18
    before = margins(model, images)
    expected = softplus(before - 0.5 * COUNT / 255) - softplus(before)
    found = sharpness.rise(model, images, labels)
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert 0 < found.max() < 1e-6


def test_a_sharper_net_is_told(images):
    labels = torch.zeros(40, dtype=torch.int64)
    flat, sharp = Slope(0.5).eval(), Slope(2.0).eval()
    for model in (flat, sharp):  # all images lie on the border between the classes
        model.offset = (images * model.weights).sum((1, 2, 3)).mean()
    for measure in (sharpness.rise, sharpness.gradient_norm):
        assert measure(sharp, images, labels).mean() > 2 * measure(flat, images, labels).mean()


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


def test_surface_of_a_linear_net_is_exact(images):
    model, label = Slope(0.5).eval(), torch.zeros(1, dtype=torch.int64)
    changes, losses = sharpness.surface(model, images[:1], label, 0.1, points=5, seed=3)
    assert losses.shape == (5, 5) and losses.dtype == np.float64
    np.testing.assert_allclose(changes, [-0.1, -0.05, 0, 0.05, 0.1], atol=1e-12)
    before = margins(model, images[:1])
    np.testing.assert_allclose(losses[2, 2], softplus(before)[0], rtol=1e-5)
    # the gradient's sign is minus that of the weights: down the rows the loss only rises
    np.testing.assert_allclose(
        losses[:, 2], softplus(before - 0.5 * COUNT * changes), atol=2e-5, rtol=1e-4
    )
    coin = torch.randint(0, 2, (1, *SHAPE), generator=torch.Generator().manual_seed(3)) * 2 - 1
    slant = float((coin * model.weights).sum())
    assert 0 < abs(slant) < 0.2 * 0.5 * COUNT  # all but orthogonal
    np.testing.assert_allclose(losses[2], softplus(before + slant * changes), atol=2e-5, rtol=1e-4)
    corner = softplus(before - 0.5 * COUNT * 0.1 + slant * 0.1)[0]
    np.testing.assert_allclose(losses[4, 4], corner, atol=2e-5, rtol=1e-4)


def test_single_logits_and_several_labels_have_a_sharpness(images):
    for outputs, labels in ((1, torch.arange(40) % 2), (4, (torch.arange(160) % 2).view(40, 4))):
        torch.manual_seed(0)
        model = models.build("test_resnet", outputs, start="scratch").eval()
        assert (sharpness.rise(model, images, labels) > 0).all()
        assert (sharpness.gradient_norm(model, images, labels) > 0).all()


def test_neither_batches_nor_neighbours_matter(images, monkeypatch):
    torch.manual_seed(0)
    model, labels = models.build("test_resnet", 3, start="scratch").eval(), torch.arange(40) % 3
    for measure in (sharpness.rise, sharpness.gradient_norm):
        whole = measure(model, images, labels)
        with monkeypatch.context() as patch:
            patch.setattr(sharpness, "BATCH", 7)
            np.testing.assert_allclose(measure(model, images, labels), whole, rtol=0.02, atol=1e-5)


class Root(Slope):
    def forward(self, images):
        return super().forward((images - images).sqrt())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x, y: sharpness.rise(m, x, y, 1.0 * 8), "8/255, not 8"),
        (lambda m, x, y: sharpness.rise(m, x, y[:3]), "40 images but 3 labels"),
        (lambda m, x, y: sharpness.rise(m.train(), x, y), "training mode"),
        (lambda m, x, y: sharpness.gradient_norm(m, 2 * x, y), "Divide 8-bit"),
        (lambda m, x, y: sharpness.gradient_norm(Root(1.0).eval(), x, y), "NaN or infinity"),
        (
            lambda m, x, y: sharpness.gradient_norm(nn.Sequential(m, nn.Softmax(1)).eval(), x, y),
            "probabilities",
        ),
        (lambda m, x, y: sharpness.surface(m, x, y), "image\\[None\\]"),
        (lambda m, x, y: sharpness.surface(m, x[:1], y[:1], points=4), "odd"),
    ],
)
def test_a_breach_is_explained(call, message, images):
    with pytest.raises(ContractError, match=message):
        call(Slope(0.5).eval(), images, torch.zeros(40, dtype=torch.int64))
