"""The quicker copy: the same answers and gradients, and the network itself has the last word."""

import numpy as np
import pytest
import torch
from torch import nn

from medrobust_utils import attacks
from medrobust_utils.attacks import fold_batchnorm, radius_sweep
from medrobust_utils.attacks.engine import gradient
from medrobust_utils.data import phantom_set, to_float
from medrobust_utils.models import build


@pytest.fixture
def network():
    """ResNet-10 whose batch norms have seen data, so that folding them changes the weights."""
    torch.manual_seed(0)
    model = build("resnet10t", 7, start="scratch")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.eval()


@pytest.fixture
def skin():
    return phantom_set("dermatoscopy7", 12, size=32)


def norms(model):
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_batch_norm_is_folded_away_and_the_network_is_left_alone(network):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images, labels = torch.rand(5, 3, 32, 32), torch.arange(5)
    copied = fold_batchnorm.quick_copy(network, images[:1])
    assert norms(network) > 5 and norms(copied) == 0
    assert not any(p.requires_grad for p in copied.parameters())
    assert all(p.requires_grad for p in network.parameters())
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    ours, theirs = (gradient(m, images, labels, (0, 4)) for m in (copied, network))
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-4, atol=1e-5)
    assert (ours[0] - theirs[0]).abs().max() < 1e-3 * theirs[0].abs().max()


class Shared(nn.Module):
    """One convolution for two batch norms, which have seen different data."""

    def __init__(self):
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        nn.init.constant_(self.two.running_mean, 3.0)

    def forward(self, images):
        return (self.one(self.conv(images)) + self.two(self.conv(images))).mean((2, 3))


class Drawing(nn.Module):
    """Adds noise of its own, which tracing would freeze."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, images):
        return self.norm(self.conv(images)).mean((2, 3)) + torch.randn(len(images), 4)


class Branching(Shared):
    def forward(self, images):
        pooled = self.one(self.conv(images)).mean((2, 3))
        return pooled if pooled.max() > 0 else -pooled


@pytest.mark.parametrize("kind", [Shared, Drawing, Branching])
def test_what_cannot_be_folded_is_copied_as_it_is(kind):
    model, images = kind().eval(), torch.rand(2, 3, 8, 8)
    copied = fold_batchnorm.quick_copy(model, images)
    assert copied is not model and type(copied) is kind and norms(copied) == norms(model)
    torch.manual_seed(1)
    found = copied(images)
    torch.manual_seed(1)
    torch.testing.assert_close(found, model(images))


class Single(nn.Module):
    """Right for one image, wrong for more: tracing took their number for a constant."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(images) / len(images)


def test_a_folded_copy_has_to_be_right_for_more_than_one_image(network, monkeypatch):
    monkeypatch.setattr(fold_batchnorm, "fuse", Single)
    copied = fold_batchnorm.quick_copy(network, torch.rand(1, 3, 32, 32))
    assert type(copied) is type(network)


class Contrary(nn.Module):
    """Follow its gradient and you go the wrong way."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return -self.model(images)


class Slander(nn.Module):
    """Calls every image wrong; its gradients are as good as any."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        logits = self.model(images)
        return torch.cat([logits[:, :1], logits[:, 1:] + 100], 1)


def test_bisection_believes_only_the_network(network, skin, monkeypatch):
    """Who seems fooled to the copy is attacked on, until the network agrees."""
    index, epsilons = np.arange(12), [0.0, 0.03, 0.1]
    with torch.no_grad():  # all are right, some of them narrowly
        logits = network(to_float(skin.images))
        network.backbone.fc.bias[0] += (logits[:, 1:].amax(1) - logits[:, 0]).max() + 0.01
    skin.targets[:] = 0
    fair = attacks.attack_sweep(network, skin, index, epsilons)
    monkeypatch.setattr(radius_sweep, "quick_copy", lambda model, images: Slander(model).eval())
    astray = attacks.attack_sweep(network, skin, index, epsilons)
    assert fair.clean_right.all() and not fair.right[-1].all()
    assert (astray.right.sum(1) <= fair.right.sum(1) + 1).all()


def test_autoattack_believes_only_the_network(network, skin, monkeypatch):
    """To the copy everyone is fooled at once; the network says who has."""
    index = np.arange(12)
    how = dict(epsilons=[0.0002], steps=5, targets=2, queries=5)
    skin.targets[:] = network(_float(skin)).argmax(1).numpy()
    fair = attacks.autoattack_sweep(network, skin, index, **how)
    assert fair.clean_right.all() and fair.robust.sum() > 0

    monkeypatch.setattr(radius_sweep, "quick_copy", lambda model, images: Contrary(model).eval())
    astray = attacks.autoattack_sweep(network, skin, index, **how)
    assert np.allclose(astray.clean, fair.clean, atol=1e-5)
    assert astray.robust.sum() >= fair.robust.sum()


def _float(skin):
    return torch.from_numpy(skin.images).permute(0, 3, 1, 2).float() / 255
