"""Method one of paper 4 against the same written out, image by image and class by class."""

import pytest
import torch
import torch.nn.functional as F
from segmenters import tissue, trained, untrained
from torch import nn

from medrobust_utils.attacks import layered_pgd, pgd
from medrobust_utils.attacks.layered import full_area
from medrobust_utils.core.errors import ContractError
from medrobust_utils.core.losses import IGNORED

EPS = 0.02
HOW = dict(classes=(0, 1, 2), steps=3, step_size=0.01)


def written_out(model, image, label, ball, present, classes, steps, step_size):
    """Equation 2 with its steps."""
    moved = image.clone()
    for kind in classes:
        if present and not (label == kind).any():
            continue
        centre = image if ball == "image" else moved.clone()
        for _ in range(steps):
            pixels = moved.clone().requires_grad_()
            loss = -model(pixels[None]).log_softmax(1)[0, kind].mean()
            (uphill,) = torch.autograd.grad(loss, pixels)
            moved = (pixels.detach() - step_size * uphill.sign()).clamp(centre - EPS, centre + EPS)
            moved = moved.clamp(0, 1)
    return moved


def differ(one, other):
    """Share of pixels that differ: a sign may turn where the gradient is nearly 0."""
    return (one - other).abs().gt(1e-5).float().mean().item()


@pytest.mark.parametrize("net", [trained, untrained])
@pytest.mark.parametrize("ball", ["stage", "image"])
@pytest.mark.parametrize("present", [False, True])
def test_it_is_the_method_written_out(net, ball, present):
    images, labels = (part[:3].clone() for part in tissue(3))
    labels[0] = labels[0].clamp(max=1)
    labels[1] = labels[1].clamp(min=1)
    model = net(3)
    ours = layered_pgd(model, images, labels, EPS, **HOW, ball=ball, present=present)
    pairs = zip(images, labels, strict=True)
    slow = torch.stack([written_out(model, *pair, ball, present, **HOW) for pair in pairs])
    assert differ(ours, slow) < 0.01 and differ(ours, images) > 0.5


def test_every_layer_pushes_to_its_class_and_the_last_one_wins():
    images, labels = (part[:4] for part in tissue(3))
    model, towards = trained(3), full_area(images, 1).long()

    def loss(moved):
        with torch.no_grad():
            return F.cross_entropy(model(moved), towards).item()

    last = layered_pgd(model, images, labels, EPS, **HOW | dict(classes=(0, 2, 1)))
    first = layered_pgd(model, images, labels, EPS, **HOW | dict(classes=(1, 0, 2)))
    assert loss(last) < loss(images) and loss(last) < loss(first)


@pytest.mark.parametrize("eps", [1e-7, 1 / 255, 0.02, 1.0])
def test_the_bounds_hold(eps):
    hard = torch.cat([tissue(3)[0][:2], torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)])
    labels = tissue(3)[1][:4]
    how = HOW | dict(step_size=eps)
    near = layered_pgd(trained(3), hard, labels, eps, **how, ball="image")
    far = layered_pgd(trained(3), hard, labels, eps, **how, ball="stage")
    bound = torch.tensor(eps)
    assert ((near - hard).abs() <= bound).all()
    assert ((far - hard).abs() <= 3 * bound * (1 + 1e-5)).all()
    assert eps == 1 or ((far - hard).abs() > 1.5 * bound).any()  # stages do add up
    for moved in (near, far):
        assert moved.min() >= 0 and moved.max() <= 1


@pytest.mark.parametrize("ball", ["stage", "image"])
def test_classes_that_an_image_lacks_are_left_out(ball):
    images = tissue(3)[0][:3]
    labels = torch.full((3, 32, 32), IGNORED, dtype=torch.uint8)
    labels[1, :4], labels[2, 0, 0] = 1, 2
    how = HOW | dict(ball=ball)
    found = layered_pgd(trained(3), images, labels, EPS, **how, present=True)
    assert torch.equal(found[0], images[0])
    for row, kind in ((1, 1), (2, 2)):
        alone = images[row, None]
        one = layered_pgd(trained(3), alone, labels[row, None], EPS, **how | dict(classes=(kind,)))
        assert differ(found[row], one[0]) < 0.01
        plain = pgd(
            trained(3),
            alone,
            full_area(alone, kind),
            EPS,
            steps=3,
            step_size=0.01,
            random_start=False,
            targeted=True,
        )
        assert torch.equal(one, plain)


def test_images_and_model_are_left_alone_and_batches_do_not_matter():
    images, labels = (part[:3] for part in tissue(3))
    model, kept = trained(3), images.clone()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = layered_pgd(model, images, labels, EPS, **HOW, present=True)
    assert torch.equal(images, kept) and not found.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    for row in range(3):
        pair = images[row, None], labels[row, None]
        alone = layered_pgd(model, *pair, EPS, **HOW, present=True)
        assert differ(alone[0], found[row]) < 0.01
    assert layered_pgd(model, images[:0], labels[:0], EPS, **HOW).shape == (0, 3, 32, 32)


def test_any_module_with_such_logits_will_do():
    images, labels = (part[:2] for part in tissue(3))
    for present in (False, True):
        model = nn.Conv2d(3, 3, 1).eval()
        found = layered_pgd(model, images, labels, EPS, **HOW, present=present)
        assert differ(found, images) > 0.1


BAD = [
    ("ball", "sphere", "choose stage or image"),
    ("eps", 8, "8/255, not 8"),
    ("classes", (0, 3), "knows 0 to 2"),
    ("steps", 0, "1 step or more"),
    ("images", lambda x: x * 255, "Divide"),
    ("labels", lambda y: y.clone().fill_(3), "knows 0 to 2, and 255"),
    ("labels", lambda y: y[:, :16], "nearest pixel"),
    ("labels", lambda y: y.float(), "whole class numbers"),
    ("labels", lambda y: y[:1], "one for every pixel"),
    ("labels", lambda y: y[:, 0, 0], "one for every pixel"),
    ("model", lambda m: m.train(), "eval"),
]


@pytest.mark.parametrize(("what", "bad", "message"), BAD)
def test_a_breach_has_its_own_error(what, bad, message):
    images, labels = (part[:2] for part in tissue(3))
    call = dict(model=untrained(3), images=images, labels=labels, eps=EPS, **HOW)
    call["present"] = what == "labels"
    call[what] = bad(call[what]) if callable(bad) else bad
    with pytest.raises(ContractError, match=message):
        layered_pgd(**call)
