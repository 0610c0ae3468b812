"""Each red flag rises for a model made to deserve it, and none for a plain one."""

import pytest
import torch
from torch import nn

from medrobust_utils import attacks
from medrobust_utils.data import to_float

NAMES = [
    "more steps help much",
    "random noise beats PGD",
    "accuracy does not reach 0 at a huge eps",
    "zero gradients",
    "iterative weaker than single-step",
]


def net(*before):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2), nn.GELU(), nn.Conv2d(8, 8, 3, 2), nn.GELU()]
    return nn.Sequential(*before, *layers, nn.Flatten(), nn.Linear(8 * 7 * 7, 7)).eval()


@pytest.fixture(scope="module")
def images(skin):
    return to_float(skin.images[:80])


def flags_of(model, images, eps=2 / 255, labels=None, **how):
    if labels is None:
        with torch.no_grad():
            labels = model(images).argmax(1)
    found = attacks.red_flags(model, images, labels, eps, **how)
    assert [flag.name for flag in found] == NAMES
    return {flag.name: flag for flag in found}


def raised(found):
    return {name for name, flag in found.items() if flag.raised}


def test_a_plain_model_raises_none(images):
    found = flags_of(net(), images)
    assert not raised(found)
    assert "of 64 images" in str(found["iterative weaker than single-step"])
    assert str(found["zero gradients"]).startswith("fine: zero gradients: 0 of 64")


class Steps(nn.Module):
    """Rounds pixels to a few gray levels: its gradient is zero everywhere."""

    def forward(self, images):
        return (images * 8).round() / 8


def test_a_staircase_has_no_gradients_to_follow(images):
    found = flags_of(net(Steps()), images, eps=0.2)
    assert raised(found) == {"zero gradients", "accuracy does not reach 0 at a huge eps"}
    assert "64 of 64 images have no gradient" in found["zero gradients"].measured


class Constant(nn.Module):
    def forward(self, images):
        return images.mean((1, 2, 3))[:, None] * torch.tensor([0.0, 0.0]) + torch.tensor([1.0, 3.0])


def test_a_model_that_looks_at_nothing_survives_everything(images):
    found = flags_of(Constant().eval(), images)
    assert "accuracy does not reach 0 at a huge eps" in raised(found)
    assert "64 of 64 images are robust at eps 0.5" in str(found[NAMES[2]])


class Waves(nn.Module):
    """A logit that ripples: gradients point to the next crest, noise lands anywhere."""

    def __init__(self, height):
        super().__init__()
        self.height = height

    def forward(self, images):
        mean = images.mean((1, 2, 3))
        margin = 0.5 - mean + self.height * torch.sin(mean * 900)
        return torch.stack([margin, -margin], 1)


def test_noise_beats_an_attack_caught_in_ripples():
    images = torch.full((8, 3, 8, 8), 0.49)
    found = flags_of(Waves(0.012).eval(), images, eps=0.06, labels=torch.zeros(8).long())
    assert raised(found) == {"random noise beats PGD", "accuracy does not reach 0 at a huge eps"}
    assert "noise fools" in found[NAMES[1]].measured


def test_too_few_steps_are_noticed():
    class Far(nn.Module):
        """Falls at the far end of the ball only, which takes more than two steps of eps / 4."""

        def forward(self, images):
            margin = 0.5 - images.mean((1, 2, 3))
            return torch.stack([margin, -margin], 1)

    images = torch.full((8, 3, 8, 8), 0.41)
    found = flags_of(Far().eval(), images, eps=0.1, labels=torch.zeros(8).long(), steps=2)
    assert raised(found) == {"more steps help much", "iterative weaker than single-step"}
    assert "8 are robust after 2 steps, 0 after 8" in found[NAMES[0]].measured
    assert not raised(flags_of(Far().eval(), images, eps=0.1, labels=torch.zeros(8).long()))


def test_what_was_wrong_before_is_left_out(images):
    model = net()
    with torch.no_grad():
        labels = model(images).argmax(1)
    mixed = labels.clone()
    mixed[:10] = (labels[:10] + 1) % 7
    assert "of 54 images" in str(flags_of(model, images, labels=mixed)[NAMES[0]])
    (only,) = attacks.red_flags(model, images, (labels + 1) % 7, 2 / 255)
    assert only.raised and str(only) == "RED FLAG: nothing to attack: 0 of 64 images right before"


@pytest.mark.parametrize("kind", ["single logit", "several labels"])
def test_every_head_is_judged(kind, images):
    torch.manual_seed(0)
    outputs = 1 if kind == "single logit" else 3
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.GELU(), nn.Flatten(), nn.Linear(1800, outputs))
    with torch.no_grad():
        yes = (model.eval()(images) > 0).long()
    labels = yes[:, 0] if outputs == 1 else yes
    assert flags_of(model, images, eps=8 / 255, labels=labels)
