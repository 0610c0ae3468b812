"""Each rule of the ledger, and the board made of them: a wrong one misleads every reader."""

import json
from pathlib import Path

import numpy as np
import pytest

from medrobust_utils.reporting import claims, ledger, protocol, results, verdicts
from medrobust_utils.scoring import inference

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "results" / "reference"

PAPER = """
profiles:
  paper: {datasets: {skin: ham10000}, size: 224}
  reference: {datasets: {skin: ham10000}, size: 224}
  small: {datasets: {skin: ham10000}, size: 64}
paper: {title: T, citation: C}
plan: run it
headlines:
  - &gain {id: gain, quote: better, place: p, kind: contrast, estimand: e, expectation: above 0,
     claim: gain, worth: 0.1, needs: {seeds: 3, images: 400, anchor: skin}, dated: 2026-11-30,
     primary: {metric: gain, role: skin, against: none}, evidence: [{metric: other}]}
  - &plain {<<: *gain, id: several, needs: {seeds: 3, images: 400}, evidence: [],
     primary: {metric: gain, role: [skin, chest]}}
  - {<<: *plain, id: unit, primary: {metric: gain, scale: [0-1, signed]}, unknown: [scale]}
  - {<<: *plain, id: under-attack, primary: {metric: gain, role: skin}, controls: [AutoAttack]}
  - {<<: *plain, id: mostly, kind: typical, primary: {metric: maps}}
  - {<<: *plain, id: sometimes, kind: existence, worth: 0, needs: {seeds: 1, images: 48},
     primary: {metric: share}}
  - {<<: *plain, id: closed, primary: {metric: gain, role: skin}, missing: its weights}
anchors:
  skin: [{metric: auc, at_least: 0.93, role: skin}]
"""
SMALL = protocol.from_text("small", PAPER)
HASHES = SMALL.fingerprints()
COMPETENT = {"metric": "auc", "role": "skin", "value": 0.95, "path": "run"}


def row(*by_seed, **tags):
    """A row as a run at the headline's own size leaves it: three seeds, 400 images."""
    values = list(by_seed) or [0.30, 0.31, 0.32]
    about = {"metric": "gain", "role": "skin", "against": "none", "scale": "0-1", "n": 400}
    about |= {"dataset": "ham10000", "synthetic": False, "complete": True, "profile": "reference"}
    about |= {"value": sum(values) / len(values), "low": 0.2, "high": 0.4, "by_seed": values}
    about |= {"cluster_variance": 1e-4, "clusters": 200, "headlines": HASHES, "path": "run"}
    return about | {"overrides": "", "status": "complete", "size": 224} | tags


def verdict(name, *rows, paper=SMALL):
    headline = next(one for one in paper.headlines if one.id == name)
    return ledger.judge(headline, paper, [COMPETENT, *rows])


@pytest.mark.parametrize(
    ("claim", "value", "low", "high", "word"),
    [
        ("gain", 0.2, 0.05, 0.4, "supported"),
        ("gain", 0.05, 0.01, 0.09, "real but negligible"),
        ("gain", 0.05, 0.01, 0.2, "inconclusive"),
        ("gain", 0.0, -0.05, 0.09, "contradicted: no gain worth having"),
        ("gain", -0.1, -0.2, -0.01, "contradicted: reversed"),
        ("gain", -0.1, -0.2, 0.0, "contradicted: no gain worth having"),  # 0 is not below 0
        ("gain", 0.2, 0.0, 0.4, "inconclusive"),  # nor above it
        ("no_loss", -0.01, -0.09, 0.1, "supported"),
        ("no_loss", -0.2, -0.3, -0.11, "contradicted"),
        ("no_loss", -0.1, -0.2, 0.1, "inconclusive"),
        ("equality", 0.0, -0.09, 0.09, "supported"),
        ("equality", 0.2, 0.11, 0.3, "contradicted"),
        ("equality", -0.2, -0.3, -0.11, "contradicted"),
        ("equality", 0.0, -0.1, 0.05, "inconclusive"),
    ],
)
def test_the_table_of_verdicts(claim, value, low, high, word):
    assert ledger.judged(claim, value, low, high, worth=0.1) == word


def test_three_seeds_on_the_papers_data_decide():
    found = verdict("gain", row())
    assert (found.says, found.grade, found.seeds, found.images) == ("supported", "B", 3, 400)
    assert 0.27 < found.low < 0.31 < found.high < 0.35, "t over seeds and images, no percentiles"
    assert verdict("gain", row(-0.3, -0.31, -0.32)).word == "contradicted: reversed"
    open_ = verdict("gain", row(0.0, 0.2, 0.4))
    assert open_.word == "inconclusive" and open_.detectable > 0.1
    assert "could have found" in claims.reason(open_)


@pytest.mark.parametrize(
    ("tags", "grade", "says"),
    [
        ({"profile": "paper"}, "A", "supported"),
        ({"complete": False}, "C", "supported on part of the data"),
        ({"dataset": "other"}, "C", "supported on other data"),
        ({"recipe": "described"}, "B", "supported for the recipe as described"),
    ],
)
def test_the_grade_stands_in_the_verdict(tags, grade, says):
    found = verdict("gain", row(**tags))
    assert (found.grade, found.says) == (grade, says)


@pytest.mark.parametrize(
    "tags",
    [
        {"synthetic": True},
        {"overrides": "epochs=1"},
        {"profile": "homemade"},
        {"dataset": "ham10000+folder-mine"},
        {"status": "partial"},
        {"value": None, "by_seed": None},
    ],
)
def test_what_never_decides_displaces_nothing(tags):
    alone = verdict("gain", row(-1, -1.1, -1.2, **tags))
    assert alone.word == "not run" and len(alone.evidence) == 1, "and is shown"
    best = verdict(
        "gain",
        row(path="old"),
        row(-1, -1.1, -1.2, path="new", n=10**6, **tags),
        COMPETENT | {"path": "old"},
    )
    assert best.word == "supported"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (row(0.3), "1 of 3 seeds"),
        (row(n=399), "399 of 400 images"),
        (row(headlines=None), "run before the headline was fixed"),
        (row(headlines=HASHES | {"gain": "0"}), "headline amended after the result"),
        (row(low=None, high=None, cluster_variance=None), "no interval"),
        (row(path="another"), "auc not measured, competent from 0.93"),
        (row(metric="other"), "measured otherwise, as other"),
    ],
)
def test_a_pilot_is_shown_and_decides_nothing(given, why):
    found = verdict("gain", given)
    assert (found.word, found.why, found.settle) == ("pilot", why, "run it")
    assert found.value is not None
    weak = verdict("gain", row(), COMPETENT | {"value": 0.90})
    assert weak.word == "pilot" and "auc 0.9, competent from 0.93" in weak.why


def test_grade_size_images_and_seeds_order_rows_and_no_date_does():
    good = row(path="a")
    worse = [
        row(-1, -1.1, -1.2, path="b", complete=False),
        row(-1, -1.1, -1.2, path="c", size=64, profile="small"),
        row(-1, -1.1, -1.2, path="d", n=100),
    ]
    anchors = [COMPETENT | {"path": path} for path in "abcd"]
    for rows in ([good, *worse], [*worse, good]):
        assert verdict("gain", *anchors, *rows).word == "supported"


def test_seeds_of_several_runs_are_pooled_up_to_the_plan():
    runs = [row(0.3 + seed / 100, seed_ids=[seed], path=str(seed)) for seed in (3, 1, 0, 2)]
    found = verdict("gain", *(COMPETENT | {"path": str(s)} for s in range(4)), *runs)
    assert found.seeds == 3 and found.value == pytest.approx(0.31), "seeds 0 to 2, not the newest"


def test_a_cell_that_several_rows_of_a_run_fit_is_no_primary_cell():
    found = verdict("gain", row(radius=1), row(-1, -1.1, -1.2, radius=2))
    assert found.word == "not run" and "one of 2 rows" in found.why


def test_several_primary_cells_are_judged_at_holms_levels():
    both = [row(), row(role="chest", path="2")]
    assert verdict("several", *both).word == "supported"
    assert verdict("several", row()).word == "pilot", "one of two cells"
    mixed = verdict("several", row(), row(-0.3, -0.31, -0.32, role="chest", path="2"))
    assert mixed.word == "mixed"


def test_readings_of_one_unknown_are_judged_jointly():
    against = row(-0.3, -0.31, -0.32, scale="signed", path="2")
    assert verdict("unit", row(), against).word == "mixed"
    assert verdict("unit", row(), row(scale="signed", path="2")).word == "supported"


AUTO = {"autoattack_sweep": 0.31, "autoattack_steps": 100, "autoattack_images": 100}


@pytest.mark.parametrize(
    ("sign", "low", "high", "more", "word"),
    [
        (1, -0.1, 0.16, {}, "supported"),  # half the gain is in its interval
        (1, -0.1, 0.15, {}, "contradicted: no gain worth having"),
        (1, 0.05, 0.2, {"autoattack_steps": 20}, "inconclusive"),
        (1, 0.05, 0.2, {"autoattack_images": 24}, "inconclusive"),
        (1, None, None, {}, "inconclusive"),
        (-1, 0.05, 0.2, {}, "inconclusive"),  # the sweep saw no gain, it does
        (-1, -0.2, 0.2, {}, "contradicted: reversed"),
    ],
)
def test_autoattack_decides_in_both_directions(sign, low, high, more, word):
    tags = AUTO | {"autoattack_low": low, "autoattack_high": high} | more
    by_seed = [sign * gain for gain in (0.3, 0.31, 0.32)]
    assert verdict("under-attack", row(*by_seed, **tags)).word == word


def test_most_cases_are_judged_against_two_baselines():
    def judged(*baselines):
        others = [row(metric="maps", value=v, baseline=str(v)) for v in baselines]
        return verdict("mostly", row(metric="maps"), *others).word

    assert judged(0.1, 0.2) == "supported" and judged(0.5, 0.6) == "contradicted"
    assert judged(0.1, 0.5) == "inconclusive" and judged(0.1) == "pilot"


def test_occasionally_needs_one_network_and_is_never_contradicted():
    def judged(share):
        chance = row(metric="share", value=0.1, baseline="random signs")
        seen = row(metric="share", value=share, by_seed=None, low=None, high=None, n=48)
        return verdict("sometimes", seen, chance).word

    assert judged(0.4) == "supported" and judged(0.12) == judged(0.0) == "inconclusive"


@pytest.mark.parametrize(
    ("expectation", "value", "word"),
    [
        ("below 0.013", 0.01315, "differs"),
        ("below 0.013", 0.0, "exact"),
        ("above 2", 2.0, "differs"),
        ("2.64", 2.6432, "exact"),
        ("0.816", 0.8251, "differs"),
    ],
)
def test_formulas_and_counts_are_exact_or_differ(expectation, value, word):
    assert ledger.identity(expectation, value, 0.0) == word
    within = word if " " in expectation else "exact"  # there is no tolerance on a bound
    assert ledger.identity(expectation, value, 0.01) == within


def test_what_cannot_be_tested_says_what_is_missing():
    found = verdict("closed", row())
    assert (found.word, claims.reason(found)) == ("not testable here", "its weights")


def test_few_discordant_images_go_to_the_exact_test():
    found = verdict("gain", row(0.005, 0.005, 0.006, cluster_variance=1e-9, discordant=(3, 0)))
    assert found.low < 0, "three images of 400 are no gain"


def test_another_run_of_ours_is_compared_with_the_papers_number():
    text = PAPER.replace("evidence: [{metric: other}]", "paper_value: 0.16")
    paper = protocol.from_text("small", text)
    assert paper.fingerprints()["gain"] == HASHES["gain"], "what decides nothing is not hashed"
    assert verdict("gain", row(), paper=paper).agrees is False
    assert verdict("gain", row(0.1, 0.3, 0.5), paper=paper).agrees is True


# the board of the package


@pytest.fixture(scope="module")
def runs():
    return results.collect(REFERENCE)


def test_todays_results_get_no_verdict_that_the_rules_do_not_carry(runs):
    for name, found in claims.board(runs).items():
        assert 13 <= len(found) <= 18, name
        for v in found:
            # no reference run has the seeds that a headline asks for, or knew its words
            assert v.word not in ledger.DECIDED, v.headline.id
            assert v.word != ledger.NOT_TESTABLE or v.headline.missing
            assert v.grade != "D"
            if v.headline.kind == "identity":
                assert ledger.identity(v.headline.expectation, 1e9, 0.0) == "differs"


def test_committed_verdicts_page_and_readme_are_current(runs):
    assert verdicts.check(runs, REFERENCE / verdicts.RECORD) == []
    assert verdicts.page(runs) == (ROOT / verdicts.PAGE).read_text("utf-8"), "claims --update"
    assert verdicts.readme_block(runs) in (ROOT / verdicts.README).read_text("utf-8")


def test_a_drift_and_an_amendment_are_told(runs, tmp_path):
    name, path = "3_domain_assimilation/outlier", tmp_path / verdicts.RECORD
    record = verdicts.record(runs)
    record[name] |= {"value": 0.5}
    path.write_text(json.dumps(record))
    (told,) = verdicts.check(runs, path)
    assert told.startswith(f"{name}: value 0.5 -> 0.42")
    path.write_text(json.dumps(verdicts.record(runs)))
    amended = [
        run | {"headlines": {"outlier": "0"}} if "03_" in run["path"] else run for run in runs
    ]
    told = verdicts.check(amended, path)
    assert sum("outlier: amended after the result" in line for line in told) == 2


def test_intervals_are_rebuilt_from_committed_outcomes(tmp_path):
    random = np.random.default_rng(0)
    outcomes = random.choice([-1.0, 0.0, 1.0], (3, 200), p=[0.1, 0.6, 0.3])
    groups = np.repeat(np.arange(100), 2)
    np.savez(tmp_path / "outcomes.npz", **{"pair": outcomes, "pair:groups": groups})
    found = inference.paired(outcomes, groups)
    variance, clusters = inference.cluster_variance(outcomes.mean(0), groups)
    about = {"cluster_variance": variance, "clusters": clusters, "outcomes": "pair", "n": 200}
    good = {"metric": "gain", "value": found.value, "low": found.low, "high": found.high}
    good |= about | {"by_seed": outcomes.mean(1).tolist()}
    run = {"path": str(tmp_path / "result.json"), "rows": [good, {"metric": "other", "value": 1}]}
    wrong, told = verdicts.recompute([run])
    assert wrong == [] and told[0].endswith("1 rows rebuilt, 1 have no committed outcomes")
    run["rows"][0] = good | {"by_seed": (outcomes.mean(1) + 0.01).tolist()}
    assert len(verdicts.recompute([run])[0]) == 1
    np.savez(tmp_path / "outcomes.npz", **{"pair": outcomes[:1], "pair:groups": groups})
    for value, differ in ((outcomes[0].mean(), 0), (outcomes[0].mean() + 0.01, 1)):
        one = {"metric": "gain", "value": value, "low": value, "high": value}
        found = verdicts.recompute([run | {"rows": [one | about | {"by_seed": [value]}]}])
        assert len(found[0]) == differ, "a pilot of one seed is checked too"


def test_the_command_prints_the_board_one_headline_and_json(runs, capsys):
    assert verdicts.main(["--results", str(REFERENCE)]) == 0
    text = capsys.readouterr().out
    assert all(f"{name}: " in text for name in protocol.list_papers())
    assert verdicts.main(["--results", str(REFERENCE), "--evidence", "outlier"]) == 0
    text = capsys.readouterr().out
    assert '> "Vanilla FGSM' in text and "fgsm_rebound" in text and "Settl" not in text
    assert verdicts.main(["--results", str(REFERENCE), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) >= 48
    html = claims.show(runs, "3_domain_assimilation").to_html()  # as a notebook shows it
    assert "Vanilla FGSM" in html and "formulas and counts" in html


@pytest.mark.parametrize(
    ("low", "high", "reading"),
    [(0.49, 0.5, "agrees"), (0.6, 0.7, "differs"), (0.4, 0.49, "unclear")],
)
def test_a_reported_number_is_read_by_its_tolerance(low, high, reading):
    claim = next(c for c in protocol.load("1_swin_noise").claims if c.value == 0.484)
    assert claims.reading(claim, {"value": low, "low": low, "high": high}) == reading
