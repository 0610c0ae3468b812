"""Attacks on segmentations: PGD and SegPGD on label maps, and both methods of paper 4.

Each against the same written out, image by image, class by class, combination by combination.
"""

from functools import partial
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import jensenshannon
from segmenters import Plain, tissue, trained, untrained
from torch import nn
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from medrobust_utils.attacks import Layered, Selective, bim, fgsm, layered, mifgsm, pgd, selective
from medrobust_utils.attacks.layered import full_area
from medrobust_utils.attacks.selective import SEARCHES
from medrobust_utils.core.errors import ContractError
from medrobust_utils.core.losses import IGNORED, labelled, per_image, per_pixel

EPS = 0.02
STEPS = dict(steps=4, step_size=0.008)
STILL = dict(**STEPS, random_start=False)


def by_segpgd(model, images, labels, eps, dtype=torch.float32):
    return layered.Attack("segpgd", eps, **STEPS)(model, images, labels, dtype)["images"]


def by_layers(model, images, labels, eps=EPS, classes=None, **how):
    return Layered(eps, 3, **how)(model, images, labels, torch.float32, classes)["images"]


def selected(model, images, labels, step_size=0.02, bound=0.05, search="exhaustive"):
    """By method two; three of six such steps leave the bound."""
    return Selective(step_size, bound, search)(model, images, labels, torch.float32)


ATTACKS = {
    "fgsm": fgsm,
    "bim": partial(bim, **STEPS),
    "mifgsm": partial(mifgsm, **STEPS),
    "pgd": partial(pgd, **STILL),
    "targeted": partial(pgd, **STILL, targeted=True),
    "segpgd": by_segpgd,
}
every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)


@pytest.fixture
def pair():
    """Four images and label maps of which one is labelled in part."""
    images, labels = (part[:4].clone() for part in tissue(3))
    labels[0, :8] = IGNORED
    return images, labels


@pytest.fixture
def hard():
    """Images at the ends of the range, and label maps."""
    ends = torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)
    return torch.cat([tissue(3)[0][:2], *ends]), tissue(3)[1][:4]


def mean_loss(model, images, labels):
    with torch.no_grad():
        return per_image(model(images), labels)


def differ(one, other):
    """Share of pixels that differ: a sign may turn where the gradient is nearly 0."""
    return (one - other).abs().gt(1e-5).float().mean().item()


def within(moved, images, eps):
    inside = ((moved - images).abs() <= torch.tensor(eps)).all()
    return inside and moved.min() >= 0 and moved.max() <= 1


# PGD and SegPGD


def test_the_loss_is_the_mean_over_labelled_pixels():
    logits = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[[0, 2], [IGNORED, 1]], [[IGNORED] * 2] * 2], dtype=torch.uint8)
    log_p = logits.double().log_softmax(1)
    by_hand = -(log_p[0, 0, 0, 0] + log_p[0, 2, 0, 1] + log_p[0, 1, 1, 1]) / 3
    assert per_image(logits, labels).tolist() == pytest.approx([by_hand.item(), 0])
    assert per_pixel(logits, labels)[0, 1, 0] == 0
    assert labelled(labels).tolist() == [3, 1]


def test_unlabelled_pixels_have_no_influence(pair):
    model, (images, labels) = trained(3), pair
    nobody = torch.full_like(labels, IGNORED)
    for attack in (ATTACKS["pgd"], ATTACKS["targeted"], by_segpgd):
        assert torch.equal(attack(model, images, nobody, EPS), images)
    # a pixel's own logits only: the attack leaves alone what touches unlabelled pixels alone
    narrow = nn.Conv2d(3, 3, 1).eval()
    for attack in ATTACKS.values():
        moved = attack(narrow, images, labels, EPS)
        assert torch.equal(moved[0, :, :8], images[0, :, :8]) and differ(moved, images) > 0.5


@every_attack
def test_it_goes_where_it_should_whatever_the_batch(attack, pair, hard):
    model, (images, labels) = trained(3), pair
    moved = attack(model, images, labels, EPS)
    sign = -1 if attack is ATTACKS["targeted"] else 1
    gain = mean_loss(model, moved, labels) - mean_loss(model, images, labels)
    assert (sign * gain > 0).all()
    for row in range(4):
        alone = attack(model, images[row, None], labels[row, None], EPS)
        assert differ(alone[0], moved[row]) < 0.01
    for eps in (1e-7, 1 / 255, 1.0):
        assert within(attack(model, *hard, eps), hard[0], eps)


def test_targeted_pgd_written_out(pair):
    model, images = trained(3), pair[0]
    target, moved = full_area(images, 0), images.clone()
    for _ in range(4):
        pixels = moved.clone().requires_grad_()
        (uphill,) = torch.autograd.grad(F.cross_entropy(model(pixels), target), pixels)
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
    ours = by_segpgd(model, images, labels, EPS)
    assert differ(ours, moved) < 0.01
    assert differ(ours, ATTACKS["pgd"](model, images, labels, EPS)) > 0.02  # is not just PGD


@pytest.mark.parametrize("attack", [ATTACKS["pgd"], by_segpgd], ids=["pgd", "segpgd"])
def test_mixed_precision_finds_nearly_the_same(attack, pair):
    model, (images, labels) = trained(3), pair
    before = mean_loss(model, images, labels).mean()
    full, half = (
        mean_loss(model, attack(model, images, labels, EPS, dtype=dtype), labels).mean() - before
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert half > 0.8 * full > 0


# Method one: layered PGD


def layer_by_layer(model, image, label, ball, present):
    """Equation 2 with three steps for each of three classes."""
    moved, step_size = image.clone(), 2.5 * EPS / 3
    for kind in range(3):
        if present and not (label == kind).any():
            continue
        centre = image if ball == "image" else moved.clone()
        for _ in range(3):
            pixels = moved.clone().requires_grad_()
            loss = -model(pixels[None]).log_softmax(1)[0, kind].mean()
            (uphill,) = torch.autograd.grad(loss, pixels)
            moved = (pixels.detach() - step_size * uphill.sign()).clamp(centre - EPS, centre + EPS)
            moved = moved.clamp(0, 1)
    return moved


@pytest.mark.parametrize("net", [trained, untrained])
@pytest.mark.parametrize("ball", ["stage", "image"])
@pytest.mark.parametrize("present", [False, True])
def test_method_one_is_that_written_out(net, ball, present):
    images, labels = (part[:3].clone() for part in tissue(3))
    labels[0] = labels[0].clamp(max=1)
    labels[1] = labels[1].clamp(min=1)
    labels[2] = IGNORED
    model, kept = net(3), images.clone()
    ours = by_layers(model, images, labels, ball=ball, present=present)
    assert torch.equal(images, kept) and torch.equal(ours[2], images[2]) == present
    pairs = zip(images, labels, strict=True)
    slow = torch.stack([layer_by_layer(model, *pair, ball, present) for pair in pairs])
    assert differ(ours, slow) < 0.01 and differ(ours[:2], images[:2]) > 0.3


def test_every_layer_pushes_to_its_class_and_the_last_one_wins():
    images, labels = (part[:4] for part in tissue(3))
    model, towards = trained(3), full_area(images, 1).long()
    last, first = (
        by_layers(model, images, labels, classes=order) for order in ((0, 2, 1), (1, 0, 2))
    )
    losses = [mean_loss(model, moved, towards).mean() for moved in (last, first, images)]
    assert losses[0] < losses[1] and losses[0] < losses[2]


@pytest.mark.parametrize("eps", [1e-7, 1 / 255, 0.02, 1.0])
def test_the_bounds_of_method_one_hold(eps, hard):
    images, labels = hard
    near, far = (
        by_layers(trained(3), images, labels, eps, ball=ball) for ball in ("image", "stage")
    )
    bound = torch.tensor(eps)
    assert within(near, images, eps)
    assert within(far, images, 3 * eps * (1 + 1e-5))
    assert eps == 1 or ((far - images).abs() > 1.5 * bound).any()  # stages do add up


# Method two: selective FGSM


def one_by_one(model, image, label, classes, step_size=0.02, bound=0.05):
    """Equations 3 to 5 as they are read: every gradient, every candidate, the first of the best."""
    steps = []
    for kind in range(classes):
        pixels = image.clone().requires_grad_()
        against = F.cross_entropy(model(pixels[None]), torch.full_like(label[None], kind).long())
        (uphill,) = torch.autograd.grad(against, pixels)
        steps.append(step_size * uphill.sign())
    least, best = float("inf"), None
    for signs in sorted(product((0, -1, 1), repeat=classes), key=lambda s: sum(map(abs, s))):
        moved = image + sum(s * step for s, step in zip(signs, steps, strict=True))
        moved = moved.clamp(image - bound, image + bound).clamp(0, 1)
        with torch.no_grad():
            logits = model(moved[None])
            loss = F.cross_entropy(logits, label[None].long(), ignore_index=IGNORED).item()
        if loss < least:
            least, best = loss, (moved, signs)
    return least, *best


@pytest.mark.parametrize(
    ("classes", "net", "rows"), [(3, trained, 4), (3, untrained, 4), (6, trained, 1)]
)
def test_the_choice_is_that_of_trying_them_one_by_one(classes, net, rows):
    images, labels = tissue(classes)
    model, labels = net(classes), labels.clone()
    labels[0, :8] = IGNORED
    found = selected(model, images[:rows], labels[:rows])
    assert found["signs"].any()
    assert found["evaluations"].tolist() == [3**classes] * rows
    for row in range(rows):
        loss, moved, signs = one_by_one(model, images[row], labels[row], classes)
        assert found["signs"][row].tolist() == list(signs)
        assert found["loss"][row].item() == pytest.approx(loss, abs=1e-6)
        # the gradient of a batch has other last digits: a sign may turn where it is nearly 0
        assert (found["images"][row] - moved).abs().gt(1e-6).float().mean() < 0.002


def test_what_is_told_fits_the_images(hard):
    images, labels = (part[:6] for part in tissue(3))
    model, kept = trained(3), {k: v.clone() for k, v in trained(3).state_dict().items()}
    for search in SEARCHES:
        found = selected(model, images, labels, search=search)
        for moved, told in ((found["images"], found["loss"]), (images, found["before"])):
            torch.testing.assert_close(told, mean_loss(model, moved, labels), rtol=0, atol=1e-5)
        assert (found["loss"] < found["before"]).all() and within(found["images"], images, 0.05)
        assert (found["images"] - images).abs().max() > 1.5 * 0.02  # steps do add up
        assert found["signs"].dtype == torch.int8 and found["signs"].shape == (6, 3)
    assert all(torch.equal(value, kept[key]) for key, value in model.state_dict().items())
    for bound in (1e-7, 1 / 255):
        found = selected(model, *hard, bound=bound, search="greedy")
        assert within(found["images"], hard[0], bound)


def test_searches_cost_and_find_what_they_say():
    images, labels = (part[:4] for part in tissue(5))
    best, screened, greedy = (
        selected(trained(5), images, labels, search=search) for search in SEARCHES
    )
    assert best["evaluations"].tolist() == [243] * 4
    assert greedy["evaluations"].tolist() == [11] * 4
    again = screened["evaluations"] - 243  # in batches, until no other can win; 64 at most
    assert all(selective.BATCH <= count <= 64 for count in again.tolist())
    more = {"greedy": greedy["loss"] - best["loss"], "screened": screened["loss"] - best["loss"]}
    assert all((one >= -1e-6).all() for one in more.values()) and (more["greedy"] > 1e-4).any()
    assert (more["screened"] > 1e-6).sum() <= 1  # a miss
    assert torch.equal(best["before"], screened["before"])


class Deaf(nn.Module):
    """The same logits for every image, but for rounding that follows the place in the batch."""

    def forward(self, images):
        n, _, height, width = images.shape
        logits = torch.tensor([[0.3, 0.2, -0.1]]).repeat(n, 1)
        logits[:, 0] += 2e-6 * torch.arange(n) / max(1, n - 1)
        return logits[..., None, None].expand(n, 3, height, width) + 0 * images[:, :1]


@pytest.mark.parametrize("search", SEARCHES)
def test_a_tie_goes_to_zeros(search):
    images, labels = (part[:2] for part in tissue(3))
    labels = torch.zeros_like(labels)  # the later in a batch, the smaller the rounded loss
    deaf = selected(Deaf().eval(), images, labels, search=search)
    nowhere = selected(trained(3), images, labels, step_size=0, search=search)
    nothing = selected(trained(3), images, torch.full_like(labels, IGNORED), search=search)
    for found in (deaf, nowhere, nothing):
        assert not found["signs"].any() and torch.equal(found["images"], images)
        assert torch.equal(found["loss"], found["before"])


class Shared(nn.Module):
    """One convolution before two batch norms, which can be folded into it once at most."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.first.weight.data[:], self.second.weight.data[:] = 8.0, -0.5

    def forward(self, images):
        return self.second(self.conv(self.first(self.conv(images)).sigmoid()))


def lraspp():
    return Plain(lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3))


@pytest.mark.parametrize("build", [partial(nn.Conv2d, 3, 3, 3, padding=1), Shared, lraspp])
def test_any_module_with_such_logits_will_do(build, monkeypatch):
    monkeypatch.setattr(selective, "FINALISTS", 6)  # of 27
    torch.manual_seed(0)
    images, labels = (part[:2] for part in tissue(3))
    model = build().eval()
    for attack in (ATTACKS["pgd"], by_segpgd):
        moved = attack(model, images, labels, EPS)
        assert (mean_loss(model, moved, labels) > mean_loss(model, images, labels)).all()
    assert differ(by_layers(model, images, labels, present=True), images) > 0.1
    best, quick = (selected(model, images, labels, search=search) for search in SEARCHES[:2])
    assert (best["loss"] < best["before"]).all()
    torch.testing.assert_close(quick["loss"], best["loss"], rtol=0, atol=1e-4)


# Contracts

BAD = [
    ("labels", lambda y: y.clone().fill_(3), "knows 0 to 2, and 255"),
    ("labels", lambda y: y[:, :16], "nearest pixel"),
    ("labels", lambda y: y.float(), "whole class numbers"),
    ("labels", lambda y: y[:1], "2 images but 1 labels"),
    ("images", lambda x: x * 255, "Divide"),
    ("model", lambda m: m.train(), "eval"),
]
CALLS = {
    "segpgd": partial(by_segpgd, eps=EPS),
    "layered": partial(by_layers, present=True),
    "selective": selected,
}


@pytest.mark.parametrize("attack", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(("what", "bad", "message"), BAD)
def test_a_breach_has_its_own_error(what, bad, message, attack):
    images, labels = (part[:2] for part in tissue(3))
    call = dict(model=untrained(3), images=images, labels=labels)
    call[what] = bad(call[what])
    with pytest.raises(ContractError, match=message):
        attack(**call)


@pytest.mark.parametrize(
    ("attack", "change"),
    [
        ("layered", dict(ball="sphere")),
        ("layered", dict(classes=(0, 3), present=False)),
        ("layered", dict(eps=8)),
        ("selective", dict(step_size=2)),
        ("selective", dict(search="best")),
        ("selective", dict(model=nn.Conv2d(3, 11, 1).eval())),  # 3^11 combinations
    ],
)
def test_unknown_settings_are_refused(attack, change):
    images, labels = (part[:2] for part in tissue(3))
    call = dict(model=untrained(3), images=images, labels=labels)
    with pytest.raises(ContractError):
        CALLS[attack](**call | change)


def test_the_losses_of_the_ensemble_are_what_they_are_called(pair):
    images, labels = pair
    logits, known = trained(3)(images).detach(), labels != IGNORED
    truth = F.one_hot(labels.long().where(known, 0), 3).numpy()
    share = logits.softmax(1).permute(0, 2, 3, 1).numpy()
    apart = torch.from_numpy(jensenshannon(share, truth, axis=3) ** 2)
    wanted = {
        "divergence": apart,
        "masked": per_pixel(logits, labels) * (logits.argmax(1) == labels),
    }
    for name, each in wanted.items():
        expected = (each * known).sum((1, 2)) / labelled(labels)
        found = layered.LOSSES[name](logits, labels, done=0.0)
        torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-5)
        attack = layered.Attack(name, EPS, steps=4)
        moved = attack(trained(3), images, labels, torch.float32)["images"]
        assert (moved - images).abs().max() <= EPS
        after = layered.LOSSES["divergence"](trained(3)(moved), labels, done=0.0)
        before = layered.LOSSES["divergence"](logits, labels, done=0.0)
        assert (after > before).all()
