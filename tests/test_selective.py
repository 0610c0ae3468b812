"""Method two of paper 4 against trying every combination one by one."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from segmenters import Plain, tissue, trained, untrained
from torch import nn
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from medrobust_utils.attacks import selective, selective_fgsm
from medrobust_utils.attacks.selective import SEARCHES, combinations
from medrobust_utils.core.errors import ContractError
from medrobust_utils.core.losses import IGNORED

HOW = dict(step_size=0.02, bound=0.05)  # three of six steps leave the bound


def one_by_one(model, image, label, step_size, bound, classes):
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
    found = selective_fgsm(model, images[:rows], labels[:rows], **HOW)
    assert found.signs.any()
    assert found.evaluations.tolist() == [3**classes] * rows
    for row in range(rows):
        loss, moved, signs = one_by_one(model, images[row], labels[row], **HOW, classes=classes)
        assert found.signs[row].tolist() == list(signs)
        assert found.loss[row].item() == pytest.approx(loss, abs=1e-6)
        # the gradient of a batch has other last digits: a sign may turn where it is nearly 0
        assert (found.images[row] - moved).abs().gt(1e-6).float().mean() < 0.002


def test_what_is_told_fits_the_images():
    images, labels = (part[:6] for part in tissue(3))
    model, kept = trained(3), {k: v.clone() for k, v in trained(3).state_dict().items()}
    weights = model.backbone.head.weight.stride()
    for search in SEARCHES:
        found = selective_fgsm(model, images, labels, **HOW, search=search)
        for moved, told in ((found.images, found.loss), (images, found.before)):
            with torch.no_grad():
                true = F.cross_entropy(model(moved), labels.long(), reduction="none").mean((1, 2))
            torch.testing.assert_close(told, true, rtol=0, atol=1e-5)
        assert (found.loss < found.before).all()
        assert ((found.images - images).abs() <= torch.tensor(HOW["bound"])).all()
        assert found.images.min() >= 0 and found.images.max() <= 1
        assert (found.images - images).abs().max() > 1.5 * HOW["step_size"]  # steps do add up
        assert found.signs.dtype == torch.int8 and found.signs.shape == (6, 3)
    assert all(torch.equal(value, kept[key]) for key, value in model.state_dict().items())
    assert model.backbone.head.weight.stride() == weights


@pytest.mark.parametrize("bound", [1e-7, 1 / 255, 0.03])
def test_the_bound_holds_exactly_in_float32(bound):
    hard = torch.cat([tissue(3)[0][:2], torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)])
    labels = tissue(3)[1][:4]
    found = selective_fgsm(trained(3), hard, labels, step_size=0.02, bound=bound, search="greedy")
    assert ((found.images - hard).abs() <= torch.tensor(bound)).all()
    assert found.images.min() >= 0 and found.images.max() <= 1


def test_searches_cost_and_find_what_they_say():
    images, labels = (part[:4] for part in tissue(5))
    best, screened, greedy = (
        selective_fgsm(trained(5), images, labels, **HOW, search=search) for search in SEARCHES
    )
    assert best.evaluations.tolist() == [243] * 4
    assert greedy.evaluations.tolist() == [11] * 4
    again = screened.evaluations - 243  # in batches, until no other can win; 64 at most
    assert all(selective.BATCH <= count <= 64 for count in again.tolist())
    assert (greedy.loss >= best.loss - 1e-6).all() and (greedy.loss > best.loss + 1e-4).any()
    assert (screened.loss >= best.loss - 1e-6).all()
    assert (screened.loss > best.loss + 1e-6).sum() <= 1  # a miss
    assert torch.equal(best.before, screened.before)


def test_greedy_gives_one_class_after_another_its_best_sign():
    images, labels = tissue(3)
    model, image, label = trained(3), images[:1], labels[:1]
    signs, least = [0, 0, 0], None
    found = selective_fgsm(model, image, label, **HOW, search="greedy")
    for place in range(3):
        trials = {}
        for sign in (0, -1, 1):
            signs[place] = sign
            trials[sign] = _loss_of(model, image, label, signs)
        signs[place] = min(trials, key=trials.get)
        least = min(trials.values())
    assert found.signs[0].tolist() == signs
    assert found.loss[0].item() == pytest.approx(least, abs=1e-6)


def _loss_of(model, image, label, signs):
    moved = image.clone()
    for kind, sign in enumerate(signs):
        pixels = image.clone().requires_grad_()
        against = F.cross_entropy(model(pixels), torch.full_like(label, kind).long())
        moved = moved + sign * HOW["step_size"] * torch.autograd.grad(against, pixels)[0].sign()
    moved = moved.clamp(image - HOW["bound"], image + HOW["bound"]).clamp(0, 1)
    with torch.no_grad():
        return F.cross_entropy(model(moved), label.long()).item()


class Deaf(nn.Module):
    """The same logits for every image, but for rounding that follows the place in the batch."""

    def forward(self, images):
        n, _, height, width = images.shape
        wobble = 2e-6 * torch.arange(n).view(-1, 1, 1, 1) / max(1, n - 1)
        logits = torch.tensor([0.3, 0.2, -0.1]).view(1, 3, 1, 1) + wobble * torch.tensor(
            [1.0, 0, 0]
        ).view(1, 3, 1, 1)
        return logits.expand(n, 3, height, width) + 0 * images[:, :1]


@pytest.mark.parametrize("search", SEARCHES)
def test_a_tie_goes_to_zeros(search):
    images, labels = (part[:2] for part in tissue(3))
    labels = torch.zeros_like(labels)  # the later in a batch, the smaller the rounded loss
    deaf = selective_fgsm(Deaf().eval(), images, labels, **HOW, search=search)
    nowhere = selective_fgsm(trained(3), images, labels, step_size=0, bound=0.05, search=search)
    bound = selective_fgsm(trained(3), images, labels, step_size=0.02, bound=0, search=search)
    for found in (deaf, nowhere, bound):
        assert not found.signs.any() and torch.equal(found.images, images)
        assert torch.equal(found.loss, found.before)


def test_of_equal_losses_the_one_with_more_zeros_wins():
    """Two classes whose perturbations are each other's negative: (1, -1) does what (1, 0) does."""
    model = nn.Conv2d(3, 2, 1, bias=False).eval()
    with torch.no_grad():
        model.weight[0], model.weight[1] = 1.0, -1.0
    images, labels = torch.full((1, 3, 8, 8), 0.5), torch.zeros(1, 8, 8, dtype=torch.uint8)
    found = selective_fgsm(model, images, labels, step_size=0.02, bound=0.02)
    assert found.signs.tolist() == [[0, 1]]  # and so do (-1, 0), which comes later, and (-1, 1)


def test_combinations_are_all_and_begin_with_zeros():
    every = combinations(4)
    assert every.shape == (81, 4) and len(set(map(tuple, every.tolist()))) == 81
    zeros = (every == 0).sum(1)
    assert zeros.tolist() == sorted(zeros.tolist(), reverse=True) and not every[0].any()


def test_some_classes_only():
    images, labels = (part[:2] for part in tissue(3))
    found = selective_fgsm(trained(3), images, labels, **HOW, classes=(0, 2))
    assert found.signs.shape == (2, 2) and found.evaluations.tolist() == [9, 9]
    every = selective_fgsm(trained(3), images, labels, **HOW)
    assert (every.loss <= found.loss + 1e-6).all()
    # nine candidates need not hold a better one for every image
    assert (found.loss <= found.before).all() and (found.loss < found.before).any()
    with pytest.raises(ContractError, match="knows 0 to 2"):
        selective_fgsm(trained(3), images, labels, **HOW, classes=(0, 3))


@pytest.mark.parametrize("search", ["exhaustive", "screened"])
def test_too_many_classes_are_refused_before_memory_is(search):
    model = nn.Conv2d(3, 19, 1).eval()
    images, labels = tissue(3)
    with pytest.raises(ContractError, match="3\\^19.*greedy"):
        selective_fgsm(model, images[:1], labels[:1], **HOW, search=search)
    greedy = selective_fgsm(model, images[:1], labels[:1], **HOW, search="greedy")
    assert greedy.evaluations.tolist() == [39] and greedy.signs.shape == (1, 19)


class Branching(nn.Module):
    """Asks for values on the way, which a tracer cannot follow."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, images):
        return self.net(images) if images.mean() > -1 else images


class Shared(nn.Module):
    """One convolution before two batch norms, which can be folded into it once at most."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.first.weight.data[:], self.second.weight.data[:] = 8.0, -0.5

    def forward(self, images):
        return self.second(self.conv(self.first(self.conv(images)).sigmoid()))


def foreign(kind):
    torch.manual_seed(0)
    if kind == "lraspp":
        net = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
        return Plain(net).eval()
    return {"conv": nn.Conv2d(3, 3, 3, padding=1), "shared": Shared()}.get(
        kind, Branching(trained(3))
    ).eval()


@pytest.mark.parametrize("kind", ["conv", "shared", "branching", "lraspp"])
def test_any_module_with_such_logits_will_do(kind, monkeypatch):
    monkeypatch.setattr(selective, "FINALISTS", 6)  # of 27
    images, labels = (part[:2] for part in tissue(3))
    model = foreign(kind)
    best = selective_fgsm(model, images, labels, **HOW)
    quick = selective_fgsm(model, images, labels, **HOW, search="screened")
    assert (best.loss < best.before).all()
    torch.testing.assert_close(quick.loss, best.loss, rtol=0, atol=1e-4)
    torch.testing.assert_close(quick.before, best.before)


def test_each_image_for_itself():
    images, labels = (part[:3] for part in tissue(3))
    together = selective_fgsm(trained(3), images, labels, **HOW)
    for row in range(3):
        alone = selective_fgsm(trained(3), images[row, None], labels[row, None], **HOW)
        for name in vars(alone):
            assert torch.equal(getattr(alone, name)[0], getattr(together, name)[row])


def test_pixels_that_nobody_labelled_and_classes_that_are_missing():
    images, labels = (part[:1] for part in tissue(3))
    nothing = selective_fgsm(trained(3), images, torch.full_like(labels, IGNORED), **HOW)
    assert not nothing.signs.any() and nothing.loss.item() == nothing.before.item() == 0
    plain = selective_fgsm(trained(3), images, torch.zeros_like(labels), **HOW)
    assert plain.loss < plain.before


BAD = [
    ("labels", lambda y: y.clone().fill_(3), "knows 0 to 2, and 255"),
    ("labels", lambda y: y[:, :16], "nearest pixel"),
    ("labels", lambda y: y.float(), "whole class numbers"),
    ("labels", lambda y: y.flatten(1)[:, 0], "one for every pixel"),
    ("labels", lambda y: y[:1], "1 labels"),
    ("images", lambda x: x * 255, "Divide"),
    ("images", lambda x: x[:0], "at least one"),
    ("step_size", 2, "8/255, not 8"),
    ("bound", -1, "outside"),
    ("search", "best", "choose exhaustive"),
    ("model", lambda m: m.train(), "eval"),
]


@pytest.mark.parametrize(("what", "bad", "message"), BAD)
def test_a_breach_has_its_own_error(what, bad, message):
    images, labels = (part[:2] for part in tissue(3))
    call = dict(model=untrained(3), images=images, labels=labels, **HOW)
    call[what] = bad(call[what]) if callable(bad) else bad
    with pytest.raises(ContractError, match=message):
        selective_fgsm(**call)
