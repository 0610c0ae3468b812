"""One engine under all gradient attacks: bounds to the last bit, every head, no waiting."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from medrobust_utils import attacks, models
from medrobust_utils.attacks.engine import ascend, ball
from medrobust_utils.core.errors import ContractError
from medrobust_utils.core.losses import correct, per_image
from medrobust_utils.data import to_float
from medrobust_utils.training import glcm

ITERATIVE = [attacks.bim, attacks.mifgsm, attacks.pgd]
every_attack = pytest.mark.parametrize("attack", [attacks.fgsm, *ITERATIVE])


def net(outputs, seed=0):
    """A small convolution net with a head of so many logits."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 3, 2), nn.GELU(), nn.Conv2d(8, 8, 3, 2), nn.GELU()]
    backbone = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 7 * 7, outputs))
    return models.MedicalModel(backbone, (0.5,) * 3, (0.25,) * 3).eval()


@pytest.fixture(scope="module")
def images(skin):
    return to_float(skin.images[:24])


def labels_of(model, images):
    """What the model says: every image is right before the attack."""
    with torch.no_grad():
        return model(images).argmax(1)


@every_attack
@pytest.mark.parametrize("eps", [1e-7, 0.00125 / 255, 8 / 255, 0.32, 1.0])
def test_bound_and_range_hold_exactly_in_float32(attack, eps, images):
    edge = torch.cat([images[:4], torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)])
    noise = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    hard, model = torch.cat([edge, noise]), net(7)
    moved = attack(model, hard, labels_of(model, hard), eps)
    bound = torch.tensor(eps)
    assert ((moved - hard).abs() <= bound).all()
    assert moved.min() >= 0 and moved.max() <= 1
    # what float32 makes of images + eps breaks the bound, or the test would show nothing
    assert eps == 1 or ((hard + eps - hard) > bound).any()
    low, high = ball(hard, eps)
    assert eps < 1e-6 or ((high - low) > 0.9 * min(eps, 0.5)).all()  # and no more is cut off


@every_attack
def test_every_attack_climbs_the_loss_of_every_head_and_leaves_all_alone(attack, images):
    still = dict(random_start=False) if attack is attacks.pgd else {}
    single, several, classes = net(1), net(5), net(7)
    classes.backbone[0].weight.requires_grad_(False)
    weights, kept = {k: v.clone() for k, v in classes.state_dict().items()}, images.clone()
    with torch.no_grad():
        yes = (single(images)[:, 0] > 0).long()
        hot = (several(images) > 0).byte()
    labels = labels_of(classes, images)
    for model, truth in ((single, yes), (single, yes.float()), (several, hot), (classes, labels)):
        moved = attack(model, images, truth, 8 / 255, **still)
        before, after = per_image(model(images), truth), per_image(model(moved), truth)
        assert (after > before).float().mean() > 0.95
        assert correct(model(moved), truth).float().mean() < correct(model(images), truth).all()
    assert not moved.requires_grad and torch.equal(images, kept)
    wants = [p.requires_grad for p in classes.parameters()]
    assert wants == [False] + [True] * (len(wants) - 1)
    assert all(p.grad is None for p in classes.parameters())
    assert all(torch.equal(v, weights[k]) for k, v in classes.state_dict().items())
    assert torch.equal(attack(classes, images, labels, 0), images)
    alone = attack(classes, images[:1], labels[:1], 8 / 255, **still)
    assert (alone - moved[:1]).abs().gt(1e-6).float().mean() < 0.01
    assert attack(classes, images[:0], labels[:0], 4 / 255).shape == (0, 3, 32, 32)


def test_more_steps_climb_higher(images):
    model = net(7)
    labels = labels_of(model, images)

    def loss(attack, **how):
        return per_image(model(attack(model, images, labels, 8 / 255, **how)), labels).mean()

    assert loss(attacks.bim) > loss(attacks.fgsm) < loss(attacks.mifgsm)
    few = loss(attacks.pgd, steps=3, random_start=False)
    assert loss(attacks.pgd, random_start=False) > few


def test_a_wrong_image_stays_at_the_first_point_where_that_shows(images):
    model, eps = net(7), 1.2 / 255
    labels = labels_of(model, images)
    labels[:3] = (labels[:3] + 1) % 7  # wrong from the start
    steps = [eps / 4] * 5
    points = [images]
    points += [ascend(model, images, labels, eps, lengths=steps[:n]) for n in range(1, 6)]
    wrong = torch.stack([~correct(model(point), labels) for point in points[:-1]])
    first = torch.where(wrong.any(0), wrong.int().argmax(0), 5)
    assert set(first.tolist()) > {0, 2, 5}  # at once, on the way, never

    def fooled(moved, labels, rows):
        asked.append(len(moved))
        return ~correct(model(moved), labels)

    expected = torch.stack([points[place][row] for row, place in enumerate(first)])
    for batch in (None, 5):
        asked = []
        found = ascend(model, images, labels, eps, lengths=steps, batch=batch, fooled=fooled)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
        assert sum(asked) == (first < 5).sum()  # no image is asked about twice


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_momentum_is_the_algorithm_of_the_paper(decay, images):
    model, eps, alpha = net(7), 6 / 255, 2 / 255
    labels = labels_of(model, images)
    moved, g = images.clone(), torch.zeros_like(images)
    for _ in range(5):  # Dong et al. 2018, algorithm 1, with the L1 norm it writes
        moved = moved.detach().requires_grad_()
        model.zero_grad()
        per_image(model(moved), labels).sum().backward()
        g = decay * g + moved.grad / moved.grad.flatten(1).norm(p=1, dim=1)[:, None, None, None]
        moved = torch.minimum(torch.maximum(moved + alpha * g.sign(), images - eps), images + eps)
        moved = moved.clamp(0, 1)
    ours = attacks.mifgsm(model, images, labels, eps, steps=5, step_size=alpha, decay=decay)
    assert (ours - moved).abs().gt(1e-6).float().mean() < 0.002


def test_a_single_logit_is_attacked_as_the_two_classes_it_stands_for(images):
    single, two = net(1), net(2)
    head = two.backbone[-1]
    two.backbone[:-1].load_state_dict(single.backbone[:-1].state_dict())
    with torch.no_grad():
        head.weight[0], head.bias[0] = 0, 0
        head.weight[1], head.bias[1] = single.backbone[-1].weight[0], single.backbone[-1].bias[0]
    labels = labels_of(two, images)
    how = dict(steps=5, random_start=False)
    one, other = (attacks.pgd(m, images, labels, 4 / 255, **how) for m in (single, two))
    assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(
    "bad", [dict(eps=8), dict(eps=-0.1), dict(eps=float("nan")), dict(steps=0), dict(step_size=-1)]
)
def test_what_makes_no_attack_is_refused(bad, images):
    model = net(7)
    call = dict(model=model, images=images, labels=labels_of(model, images), eps=4 / 255) | bad
    with pytest.raises(ContractError):
        attacks.pgd(**call)
    with pytest.raises(ContractError, match="float16"):
        attacks.pgd(model, images, call["labels"], 4 / 255, dtype=torch.float16)


class Broken(nn.Module):
    """Its gradient is 0 / 0 where a pixel is black."""

    def forward(self, images):
        return (images - images[:, :1]).square().sum((2, 3)).sqrt()


def test_a_gradient_without_a_number_is_no_robustness(images):
    with pytest.raises(ContractError, match="gradient"):
        attacks.pgd(Broken().eval(), images, torch.zeros(24).long(), 0.1, random_start=False)


class Reads(TorchDispatchMode):
    """Counts what would make a GPU wait: values read back, and indices of unknown number."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        names = ("_local_scalar_dense", "nonzero", "equal.", "item", "masked_select", "unique")
        masks = args[1] if str(function).startswith(("aten.index.", "aten.index_put")) else ()
        masked = any(one is not None and one.dtype == torch.bool for one in masks)
        self.count += masked or any(name in str(function) for name in names)
        return function(*args, **(kwargs or {}))


def by_radius(eps, **how):
    return lambda *asked, **more: attacks.at_radii(*asked[:3], [eps], **how, **more)


LOOPS = {attack.__name__: (attack, 0) for attack in ITERATIVE}
LOOPS |= {"independent": (by_radius(4 / 255, mode="independent"), 0)}
LOOPS |= {"bisection": (by_radius(1e-6), 1)}  # which images are still to be fooled
LOOPS |= {"bisection, fooled": (by_radius(1 / 255), 2)}  # and which of them the network gives up


@pytest.mark.parametrize(("attack", "most"), LOOPS.values(), ids=LOOPS)
def test_no_step_makes_a_gpu_wait_more_than_it_has_to(attack, most, images):
    model, seen = net(7), []
    labels = labels_of(model, images)
    with Reads() as reads:

        def note(_, given):
            if given[0].requires_grad:
                seen.append(reads.count)

        model.register_forward_pre_hook(note)
        attack(model, images, labels, 4 / 255, steps=9)
    waits = np.diff(seen[most > 0 :])  # bisection begins with a gradient that shows where to go
    assert len(waits) >= 4 and waits.max() == most


def test_the_texture_loss_makes_no_gpu_wait():
    ours, theirs = torch.rand(2, 2, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    own = glcm.texture(theirs)
    with Reads() as reads:
        found = glcm.texture(glcm.grayscale(ours.requires_grad_()))
        glcm.texture_distance(found, own).mean().backward()
    assert reads.count == 0 and ours.grad.abs().sum() > 0


@pytest.mark.parametrize("attack", ITERATIVE)
def test_one_seed_one_result_in_one_batch_or_two(attack, images):
    model = net(7)
    labels = labels_of(model, images)

    def run(seed, *parts):
        draw = torch.Generator().manual_seed(seed)
        how = dict(steps=4, random_start=True, generator=draw)
        return torch.cat([attack(model, images[p], labels[p], 4 / 255, **how) for p in parts])

    whole = run(1, slice(None))
    assert torch.equal(whole, run(1, slice(None)))
    assert (whole - run(1, slice(0, 5), slice(5, 24))).abs().gt(1e-6).float().mean() < 1e-3
    assert (whole - run(2, slice(None))).abs().gt(1e-6).float().mean() > 0.05


def test_a_start_is_taken_and_brought_into_the_ball(images):
    model = net(7)
    far = (images + 0.5).clamp(0, 1)
    how = dict(steps=1, step_size=0, start=far)
    still = attacks.pgd(model, images, labels_of(model, images), 2 / 255, **how)
    assert torch.equal(still, torch.minimum(far, ball(images, 2 / 255)[1]))


def test_mixed_precision_finds_nearly_the_same(images):
    model = net(7)
    labels = labels_of(model, images)
    for eps in (1 / 255, 8 / 255):
        how = dict(eps=eps, steps=10, random_start=False)
        full, half = (
            attacks.pgd(model, images, labels, dtype=dtype, **how)
            for dtype in (torch.float32, torch.bfloat16)
        )
        assert half.dtype == torch.float32 and ((half - images).abs() <= torch.tensor(eps)).all()
        clean, gain, other = (per_image(model(x), labels).mean() for x in (images, full, half))
        assert other - clean > 0.9 * (gain - clean)
