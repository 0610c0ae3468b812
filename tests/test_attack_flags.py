"""Each red flag rises for a model made to deserve it, and none for a plain one."""

import pytest
import torch
from torch import nn

from medrobust_utils import attacks
from medrobust_utils.data import to_float

SIGNS = (
    "more steps help much",
    "random noise beats PGD",
    "accuracy does not reach 0 at a huge eps",
    "zero gradients",
    "iterative weaker than single-step",
)
MORE, NOISE, HUGE, ZERO, SINGLE = SIGNS


def net(*before, outputs=7):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2), nn.GELU(), nn.Conv2d(8, 8, 3, 2), nn.GELU()]
    return nn.Sequential(*before, *layers, nn.Flatten(), nn.Linear(8 * 7 * 7, outputs)).eval()


@pytest.fixture(scope="module")
def images(skin):
    return to_float(skin.images[:80])


def flags_of(model, images, eps=2 / 255, labels=None, **how):
    if labels is None:
        with torch.no_grad():
            labels = model(images).argmax(1)
    found = attacks.red_flags(model, images, labels, eps, **how)
    return {flag.name for flag in found if flag.raised}, {flag.name: str(flag) for flag in found}


def test_a_plain_model_raises_none_and_what_was_wrong_before_is_left_out(images):
    raised, told = flags_of(net(), images)
    assert not raised and tuple(told) == SIGNS
    assert told[ZERO].startswith("fine: zero gradients: 0 of 64")
    with torch.no_grad():
        labels = net()(images).argmax(1)
    labels[:10] = (labels[:10] + 1) % 7
    assert "of 54 images" in flags_of(net(), images, labels=labels)[1][MORE]
    (only,) = attacks.red_flags(net(), images[:10], labels[:10], 2 / 255)
    assert str(only) == "RED FLAG: nothing to attack: 0 of 10 images right before"


class Steps(nn.Module):
    """Rounds pixels to a few gray levels: its gradient is zero everywhere."""

    def forward(self, images):
        return (images * 8).round() / 8


def test_a_staircase_has_no_gradients_to_follow(images):
    raised, told = flags_of(net(Steps()), images, eps=0.2)
    assert raised == {ZERO, HUGE} and "64 of 64 images have no gradient" in told[ZERO]


class Bright(nn.Module):
    """Class 0 for dark images; by ``height`` the margin ripples with the brightness."""

    def __init__(self, height=0.0):
        super().__init__()
        self.height = height

    def forward(self, images):
        mean = images.mean((1, 2, 3))
        margin = 0.5 - mean + self.height * torch.sin(mean * 900)
        return torch.stack([margin, -margin], 1)


def test_noise_beats_an_attack_caught_in_ripples():
    """Gradients point to the next crest, noise lands anywhere."""
    images, zeros = torch.full((8, 3, 8, 8), 0.49), torch.zeros(8).long()
    raised, told = flags_of(Bright(0.012).eval(), images, eps=0.06, labels=zeros)
    assert raised == {NOISE, HUGE} and "noise fools" in told[NOISE]


def test_too_few_steps_are_noticed():
    """The far end of the ball alone fools, which takes more than two steps of eps / 4."""
    how = dict(eps=0.1, labels=torch.zeros(8).long())
    images = torch.full((8, 3, 8, 8), 0.41)
    raised, told = flags_of(Bright().eval(), images, steps=2, **how)
    assert raised == {MORE, SINGLE} and "8 are robust after 2 steps, 0 after 8" in told[MORE]
    assert not flags_of(Bright().eval(), images, **how)[0]


@pytest.mark.parametrize("outputs", [1, 3])
def test_every_head_is_judged(outputs, images):
    model = net(outputs=outputs)
    with torch.no_grad():
        yes = (model(images) > 0).long()
    labels = yes[:, 0] if outputs == 1 else yes
    assert tuple(flags_of(model, images, eps=8 / 255, labels=labels)[1]) == SIGNS
