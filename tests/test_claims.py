"""The verdict rule branch by branch, and the tables that show it."""

import re

import pandas as pd
import pytest

from medrobust_utils.core import env
from medrobust_utils.core.errors import RunError
from medrobust_utils.reporting import claims, protocol, results, verdicts
from medrobust_utils.reporting.protocol import Claim

REAL = {
    "dataset": "nih",
    "synthetic": False,
    "complete": True,
    "start": "imagenet",
    "competent": True,
}
PHANTOM = {
    "dataset": "phantom-chest",
    "synthetic": True,
    "complete": True,
    "start": "scratch",
    "competent": True,
}


def claim(expect=None, **more):
    about = {
        "id": "c",
        "text": "Swin",
        "where": "Figure 8",
        "metric": "top1",
        "command": "run it",
        "expect": expect or {"value": 0.5, "tolerance": 0.02},
        "select": {"role": "nih", "noise": 0.1},
        "requires": dict(REAL),
    }
    return Claim(**{**about, **more})


def row(value, low=None, high=None, **tags):
    about = {
        "metric": "top1",
        "value": value,
        "low": low,
        "high": high,
        "role": "nih",
        "noise": 0.1,
        "status": "complete",
    }
    return {**about, **REAL, **tags}


@pytest.mark.parametrize(
    ("expect", "low", "high", "verdict"),
    [
        ({"value": 0.5, "tolerance": 0.02}, 0.49, 0.51, "reproduced"),
        ({"value": 0.5, "tolerance": 0.02}, 0.48, 0.52, "reproduced"),
        ({"value": 0.5, "tolerance": 0.02}, 0.53, 0.55, "not reproduced"),
        ({"value": 0.5, "tolerance": 0.02}, 0.40, 0.47, "not reproduced"),
        ({"value": 0.5, "tolerance": 0.02}, 0.47, 0.51, "not tested at this scale"),
        ({"value": 0.5, "tolerance": 0.02}, 0.40, 0.60, "not tested at this scale"),
        ({"above": 0}, 0.01, 0.02, "reproduced"),
        ({"above": 0}, -0.02, 0.0, "not reproduced"),
        ({"above": 0}, 0.0, 0.02, "not tested at this scale"),
        ({"above": 0}, -0.01, 0.02, "not tested at this scale"),
        ({"below": 300}, 200, 250, "reproduced"),
        ({"below": 300}, 300, 350, "not reproduced"),
        ({"below": 300}, 250, 350, "not tested at this scale"),
    ],
)
def test_the_interval_decides(expect, low, high, verdict):
    found = claims.judge(claim(expect), [row((low + high) / 2, low, high)])
    assert found.verdict == verdict
    word = {"reproduced": "inside", "not reproduced": "wholly outside"}.get(verdict, "straddles")
    assert word in found.reason
    assert found.row is not None and found.stand_in is None


INSIDE, OUTSIDE, BETWEEN = (0.01, 0.02), (-0.02, -0.01), (-0.01, 0.02)


@pytest.mark.parametrize(
    ("robust", "ends", "tag", "verdict", "reading", "says"),
    [
        (True, INSIDE, "survives", "reproduced", "agrees", "survives AutoAttack"),
        (
            True,
            INSIDE,
            "survives a shortened one",
            "not tested at this scale",
            "unclear",
            "a shortened AutoAttack",
        ),
        (True, INSIDE, "lost", "not reproduced", "unclear", "AutoAttack undoes it"),
        (True, INSIDE, "unclear", "not tested at this scale", "unclear", "under AutoAttack"),
        (True, INSIDE, None, "not tested at this scale", "unclear", "AutoAttack was not run"),
        (True, INSIDE, "perhaps", "not tested at this scale", "unclear", "AutoAttack was not run"),
        (True, OUTSIDE, "survives", "not reproduced", "differs", "wholly outside"),
        (True, OUTSIDE, "lost", "not reproduced", "differs", "wholly outside"),
        (True, OUTSIDE, None, "not reproduced", "differs", "wholly outside"),
        (True, BETWEEN, "survives", "not tested at this scale", "unclear", "straddles"),
        (True, BETWEEN, None, "not tested at this scale", "unclear", "straddles"),
        (False, INSIDE, "lost", "reproduced", "agrees", "inside"),
        (False, INSIDE, None, "reproduced", "agrees", "inside"),
    ],
)
def test_what_is_called_robust_has_to_survive_autoattack(robust, ends, tag, verdict, reading, says):
    about, tags = claim({"above": 0}, robust=robust), {"autoattack": tag} if tag else {}
    found = claims.judge(about, [row(sum(ends) / 2, *ends, **tags)])
    assert found.verdict == verdict and says in found.reason
    stand_in = claims.judge(about, [row(sum(ends) / 2, *ends, **PHANTOM, **tags)])
    assert stand_in.verdict == "not tested at this scale" and stand_in.reading == reading
    held_back = robust and ends is INSIDE and tag != "survives"
    assert (says in stand_in.why) == held_back  # the interval beside it would not say why


def test_autoattack_decides_the_newest_row_and_disagreement_is_said():
    about = claim({"above": 0}, robust=True)
    old, new = (row(0.1, *INSIDE, autoattack=tag) for tag in ("survives", "lost"))
    found = claims.judge(about, [old, new])
    assert found.verdict == "not reproduced" and "1 of them disagree" in found.reason


@pytest.mark.parametrize(
    ("value", "verdict"), [(0, "reproduced"), (1e-12, "reproduced"), (0.001, "not reproduced")]
)
def test_a_row_without_interval_is_exact(value, verdict):
    assert claims.judge(claim({"value": 0, "tolerance": 0}), [row(value)]).verdict == verdict


def test_without_rows_nothing_is_tested():
    found = claims.judge(claim(), [])
    assert (found.verdict, found.reason) == ("not tested at this scale", "no run has measured it")
    assert found.row is None and found.stand_in is None


@pytest.mark.parametrize(
    "other", [{"metric": "top5"}, {"role": "isic"}, {"noise": 0.4}, {"noise": None}]
)
def test_rows_about_something_else_are_not_even_stand_ins(other):
    assert claims.judge(claim(), [{**row(0.5), **other}]).stand_in is None


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        (PHANTOM, "phantom images in place of nih; trained from scratch"),
        ({"complete": False}, "only part of the data set"),
        ({"dataset": "chest14", "complete": False}, "chest14 in place of nih; only part"),
        ({"start": "scratch"}, "trained from scratch"),
        ({"start": None}, "start is not recorded"),
        ({"competent": False}, "learnt no more than the label frequencies"),
        ({"status": "failed"}, "the run did not finish"),
        ({"synthetic": None}, "synthetic is not recorded"),
    ],
)
@pytest.mark.parametrize(
    ("low", "high", "reading"),
    [(0.49, 0.51, "agrees"), (0.1, 0.2, "differs"), (0.4, 0.6, "unclear")],
)
def test_a_row_that_falls_short_is_a_stand_in_and_never_counts(tags, why, low, high, reading):
    found = claims.judge(claim(), [row(0.5, low, high, **tags)])
    assert found.verdict == "not tested at this scale"
    assert found.row is None and found.stand_in is not None
    assert found.why.startswith(why) or why in found.why
    assert found.reading == reading


def test_a_real_stand_in_comes_before_a_newer_phantom():
    # the phantom lacks one thing, the real row three
    phantom = row(0.6, **{**PHANTOM, "start": "imagenet"})
    rows = [row(0.5, complete=False, start="scratch", competent=False), phantom]
    assert claims.judge(claim(), rows).stand_in is rows[0]
    assert claims.judge(claim(), rows[::-1]).stand_in is rows[0]


def test_the_stand_in_that_lacks_least_is_taken_then_the_newest():
    rows = [
        row(0.1, complete=False),
        row(0.2, complete=False),
        row(0.3, complete=False, start="scratch"),
    ]
    assert claims.judge(claim(), rows).stand_in is rows[1]


def test_an_eligible_row_silences_stand_ins():
    found = claims.judge(claim(), [row(0.5, 0.49, 0.51), row(0.1, **PHANTOM)])
    assert found.verdict == "reproduced" and found.stand_in is None


def test_the_newest_eligible_row_decides_and_disagreement_is_said():
    old, new = row(0.9), row(0.5, 0.49, 0.51)
    found = claims.judge(claim(), [old, new])
    assert found.row is new and found.verdict == "reproduced"
    assert "2 rows matched and 1 of them disagree" in found.reason
    assert "disagree" not in claims.judge(claim(), [new, new]).reason


def test_a_complete_real_row_comes_before_a_newer_partial_or_phantom_one():
    free = claim(requires={})
    best = row(0.5)
    later = [row(0.9, complete=False), row(0.9, **PHANTOM)]
    assert claims.judge(free, [best, *later]).row is best


def test_a_number_that_could_not_be_computed_decides_nothing():
    found = claims.judge(claim(), [row(None, note="not finite, stored as null: value (nan)")])
    assert found.verdict == "not tested at this scale"
    assert "not finite" in found.reason and found.stand_in is None


def test_true_is_not_one():
    assert claims.judge(claim(requires={"complete": True}), [row(0.5, complete=1)]).row is None


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with a reference run on phantoms and exact counts, and a README."""
    monkeypatch.setattr(env, "provenance", lambda: {"device": "test"})
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "results" / "reference" / "01"
    run = results.Run.start("01_swin_noise", "1_swin_noise", "smoke", {}, place)
    run.record["datasets"]["phantom-chest"] = {"synthetic": True, "complete": True}
    tags = {"role": "nih", "model": "swin", "protocol": "single_label", "reading": "none"}
    run.add("top1", 0.48, 0.47, 0.49, noise=0.0, dataset="phantom-chest", **tags)
    run.add("attention_exponent_window", 1.0, scope="analytic")
    run.add("attention_exponent_global", 3.0, scope="analytic")
    run.save()
    readme = "# Kit\n\n<!-- claims:begin -->\nold\n<!-- claims:end -->\n\nEnd.\n"
    (tmp_path / "README.md").write_text(readme)
    return tmp_path


def test_the_table_keeps_the_verdict_and_the_stand_in_apart(project):
    table = claims.table(results.collect("results"), "1_swin_noise").set_index("id")
    assert len(table) == len(protocol.load("1_swin_noise").claims)
    cell = table.loc["fig4-swin-top1"]
    assert cell["verdict"] == "not tested at this scale" and pd.isna(cell["ours"])
    assert (cell["expected"], cell["stand_in"], cell["stand_in_kind"]) == (
        "0.484 \u00b1 0.02",
        0.48,
        "phantom",
    )
    assert cell["stand_in_reading"] == "agrees" and cell["stand_in_interval"] == "[0.47, 0.49]"
    assert table.loc["attention-window-exponent", "verdict"] == "reproduced"
    assert table.loc["attention-global-exponent", "verdict"] == "not reproduced"
    assert table.loc["fig4-swin-loss", "expected"] == "1.6676 \u00b1 0.1"
    assert "single_label" not in table.loc["fig4-swin-top1", "claim"]


def test_the_counts_add_up(project):
    counts = claims.summary(results.collect("results"), "1_swin_noise")
    total = len(protocol.load("1_swin_noise").claims)
    assert counts == {
        "reproduced": 1,
        "not reproduced": 1,
        "not tested at this scale": total - 2,
    }
    assert claims.count_line(counts).startswith(f"{total} claims: 1 reproduced, 1 not reproduced")


def test_the_notebook_table_reads_without_colour_and_escapes(project):
    runs = results.collect("results")
    html = claims.show(runs, "1_swin_noise").to_html()
    for words in ("\u2713 reproduced", "\u2717 not reproduced", "\u25cb not tested at this scale"):
        assert words in html
    assert "phantom 0.48 [0.47, 0.49] agrees" in html
    assert "&gt; 0" in html


def test_a_verdict_that_its_interval_does_not_explain_gives_its_reason(project):
    run = results.Run.start("03", "3_domain_assimilation", "paper", {}, project / "results" / "03")
    run.record["datasets"]["iq_othnccd"] = {"synthetic": False, "complete": True}
    about = next(c for c in protocol.load("3_domain_assimilation").claims if c.robust)
    tags = {**about.select, **about.requires}
    origin = ("overrides", "synthetic", "complete")
    tags = {tag: value for tag, value in tags.items() if tag not in origin}
    run.add(about.metric, 0.2, 0.1, 0.3, autoattack="lost", **tags)
    run.save()
    html = claims.show(results.collect("results"), "3_domain_assimilation").to_html()
    assert "\u2717 not reproduced (AutoAttack undoes it)" in html and "#b3541e33" in html


def test_other_papers_rows_do_not_speak_to_a_paper(project):
    runs = [{**run, "paper": "another"} for run in results.collect("results")]
    assert claims.summary(runs, "1_swin_noise")["reproduced"] == 0


def test_the_command_prints_wraps_and_writes_markdown(project, capsys):
    assert claims.main(["--paper", "1_swin_noise", "--markdown", "claims.md"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 120
    assert "1 reproduced, 1 not reproduced" in printed
    page = (project / "claims.md").read_text()
    assert page.count("\n| Figure 8 |") == 16
    assert all(line.count(" | ") == 5 for line in page.splitlines() if line.startswith("| "))


def test_every_open_claim_is_counted_under_its_command(project):
    block = claims.readme_block(results.collect("results"))
    found = claims.judge_all(results.collect("results"))
    waiting = [v for per in found.values() for v in per if v.verdict == claims.NOT_TESTED]
    lines = [line for line in block.splitlines() if line.startswith("- `python")]
    for command, needs in {(v.claim.command, v.claim.needs) for v in waiting}:
        start = f"- `{command}`, once there is {needs}: " if needs else f"- `{command}`: "
        (line,) = [line for line in lines if line.startswith(start)]
        counted = sum(map(int, re.findall(r" \((\d+)\)", line)))
        assert counted == sum((v.claim.command, v.claim.needs) == (command, needs) for v in waiting)
        lines.remove(line)
    assert lines == []


def test_the_readme_block_is_replaced_and_stays_current(project, capsys):
    assert claims.main(["--update-readme", "README.md"]) == 0
    text = (project / "README.md").read_text()
    assert text.startswith("# Kit\n\n<!-- claims:begin -->\n") and text.endswith("-->\n\nEnd.\n")
    assert "old" not in text.split()
    assert claims.readme_block(results.collect("results/reference")) in text
    assert claims.main(["--update-readme", "README.md"]) == 0
    assert "is current" in capsys.readouterr().out
    assert (project / "README.md").read_text() == text


@pytest.mark.parametrize(
    "text", ["no markers", "<!-- claims:end --> <!-- claims:begin -->", "<!-- claims:begin -->"]
)
def test_a_readme_without_markers_is_left_alone(project, text):
    (project / "README.md").write_text(text)
    with pytest.raises(RunError, match="claims:begin"):
        claims.main(["--update-readme", "README.md"])
    assert (project / "README.md").read_text() == text


def test_numbers_keep_their_digits():
    assert [verdicts.number(v) for v in (None, 0.123456, 112120, -2.1179, 0)] == [
        "",
        "0.1235",
        "112,120",
        "-2.118",
        "0",
    ]
