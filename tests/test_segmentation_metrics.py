"""Scores of segmentations are scikit-learn's and those of plain loops, IGNORED pixels left out."""

import warnings

import numpy as np
import pytest
import torch
from sklearn import metrics as reference

from medrobust_utils.core.losses import IGNORED
from medrobust_utils.scoring import metrics
from medrobust_utils.scoring import segmentation as scoring

N, K, SIDE = 12, 6, 10
CLASSES = ("background", "neoplastic", "inflammatory", "connective", "epithelial", "other")
GROUPS = np.arange(N) // 2  # two images a tile
WEIGHTS = metrics.group_weights(GROUPS)
ONE = np.ones((1, N))


def some(counts, index):
    """The tally of some of the images."""
    return scoring.Tally(**{name: array[index] for name, array in counts.arrays().items()})


def example():
    """Logits and label maps with IGNORED pixels; images differ in the classes they show."""
    random = np.random.default_rng(0)
    targets = random.integers(0, K, (N, SIDE, SIDE)).astype(np.uint8)
    targets[:4][targets[:4] > 3] = 0  # no epithelial, no other in the first four
    hot = np.eye(K)[targets].transpose(0, 3, 1, 2)
    logits = (random.normal(size=(N, K, SIDE, SIDE)) + 1.2 * hot).astype(np.float32)
    targets[random.random(targets.shape) < 0.15] = IGNORED
    return logits, targets


LOGITS, TARGETS = example()
TRUTH = TARGETS[TARGETS != IGNORED]
FOUND = LOGITS.argmax(1)[TARGETS != IGNORED]


def tally(logits, targets):
    return scoring.tally(torch.from_numpy(logits), torch.from_numpy(targets))


@pytest.fixture(autouse=True)
def no_warning():
    """NaN is an answer here, never an accident."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(scope="module")
def counted():
    return tally(LOGITS, TARGETS)


def softmax(logits):
    """In float64, over the classes of one pixel."""
    power = np.exp(logits.astype(float) - logits.max())
    return power / power.sum()


def same(a, b):
    return all(np.array_equal(x, b.arrays()[k], equal_nan=True) for k, x in a.arrays().items())


def values(scores):
    return {name: estimate.value for name, estimate in scores.items()}


def test_a_tally_is_what_a_loop_over_the_pixels_counts(counted):
    confusion = np.zeros((N, K, K), int)
    losses, bins = [[] for _ in range(N)], np.zeros((N, scoring.BINS, 3))
    for n, y, x in np.argwhere(TARGETS != IGNORED):
        shares = softmax(LOGITS[n, :, y, x])
        truth, guess = TARGETS[n, y, x], shares.argmax()
        confusion[n, truth, guess] += 1
        losses[n].append(-np.log(shares[truth]))
        place = int(np.floor(shares[guess] * scoring.BINS))
        bins[n, place] += 1, shares[guess], guess == truth
    assert np.array_equal(counted.confusion, confusion)
    assert counted.loss == pytest.approx(np.array([np.mean(each) for each in losses]), rel=1e-5)
    assert counted.bins == pytest.approx(bins, rel=1e-5)
    types = {name: array.dtype for name, array in counted.arrays().items()}
    assert types == {"confusion": np.int64, "loss": np.float64, "bins": np.float64}
    assert len(counted) == N


def test_scores_are_scikit_learns(counted):
    scores = values(scoring.score(counted, ONE, CLASSES))
    dice = reference.f1_score(TRUTH, FOUND, average=None)
    real = TRUTH != scoring.BACKGROUND
    assert scores["pixel_accuracy"] == pytest.approx(reference.accuracy_score(TRUTH, FOUND))
    assert scores["foreground_accuracy"] == pytest.approx((FOUND == TRUTH)[real].mean())
    assert scores["mean_iou"] == pytest.approx(
        reference.jaccard_score(TRUTH, FOUND, average="macro")
    )
    assert scores["mean_dice"] == pytest.approx(dice.mean())
    assert [scores[f"dice_{name}"] for name in CLASSES] == pytest.approx(list(dice))
    per_image = [
        reference.log_loss(
            truth[truth != IGNORED],
            [softmax(pixel) for pixel in logits[:, truth != IGNORED].T],
            labels=range(K),
        )
        for logits, truth in zip(LOGITS, TARGETS, strict=True)
    ]
    assert scores["loss"] == pytest.approx(np.mean(per_image), rel=1e-5)


def test_the_calibration_error_is_that_of_a_loop_over_the_bins(counted):
    pixels = LOGITS.transpose(0, 2, 3, 1)[TARGETS != IGNORED]
    confidence = np.array([softmax(pixel).max() for pixel in pixels])
    edges, error = np.linspace(0, 1, scoring.BINS + 1), 0
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        inside = (confidence >= low) & (confidence < high)
        if inside.any():
            gap = abs(confidence[inside].mean() - (TRUTH == FOUND)[inside].mean())
            error += gap * inside.mean()
    found = scoring.score(counted, ONE, CLASSES)["calibration_error"].value
    assert found == pytest.approx(error, rel=1e-5) and error > 0.01


def test_large_images_keep_their_digits():
    logits = torch.full((1, 3, 256, 256), -7.0)
    logits[:, 0] = torch.randn(256, 256, generator=torch.Generator().manual_seed(0)) * 0.1
    counts = scoring.tally(logits, torch.zeros(1, 256, 256, dtype=torch.uint8))
    expected = (1 - logits.double().softmax(1).amax(1)).mean().item()
    found = scoring.score(counts, np.ones((1, 1)), "abc")["calibration_error"].value
    assert found == pytest.approx(expected, rel=1e-4)


def test_what_is_predicted_where_nobody_can_say_does_not_matter(counted):
    changed = LOGITS.copy()
    changed.transpose(0, 2, 3, 1)[TARGETS == IGNORED] = [0, 90, 0, 0, 0, 0]
    assert same(tally(changed, TARGETS), counted)
    changed.transpose(0, 2, 3, 1)[TARGETS == 2] = [0, 90, 0, 0, 0, 0]
    assert not same(tally(changed, TARGETS), counted)


def test_the_shape_of_a_map_counts_areas_that_share_an_edge_and_a_class():
    drawn = np.array([[1, 1, 0], [0, 2, 2], [1, 0, 2]])
    found = scoring.shape(np.stack([drawn, np.zeros((3, 3), int)]))
    assert found["regions"].tolist() == [6, 1]  # 1 above, 1 below, 2, three pieces of 0
    assert found["largest_area"].tolist() == [3 / 9, 1]


def test_batches_join_to_the_tally_of_all(counted):
    parts = [tally(LOGITS[rows], TARGETS[rows]) for rows in (slice(0, 5), slice(5, None))]
    joined = scoring.join(parts)
    assert np.array_equal(joined.confusion, counted.confusion)
    assert joined.loss == pytest.approx(counted.loss, rel=1e-6)
    assert joined.bins == pytest.approx(counted.bins, rel=1e-6)
    assert same(scoring.Tally(**counted.arrays()), counted)
    assert same(
        some(counted, np.array([7, 2])), scoring.join([some(counted, [7]), some(counted, [2])])
    )


def test_a_class_counts_where_the_label_maps_show_it():
    truth = np.zeros((1, 2, 4), np.uint8)
    truth[0, 0] = 1
    logits = np.zeros((1, 4, 2, 4), np.float32)
    logits[0, 0] = 1.0
    logits[0, 1, 0, :2] = logits[0, 2, 1, 3] = 2.0  # class 2 is said once and never true
    scores = values(scoring.score(tally(logits, truth), np.ones((1, 1)), "abcd"))
    # a: 3 right, 2 too many, 1 missed; b: 2 right, 2 missed; c: 1 too many; d: not there at all
    assert scores["mean_iou"] == pytest.approx((3 / 6 + 2 / 4) / 2)
    assert scores["mean_dice"] == pytest.approx((6 / 9 + 4 / 6) / 2)
    assert np.isnan(scores["dice_c"]) and np.isnan(scores["dice_d"])
    # so that one stray pixel costs that pixel, and not a class's share of the mean
    logits[0, 2, 1, 3] = 0.0
    clean = values(scoring.score(tally(logits, truth), np.ones((1, 1)), "abcd"))
    assert 0 < clean["mean_iou"] - scores["mean_iou"] < 0.1
    assert scores["foreground_accuracy"] == 0.5


def test_scores_of_an_image_are_those_of_a_set_of_one(counted):
    alone = scoring.per_image(counted)
    for n in range(N):
        one = values(scoring.score(some(counted, [n]), np.ones((1, 1)), CLASSES))
        assert {k: v[n] for k, v in alone.items()} == pytest.approx({k: one[k] for k in alone})


def test_what_cannot_be_said_is_nan():
    targets = np.zeros((3, 2, 2), np.uint8)
    targets[0, 0, 0], targets[2] = 1, IGNORED  # foreground; background alone; nothing
    logits = np.zeros((3, 2, 2, 2), np.float32)
    logits[:, 0] = 2.0
    counts = tally(logits, targets)
    found = scoring.per_image(counts)
    assert found["foreground_accuracy"][0] == 0 and found["pixel_accuracy"][1] == 1
    assert np.isnan(found["foreground_accuracy"]).tolist() == [False, True, True]
    for name in ("loss", "pixel_accuracy", "mean_iou"):
        assert np.isnan(found[name]).tolist() == [False, False, True]
    # beside others such an image weighs nothing, alone it has no score, and nothing warns
    assert same(some(counts, [0, 1]), tally(logits[:2], targets[:2]))
    weights = np.array([[1, 1, 1], [1, 1, 0], [0, 0, 1]])
    for name, score in scoring.score(counts, weights, "ab").items():
        assert score.replicates[0] == score.value, name
        assert np.isnan(score.replicates[1]), name


def test_intervals_are_those_of_sets_drawn_tile_by_tile(counted):
    scores = scoring.score(counted, WEIGHTS, CLASSES)
    for draw in (1, 77, 1000):
        rows = np.repeat(np.arange(N), WEIGHTS[draw].astype(int))
        drawn = values(scoring.score(some(counted, rows), np.ones((1, len(rows))), CLASSES))
        assert drawn == pytest.approx({k: v.replicates[draw - 1] for k, v in scores.items()})
    assert scores["mean_iou"].low < scores["mean_iou"].value < scores["mean_iou"].high


def test_constant_says_background_for_certain(counted):
    truth = scoring.constant(counted)
    certain = np.zeros((N, K, SIDE, SIDE), np.float32)
    certain[:, scoring.BACKGROUND] = 200.0
    model = tally(certain, TARGETS)
    assert np.array_equal(truth.confusion, model.confusion)
    assert np.array_equal(truth.bins, model.bins)
    scores = scoring.score(truth, WEIGHTS, CLASSES)
    share = (TRUTH == 0).mean()
    assert scores["pixel_accuracy"].value == pytest.approx(share)
    assert scores["mean_iou"].value == pytest.approx(share / K)
    assert scores["foreground_accuracy"].value == 0
    assert scores["calibration_error"].value == pytest.approx(1 - share)
    assert np.isnan([scores["loss"].value, scores["loss"].low, scores["loss"].high]).all()
    gain = scoring.score(counted, WEIGHTS, CLASSES)["loss"] - scores["loss"]
    assert np.isnan(gain.value)
    assert {k for k, v in scores.items() if not np.isfinite(v.value)} == {"loss"}


@pytest.mark.parametrize("by", ["mean_iou", "loss", "pixel_accuracy", "foreground_accuracy"])
def test_the_worst_is_chosen_image_by_image(counted, by):
    random = np.random.default_rng(4)
    noise = random.normal(size=(3, *LOGITS.shape)).astype("f4")
    everyone = [counted, *(tally(LOGITS + one, TARGETS) for one in noise)]
    values = np.array([scoring.per_image(one)[by] for one in everyone])
    worst, which = scoring.worst(everyone, by)
    assert len(set(which)) > 1
    assert all(same(some(worst, [n]), some(everyone[which[n]], [n])) for n in range(N))
    extreme = values.max(0) if by == "loss" else values.min(0)
    assert np.array_equal(scoring.per_image(worst)[by], extreme)
    kept, which = scoring.worst([counted, counted], by)
    assert same(kept, counted) and not which.any()  # of equals the first


def test_an_image_without_a_label_has_no_worst():
    targets = TARGETS.copy()
    targets[3] = IGNORED
    pair = [tally(LOGITS, targets), tally(-LOGITS, targets)]
    _, which = scoring.worst(pair)
    assert which[3] == 0 and which.sum() == N - 1
