"""Whether a defence survives AutoAttack: hand-made outcomes, and a few phantoms attacked again."""

from dataclasses import replace

import made
import numpy as np
import pandas as pd
import pytest
import test_attentive_cnn as attentive
import test_domain_assimilation as assimilation
from found import falling, find, only

from medrobust_utils.attacks import AutoResult
from medrobust_utils.reporting import results
from medrobust_utils.scoring.metrics import Estimate
from medrobust_utils.studies import attentive_cnn as first_study
from medrobust_utils.studies import domain_assimilation as second_study
from medrobust_utils.studies import domain_assimilation_compare as compare
from medrobust_utils.studies import evaluation, survival, tables
from medrobust_utils.studies.common import some


def estimate(value, low, high):
    return Estimate(value, np.array([low] * 500 + [high] * 500))


@pytest.mark.parametrize(
    ("value", "low", "high", "expected"),
    [
        (0.2, 0.1, 0.3, "survives"),
        (0.1, 0.0, 0.2, "unclear"),
        (0.1, -0.1, 0.3, "unclear"),
        (0.0, -0.1, 0.1, "unclear"),  # few images: nothing was undone
        (0.1, -0.1, 0.0, "lost"),
        (0.0, 0.0, 0.0, "lost"),
        (-0.1, -0.3, 0.1, "unclear"),
        (-0.2, -0.3, -0.1, "lost"),
    ],
)
def test_a_gain_survives_only_with_its_whole_interval(value, low, high, expected):
    assert survival.outcome(estimate(value, low, high), "") == expected
    short = {"survives": "survives a shortened one"}.get(expected, expected)
    assert survival.outcome(estimate(value, low, high), "20 of 100 steps") == short


# --- hand-made networks --------------------------------------------------------------------------


def left(network, epsilons, before, robust, shortened=""):
    """A network of which AutoAttack left ``robust`` (R, n) of ``before``."""
    index = network.arm.task.attacked
    labels = network.arm.task.data.targets[index]
    won = np.where(robust, "", np.where(before, "apgd-ce", "earlier attack"))
    none = np.zeros((len(epsilons), len(labels), 2), np.float32)
    queries = np.where(before, 10, 0)
    result = AutoResult(np.array(epsilons), none, none[0], labels, "robust", robust, won, queries)
    return survival.Survival(network, index, before, result, shortened)


def test_what_was_fooled_once_stays_so_also_between_the_radii():
    right = np.zeros((3, 40), bool)
    right[:, :3] = [[1, 1, 1], [0, 1, 1], [1, 1, 1]]
    clean = np.arange(40) != 2
    network = made.network(made.task("skin"), right, clean=clean, radii=[0.1, 0.2, 0.4])
    before = network.robust([0.05, 0.1, 0.3, 0.4, 0.9])[:, :3]
    assert before.astype(int).tolist() == [[1, 1, 0], [1, 1, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0]]


def count(robust, n=40):
    """(1, n): the first ``robust`` images stand."""
    return (np.arange(n) < robust)[None]


OUTCOMES = [(30, "survives"), (12, "unclear"), (10, "lost"), (5, "lost")]  # of the plain one: 10


@pytest.fixture
def started(tmp_path):
    return results.Run.start("02_attentive_cnn_pgd", attentive.PAPER.name, "paper", {}, tmp_path)


KEYS = [*first_study.TWINS, "attention"]


def with_gains(run, pair):
    """The record with PGD's gains of a pair."""
    plain, ours = pair
    run.dataset(ours.arm.task.raw)
    gains = first_study.gains(pd.concat([plain.scores(), ours.scores()]))
    tables.record(run, first_study.gain_rows(gains, attentive.FOUR, [0.02, 0.04]))


def after_autoattack(run, pair):
    """The record with the gains that AutoAttack left, and PGD's rows marked."""
    scores, short = pd.concat([one.scores() for one in pair]), pair[0].shortened
    twins = tables.against(scores, "attention", "none", "{}")
    gains = survival.gained(twins.drop(columns="against"), short)
    tables.record(run, gains)
    survival.mark_gains(run, gains, first_study.GAINS, KEYS, "radius_255")
    twenty = tables.excess(first_study.TIMES)
    over = survival.gained(tables.against(scores, "attention", "none", "{}", twenty), short)
    survival.mark_gains(run, over, ["excess_over_twenty"], KEYS, "radius_255")


@pytest.mark.parametrize(("robust", "expected"), OUTCOMES)
def test_attention_is_marked_where_it_was_attacked_again(started, robust, expected):
    run, (plain, ours) = started, made.pair()
    with_gains(run, (plain, ours))
    assert not any("autoattack" in row for row in run.record["rows"])  # nothing is said unasked
    eps = [2 / 255]
    pair = [left(plain, eps, count(20), count(10)), left(ours, eps, count(40), count(robust))]
    after_autoattack(run, pair)
    assert only(run, "gain_typical")["autoattack"] == expected  # at 2, where half is left
    assert only(run, "accuracy_gain", scale="signed", eps=0.04)["autoattack"] == expected
    row = only(run, "autoattack_gain")
    assert row["autoattack"] == expected and row["value"] == pytest.approx((robust - 10) / 40)
    before = only(run, "gain_before_autoattack")
    assert before["value"] == pytest.approx(20 / 40) and "autoattack" not in before
    for elsewhere in (
        only(run, "accuracy_gain", scale="signed", eps=0.02),
        only(run, "gain_extreme"),
        only(run, "accuracy_gain", eps=0.0),
        only(run, "mean_gain", scale="signed"),
    ):
        assert "autoattack" not in elsewhere


def test_twenty_times_as_accurate_is_asked_for_twenty_times(started):
    run, (plain, ours) = started, made.pair()
    with_gains(run, (plain, ours))
    eps = [4 / 255]
    pair = [left(plain, eps, count(6), count(6)), left(ours, eps, count(40), count(30))]
    after_autoattack(run, pair)
    assert only(run, "accuracy_gain", scale="0-1")["autoattack"] == "survives"
    assert only(run, "excess_over_twenty", scale="0-1")["autoattack"] == "lost"  # 5 times


def test_a_shortened_attack_may_undo_a_gain_and_cannot_prove_it(started):
    run, (plain, ours) = started, made.pair()
    with_gains(run, (plain, ours))
    eps, short = [2 / 255], "20 of 100 steps"
    pair = [
        left(plain, eps, count(20), count(10), short),
        left(ours, eps, count(40), count(30), short),
    ]
    after_autoattack(run, pair)
    assert only(run, "gain_typical")["autoattack"] == "survives a shortened one"
    assert "autoattack" not in only(run, "gain_typical_relative")  # a ratio is not spoken to
    pair[0].note(run)
    assert run.record["deviations"][0].endswith("; 20 of 100 steps")


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


def test_radii_are_the_typical_the_extreme_and_those_where_attention_surely_leads():
    plain, ours = made.pair()
    cells = attentive.FOUR.assign(eps=[0.00125, 0.0025, 0.005])  # at 1, 2 and 4 gray levels

    def chosen(*networks, cells=cells):
        scores = pd.concat([one.scores() for one in networks])
        (radii,) = first_study.decisive(first_study.gains(scores), cells).values()
        return radii

    assert chosen(plain, ours) == [2, 3]  # at 1 and 4, 2 and 3 of 40: not sure
    every = cells.assign(radius_255=[1.0, 4.0, 4.0])
    sure = made.network(ours.arm.task, falling(4, [9] * 40), attention="released")
    assert chosen(plain, sure, cells=every) == [1, 2, 3, 4]
    assert chosen(plain, sure, cells=every.assign(eps=0.02)) == [2, 3]  # nothing is claimed there
    long = made.task("skin")
    plain = made.network(long, falling(8, [3] * 38 + [0] * 2))
    sure = made.network(long, falling(8, [7] * 40), attention="released")
    many = pd.DataFrame({"eps": 0.005, "radius_255": [5.0, 6.0, 7.0, 8.0]})
    assert chosen(plain, sure, cells=many) == [3, 4, 5, 6]  # four at most


@pytest.mark.parametrize(("robust", "expected"), OUTCOMES)
def test_a_gain_of_paper_3_is_marked_at_its_eps_and_by_the_pair_that_was_attacked(
    tmp_path, robust, expected
):
    run = results.Run.start("03_x", assimilation.PAPER.name, "paper", {}, tmp_path)
    plain, ours = assimilation.pair()
    other = replace(ours, arm=assimilation.arm_of(ours.arm.task, "modules"))
    run.dataset(ours.arm.task.raw)
    tables.record(run, compare.gains(pd.concat([p.scores() for p in (plain, ours, other)])))
    eps, before = [1 / 255, 4 / 255], np.repeat(count(40), 2, 0)
    kept = np.repeat(count(10), 2, 0), np.concatenate([count(30), count(robust)])
    both = [left(one, eps, before, last) for one, last in zip((plain, ours), kept, strict=True)]
    gained = compare.after_autoattack(pd.concat([one.scores("eps_255") for one in both]), "")
    tables.record(run, gained)
    keys = [*ours.arm.tags, "against"]
    under = gained[gained["metric"].eq("autoattack_gain")]
    survival.mark_gains(run, under, ["accuracy_gain"], keys, "eps_255")
    cell = {"attack": "pgd", "step": "quarter", "defence": "glcm", "against": "none"}
    assert only(run, "accuracy_gain", eps_255=1.0, **cell)["autoattack"] == "survives"
    assert only(run, "accuracy_gain", eps_255=4.0, **cell)["autoattack"] == expected
    assert "autoattack" not in only(run, "accuracy_gain", eps_255=2.0, **cell)
    marked = [row for row in find(run, "accuracy_gain") if "autoattack" in row]
    assert {(row["defence"], row["against"]) for row in marked} == {("glcm", "none")}
    mean = only(run, "autoattack_mean_gain", defence="glcm")
    assert mean["value"] == pytest.approx((20 + robust - 10) / 80)
    assert mean["autoattack"] == "survives"


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
    assert np.array_equal(found.before[0], robust.cells[second_study.STRONG][0, chosen])
    assert np.array_equal(found.before[1], found.before[0])
    assert not (found.result.right & ~found.before).any()


@pytest.mark.parametrize("paper", [attentive.PAPER, assimilation.PAPER], ids=lambda one: one.name)
@pytest.mark.parametrize("profile", ["smoke", "small", "paper"])
def test_every_profile_says_how_hard_autoattack_tries(paper, profile):
    how = paper.settings(profile, "attack.autoattack.steps=7").attack["autoattack"]
    assert how["steps"] == 7 and {"images", "targets", "queries"} <= set(how)
