"""Our attacks against Foolbox: the same model, images, eps and start, image by image."""

import numpy as np
import pytest
import torch

from medrobust_utils import attacks, models
from medrobust_utils.attacks.engine import uniform_start
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
    theirs = attacks.foolbox_fgsm(model, images, labels, eps)
    # where Foolbox's rounding leaves the ball, ours is the next number inside
    outside = (theirs - images).abs() > torch.tensor(eps)
    assert torch.equal(torch.where(outside, ours, theirs), ours)
    assert torch.equal(torch.where(outside, torch.nextafter(theirs, images), theirs), ours)
    by_hand = PyTorchModel(model, bounds=(0, 1)), images, labels
    assert torch.equal(LinfFastGradientAttack()(*by_hand, epsilons=eps)[1], theirs)


@pytest.mark.parametrize("begin", ["image", "random"])
def test_pgd_has_the_same_outcome_for_every_image(case, begin):
    model, images, labels, eps = case
    start = None
    if begin == "random":
        start = uniform_start(images, eps, torch.Generator().manual_seed(0))
    how = dict(steps=20, start=start, random_start=False)
    ours = fooled(model, attacks.pgd(model, images, labels, eps, **how), labels)
    theirs = fooled(model, attacks.foolbox_pgd(model, images, labels, eps, **how), labels)
    assert (ours != theirs).float().mean() <= 0.01
    assert 0.05 < ours.float().mean() < 0.98  # an eps at which the outcome is open


def test_defaults_and_random_start_are_those_of_foolbox(case):
    from foolbox.attacks import LinfPGD

    theirs, ours = LinfPGD(), attacks.AttackConfig("independent")
    assert (theirs.steps, theirs.rel_stepsize) == (ours.steps, ours.rel_step)
    assert theirs.random_start and theirs.abs_stepsize is None
    model, images, labels, eps = case
    how = dict(steps=1, step_size=0.0)
    moved = [
        attack(
            model, images[:8], labels[:8], eps, generator=torch.Generator().manual_seed(4), **how
        )
        for attack in (attacks.pgd, attacks.foolbox_pgd)
    ]
    assert torch.allclose(*moved, atol=1e-7, rtol=0) and not torch.equal(moved[0], images[:8])


def test_a_sweep_by_foolbox_is_one_word_away(skin):
    model, index = build("swin", 7), np.arange(24)
    how = dict(mode="independent", steps=10, seed=2)
    ours, theirs = (
        attacks.attack_sweep(model, skin, index, [0, 0.001, 0.01, 1], engine=engine, **how)
        for engine in ("native", "foolbox")
    )
    assert np.array_equal(ours.clean, theirs.clean)
    assert (ours.right != theirs.right).mean() <= 0.01


def test_what_foolbox_cannot_do_is_said(case):
    model, images, labels, eps = case
    with pytest.raises(ContractError, match="float32"):
        attacks.foolbox_pgd(model, images, labels, eps, dtype=torch.bfloat16)
    for other in (labels.float(), torch.zeros(140, 2)):
        with pytest.raises(ContractError, match="native"):
            attacks.foolbox_fgsm(model, images, other, eps)
