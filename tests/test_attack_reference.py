"""Our attacks against Foolbox: the same model, images, eps and start, image by image."""

import numpy as np
import pytest
import torch

from medrobust_utils import attacks, models
from medrobust_utils.core.errors import ContractError
from medrobust_utils.data import to_float

EPS = {("cnn", 2): 4 / 255, ("cnn", 7): 2 / 255, ("swin", 2): 2 / 255, ("swin", 7): 1 / 255}
SWIN = dict(img_size=32, embed_dim=16, depths=(1, 1), num_heads=(1, 2), window_size=4)


def build(kind, classes):
    torch.manual_seed(0)
    if kind == "cnn":
        return models.build("test_resnet", classes, start="scratch").eval()
    name = "swin_tiny_patch4_window7_224"
    return models.build(name, classes, start="scratch", options=SWIN).eval()


@pytest.fixture(scope="module", params=list(EPS), ids="{0[0]}-{0[1]}".format)
def case(request, skin):
    """A net, 140 images that it has all right (the labels are what it says), and an eps."""
    model = build(*request.param)
    images = to_float(skin.images)
    with torch.no_grad():
        # a fresh head says one class of all images: centred, it says several
        logits = model(images)
        model.backbone.get_classifier().bias -= logits.mean(0)
        return model, images, (logits - logits.mean(0)).argmax(1), EPS[request.param]


def fooled(model, images, labels):
    with torch.no_grad():
        return model(images).argmax(1) != labels


def test_fgsm_is_identical(case):
    from foolbox import PyTorchModel
    from foolbox.attacks import LinfFastGradientAttack

    model, images, labels, eps = case
    ours = attacks.fgsm(model, images, labels, eps)
    by_hand = PyTorchModel(model, bounds=(0, 1)), images, labels
    theirs = LinfFastGradientAttack()(*by_hand, epsilons=eps)[1]
    # where Foolbox's rounding leaves the ball, ours is the next number inside
    outside = (theirs - images).abs() > torch.tensor(eps)
    assert torch.equal(torch.where(outside, ours, theirs), ours)
    assert torch.equal(torch.where(outside, torch.nextafter(theirs, images), theirs), ours)


def both(model, images, labels, eps, **how):
    """What independent PGD makes of the images, by the kit and by Foolbox."""
    how |= dict(mode="independent", seed=4)
    for engine in ("native", "foolbox"):
        (found,) = attacks.at_radii(model, images, labels, [eps], engine=engine, **how)
        yield found.images


def test_pgd_has_the_same_outcome_for_every_image(case):
    model, images, labels, eps = case
    ours, theirs = (fooled(model, moved, labels) for moved in both(*case, steps=20))
    assert (ours != theirs).float().mean() <= 0.01
    assert 0.05 < ours.float().mean() < 0.98  # an eps at which the outcome is open
    moved = list(both(*case, steps=1, step_size=0.0))  # left where it began
    assert torch.allclose(*moved, atol=1e-7, rtol=0) and not torch.equal(moved[0], images)


def test_defaults_are_those_of_foolbox():
    from foolbox.attacks import LinfPGD

    theirs, ours = LinfPGD(), attacks.AttackConfig("independent")
    assert (theirs.steps, theirs.rel_stepsize) == (ours.steps, ours.rel_step)
    assert theirs.random_start and theirs.abs_stepsize is None


def test_a_sweep_by_foolbox_is_one_word_away(skin):
    model, index = build("swin", 7), np.arange(24)
    how = dict(mode="independent", steps=10, seed=2)
    ours, theirs = (
        attacks.attack_sweep(model, skin, index, [0, 0.001, 0.01, 1], engine=engine, **how)
        for engine in ("native", "foolbox")
    )
    assert np.array_equal(ours.clean, theirs.clean)
    assert (ours.right != theirs.right).mean() <= 0.01


def test_what_foolbox_cannot_do_is_said(skin):
    model, images = build("cnn", 2), to_float(skin.images[:4])
    how = dict(mode="independent", engine="foolbox")
    with pytest.raises(ContractError, match="float32"):
        attacks.at_radii(model, images, [0, 1, 0, 1], [0.1], **how, dtype=torch.bfloat16)
    with pytest.raises(ContractError, match="native"):
        attacks.at_radii(model, images, torch.zeros(4, 2), [0.1], **how)
