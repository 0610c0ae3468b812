"""Scores against scikit-learn and by hand; intervals that are paired where they should be."""

import numpy as np
import pytest
from sklearn import metrics as reference

from medrobust_utils.scoring import metrics

RNG = np.random.default_rng(0)
N, K = 300, 7
TARGETS = RNG.integers(0, K, N)
LOGITS = RNG.normal(size=(N, K)).astype(np.float32)
LOGITS[np.arange(N), TARGETS] += 1
GROUPS = np.arange(N) // 3
WEIGHTS = metrics.group_weights(GROUPS)
HOT = (RNG.random((N, K)) < 0.3).astype(np.uint8)


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_sensitivity_is_told_at_a_specificity_that_was_fixed_before_the_attack():
    """A threshold that moved with the attack would hide what the attack takes."""
    negatives, positives = np.linspace(-1, 1, 100), np.linspace(0, 2, 50)
    margins, targets = np.concatenate([negatives, positives]), np.repeat([0, 1], [100, 50])
    two = np.stack([np.zeros(150), margins], 1).astype(np.float32)
    attacked = two - np.array([0, 0.5], np.float32)
    weights = metrics.group_weights(np.arange(150), draws=50)
    cut = np.quantile(negatives, 0.9)
    for logits, moved in ((two, 0.0), (attacked, 0.5)):
        found = metrics.sensitivity(two, logits, targets, weights)
        assert found.value == pytest.approx((positives - moved > cut).mean())
        assert found.low < found.value < found.high
    single = metrics.sensitivity(margins[:, None].astype(np.float32), two, targets, weights)
    assert single.value == pytest.approx((positives > cut).mean())


def test_auc_is_scikit_learns_with_ties_and_weights(monkeypatch):
    scores = np.round(LOGITS[:, 0], 1)  # many ties
    areas = metrics.auc(scores, TARGETS == 0, WEIGHTS)
    for row in (0, 1, 500, 1000):
        expected = reference.roc_auc_score(TARGETS == 0, scores, sample_weight=WEIGHTS[row])
        assert areas[row] == pytest.approx(expected, abs=1e-12)
    monkeypatch.setattr(metrics, "AUC_CELLS", 7 * N)  # in parts
    assert np.array_equal(areas, metrics.auc(scores, TARGETS == 0, WEIGHTS))


def test_a_micro_average_weighs_each_image_with_all_its_labels():
    areas = metrics.auc(LOGITS.ravel(), HOT.ravel(), WEIGHTS)
    weights = np.repeat(WEIGHTS[4], K)
    expected = reference.roc_auc_score(HOT.ravel(), LOGITS.ravel(), sample_weight=weights)
    assert areas[4] == pytest.approx(expected, abs=1e-12)


def test_auc_without_positives_is_undefined():
    assert np.isnan(metrics.auc(LOGITS[:, 0], np.zeros(N), WEIGHTS)).all()


def test_single_label_scores_are_scikit_learns():
    scores = metrics.score(LOGITS, TARGETS, WEIGHTS)
    probabilities = softmax(LOGITS.astype(float))
    expected = {
        "loss": reference.log_loss(TARGETS, probabilities),
        "val_accuracy": reference.accuracy_score(TARGETS, LOGITS.argmax(1)),
        "top1": reference.accuracy_score(TARGETS, LOGITS.argmax(1)),
        "top5": reference.top_k_accuracy_score(TARGETS, LOGITS, k=5),
        "balanced_accuracy": reference.balanced_accuracy_score(TARGETS, LOGITS.argmax(1)),
        "auc_macro": reference.roc_auc_score(TARGETS, probabilities, multi_class="ovr"),
        "auc_micro": reference.roc_auc_score(np.eye(K)[TARGETS].ravel(), probabilities.ravel()),
    }
    assert {name: pytest.approx(e.value, abs=1e-6) for name, e in scores.items()} == expected


def test_multi_label_scores_are_scikit_learns_and_leave_out_what_they_are_told():
    scores = metrics.score(LOGITS, HOT, WEIGHTS, ignore=(K - 1,))
    assert scores["auc_macro"].value == pytest.approx(
        reference.roc_auc_score(HOT[:, :-1], LOGITS[:, :-1], average="macro")
    )
    assert scores["auc_micro"].value == pytest.approx(
        reference.roc_auc_score(HOT.ravel(), LOGITS.ravel())
    )
    assert scores["val_accuracy"].value == pytest.approx(((LOGITS > 0) == HOT).mean())
    balanced = [
        reference.balanced_accuracy_score(HOT[:, k], LOGITS[:, k] > 0) for k in range(K - 1)
    ]
    assert scores["balanced_accuracy"].value == pytest.approx(np.mean(balanced))
    assert scores["top1"].value == pytest.approx(HOT[np.arange(N), LOGITS.argmax(1)].mean())


def test_a_rare_finding_has_no_auc():
    rare = HOT.copy()
    rare[:, 2] = 0
    rare[: metrics.MIN_POSITIVES - 1, 2] = 1
    assert 2 not in metrics.class_aucs(LOGITS, rare, WEIGHTS)
    rare[: metrics.MIN_POSITIVES, 2] = 1
    assert 2 in metrics.class_aucs(LOGITS, rare, WEIGHTS)


def test_whole_groups_are_drawn():
    assert (WEIGHTS[0] == 1).all()
    assert (WEIGHTS[:, ::3] == WEIGHTS[:, 1::3]).all() and (
        WEIGHTS[:, ::3] == WEIGHTS[:, 2::3]
    ).all()
    assert (WEIGHTS.sum(1) == N).all()
    assert len(np.unique(WEIGHTS[1:], axis=0)) == metrics.DRAWS


def test_the_interval_has_the_width_that_theory_gives():
    hits = np.random.default_rng(5).random(1000) < 0.7
    share = metrics.weighted_mean(hits, metrics.group_weights(np.arange(1000)))
    theory = 1.96 * np.sqrt(share.value * (1 - share.value) / 1000)
    assert share.high - share.value == pytest.approx(theory, rel=0.15)
    assert share.value - share.low == pytest.approx(theory, rel=0.15)


def test_a_difference_on_the_same_images_is_paired():
    base = np.random.default_rng(7).random(N) < 0.5
    better = base.copy()
    better[np.flatnonzero(~base)[:10]] = True
    gap = metrics.weighted_mean(better, WEIGHTS) - metrics.weighted_mean(base, WEIGHTS)
    assert gap.value == pytest.approx(10 / N) and gap.low > 0
    other = metrics.weighted_mean(base, metrics.group_weights(GROUPS, seed=9))
    unpaired = metrics.weighted_mean(better, WEIGHTS) - other
    assert unpaired.high - unpaired.low > 2 * (gap.high - gap.low)


def test_the_mean_of_estimates_keeps_their_draws():
    a, b = (metrics.weighted_mean(k == TARGETS, WEIGHTS) for k in (0, 1))
    both = metrics.mean([a, b])
    assert both.value == pytest.approx((a.value + b.value) / 2)
    assert np.allclose(both.replicates, (a.replicates + b.replicates) / 2)


def test_the_majority_line_knows_frequencies_and_nothing_else():
    train = np.repeat([0, 1, 2], [60, 30, 10])
    logits = metrics.prior_logits(train, N, 3)
    scores = metrics.score(logits, TARGETS % 3, WEIGHTS)
    assert scores["top1"].value == pytest.approx((TARGETS % 3 == 0).mean())
    assert scores["auc_macro"].value == 0.5
    multi = metrics.prior_logits(HOT, 5, K)
    assert np.allclose(1 / (1 + np.exp(-multi[0])), (HOT.sum(0) + 1) / (N + K))
