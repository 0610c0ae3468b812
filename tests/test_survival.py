"""How far networks hold, what AutoAttack leaves of it, and what a verdict over seeds rests on."""

import made
import numpy as np
import pandas as pd
import pytest
import test_attentive_cnn as attentive
from found import falling, find, only

from medrobust_utils.attacks import AutoAttackConfig, AutoResult
from medrobust_utils.reporting import evidence, results, verdicts
from medrobust_utils.scoring import metrics, robustness
from medrobust_utils.studies import attentive_cnn as study
from medrobust_utils.studies import evaluation, survival, tables

# --- hand-made networks --------------------------------------------------------------------------


def left(network, epsilons, before, robust, **how):
    """A network of which AutoAttack left ``robust`` (R, n) of ``before``."""
    index = network.arm.task.attacked
    labels = network.arm.task.data.targets[index]
    won = np.where(robust, "", np.where(before, "apgd-ce", "earlier attack"))
    none = np.zeros((len(epsilons), len(labels), 2), np.float32)
    queries = np.where(before, 10, 0)
    result = AutoResult(np.array(epsilons), none, none[0], labels, "autoattack", won, queries)
    return survival.Survival(network, index, before, result, AutoAttackConfig(**how))


def test_what_was_fooled_once_stays_so_also_between_the_radii():
    right = np.zeros((3, 40), bool)
    right[:, :3] = [[1, 1, 1], [0, 1, 1], [1, 1, 1]]
    clean = np.arange(40) != 2
    network = made.network(made.task("skin"), right, clean=clean, radii=[0.1, 0.2, 0.4])
    before = robustness.robust(network.sweep, [0.05, 0.1, 0.3, 0.4, 0.9])[:, :3]
    assert before.astype(int).tolist() == [[1, 1, 0], [1, 1, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0]]


def count(robust, n=40):
    """(1, n): the first ``robust`` images stand."""
    return (np.arange(n) < robust)[None]


@pytest.fixture
def started(tmp_path):
    return results.Run.start("02_attentive_cnn_pgd", attentive.PAPER.name, "paper", {}, tmp_path)


KEYS = [*study.TWINS, "attention", "against"]


def test_a_gain_carries_what_autoattack_left_of_it_on_the_same_images(started):
    run, (plain, ours) = started, made.pair()
    run.dataset(ours.arm.task.raw)
    gains = study.gains(pd.concat([plain.scores(), ours.scores()]), attentive.FOUR)
    tables.record(run, gains)
    tables.record(run, tables.over_seeds(study.doublings((plain, ours))))
    eps = [2 / 255]
    pair = left(plain, eps, count(20), count(10)), left(ours, eps, count(40), count(30))
    scores = pd.concat([one.scores() for one in pair])
    found = survival.gained(tables.compare(scores, "attention", "released", "none", "{}"))
    tables.record(run, found)
    names = ["accuracy_gain", *(f"{name}_gain" for name in study.DOUBLINGS)]
    survival.decide(run, found, names, KEYS, pair[0].how.steps)
    assert only(run, "gain_before_autoattack")["value"] == pytest.approx(20 / 40)
    assert only(run, "autoattack_gain")["value"] == pytest.approx(20 / 40)
    here = only(run, "accuracy_gain", scale="signed", eps=0.04)  # at two gray levels, as asked
    for row in (here, only(run, "log2_radius_gain")):
        assert row["autoattack_sweep"] == pytest.approx(0.5)
        assert row["autoattack_low"] < 0.5 < row["autoattack_high"]
        assert (row["autoattack_steps"], row["autoattack_images"]) == (100, 40)
    elsewhere = only(run, "accuracy_gain", scale="signed", eps=0.02)
    assert "autoattack_low" not in elsewhere, "another radius was not attacked again"


def test_no_network_chooses_the_radius_that_autoattack_meets_it_at():
    task = made.task("skin")
    nets = [
        made.network(task, falling(4, [fall] * 40), seed=seed, attention=form)
        for seed, fall in ((0, 1), (1, 3))
        for form in ("none", "released")
    ]
    found = study.half_radii(nets)
    last, first = (found[nets[place].arm.plain.key] * 255 for place in (1, 3))
    assert (last, first) == pytest.approx((4, 2)), "each is that of the other seed"


def test_rows_of_a_network_say_which_attack_fooled_what_and_show_hidden_gradients(started):
    run, (plain, _) = started, made.pair()
    run.dataset(plain.arm.task.raw)
    before = np.repeat(count(20), 2, 0)
    one = left(plain, [0.02, 0.04], before, np.concatenate([count(20), count(8)]))
    one.note(run)
    assert not find(run, "red_flag")
    tables.record(run, tables.over_seeds(one.scores()))
    near, far = ({"radius_255": round(eps * 255, 6)} for eps in (0.02, 0.04))
    assert only(run, "accuracy_pgd", **far)["value"] == pytest.approx(0.5)
    assert only(run, "accuracy_autoattack", **near)["value"] == pytest.approx(0.5)
    assert only(run, "accuracy_autoattack", **far)["value"] == pytest.approx(0.2)
    assert only(run, "accuracy_autoattack", **far)["n"] == 40
    shares = {row["member"]: row["value"] for row in find(run, "autoattack_fooled_by", **far)}
    assert {k: v for k, v in shares.items() if v} == {"earlier attack": 0.5, "apgd-ce": 0.3}
    assert "40 of 40 attacked images, at 5.1, 10.2 gray levels" in run.record["deviations"][0]
    one.result.won[one.result.won == "apgd-ce"] = "square"
    one.note(run)
    flag = only(run, "red_flag")
    assert flag["radius_255"] == pytest.approx(0.04 * 255) and "12 of the 12" in flag["measured"]


# --- doublings, over seeds ------------------------------------------------------------------------

RADII = [0.001, 0.002, 0.004, 0.008]


def recorded(tmp_path, falls, attention=("none", "released")):
    """A run of both networks with every seed, of which ``falls[network][seed]`` says who falls."""
    skin, found = made.task("skin"), []
    for name, by_seed in zip(attention, falls, strict=True):
        for seed, falls_at in enumerate(by_seed):
            right = falling(4, falls_at)
            found.append(made.network(skin, right, attention=name, seed=seed, radii=RADII))
    run = results.Run.start("02_x", "2_attentive_cnn", "paper", {}, tmp_path)
    run.dataset(skin.data)
    tables.record(run, tables.over_seeds(study.doublings(found)))
    return run, found


def test_an_image_reaches_the_smallest_radius_that_fools_it_within_the_radii():
    clean = np.array([True] * 38 + [False] * 2)
    falls = [0] * 10 + [1] * 10 + [3] * 10 + [9] * 10
    one = made.network(made.task("skin"), falling(4, falls), clean=clean, radii=RADII)
    steps = np.log2(np.array(RADII))
    assert one.log2_radius[[0, 10, 20]] == pytest.approx(steps[[0, 1, 3]])
    assert one.log2_radius[30] == pytest.approx(steps[3])  # never: censored at the largest
    assert one.log2_radius[39] == pytest.approx(steps[0])  # wrong before: at the smallest
    for share, step in ((0.5, 1), (0.25, 3)):
        found = robustness.doublings(one.sweep, one.weights, share, study.EARLY)
        assert found["log2_radius_at_accuracy"].value == pytest.approx(steps[step])


def test_what_share_of_images_lies_above_a_value():
    weights = np.array([[1, 1, 1, 1.0], [0, 0, 0, 4.0]])
    found = metrics.exceeded(np.array([1.0, 2, 3, 4]), weights, 0.5)
    assert (found.value, *found.replicates) == (2.0, 4.0)


def test_a_gain_over_three_seeds_carries_all_that_its_verdict_needs(tmp_path):
    rng = np.random.default_rng(0)
    plain = [rng.integers(0, 3, 40) for _ in range(3)]
    falls = plain, [one + 1 for one in plain]  # each image holds one doubling longer
    run, _ = recorded(tmp_path, falls)
    row = only(run, "log2_radius_gain", against="none")
    assert row["value"] == pytest.approx(1.0) and row["seeds"] == 3
    assert row["by_seed"] == pytest.approx([1.0] * 3) and row["seed_ids"] == [0, 1, 2]
    assert row["clusters"] == 40 and row["cluster_variance"] == pytest.approx(0, abs=1e-12)
    assert (row["low"], row["high"]) == pytest.approx((1, 1), abs=1e-6)
    spared = only(run, "doublings_spared", attention="none")
    assert "outcomes" not in spared and len(spared["by_seed"]) == 3


def test_seeds_of_several_runs_are_one_result(tmp_path):
    """A cluster gives each seed a run of its own: without this none of them could decide."""
    even = np.arange(40) % 3
    rows = []
    for seed, later in enumerate((1, 1, 2)):
        skin = made.task("skin")
        nets = [
            made.network(skin, falling(4, even + more), attention=form, seed=seed, radii=RADII)
            for form, more in (("none", 0), ("released", later))
        ]
        run = results.Run.start("02_x", "2_attentive_cnn", "reference", {}, tmp_path / str(seed))
        run.dataset(skin.data)
        tables.record(run, tables.over_seeds(study.doublings(nets)))
        row = only(run, "log2_radius_gain")
        assert row["seed_ids"] == [seed] and row["outcomes"], "one seed is told by its number"
        rows.append(row)
    joined = evidence.measured(rows[0], rows[1:], planned=5)
    assert joined["seed_ids"] == [0, 1, 2]
    assert evidence.ends(joined)[0] == pytest.approx(np.mean([row["value"] for row in rows]))


def test_what_autoattack_leaves_is_pooled_over_the_runs_of_all_seeds():
    """One lucky seed would speak for all of them."""
    common = {"value": 0.2, "low": 0.1, "high": 0.3, "n": 100, "metric": "x"}
    rows = [
        common
        | {"seed_ids": [seed], "by_seed": [0.2], "autoattack_by_seed": [gain]}
        | {"autoattack_low": gain, "autoattack_high": gain, "autoattack_sweep": 0.2}
        | {"autoattack_variance": 1e-4, "autoattack_clusters": 50}
        | {"autoattack_steps": 100, "autoattack_images": 100}
        for seed, gain in enumerate((0.2, 0.0, 0.1))
    ]
    joined = evidence.measured(rows[0], rows[1:], planned=3)
    assert joined["autoattack_low"] < 0.0 and joined["autoattack_high"] > 0.2
    assert joined["autoattack_low"] + joined["autoattack_high"] == pytest.approx(0.2)
    del rows[2]["autoattack_by_seed"]
    unmet = evidence.measured(rows[0], rows[1:], planned=3)
    assert unmet["autoattack_low"] is None, "a seed that AutoAttack never met"


def test_seeds_that_disagree_widen_the_interval_beyond_the_images(tmp_path):
    even = np.arange(40) % 3
    run, _ = recorded(tmp_path, ([even] * 3, [even, even + 1, even + 3]))
    row = only(run, "log2_radius_gain")
    assert row["low"] < 0 < row["value"] < row["high"]


def test_every_interval_is_rebuilt_from_the_outcomes_that_are_committed(tmp_path):
    rng = np.random.default_rng(1)
    falls = [[rng.integers(0, 5, 40) for _ in range(3)] for _ in range(2)]
    run, found = recorded(tmp_path, falls)
    scores = pd.concat([one.scores() for one in found])
    gains = tables.over_seeds(tables.compare(scores, "attention", "released", "none"))
    tables.record(run, gains)
    run.save()
    (read,) = results.collect(tmp_path)
    rebuilt = [row for row in read["rows"] if row.get("outcomes")]
    assert {row["metric"] for row in rebuilt} >= {"log2_radius_gain", "accuracy_attacked_gain"}
    few = [row for row in rebuilt if row.get("discordant")]
    assert few and all(len(row["discordant"]) == 2 for row in few)
    assert evidence.ends(few[0]) == pytest.approx([few[0][k] for k in ("value", "low", "high")])
    wrong, told = verdicts.recompute([read])
    assert not wrong and f"{len(rebuilt)} rows rebuilt" in told[0]
    rebuilt[0]["by_seed"] = [one + 0.1 for one in rebuilt[0]["by_seed"]]
    assert verdicts.recompute([read])[0], "a changed number goes unnoticed"


# --- a few phantoms ------------------------------------------------------------------------------

LIGHT = {"images": 4, "steps": 2, "targets": 1, "queries": 5}


def test_a_network_of_paper_2_is_attacked_where_it_stands_and_read_back(tmp_path, monkeypatch):
    spec = attentive.ARMS[0] | attentive.COMMON | {"attention": ["none"]}
    settings = attentive.tiny(arms=[spec])
    (arm,) = study.arms(settings, seed=0)
    model = study.build_arm(arm, settings).eval()
    one = evaluation.Trained(arm, model, [], tmp_path)
    robust = evaluation.evaluate(one, settings, [0.001, 0.02], seed=0)
    kept = {path.name for path in tmp_path.iterdir()}
    found = survival.survive(one, robust, LIGHT, [0.001, 0.02], seed=0)
    assert found.before.shape == found.result.right.shape == (2, 4)
    assert not (found.result.right & ~found.before).any()
    assert kept < {path.name for path in tmp_path.iterdir()}
    monkeypatch.setattr("medrobust_utils.attacks.radius_sweep.attack_batch", None)
    again = survival.survive(one, robust, LIGHT, [0.001, 0.02], seed=0)
    assert np.array_equal(again.result.won, found.result.won)
