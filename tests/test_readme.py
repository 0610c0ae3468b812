"""The README says what the committed results say, and every link in it leads somewhere."""

import re
from pathlib import Path

from medrobust_utils import claims, planning, results

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_verdicts_are_those_of_the_reference_results():
    runs = results.collect(ROOT / "results" / "reference")
    assert {run["notebook"] for run in runs} >= {"01_swin_noise"}
    assert claims.readme_block(runs) in README, (
        "run: python -m medrobust_utils claims --update-readme README.md"
    )


def test_links_and_figures_exist_and_are_small():
    links = re.findall(r"\]\((?!https?://|#)([^)]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link
    figures = list((ROOT / "results" / "reference").rglob("*.png"))
    assert figures and all(figure.stat().st_size < 200_000 for figure in figures)


def test_every_notebook_is_named():
    for path in planning.find_notebooks([], ROOT / "notebooks"):
        assert f"notebooks/{path.name}" in README


def test_reference_results_on_real_images_say_so():
    for run in results.collect(ROOT / "results" / "reference"):
        assert run["profile"] == "small" and run["status"] == "complete"
        assert not any(data["synthetic"] for data in run["datasets"].values())
        assert run["deviations"] and run["provenance"]["git_commit"]
        assert all(curve for curve in run["history"].values())
