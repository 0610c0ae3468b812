"""Whether a defence survives AutoAttack: hand-made outcomes, and a few phantoms attacked again."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import test_attentive_cnn as attentive
import test_domain_assimilation as assimilation
from found import falling, find, only

from medrobust_utils.attacks import AutoResult
from medrobust_utils.reporting import results
from medrobust_utils.scoring import metrics
from medrobust_utils.scoring.metrics import Estimate
from medrobust_utils.studies import attentive_cnn as first_study
from medrobust_utils.studies import attentive_cnn_attack as first_attack
from medrobust_utils.studies import attentive_cnn_gains as first_gains
from medrobust_utils.studies import attentive_cnn_radii as radii
from medrobust_utils.studies import attentive_cnn_survival as first
from medrobust_utils.studies import domain_assimilation as second_study
from medrobust_utils.studies import domain_assimilation_attack as second_attack
from medrobust_utils.studies import domain_assimilation_gains as second_gains
from medrobust_utils.studies import domain_assimilation_survival as second
from medrobust_utils.studies import survival

GATES = {"beats_prior": True, "competent": True, "beats_majority": True}


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


def test_what_fell_once_stays_fallen_also_between_the_rungs():
    ladder, clean = np.array([1.0, 2.0, 4.0]), np.array([True, True, False])
    right = np.array([[1, 1, 1], [0, 1, 1], [1, 1, 1]], bool)
    before = survival.standing(ladder, right, clean, [0.5, 1.0, 3.0, 4.0, 9.0])
    assert before.astype(int).tolist() == [[1, 1, 0], [1, 1, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0]]


# --- hand-made networks --------------------------------------------------------------------------


def left(robust, epsilons, before, stands, shortened=""):
    """A network of which AutoAttack left ``stands`` (E, n) of ``before``."""
    labels = robust.arm.task.data.targets[robust.arm.task.attacked]
    won = np.where(stands, "", np.where(before, "apgd-ce", "earlier attack"))
    none = np.zeros((len(epsilons), len(labels), 2), np.float32)
    queries = np.where(before, 10, 0)
    result = AutoResult(np.array(epsilons), none, none[0], labels, "standing", stands, won, queries)
    weights = metrics.group_weights(robust.arm.task.data.groups, 0, draws=200)
    return survival.Survival(robust.arm, GATES, before, result, weights, shortened)


def count(standing, n=40):
    """(1, n): the first ``standing`` images stand."""
    return (np.arange(n) < standing)[None]


OUTCOMES = [(30, "survives"), (12, "unclear"), (10, "lost"), (5, "lost")]  # of the plain one: 10


@pytest.fixture
def started(tmp_path):
    return results.Run.start("02_attentive_cnn_pgd", attentive.PAPER.name, "paper", {}, tmp_path)


def attended():
    """Plain and attentive on four radii: 30, 20, 1, 1 and 32, 24, 10, 4 of 40 stand."""
    return attentive.pair()


@pytest.mark.parametrize(("standing", "expected"), OUTCOMES)
def test_attention_is_marked_where_it_was_attacked_again(started, standing, expected):
    run, (plain, ours) = started, attended()
    run.dataset(ours.arm.task.raw)
    first_gains.add_pair(run, [plain], [ours], attentive.FOUR)
    assert not any("autoattack" in row for row in run.record["rows"])  # nothing is said unasked
    eps = [attentive.FOUR.values[1]]
    pair = [left(plain, eps, count(20), count(10)), left(ours, eps, count(40), count(standing))]
    first.add_pair(run, *([one] for one in pair))
    assert only(run, "gain_typical")["autoattack"] == expected  # at 0.02, where half is left
    assert only(run, "accuracy_gain", scale="signed", eps=0.04)["autoattack"] == expected
    row = only(run, "autoattack_gain")
    assert row["autoattack"] == expected and row["value"] == pytest.approx((standing - 10) / 40)
    assert only(run, "gain_before_autoattack")["value"] == pytest.approx(20 / 40)
    for elsewhere in (
        only(run, "accuracy_gain", scale="signed", eps=0.02),
        only(run, "gain_extreme"),
        only(run, "accuracy_gain", eps=0.0),
        only(run, "mean_gain", scale="signed"),
    ):
        assert "autoattack" not in elsewhere


def test_twenty_times_as_accurate_is_asked_for_twenty_times(started):
    run, (plain, ours) = started, attended()
    run.dataset(ours.arm.task.raw)
    first_gains.add_pair(run, [plain], [ours], attentive.FOUR)
    eps = [attentive.FOUR.values[3]]
    pair = [left(plain, eps, count(6), count(6)), left(ours, eps, count(40), count(30))]
    first.add_pair(run, *([one] for one in pair))
    assert only(run, "accuracy_gain", scale="0-1")["autoattack"] == "survives"
    assert only(run, "excess_over_twenty", scale="0-1")["autoattack"] == "lost"  # 5 times


def test_a_shortened_attack_may_undo_a_gain_and_cannot_prove_it(started):
    run, (plain, ours) = started, attended()
    run.dataset(ours.arm.task.raw)
    first_gains.add_pair(run, [plain], [ours], attentive.FOUR)
    eps = [attentive.FOUR.values[1]]
    short = "20 of 100 steps"
    pair = [
        left(plain, eps, count(20), count(10), short),
        left(ours, eps, count(40), count(30), short),
    ]
    first.add_pair(run, *([one] for one in pair))
    assert only(run, "gain_typical")["autoattack"] == "survives a shortened one"
    assert "autoattack" not in only(run, "gain_typical_relative")  # a ratio is not spoken to
    first.add_network(run, pair[:1])
    assert run.record["deviations"][0].endswith("; 20 of 100 steps.")
    assert survival.effort([[pair[0]]]) == "AutoAttack with 20 of 100 steps"
    whole = left(plain, eps, count(20), count(10))
    assert survival.effort([[whole]]) == "AutoAttack with its published settings"


def test_a_sign_of_hidden_gradients_stands_beside_the_outcome(started):
    run, (plain, _) = started, attended()
    run.dataset(plain.arm.task.raw)
    one = left(plain, [0.02, 0.04], np.repeat(count(20), 2, 0), np.repeat(count(8), 2, 0))
    first.add_network(run, [one])
    assert not find(run, "red_flag")
    one.result.won[one.result.won == "apgd-ce"] = "square"
    first.add_network(run, [one])
    flag = only(run, "red_flag")
    assert flag["radius_255"] == pytest.approx(0.04 * 255) and "12 of the 12" in flag["measured"]
    table = pd.DataFrame(run.record["rows"]).assign(ours="")
    shown = survival.overview(
        table[table["metric"].isin(survival.SHOWN)], ["attention", "radius_255"]
    )
    assert shown["RED FLAG"].tolist() == ["", flag["measured"]]


def test_rows_of_a_network_say_who_felled_what(started):
    run, (plain, _) = started, attended()
    run.dataset(plain.arm.task.raw)
    one = left(
        plain, [0.02, 0.04], np.repeat(count(20), 2, 0), np.concatenate([count(20), count(8)])
    )
    first.add_network(run, [one])
    near, far = ({"radius_255": round(eps * 255, 6)} for eps in (0.02, 0.04))
    assert only(run, "accuracy_pgd", **far)["value"] == pytest.approx(0.5)
    assert only(run, "accuracy_autoattack", **near)["value"] == pytest.approx(0.5)
    assert only(run, "accuracy_autoattack", **far)["value"] == pytest.approx(0.2)
    assert only(run, "accuracy_autoattack", **far)["n"] == 40
    shares = {row["member"]: row["value"] for row in find(run, "autoattack_felled_by", **far)}
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
    assert only(run, "autoattack_queries", **far)["value"] == pytest.approx(5)
    assert "40 of 40 attacked images, at 5.1, 10.2 gray levels" in run.record["deviations"][0]


def test_radii_are_the_typical_the_extreme_and_those_where_attention_surely_leads():
    plain, ours = attended()
    assert first.choose([plain], [[plain]], {0, 1, 2, 3}) == [1, 2]
    assert first.choose([plain], [[ours]], set()) == [1, 2]
    assert first.choose([plain], [[plain], [ours]], {2, 3}) == [1, 2, 3]
    assert first.choose([plain], [[ours]], {0}) == [1, 2]  # 2 of 40: not sure
    long = attentive.made_task("skin")
    plain = attentive.made(long, falling(8, [3] * 38 + [0] * 2))
    ours = attentive.made(long, falling(8, [7] * 40), attention="released")
    assert first.choose([plain], [[ours]], {3, 4, 5, 6, 7}) == [2, 3, 4, 5]  # four at most


def test_claims_ask_for_the_radii_of_their_own_task():
    ladder = radii.radii(attentive.PAPER.settings("paper")["attack"])
    filters = {"skin": "none", "fundus": "none", "chest": "contrast"}
    tasks = {role: attentive.made_task(role, filter=name) for role, name in filters.items()}
    arms = {role: attentive.made(task, falling(2, [0])).arm for role, task in tasks.items()}
    found = {role: first.asked(attentive.PAPER.claims, arm, ladder) for role, arm in arms.items()}
    leads = {
        ladder.cells[cell] for cell in ladder.cells if cell[1] in (0.00125, 0.0025, 0.005, 0.01)
    }
    assert found["skin"] == leads and not found["chest"]
    assert found["fundus"] == {ladder.cells[scale, 0.32] for scale in ladder.scales()}


@pytest.mark.parametrize(("standing", "expected"), OUTCOMES)
def test_a_defence_is_marked_at_its_eps_and_in_the_mean(tmp_path, standing, expected):
    run = results.Run.start(
        "03_domain_assimilation", assimilation.PAPER.name, "paper", {}, tmp_path
    )
    plain, ours = assimilation.pair()
    run.dataset(ours.arm.task.raw)
    second_gains.add_pair(run, [plain], [ours])
    assert not any("autoattack" in row for row in run.record["rows"])
    eps = [1 / 255, 4 / 255]
    before = np.repeat(count(40), 2, 0)
    pair = [
        left(plain, eps, before, np.repeat(count(10), 2, 0)),
        left(ours, eps, before, np.concatenate([count(30), count(standing)])),
    ]
    second.add_pair(run, *([one] for one in pair), [1, 2, 4])
    assert not any("autoattack" in row for row in find(run, "mean_gain"))  # it did not meet 2/255
    second.add_pair(run, *([one] for one in pair), [1, 4])
    cell = {"attack": "pgd", "step": "quarter"}
    assert only(run, "accuracy_gain", eps_255=1.0, **cell)["autoattack"] == "survives"
    assert only(run, "accuracy_gain", eps_255=4.0, **cell)["autoattack"] == expected
    assert "autoattack" not in only(run, "accuracy_gain", eps_255=2.0, **cell)
    assert "autoattack" not in only(run, "accuracy_gain", attack="none")
    mean = find(run, "autoattack_mean_gain", against="none")[-1]
    assert mean["value"] == pytest.approx((20 + standing - 10) / 80)
    words = {row["autoattack"] for row in find(run, "mean_gain")}
    assert words == {mean["autoattack"]} == {"survives"}


def test_a_defence_is_not_marked_by_what_another_gained(tmp_path):
    run = results.Run.start(
        "03_domain_assimilation", assimilation.PAPER.name, "paper", {}, tmp_path
    )
    plain, ours = assimilation.pair()
    other = replace(ours, arm=assimilation.arm_of(ours.arm.task, "modules"))
    run.dataset(ours.arm.task.raw)
    for one, two in ((plain, ours), (plain, other), (other, ours)):
        second_gains.add_pair(run, [one], [two])
    pair = [left(one, [1 / 255], count(40), count(n)) for one, n in ((plain, 10), (ours, 30))]
    second.add_pair(run, *([one] for one in pair), [1])
    marked = [row for row in run.record["rows"] if "autoattack" in row]
    assert {(row["defence"], row["against"]) for row in marked} == {("glcm", "none")}


# --- a few phantoms ------------------------------------------------------------------------------

LIGHT = {"images": 4, "steps": 2, "targets": 1, "queries": 5}


def test_a_network_of_paper_2_is_attacked_where_it_stands_and_read_back(tmp_path, monkeypatch):
    settings = attentive.tiny(arms=[attentive.ARMS[0] | attentive.COMMON | {"attention": ["none"]}])
    settings = attentive.tiny(
        arms=settings["arms"], attack=settings["attack"] | {"autoattack": LIGHT}
    )
    (arm,) = first_study.arms(settings, seed=0)
    model, ladder = first_study.build_arm(arm, settings).eval(), radii.Radii((0.001, 0.02), {})
    robust = first_attack.measure(arm, model, settings, ladder, tmp_path, seed=0)
    kept = {path.name for path in tmp_path.iterdir()}
    found = first.survive(robust, model, settings, ladder, [0, 1], tmp_path, seed=0)
    assert found.before.shape == found.result.right.shape == (2, 4)
    assert not (found.result.right & ~found.before).any()
    assert np.array_equal(found.epsilons, ladder.values)
    assert kept < {path.name for path in tmp_path.iterdir()}
    monkeypatch.setattr("medrobust_utils.attacks.autoattack.sweep.follow", None)
    again = first.survive(robust, model, settings, ladder, [0, 1], tmp_path, seed=0)
    assert np.array_equal(again.result.won, found.result.won)


def test_a_network_of_paper_3_is_attacked_at_the_eps_of_the_profile(tmp_path):
    light = LIGHT | {"eps_255": [1, 8]}
    settings = assimilation.tiny()
    settings = assimilation.tiny(attack=settings["attack"] | {"autoattack": light})
    arm = next(second_study.arms(settings, seed=0))
    model = second_study.build_arm(arm, settings).eval()
    robust = second_attack.measure(replace(arm, attacks="pgd"), model, settings, tmp_path, seed=0)
    found = second.survive(robust, model, settings, tmp_path, seed=0)
    assert found.epsilons * 255 == pytest.approx([1, 8])
    assert found.before.shape == found.result.right.shape == (2, 4)
    chosen = np.isin(arm.task.attacked, first_attack.some(arm.task.attacked, 4, 0))
    # 8 lies between the rungs 1 and 16: what fell at 1 has fallen
    assert np.array_equal(found.before[0], robust.right["worst", "pgd"][0, chosen])
    assert np.array_equal(found.before[1], found.before[0])
    assert not (found.result.right & ~found.before).any()


@pytest.mark.parametrize("paper", [attentive.PAPER, assimilation.PAPER], ids=lambda one: one.name)
@pytest.mark.parametrize("profile", ["smoke", "small", "paper"])
def test_every_profile_says_how_hard_autoattack_tries(paper, profile):
    how = paper.settings(profile, "attack.autoattack.steps=7").attack["autoattack"]
    assert how["steps"] == 7 and {"images", "targets", "queries"} <= set(how)
