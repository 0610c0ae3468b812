"""AutoAttack: against pyautoattack, against PGD, on every head, and where gradients are hidden."""

import numpy as np
import pytest
import torch
from digits import as_targets, attacked, network
from torch import nn

from medrobust_utils import attacks
from medrobust_utils.attacks import radius_sweep
from medrobust_utils.attacks.autoattack.members import (
    HALVED_AT,
    apgd,
    margins,
    onto_plane,
    side_of,
    towards,
)
from medrobust_utils.core.errors import ContractError
from medrobust_utils.core.losses import correct

QUICK = dict(steps=20, queries=100)
EPS = 0.12
EPSILONS = [0.06, 0.12, 0.2]


def check(result, model, images, labels, eps):
    """Within the ball and the range, exactly; and what the record says is what the images do."""
    assert result.images.dtype == torch.float32
    assert ((result.images - images).abs() <= eps).all()
    assert result.images.min() >= 0 and result.images.max() <= 1
    with torch.no_grad():
        assert torch.equal(correct(model(result.images), labels), result.robust)
    assert ((result.won == "") == result.robust.numpy()).all()
    assert (result.queries > 0).all()


def test_ten_classes_agree_with_pyautoattack_image_by_image():
    from pyautoattack import AutoAttack

    model, (images, labels) = network(10), attacked(10)
    ours = attacks.autoattack(model, images, labels, EPS, queries=500)
    reference = AutoAttack(model, eps=EPS, seed=0)
    reference.square.n_queries = 500
    found = reference.run_standard_evaluation(images, labels, batch_size=len(images))
    moved = found[0] if isinstance(found, tuple) else found
    with torch.no_grad():
        theirs = model(moved).argmax(1) == labels
    assert 0.2 < theirs.float().mean() < 0.8  # an eps at which the outcome is open
    assert abs(int(ours.robust.sum()) - int(theirs.sum())) <= 1  # of 100
    assert (ours.robust == theirs).float().mean() >= 0.98
    check(ours, model, images, labels, EPS)


@pytest.mark.parametrize(
    ("classes", "head"),
    [(2, ""), (3, ""), (4, ""), (7, ""), (10, "single"), (10, "several")],
)
def test_no_head_is_ever_above_a_long_bisection(classes, head):
    model, (images, labels) = network(classes, *[head] * bool(head)), attacked(classes)
    labels = as_targets(labels, classes, head) if head else labels
    for found in attacks.at_radii(
        model, images, labels, [EPS, 0.16][: 1 if head else 2], steps=100
    ):
        result = attacks.autoattack(model, images, labels, found.eps, queries=100)
        halved = correct(found.logits, labels)
        assert 0 < halved.sum() < len(images)
        assert result.robust.sum() <= halved.sum()
        check(result, model, images, labels, found.eps)


class Masked(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model


class Quantised(Masked):
    """Rounds its input to a few levels, which has no gradient."""

    def forward(self, images):
        return self.model((images * 8).round() / 8)


class Loud(Masked):
    """Logits so far apart that the cross-entropy is 0 in float32, and its gradient too."""

    def forward(self, images):
        return 1e4 * self.model(images)


class Saturated(Masked):
    """Steep sigmoids before the network: 0 or 1 in float32, and no slope."""

    def forward(self, images):
        return self.model(torch.sigmoid(3e4 * (images - 0.4725)))


@pytest.mark.parametrize(
    ("masked", "classes", "by"),
    [(Quantised, 10, "square"), (Loud, 10, "apgd-t"), (Loud, 3, "apgd-t"), (Loud, 2, "apgd-t")],
)
def test_hidden_gradients_are_broken(masked, classes, by):
    model, (images, labels) = masked(network(classes)).eval(), attacked(classes)
    (found,) = attacks.at_radii(model, images, labels, [0.16], steps=100)
    halved = int((found.logits.argmax(1) == labels).sum())
    result = attacks.autoattack(model, images, labels, 0.16, steps=30, queries=400)
    assert halved - int(result.robust.sum()) >= 20  # PGD calls them robust
    assert (result.won == by).sum() >= 20
    check(result, model, images, labels, 0.16)


def test_an_image_is_attacked_alike_in_any_batch():
    model, (images, labels) = network(10), attacked(10)
    whole = attacks.autoattack(model, images[:20], labels[:20], EPS, **QUICK)
    rows = np.arange(12, 20)
    part = attacks.autoattack(model, images[12:20], labels[12:20], EPS, rows=rows, **QUICK)
    assert list(part.won) == list(whole.won[12:20])
    assert torch.equal(part.queries, whole.queries[12:20])


def test_mixed_precision_is_confirmed_in_float32():
    model, (images, labels) = network(10), attacked(10)
    full = attacks.autoattack(model, images, labels, EPS, **QUICK)
    mixed = attacks.autoattack(model, images, labels, EPS, dtype=torch.bfloat16, **QUICK)
    check(mixed, model, images, labels, EPS)
    assert (full.robust == mixed.robust).float().mean() >= 0.95


def test_ratio_losses_are_those_of_the_paper_and_margins_where_they_are_not_defined():
    logits = torch.tensor([[3.0, 1.0, 0.5, -1.0, 2.0], [0.0, 4.0, 1.0, 2.0, 3.5]]).double()
    # ways are the other classes in order: 3 is class 4 for the first, class 4 for the second
    labels, way = torch.tensor([0, 2]), torch.tensor([3, 3])
    expected = [-(3 - 2) / (3 - (1 + 0.5) / 2), -(1 - 3.5) / (4 - (2 + 1) / 2)]
    found = towards(way)(logits, labels)
    assert torch.allclose(found, torch.tensor(expected).double())
    for classes in (1, 2, 3):
        few, labels = logits[:, :classes], torch.zeros(2, dtype=torch.int64)
        found = towards(torch.zeros(2, dtype=torch.int64))(few, labels)
        assert torch.equal(found, -margins(few, labels)[:, 0])


def test_the_step_onto_a_plane_is_the_shortest():
    from scipy.optimize import linprog

    draw = torch.Generator().manual_seed(0)
    points = torch.rand(6, 1, 3, 3, generator=draw)
    normal = torch.randn(6, 1, 3, 3, generator=draw)
    normal[0, 0, 0] = 0  # directions that do not count
    offset = torch.tensor([0.3, -0.4, 1.0, -0.05, 2.0, 0.0])
    moves = onto_plane(points, normal, offset)
    for point, weight, goal, move in zip(points, normal, offset, moves, strict=True):
        p, w = point.flatten().double().numpy(), weight.flatten().double().numpy()
        # least t with |d| <= t, w d = goal, 0 <= p + d <= 1
        bound = np.block([[np.eye(9), -np.ones((9, 1))], [-np.eye(9), -np.ones((9, 1))]])
        limits = [*zip(-p, 1 - p, strict=True), (0, None)]
        equal = np.r_[w, 0][None], [float(goal)]
        best = linprog(np.r_[np.zeros(9), 1], bound, np.zeros(18), *equal, bounds=limits)
        assert best.success
        assert float(move.abs().max()) == pytest.approx(best.fun, abs=1e-5)
        assert float((weight * move).sum()) == pytest.approx(float(goal), abs=1e-5)
    quarter, ones = torch.full((1, 1, 2, 2), 0.25), torch.ones(1, 1, 2, 2)
    for far, reached in ((9.0, 0.75), (-9.0, -0.25)):  # as far as the box goes
        assert torch.allclose(onto_plane(quarter, ones, torch.tensor([far])), torch.tensor(reached))


def test_squares_shrink_as_published():
    sides = [side_of(query, 10_000, (100, 100)) for query in range(10_000)]
    changes = [query for query in range(1, 10_000) if sides[query] != sides[query - 1]]
    assert changes == [limit + 1 for limit in HALVED_AT]
    assert sides[0] == round((0.8 * 100 * 100) ** 0.5)
    assert side_of(2500, 5000, (100, 100)) == side_of(5000, 10_000, (100, 100))
    assert side_of(4999, 5000, (8, 8)) == 1


@pytest.mark.parametrize("falls", [22, 100])  # at the first check of a hundred steps; in the end
def test_a_fooled_point_is_kept_at_a_check_that_goes_back_to_the_best(falls):
    """The loss is highest early on, at a point that is robust; the image is fooled at a check."""
    images, calls = torch.full((1, 1, 2, 2), 0.5), []

    class Scripted:
        def uphill(self, at, rows, loss):
            calls.append(at.clone())
            step = len(calls) - 1
            high = torch.tensor([9.0 if step == 3 else 1.0])
            return high, torch.ones_like(at), torch.tensor([step != falls])

    asked = (Scripted(), images, torch.arange(1), torch.tensor([0.1]), lambda place: None)
    found = apgd(*asked, steps=100, start=images)
    assert len(calls) == falls + 1 and torch.equal(found, calls[falls])


@pytest.mark.parametrize(
    "change",
    [dict(eps=8), dict(dtype=torch.float16), dict(labels=torch.full((100,), 10))],
)
def test_what_cannot_be_attacked_is_refused(change):
    images, labels = attacked(10)
    with pytest.raises(ContractError):
        attacks.autoattack(network(10), **dict(images=images, labels=labels, eps=0.1) | change)


# --- over a data set ---


class Memory:
    """Images of the digits as a data set, as far as sweeps look at it."""

    multi_label = segmentation = False
    checksum = "digits"

    def __init__(self):
        images, labels = attacked(10)
        self.images = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
        self.targets = labels.numpy()


def swept(index=60, epsilons=EPSILONS, **how):
    index = np.arange(index) if isinstance(index, int) else index
    return attacks.autoattack_sweep(network(10), Memory(), index, epsilons, **QUICK | how)


def bisected(epsilons=EPSILONS, **how):
    return attacks.attack_sweep(network(10), Memory(), np.arange(60), epsilons, **how)


@pytest.fixture(scope="module")
def whole():
    return swept(batch=20)


def test_several_radii_give_the_same_robust_sets_for_fewer_queries(whole):
    (images, labels), left, robust, queries = attacked(10), np.arange(60), [], 0
    images = (images * 255).round() / 255
    for eps in EPSILONS:  # the plain order: from the smallest eps upwards
        asked = (network(10), images[left], labels[left], eps)
        found = attacks.autoattack(*asked, rows=left, **QUICK)
        left, queries = left[found.robust.numpy()], queries + int(found.queries.sum())
        robust.append(np.isin(np.arange(60), left))
    assert 0.9 > whole.accuracy()[0] > whole.accuracy()[1] > whole.accuracy()[2]
    assert (whole.right != np.stack(robust)).sum() <= 1  # of 180; another eps has other luck
    assert whole.queries.sum() < 0.8 * queries
    failed = (whole.queries > 0) & whole.right
    assert (failed.sum(0) <= 1).all()  # one costly failure for each image at most
    fooled = ~whole.right[0]
    assert fooled.any() and (whole.won[1:, fooled] == whole.won[0, fooled]).all()
    assert np.array_equal(whole.logits[1:, fooled], whole.logits[:1, fooled].repeat(2, 0))


def test_an_earlier_attack_tells_where_to_begin(whole):
    pgd = bisected()
    result = swept(fooled=~pgd.right)
    assert (result.right <= pgd.right).all()
    assert (result.right & ~whole.right).sum() <= 1
    assert ((result.won == "earlier attack") <= ~pgd.right).all()
    believed = pgd.right.sum(0) - 1  # the largest eps at which each is still right
    asked = result.queries > 0
    for column, place in enumerate(believed):
        assert not asked[place + 1 :, column].any()
        assert place < 0 or asked[place, column]
    assert result.queries.sum() < whole.queries.sum()
    with pytest.raises(ContractError):
        swept(fooled=~pgd.right[1:])


def test_a_killed_sweep_goes_on(whole, tmp_path, monkeypatch):
    real, done = radius_sweep.attack_batch, []

    def killed(*args):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return real(*args)

    monkeypatch.setattr(radius_sweep, "attack_batch", killed)
    with pytest.raises(KeyboardInterrupt):
        swept(folder=tmp_path, batch=20)
    done.clear()
    again = swept(folder=tmp_path, batch=20)
    assert len(done) == 1
    for name in ("won", "queries", "logits", "clean", "labels"):
        assert np.array_equal(getattr(again, name), getattr(whole, name))
    swept(folder=tmp_path, batch=60, queries=50)
    assert len(done) == 2 and len(list(tmp_path.iterdir())) == 2


def test_what_is_less_than_the_published_settings_is_said():
    assert attacks.AutoAttackConfig().shortened(9) == ""
    assert attacks.AutoAttackConfig(targets=3).shortened(3) == ""  # four classes have no more ways
    less = attacks.AutoAttackConfig(steps=20, targets=3, queries=200).shortened(6)
    assert less == "20 of 100 steps, 3 of 6 targets, 200 of 5000 queries"


@pytest.mark.parametrize(("masked", "raised"), [(Quantised, True), (lambda net: net, False)])
def test_random_search_that_wins_raises_a_flag(masked, raised):
    model = masked(network(10)).eval()
    how = dict(epsilons=[0.1, 0.16], steps=20, queries=300)
    result = attacks.autoattack_sweep(model, Memory(), np.arange(60), **how)
    (flag,) = result.flags()
    assert flag.raised is raised, str(flag)
    assert str((result.won[-1] == "square").sum()) in flag.measured  # each image counts once


@pytest.mark.parametrize("masked", [Quantised, Loud, Saturated])
def test_a_network_without_gradients_raises_a_flag_and_gets_the_lowest_curve(masked):
    model, data, index = masked(network(10)).eval(), Memory(), np.arange(30)
    settings = dict(steps=20, queries=200)
    found, flags = attacks.robust_curve(model, data, index, EPSILONS, autoattack=settings)
    raised = {flag.name for flag in flags if flag.raised}
    assert "gradients vanish under bisection" in raised, str(flags)
    assert "another attack fools what bisection calls robust" in raised, str(flags)
    assert found.mode == "lowest"
    alone = [
        attacks.attack_sweep(model, data, index, EPSILONS, mode=mode)
        for mode in ("bisection", "independent")
    ]
    assert all((found.right <= other.right).all() for other in alone)
    assert found.accuracy()[1] < alone[0].accuracy()[1] - 0.1


def test_a_plain_network_raises_none_and_keeps_its_curve():
    found, flags = attacks.robust_curve(network(10), Memory(), np.arange(60), EPSILONS)
    assert found.mode == "bisection" and not any(flag.raised for flag in flags)


def test_the_lowest_of_several_is_the_worst_for_each_image():
    weak, strong = bisected(attack="fgsm", mode="independent"), bisected()
    auto = swept(fooled=~strong.right)
    worst = attacks.lowest(weak, strong, auto)
    expected = np.logical_and.accumulate(weak.right & strong.right & auto.right)
    assert np.array_equal(worst.right, expected)
    assert not attacks.overtaken(strong, [weak, auto]).raised
    for others in ((weak, auto), (strong, bisected(EPSILONS[1:]))):  # one is missing; other radii
        with pytest.raises(ContractError):
            attacks.lowest(*others)
