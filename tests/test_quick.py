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


class Drawing(Shared):
    """Adds noise of its own, which tracing would freeze."""

    def forward(self, images):
        return self.one(self.conv(images)).mean((2, 3)) + torch.randn(len(images), 4)


class Branching(Shared):
    def forward(self, images):
        pooled = self.one(self.conv(images)).mean((2, 3))
        return pooled if pooled.max() > 0 else -pooled


class Sized(Shared):
    """Tracing takes the number of images for a constant."""

    def forward(self, images):
        return self.one(self.conv(images)).mean((2, 3)) / len(images)


@pytest.mark.parametrize("kind", [Shared, Drawing, Branching, Sized])
def test_what_cannot_be_folded_is_copied_as_it_is(kind):
    model, images = kind().eval(), torch.rand(2, 3, 8, 8)
    copied = fold_batchnorm.quick_copy(model, images[:1])
    assert copied is not model
    torch.manual_seed(1)
    found = copied(images)
    torch.manual_seed(1)
    torch.testing.assert_close(found, model(images))


class Wrong(nn.Module):
    """``sign`` -1: follow its gradient and you go the wrong way; 1: calls every image wrong."""

    def __init__(self, model, sign):
        super().__init__()
        self.model, self.sign = model, sign

    def forward(self, images):
        logits = self.sign * self.model(images)
        return logits + 100 * (torch.arange(7) > 0) if self.sign > 0 else logits


@pytest.mark.parametrize(("attack", "sign"), [("pgd", 1), ("autoattack", -1)])
def test_an_attack_believes_only_the_network(attack, sign, network, monkeypatch):
    """To the copy every image is fooled at once; the network says which are."""
    skin, index = phantom_set("dermatoscopy7", 12, size=32), np.arange(12)
    skin.targets[:] = 0
    with torch.no_grad():  # all are right, some of them narrowly
        logits = network(to_float(skin.images))
        network.backbone.fc.bias[0] += (logits[:, 1:].amax(1) - logits[:, 0]).max() + 0.01
    how = dict(epsilons=[0.03, 0.1])
    if attack == "autoattack":
        how = dict(epsilons=[0.0002], attack=attack, steps=5, targets=2, queries=5)
    fair = attacks.attack_sweep(network, skin, index, **how)
    assert fair.clean_right.all()
    monkeypatch.setattr(radius_sweep, "quick_copy", lambda model, images: Wrong(model, sign).eval())
    astray = attacks.attack_sweep(network, skin, index, **how)
    if attack == "pgd":  # attacked on, until the network agrees
        assert not fair.right[-1].all()
        assert (astray.right.sum(1) <= fair.right.sum(1) + 1).all()
    else:
        assert astray.right.sum() >= fair.right.sum() > 0
    with torch.no_grad():
        assert np.allclose(astray.clean, network(to_float(skin.images)), atol=1e-4)
