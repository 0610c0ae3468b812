"""The README says what the committed results say, and every link in it leads somewhere."""

import re
from pathlib import Path

import pytest
import torch

from medrobust_utils.reporting import planning, results

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
STORIES = [path.read_text() for path in sorted((ROOT / "docs" / "results").glob("*.md"))]
PAGES = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), ROOT / "CONTRIBUTING.md", ROOT / "DATA.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https?://|#)([^)\s]+)\)", page.read_text()):
        assert (page.parent / link.partition("#")[0]).exists(), link


def test_the_first_page_is_read_in_minutes_and_figures_are_small():
    assert len(README.splitlines()) <= 200
    figures = list((ROOT / "results" / "reference").rglob("*.png"))
    assert figures and all(figure.stat().st_size < 200_000 for figure in figures)


def test_the_lines_on_a_network_of_ones_own_run_as_they_stand(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 3)).eval()
    images = torch.rand(6, 3, 8, 8)
    exec(code, {"net": net, "images": images, "labels": net(images).argmax(1)})
    shares = [int(share) for share in re.findall(r"(\d+)% still right", capsys.readouterr().out)]
    assert len(shares) == 32 and shares == sorted(shares, reverse=True) and shares[-1] < shares[0]


def test_every_notebook_is_named():
    for path in planning.find_notebooks([], ROOT / "notebooks"):
        assert f"notebooks/{path.name}" in README


def test_reference_results_on_real_images_say_so():
    for run in results.collect(ROOT / "results" / "reference"):
        assert run["profile"] in ("small", "reference") and run["status"] == "complete"
        # where a run has one set of several, drawn ones explain an idea, and say that they are
        drawn = {name for name, data in run["datasets"].items() if data["synthetic"]}
        assert run["parameters"].get("DATASET") or not drawn
        assert all(row["synthetic"] for row in run["rows"] if row.get("dataset") in drawn)
        assert run["deviations"] and run["provenance"]["git_commit"]
        assert all(curve for curve in run["history"].values())
        for name, data in run["datasets"].items():  # not the copies of the paper-style protocol
            if name == "natural-photographs" or name in drawn:  # which no publisher listed
                continue
            assert data["n"] == data["census"]["images_listed"] - (
                data["census"].get("exact_duplicates_removed", 0)  # none where they were kept
                + data["census"].get("contradictory_labels_dropped", 0)
            )


def test_no_executed_notebook_is_kept():
    """An executed copy shows the patients' images that it ran on."""
    assert not list((ROOT / "results" / "reference").rglob("*.ipynb"))


def test_every_score_in_a_table_is_one_of_the_reference_runs():
    """A number that was typed wrongly, or belongs to a run that is gone, stands in no record."""
    rows = [row for run in results.collect(ROOT / "results" / "reference") for row in run["rows"]]
    known = {
        f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        for row in rows
        if None not in (row["value"], row["low"])
    }
    lines = [line for story in STORIES for line in story.splitlines()]
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]
    shown = {
        cell
        for line in cells
        for cell in line
        if re.fullmatch(r"0\.\d{3} \[0\.\d{3}, \d\.\d{3}\]", cell)
    }
    assert len(shown) > 100
    assert not shown - known
