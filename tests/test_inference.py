"""What a reader loses when these fail: verdicts that are wrong more often than they say."""

import numpy as np
import pytest
from scipy.stats import binomtest

from medrobust_utils.reporting.ledger import judged
from medrobust_utils.scoring import inference, metrics

DRAWS = 10_000


def simulated(effect, seeds, share, clusters=60):
    """Pairs whose arms' seed SDs are 1 and 2; the images' error is ``share`` of the seeds' one."""
    random = np.random.default_rng([seeds, int(10 * share)])
    spread = np.hypot(1, 2)
    noise = random.normal(0, 1, (DRAWS, seeds)) - random.normal(0, 2, (DRAWS, seeds))
    images = share * spread / np.sqrt(seeds)
    drawn = random.normal(0, images * np.sqrt(clusters), (DRAWS, clusters))
    by_seed = effect + noise + drawn.mean(1)[:, None]
    found = inference.over_seeds(by_seed, drawn.var(1, ddof=1) / clusters, clusters)
    return found, inference.detectable(spread, seeds, images**2, clusters)


def words(found, claim, worth):
    ends = zip(found.value.tolist(), found.low.tolist(), found.high.tolist(), strict=True)
    return [judged(claim, *one, worth) for one in ends]


def share(found, *beginnings):
    return np.mean([word.startswith(beginnings) for word in found])


@pytest.mark.parametrize("images", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_whole_rule_errs_in_five_of_a_hundred_and_finds_what_its_plan_promises(seeds, images):
    null, promised = simulated(0.0, seeds, images)
    worth = promised / 2  # so that 2w is what the plan says it can detect
    moved = {
        k: null._replace(**{e: getattr(null, e) + k * worth for e in null._fields})
        for k in (0, 1, 2)
    }
    gain = {k: words(found, "gain", worth) for k, found in moved.items()}
    # no effect: a gain, or a loss, would be false; an effect of w: that it is none, or negligible
    assert share(gain[0], "supported", "real", "contradicted: reversed") <= 0.055
    assert share(gain[1], "real", "contradicted") <= 0.055
    assert share(gain[2], "real", "contradicted") <= 0.055
    assert share(gain[2], "supported") >= 0.79, "the plan claims 80 % at 2w"
    # a loss of w is just a loss: "no loss" would be false; no effect: a loss would be
    lost = null._replace(**{e: getattr(null, e) - worth for e in null._fields})
    assert share(words(lost, "no_loss", worth), "supported") <= 0.055
    assert share(words(null, "no_loss", worth), "contradicted") <= 0.055
    assert share(words(lost, "equality", worth), "supported") <= 0.055
    assert share(words(null, "equality", worth), "contradicted") <= 0.055


def test_one_seed_has_no_interval():
    with pytest.raises(ValueError, match="pilot"):
        inference.over_seeds([0.1], 0.01, 50)


def test_another_run_is_expected_in_the_prediction_interval():
    random = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        runs = random.normal(0, 1, 6)
        low, high = inference.next_run(runs[:5], 0.0)
        hits += low < runs[5] < high
    assert 0.92 <= hits / 400 <= 0.98


def test_three_images_of_203_refute_nothing():
    low, high = inference.exact_difference(0, 3, 203)
    assert low < -3 / 203 < 0 < high
    assert inference.exact_share(203, 203)[0] == pytest.approx(0.982, abs=5e-4), "nor prove it"
    wins = np.zeros((3, 203))
    wins[:, :3] = -1
    found = inference.paired(wins, np.arange(203))
    assert found.low < 0 < found.high, "a bootstrap that misses all three ends at exactly 0"


@pytest.mark.parametrize(("gained", "lost"), [(6, 0), (5, 0), (7, 1), (0, 9), (0, 0)])
def test_the_exact_test_is_mcnemars(gained, lost):
    low, high = inference.exact_difference(gained, lost, 200)
    p = binomtest(gained, gained + lost).pvalue if gained + lost else 1
    assert (low > 0 or high < 0) == (p < 0.05)


def test_the_variance_of_clusters_is_the_bootstraps():
    random = np.random.default_rng(2)
    groups = np.repeat(np.arange(40), random.integers(1, 8, 40))
    values = random.normal(0, 1, len(groups)) + random.normal(0, 1, 40)[groups]
    found, count = inference.cluster_variance(values, groups)
    weights = metrics.group_weights(groups, draws=4000, classes=np.zeros(len(groups), int))[1:]
    assert count == 40
    assert found == pytest.approx((weights @ values / weights.sum(1)).var(), rel=0.15)


def test_no_class_vanishes_from_a_draw():
    classes = np.array([0] * 50 + [1] * 3 + [2])
    weights = metrics.group_weights(np.arange(54), draws=500, classes=classes)
    for label in range(3):
        assert (weights[:, classes == label].sum(1) > 0).all()
    assert (weights[0] == 1).all() and weights[1:, :50].std() > 0


def test_several_primary_cells_share_the_level():
    assert inference.holm([0.03, 0.001]) == pytest.approx([0.95, 0.975])
    assert inference.wilson_low(8, 10) == pytest.approx(0.490, abs=1e-3)
