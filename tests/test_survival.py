"""Whether a defence survives AutoAttack: hand-made outcomes, and a few phantoms attacked again."""

from dataclasses import replace

import made
import numpy as np
import pandas as pd
import pytest
import test_attentive_cnn as attentive
import test_domain_assimilation as assimilation
from found import falling, find, only

from medrobust_utils.attacks import AutoAttackConfig, AutoResult
from medrobust_utils.data.splits import some
from medrobust_utils.reporting import results
from medrobust_utils.scoring import robustness
from medrobust_utils.studies import attentive_cnn as first_study
from medrobust_utils.studies import domain_assimilation as second_study
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


KEYS = [*first_study.TWINS, "attention", "against"]


def test_a_gain_carries_what_autoattack_left_of_it_on_the_same_images(started):
    run, (plain, ours) = started, made.pair()
    run.dataset(ours.arm.task.raw)
    gains = first_study.gains(pd.concat([plain.scores(), ours.scores()]), attentive.FOUR)
    tables.record(run, gains)
    tables.record(run, tables.over_seeds(first_study.doublings((plain, ours))))
    eps = [2 / 255]
    pair = left(plain, eps, count(20), count(10)), left(ours, eps, count(40), count(30))
    scores = pd.concat([one.scores() for one in pair])
    found = survival.gained(tables.compare(scores, "attention", "released", "none", "{}"))
    tables.record(run, found)
    names = ["accuracy_gain", *(f"{name}_gain" for name in first_study.DOUBLINGS)]
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
    found = first_study.half_radii(nets)
    last, first = (found[nets[place].arm.plain.key] * 255 for place in (1, 3))
    assert (last, first) == pytest.approx((4, 2)), "each is that of the other seed"


def test_a_sign_of_hidden_gradients_stands_beside_the_outcome(started):
    run, (plain, _) = started, made.pair()
    run.dataset(plain.arm.task.raw)
    one = left(plain, [0.02, 0.04], np.repeat(count(20), 2, 0), np.repeat(count(8), 2, 0))
    one.note(run)
    assert not find(run, "red_flag")
    one.result.won[one.result.won == "apgd-ce"] = "square"
    one.note(run)
    flag = only(run, "red_flag")
    assert flag["radius_255"] == pytest.approx(0.04 * 255) and "12 of the 12" in flag["measured"]


def test_rows_of_a_network_say_who_felled_what(started):
    run, (plain, _) = started, made.pair()
    run.dataset(plain.arm.task.raw)
    one = left(
        plain, [0.02, 0.04], np.repeat(count(20), 2, 0), np.concatenate([count(20), count(8)])
    )
    one.note(run)
    tables.record(run, tables.over_seeds(one.scores()))
    near, far = ({"radius_255": round(eps * 255, 6)} for eps in (0.02, 0.04))
    assert only(run, "accuracy_pgd", **far)["value"] == pytest.approx(0.5)
    assert only(run, "accuracy_autoattack", **near)["value"] == pytest.approx(0.5)
    assert only(run, "accuracy_autoattack", **far)["value"] == pytest.approx(0.2)
    assert only(run, "accuracy_autoattack", **far)["n"] == 40
    shares = {row["member"]: row["value"] for row in find(run, "autoattack_fooled_by", **far)}
    assert shares == pytest.approx(
        {
            "wrong before": 0,
            "earlier attack": 0.5,
            "apgd-ce": 0.3,
            "apgd-t": 0,
            "fab-t": 0,
            "square": 0,
        }
    )
    assert "40 of 40 attacked images, at 5.1, 10.2 gray levels" in run.record["deviations"][0]


# --- a few phantoms ------------------------------------------------------------------------------

LIGHT = {"images": 4, "steps": 2, "targets": 1, "queries": 5}


def test_a_network_of_paper_2_is_attacked_where_it_stands_and_read_back(tmp_path, monkeypatch):
    spec = attentive.ARMS[0] | attentive.COMMON | {"attention": ["none"]}
    settings = attentive.tiny(arms=[spec])
    (arm,) = first_study.arms(settings, seed=0)
    model = first_study.build_arm(arm, settings).eval()
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


def test_a_network_of_paper_3_is_attacked_at_the_eps_of_the_profile(tmp_path):
    settings = assimilation.tiny()
    arm = replace(next(second_study.arms(settings, seed=0)), attacks="pgd")
    model = second_study.build_arm(arm, settings).eval()
    one = evaluation.Trained(arm, model, [], tmp_path)
    robust = second_study.measure(one, settings, seed=0)
    found = survival.survive(one, robust, LIGHT, [1 / 255, 8 / 255], seed=0)
    assert found.before.shape == found.result.right.shape == (2, 4)
    chosen = np.isin(arm.task.attacked, some(arm.task.attacked, 4, 0))
    # 8 lies between the radii 1 and 16: what was fooled at 1 is fooled
    strong, fine = (robust.sweeps[cell].right for cell in (second_study.STRONG, second_study.FINE))
    assert np.array_equal(found.before[0], (strong[0] & fine.all(0))[chosen])
    assert np.array_equal(found.before[1], found.before[0])
    assert not (found.result.right & ~found.before).any()


@pytest.mark.parametrize("paper", [attentive.PAPER, assimilation.PAPER], ids=lambda one: one.name)
@pytest.mark.parametrize("profile", ["smoke", "small", "paper"])
def test_every_profile_says_how_hard_autoattack_tries(paper, profile):
    how = paper.settings(profile, "attack.autoattack.steps=7").attack["autoattack"]
    assert how["steps"] == 7 and {"images", "targets", "queries"} <= set(how)
