"""Attacks on segmentations: label maps, targeted PGD, SegPGD, and the losses below them."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from segmenters import Plain, tissue, trained, untrained
from torch import nn
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from medrobust_utils.attacks import bim, engine, fgsm, mifgsm, pgd, segpgd
from medrobust_utils.attacks.layered import full_area
from medrobust_utils.core.contracts import check_labels, check_logits
from medrobust_utils.core.errors import ContractError
from medrobust_utils.core.losses import IGNORED, labelled, per_image, per_pixel

EPS = 0.02
STEPS = dict(steps=4, step_size=0.008)
STILL = dict(**STEPS, random_start=False)
SEGPGD = partial(segpgd, **STEPS)
ATTACKS = {
    "fgsm": fgsm,
    "bim": partial(bim, **STEPS),
    "mifgsm": partial(mifgsm, **STEPS),
    "pgd": partial(pgd, **STILL),
    "targeted": partial(pgd, **STILL, targeted=True),
    "segpgd": SEGPGD,
}
every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)


@pytest.fixture
def pair():
    """Four images and label maps of which one is labelled in part."""
    images, labels = (part[:4].clone() for part in tissue(3))
    labels[0, :8] = IGNORED
    return images, labels


def mean_loss(model, images, labels):
    with torch.no_grad():
        return per_image(model(images), labels)


def differ(one, other):
    """Share of pixels that differ: a sign may turn where the gradient is nearly 0."""
    return (one - other).abs().gt(1e-5).float().mean().item()


def test_the_loss_is_the_mean_over_labelled_pixels():
    logits = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[[0, 2], [IGNORED, 1]], [[IGNORED] * 2] * 2], dtype=torch.uint8)
    log_p = logits.double().log_softmax(1)
    by_hand = -(log_p[0, 0, 0, 0] + log_p[0, 2, 0, 1] + log_p[0, 1, 1, 1]) / 3
    assert per_image(logits, labels).tolist() == pytest.approx([by_hand.item(), 0])
    assert per_pixel(logits, labels)[0, 1, 0] == 0
    assert labelled(labels).tolist() == [3, 1]
    for kind in (torch.uint8, torch.int64, torch.int32):
        assert torch.equal(per_image(logits, labels.to(kind)), per_image(logits, labels))


def test_unlabelled_pixels_have_no_influence(pair):
    model, (images, labels) = trained(3), pair
    with torch.no_grad():
        logits = model(images)
    other = logits.clone()
    other[0, :, :8] = 50 * torch.randn(3, 8, 32)
    assert torch.equal(per_image(logits, labels), per_image(other, labels))
    logits.requires_grad_()
    (slope,) = torch.autograd.grad(per_image(logits, labels).sum(), logits)
    assert not slope[0, :, :8].any() and slope[0, :, 8:].abs().amax(0).min() > 0
    nobody = torch.full_like(labels, IGNORED)
    for attack in (ATTACKS["pgd"], ATTACKS["targeted"], SEGPGD):
        assert torch.equal(attack(model, images, nobody, EPS), images)
    # a pixel's own logits only: the attack leaves alone what touches unlabelled pixels alone
    narrow = nn.Conv2d(3, 3, 1).eval()
    for attack in ATTACKS.values():
        moved = attack(narrow, images, labels, EPS)
        assert torch.equal(moved[0, :, :8], images[0, :, :8]) and differ(moved, images) > 0.5


@every_attack
@pytest.mark.parametrize("eps", [1e-7, 1 / 255, 0.3, 1.0])
def test_bound_and_range_hold_exactly_in_float32(attack, eps):
    hard = torch.cat([tissue(3)[0][:2], torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)])
    moved = attack(trained(3), hard, tissue(3)[1][:4], eps)
    assert ((moved - hard).abs() <= torch.tensor(eps)).all()
    assert (moved != hard).any()
    assert moved.min() >= 0 and moved.max() <= 1


@every_attack
def test_it_goes_where_it_should_whatever_the_batch(attack, pair):
    model, (images, labels) = trained(3), pair
    moved = attack(model, images, labels, EPS)
    sign = -1 if attack is ATTACKS["targeted"] else 1
    gain = mean_loss(model, moved, labels) - mean_loss(model, images, labels)
    assert (sign * gain > 0).all()
    for row in range(4):
        alone = attack(model, images[row, None], labels[row, None], EPS)
        assert differ(alone[0], moved[row]) < 0.01
    assert attack(model, images[:0], labels[:0], EPS).shape == (0, 3, 32, 32)
    assert torch.equal(attack(model, images, labels.long(), EPS), moved)


def test_targeted_pgd_written_out(pair):
    model, images = trained(3), pair[0]
    target, moved = full_area(images, 0), images.clone()
    assert target.shape == (4, 32, 32) and not target.any() and (full_area(images, 2) == 2).all()
    for _ in range(4):
        pixels = moved.clone().requires_grad_()
        loss = F.cross_entropy(model(pixels), target)
        (uphill,) = torch.autograd.grad(loss, pixels)
        moved = pixels.detach() - 0.008 * uphill.sign()
        moved = moved.clamp(images - EPS, images + EPS).clamp(0, 1)
    ours = pgd(model, images, target, EPS, **STILL, targeted=True)
    assert differ(ours, moved) < 0.01
    with torch.no_grad():
        shares = [(model(x).argmax(1) == 0).float().mean() for x in (images, ours)]
    assert shares[1] > shares[0]


def test_segpgd_is_the_algorithm_of_the_paper(pair):
    """Gu et al. 2022, algorithm 1: lambda(t) = (t - 1) / 2T, pixel by pixel."""
    model, (images, labels) = trained(3), pair
    moved, total = images.clone(), 4
    for t in range(1, total + 1):
        weight = (t - 1) / (2 * total)
        pixels = moved.clone().requires_grad_()
        logits, loss = model(pixels), 0
        for row in range(len(images)):
            known = labels[row] != IGNORED
            truth = labels[row][known].long()
            losses = F.cross_entropy(logits[row][:, known].T, truth, reduction="none")
            right = logits[row][:, known].argmax(0) == truth
            both = (1 - weight) * losses[right].sum() + weight * losses[~right].sum()
            loss = loss + both / known.sum()
        (uphill,) = torch.autograd.grad(loss, pixels)
        moved = pixels.detach() + 0.008 * uphill.sign()
        moved = moved.clamp(images - EPS, images + EPS).clamp(0, 1)
    ours = SEGPGD(model, images, labels, EPS)
    assert differ(ours, moved) < 0.01
    assert differ(ours, ATTACKS["pgd"](model, images, labels, EPS)) > 0.02  # is not just PGD


def test_segpgd_begins_with_pixels_that_are_right():
    """No pixel is right: the first step has no direction, later ones do."""
    model = nn.Conv2d(3, 2, 1).eval()
    with torch.no_grad():
        model.weight[0], model.weight[1], model.bias[:] = 1.0, -1.0, torch.tensor([9.0, 0.0])
    images, wrong = torch.full((1, 3, 4, 4), 0.5), torch.ones(1, 4, 4, dtype=torch.long)
    first = segpgd(model, images, wrong, EPS, steps=1, step_size=EPS)
    second = segpgd(model, images, wrong, EPS, steps=2, step_size=EPS)
    assert torch.equal(first, images) and differ(second, images) == 1


@pytest.mark.parametrize("attack", [ATTACKS["pgd"], SEGPGD], ids=["pgd", "segpgd"])
def test_mixed_precision_finds_nearly_the_same(attack, pair):
    model, (images, labels) = trained(3), pair
    before = mean_loss(model, images, labels).mean()
    full, half = (
        mean_loss(model, attack(model, images, labels, EPS, dtype=dtype), labels).mean() - before
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert half > 0.8 * full > 0


def test_any_module_with_such_logits_will_do(pair):
    images, labels = pair
    torch.manual_seed(0)
    net = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    model = Plain(net).eval()
    for attack in (ATTACKS["pgd"], SEGPGD):
        moved = attack(model, images[:2], labels[:2], EPS)
        gain = mean_loss(model, moved, labels[:2]) - mean_loss(model, images[:2], labels[:2])
        assert (gain > 0).all()


BAD = [
    ("labels", lambda y: torch.where(y == 0, 3, y), "hold 1 to 3.*knows 0 to 2, and 255"),
    ("labels", lambda y: y.long() - 1, "hold -1 to.*Map the values"),
    ("labels", lambda y: y[:, :16], "nearest pixel"),
    ("labels", lambda y: y.float(), "whole class numbers"),
    ("labels", lambda y: y[:, 0, 0], "one for every pixel"),
    ("labels", lambda y: y[:1], "1 labels"),
    ("model", lambda m: m.train(), "eval"),
    ("model", lambda m: nn.Sequential(m, nn.Softmax(1)).eval(), "probabilities"),
    ("model", lambda m: nn.Sequential(m, nn.Flatten(1, 2)).eval(), "shape"),
]


@pytest.mark.parametrize("attack", [ATTACKS["pgd"], SEGPGD], ids=["pgd", "segpgd"])
@pytest.mark.parametrize(("what", "bad", "message"), BAD)
def test_a_breach_has_its_own_error(what, bad, message, attack, pair):
    call = dict(model=untrained(3), images=pair[0], labels=pair[1], eps=EPS)
    call[what] = bad(call[what]) if callable(bad) else bad
    with pytest.raises(ContractError, match=message):
        attack(**call)


def test_the_contract_of_label_maps():
    logits = torch.randn(2, 3, 4, 4)
    check_logits(logits, False)
    check_logits(torch.rand(2, 3, 4, 4), False)  # within [0, 1], and no probabilities
    labels = torch.full((2, 4, 4), IGNORED, dtype=torch.uint8)
    assert engine.extremes(labels) == (0, 0)
    check_labels(labels, logits, engine.extremes(labels))
    labels[0, 0, :2] = torch.tensor([1, 2])  # class 0 is missing
    assert engine.extremes(labels) == (1, 2)
    check_labels(labels, logits, engine.extremes(labels))
    with pytest.raises(ContractError, match="probabilities"):
        check_logits(logits.softmax(1), False)
    with pytest.raises(ContractError, match="K >= 2"):
        check_logits(logits[:, :1], False)
