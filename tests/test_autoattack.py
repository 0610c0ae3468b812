"""AutoAttack: against pyautoattack, against PGD, on every head, and where gradients are hidden."""

import numpy as np
import pytest
import torch
from digits import as_targets, attacked, network
from torch import nn

from medrobust_utils import attacks
from medrobust_utils.attacks.autoattack.apgd import apgd
from medrobust_utils.attacks.autoattack.fab import onto_plane
from medrobust_utils.attacks.autoattack.margins import Goal
from medrobust_utils.attacks.autoattack.square import HALVED_AT, side_of
from medrobust_utils.core.errors import ContractError

QUICK = dict(steps=20, queries=100)
EPS = 0.12


def inside(result, images, eps):
    """Within the ball and the range, exactly."""
    assert result.images.dtype == torch.float32
    assert ((result.images - images).abs() <= eps).all()
    assert result.images.min() >= 0 and result.images.max() <= 1


def consistent(result, model, labels, finding=None):
    """What the record says is what the returned images do."""
    with torch.no_grad():
        assert torch.equal(Goal(finding).robust(model(result.images), labels), result.robust)
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
    inside(ours, images, EPS)
    consistent(ours, model, labels)


@pytest.mark.parametrize("classes", [2, 3, 4, 7])
def test_few_classes_are_never_above_a_long_bisection(classes):
    model, (images, labels) = network(classes), attacked(classes)
    epsilons = [0.12, 0.16]
    rungs = list(attacks.at_radii(model, images, labels, epsilons, steps=100))
    for eps, rung in zip(epsilons, rungs, strict=True):
        result = attacks.autoattack(model, images, labels, eps, queries=100)
        halved = rung.logits.argmax(1) == labels
        assert 0 < halved.sum() < len(images)
        assert result.robust.sum() <= halved.sum()
        inside(result, images, eps)
        consistent(result, model, labels)


class Quantised(nn.Module):
    """Rounds its input to a few levels, which has no gradient."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model((images * 8).round() / 8)


class Loud(nn.Module):
    """Logits so far apart that the cross-entropy is 0 in float32, and its gradient too."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return 1e4 * self.model(images)


@pytest.mark.parametrize(
    ("masked", "classes", "by"),
    [(Quantised, 10, "square"), (Loud, 10, "apgd-t"), (Loud, 3, "apgd-t"), (Loud, 2, "apgd-t")],
)
def test_hidden_gradients_are_broken(masked, classes, by):
    model, (images, labels) = masked(network(classes)).eval(), attacked(classes)
    (rung,) = attacks.at_radii(model, images, labels, [0.16], steps=100)
    halved = int((rung.logits.argmax(1) == labels).sum())
    result = attacks.autoattack(model, images, labels, 0.16, steps=30, queries=400)
    assert halved - int(result.robust.sum()) >= 20  # PGD calls them robust
    assert (result.won == by).sum() >= 20
    inside(result, images, 0.16)
    consistent(result, model, labels)


@pytest.mark.parametrize("head", ["single", "several"])
def test_other_heads(head):
    model, (images, labels) = network(10, head), attacked(10)
    targets = as_targets(labels, 10, head)
    result = attacks.autoattack(model, images, targets, EPS, **QUICK)
    inside(result, images, EPS)
    consistent(result, model, targets)
    (rung,) = attacks.at_radii(model, images, targets, [EPS], steps=100)
    halved = Goal().robust(rung.logits, targets)
    assert 0 < halved.sum() < len(images)
    assert result.robust.sum() <= halved.sum()


def test_one_finding_is_what_has_to_flip():
    model, (images, labels) = network(10, "several"), attacked(10)
    targets = as_targets(labels, 10, "several")
    any_label = attacks.autoattack(model, images, targets, 0.08, **QUICK)
    each = [attacks.autoattack(model, images, targets, 0.08, finding=k, **QUICK) for k in range(3)]
    for k, one in enumerate(each):
        consistent(one, model, targets, k)
        assert 0 < one.robust.sum() < len(images)
    # who stands against all stands against each; who falls to one falls to all
    together = torch.stack([one.robust for one in each]).all(0)
    assert (any_label.robust & ~together).sum() <= 1


def test_an_auc_under_attack_falls_with_every_score():
    model, (images, labels) = network(10, "several"), attacked(10)
    targets = as_targets(labels, 10, "several")
    with torch.no_grad():
        clean = Goal(1).margins(model(images), targets)[:, 0]
    result = attacks.autoattack(model, images, targets, 0.08, finding=1, to_the_end=True, **QUICK)
    assert "fab-t" not in result.won
    pushed = Goal(1).margins(result.logits, targets)[:, 0]
    stopped = attacks.autoattack(model, images, targets, 0.08, finding=1, **QUICK)
    assert (pushed < clean).all()
    assert pushed.mean() < Goal(1).margins(stopped.logits, targets)[:, 0].mean()
    assert (result.robust <= stopped.robust).all()
    inside(result, images, 0.08)


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
    consistent(mixed, model, labels)
    assert (full.robust == mixed.robust).float().mean() >= 0.95


def test_ratio_losses_are_those_of_the_paper():
    logits = torch.tensor([[3.0, 1.0, 0.5, -1.0, 2.0], [0.0, 4.0, 1.0, 2.0, 3.5]])
    labels, goal = torch.tensor([0, 2]), Goal()
    z = logits.double()
    # ways are the other classes in order: 3 is class 4 for the first, class 4 for the second
    way = torch.tensor([3, 3])
    expected = [-(3 - 2) / (3 - (1 + 0.5) / 2), -(1 - 3.5) / (4 - (2 + 1) / 2)]
    assert torch.allclose(goal.towards(way)(z, labels), torch.tensor(expected).double())


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_margins_replace_ratios_where_they_are_not_defined(classes):
    logits = torch.randn(5, classes, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(5, dtype=torch.int64)
    goal, way = Goal(), torch.zeros(5, dtype=torch.int64)
    margin = goal.margins(logits, labels)
    assert torch.equal(goal.towards(way)(logits, labels), -margin[:, 0])


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
        best = linprog(
            np.r_[np.zeros(9), 1],
            bound,
            np.zeros(18),
            np.r_[w, 0][None],
            [float(goal)],
            bounds=[*zip(-p, 1 - p, strict=True), (0, None)],
        )
        assert best.success
        assert float(move.abs().max()) == pytest.approx(best.fun, abs=1e-5)
        assert float((weight * move).sum()) == pytest.approx(float(goal), abs=1e-5)


def test_a_plane_out_of_reach_is_approached_as_far_as_the_box_goes():
    points, normal = torch.full((1, 1, 2, 2), 0.25), torch.ones(1, 1, 2, 2)
    assert torch.allclose(onto_plane(points, normal, torch.tensor([9.0])), torch.tensor(0.75))
    assert torch.allclose(onto_plane(points, normal, torch.tensor([-9.0])), torch.tensor(-0.25))


def test_squares_shrink_as_published():
    sides = [side_of(query, 10_000, (100, 100)) for query in range(10_000)]
    changes = [query for query in range(1, 10_000) if sides[query] != sides[query - 1]]
    assert changes == [limit + 1 for limit in HALVED_AT]
    assert sides[0] == round((0.8 * 100 * 100) ** 0.5)
    assert side_of(2500, 5000, (100, 100)) == side_of(5000, 10_000, (100, 100))
    assert side_of(4999, 5000, (8, 8)) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(eps=8), "8/255, not 8"),
        (dict(dtype=torch.float16), "bfloat16"),
        (dict(labels=torch.full((100,), 10)), "range over"),
    ],
)
def test_what_cannot_be_attacked_is_refused(change, message):
    images, labels = attacked(10)
    call = dict(images=images, labels=labels, eps=0.1) | change
    with pytest.raises(ContractError, match=message):
        attacks.autoattack(network(10), **call)


def test_a_model_in_training_or_with_probabilities_is_refused():
    images, labels = attacked(10)
    with pytest.raises(ContractError, match="training mode"):
        attacks.autoattack(nn.Sequential(network(10)).train(), images, labels, 0.1)
    network(10).eval()
    likely = nn.Sequential(network(10), nn.Softmax(1)).eval()
    with pytest.raises(ContractError, match="probabilities"):
        attacks.autoattack(likely, images, labels, 0.1)


# --- over a data set ---


class Memory:
    """Images of the digits as a data set, as far as sweeps look at it."""

    multi_label = segmentation = False
    checksum = "digits"

    def __init__(self):
        images, labels = attacked(10)
        self.images = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
        self.targets = labels.numpy()


EPSILONS = [0.06, 0.12, 0.2]


def same(one, other):
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("robust", "won", "queries", "logits", "clean", "labels")
    )


def rising(model, data, index, epsilons, **how):
    """Robust (E, n) and queries in the plain order: from the smallest eps upwards."""
    images = torch.from_numpy(data.images[index]).permute(0, 3, 1, 2).float() / 255
    labels = torch.from_numpy(data.targets[index])
    left, robust, queries = index, [], 0
    for eps in epsilons:
        here = np.flatnonzero(np.isin(index, left))
        found = attacks.autoattack(model, images[here], labels[here], eps, rows=left, **how)
        left, queries = left[found.robust.numpy()], queries + int(found.queries.sum())
        robust.append(np.isin(index, left))
    return np.stack(robust), queries


def test_several_radii_give_the_same_robust_sets_for_fewer_queries():
    model, data, index = network(10), Memory(), np.arange(0, 60)
    result = attacks.autoattack_sweep(model, data, index, EPSILONS, **QUICK)
    robust, queries = rising(model, data, index, EPSILONS, **QUICK)
    assert 0.9 > result.accuracy()[0] > result.accuracy()[1] > result.accuracy()[2]
    assert (result.right != robust).sum() <= 1  # of 180; another eps has other luck
    assert result.queries.sum() < 0.8 * queries
    failed = (result.queries > 0) & result.right
    assert (failed.sum(0) <= 1).all()  # one costly failure for each image at most


def test_an_earlier_attack_tells_where_to_begin():
    model, data, index = network(10), Memory(), np.arange(0, 60)
    pgd = attacks.attack_sweep(model, data, index, EPSILONS)
    result = attacks.attack_sweep(
        model, data, index, EPSILONS, attack="autoattack", fooled=~pgd.right, **QUICK
    )
    unspoilt = attacks.autoattack_sweep(model, data, index, EPSILONS, **QUICK)
    assert (result.right <= pgd.right).all()
    assert (result.right & ~unspoilt.right).sum() <= 1
    believed = pgd.right.sum(0) - 1  # the largest eps at which each is still right
    asked = result.queries > 0
    for column, place in enumerate(believed):
        assert not asked[place + 1 :, column].any()
        assert place < 0 or asked[place, column]
    assert result.queries.sum() < unspoilt.queries.sum()


def test_a_sweep_keeps_who_fooled_an_image_and_goes_on_after_a_kill(tmp_path, monkeypatch):
    model, data, index = network(10), Memory(), np.arange(0, 60)
    whole = attacks.autoattack_sweep(model, data, index, EPSILONS, batch=20, **QUICK)
    assert (np.diff(whole.right.astype(int), axis=0) <= 0).all()
    fooled = ~whole.right[0]
    assert fooled.any() and (whole.won[1:, fooled] == whole.won[0, fooled]).all()
    assert np.array_equal(whole.logits[1:, fooled], whole.logits[:1, fooled].repeat(2, 0))
    for won, shares in zip(whole.won, whole.shares(), strict=True):
        assert sum(shares.values()) == pytest.approx(1)
        assert shares.get("robust", 0) == pytest.approx((won == "").mean())

    from medrobust_utils.attacks import radius_sweep

    real, done = radius_sweep.attack_batch, []

    def killed(*args):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return real(*args)

    monkeypatch.setattr(radius_sweep, "attack_batch", killed)
    how = dict(folder=tmp_path, batch=20, **QUICK)
    with pytest.raises(KeyboardInterrupt):
        attacks.autoattack_sweep(model, data, index, EPSILONS, **how)
    done.clear()
    again = attacks.autoattack_sweep(model, data, index, EPSILONS, **how)
    assert len(done) == 1 and same(again, whole)
    attacks.autoattack_sweep(model, data, index, EPSILONS, **how | dict(queries=50, batch=60))
    assert len(done) == 2 and len(list(tmp_path.iterdir())) == 2


def test_what_another_attack_has_fooled_is_not_attacked():
    model, data, index = network(10), Memory(), np.arange(20, 40)
    fooled = np.zeros((2, 20), bool)
    fooled[0, :3] = fooled[1, :8] = True
    with torch.no_grad():
        right = attacks.autoattack_sweep(model, data, index, [0.0], **QUICK).clean_right
    result = attacks.autoattack_sweep(model, data, index, EPSILONS[:2], fooled=fooled, **QUICK)
    assert not result.right[fooled].any()
    expected = np.where(right[:3], "earlier attack", "wrong before")
    assert (result.won[0, :3] == expected).all() and (result.queries[:, :3] == 0).all()
    with pytest.raises(ContractError, match="expected"):
        attacks.autoattack_sweep(model, data, index, EPSILONS, fooled=fooled, **QUICK)


def test_a_point_that_has_fallen_is_kept_at_a_check_that_goes_back_to_the_best():
    """The loss is highest early on, at a point that stands; the image falls at a check."""
    images, calls = torch.full((1, 1, 2, 2), 0.5), []
    falls = 22  # the first check of a hundred steps

    class Scripted:
        def uphill(self, at, rows, loss):
            calls.append(at.clone())
            step = len(calls) - 1
            high = torch.tensor([9.0 if step == 3 else 1.0])
            return high, torch.ones_like(at), torch.tensor([step != falls])

    found = apgd(
        Scripted(), images, torch.arange(1), 0.1, lambda place: None, steps=100, start=images
    )
    assert len(calls) == falls + 1 and torch.equal(found, calls[falls])
    calls.clear()
    falls = 100  # after the last step
    found = apgd(
        Scripted(), images, torch.arange(1), 0.1, lambda place: None, steps=100, start=images
    )
    assert torch.equal(found, calls[100])


def test_how_far_scores_can_be_pushed_is_asked_of_one_margin_at_one_eps():
    data, index = Memory(), np.arange(4)
    with pytest.raises(ContractError, match="9 ways to be fooled"):
        attacks.autoattack_sweep(network(10), data, index, [0.1], to_the_end=True, **QUICK)
    with pytest.raises(ContractError, match="takes one eps"):
        attacks.autoattack_sweep(network(10), data, index, EPSILONS, to_the_end=True, **QUICK)


def test_what_is_less_than_the_published_settings_is_said():
    assert attacks.AutoAttackConfig().shortened(9) == ""
    assert attacks.AutoAttackConfig(targets=3).shortened(3) == ""  # four classes have no more ways
    less = attacks.AutoAttackConfig(steps=20, targets=3, queries=200).shortened(6)
    assert less == "20 of 100 steps, 3 of 6 targets, 200 of 5000 queries"


def test_the_flag_counts_each_image_once_and_what_autoattack_felled_only():
    won = np.array(
        [
            ["", "square", "wrong before", "earlier attack"],
            ["square", "square", "wrong before", "earlier attack"],
        ]
    )
    none = np.zeros((2, 4, 2), np.float32)
    result = attacks.AutoResult(
        np.array([0.1, 0.2]),
        none,
        none[0],
        np.zeros(4, int),
        "robust",
        won == "",
        won,
        np.zeros((2, 4), int),
    )
    (flag,) = result.flags()
    assert flag.raised and flag.measured.startswith("2 of the 2 images")


def test_random_search_that_wins_raises_a_flag():
    data, index = Memory(), np.arange(60)
    masked = Quantised(network(10)).eval()
    for model, raised in ((masked, True), (network(10), False)):
        result = attacks.autoattack_sweep(model, data, index, [0.16], steps=20, queries=300)
        (flag,) = result.flags()
        assert flag.raised is raised, str(flag)


# --- networks that hide their gradients ---


class Saturated(nn.Module):
    """Steep sigmoids before the network: 0 or 1 in float32, and no slope."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(torch.sigmoid(3e4 * (images - 0.4725)))


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
    for other in alone:
        assert (found.right <= other.right).all()
    assert found.accuracy()[1] < alone[0].accuracy()[1] - 0.1


def test_a_plain_network_raises_none_and_keeps_its_curve():
    found, flags = attacks.robust_curve(network(10), Memory(), np.arange(60), EPSILONS)
    assert found.mode == "bisection" and not any(flag.raised for flag in flags)


def test_the_lowest_of_several_is_the_worst_for_each_image():
    model, data, index = network(10), Memory(), np.arange(60)
    weak = attacks.attack_sweep(model, data, index, EPSILONS, attack="fgsm", mode="independent")
    strong = attacks.attack_sweep(model, data, index, EPSILONS)
    auto = attacks.autoattack_sweep(model, data, index, EPSILONS, fooled=~strong.right, **QUICK)
    worst = attacks.lowest(weak, strong, auto)
    expected = np.logical_and.accumulate(weak.right & strong.right & auto.right)
    assert np.array_equal(worst.right, expected)
    assert not attacks.overtaken(strong, [weak, auto]).raised
    with pytest.raises(ContractError, match="the earlier attack too"):
        attacks.lowest(weak, auto)
    other = attacks.attack_sweep(model, data, index[:9], EPSILONS)
    with pytest.raises(ContractError, match="same images and radii"):
        attacks.lowest(strong, other)


def test_an_auc_under_attack_is_refused_unless_every_image_was_attacked_to_the_end():
    model, data, index = network(10), Memory(), np.arange(12)
    how = dict(steps=2)
    for mode in ("bisection", "skip_fooled"):
        result = attacks.attack_sweep(model, data, index, EPSILONS[:1], mode=mode, **how)
        with pytest.raises(ContractError, match="mode='independent'"):
            _ = result.ranked
    result = attacks.attack_sweep(model, data, index, EPSILONS[:1], mode="independent", **how)
    assert result.ranked is result.logits
