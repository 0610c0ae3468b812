"""Every notebook runs in the smoke profile, headlessly, through the runner."""

from pathlib import Path

import nbformat
import pytest
from PIL import Image

from medrobust_utils.reporting import planning, results, runner

NOTEBOOKS = planning.find_notebooks([], Path(__file__).parents[1] / "notebooks")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """All notebooks, two at a time, each once for all tests of this module."""
    out = tmp_path_factory.mktemp("smoke")
    runs = planning.plan(NOTEBOOKS, "smoke", [], out)
    return {outcome.run.notebook: outcome for outcome in runner.run_batch(runs, jobs=2)}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_runs_in_smoke(outcomes, path):
    outcome = outcomes[path]
    assert outcome.status == "done", outcome.error
    folder = outcome.run.folder
    record = results.read(folder)
    assert (record["status"], record["notebook"]) == ("complete", path.stem)
    assert record["profile"] == "smoke"
    assert record["rows"], "no numbers"
    assert record["figures"], "no figures"
    for name in record["figures"]:
        with Image.open(folder / name) as image:
            image.load()
            assert image.format == "PNG"
            extremes = image.convert("L").getextrema()
            assert extremes[0] < extremes[1], f"{name} is blank"
    book = nbformat.read(folder / "executed.ipynb", as_version=4)
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs), "no figure is shown"
    # Git hosts refuse what they take for damaged widgets; and nobody can move these.
    assert "widgets" not in book.metadata
    assert not any("widget" in kind for output in outputs for kind in output.get("data", {}))
    assert outcome.peak_mb < 4000


def test_the_explorer_is_a_picture_where_nobody_can_click(outcomes):
    (path,) = (one for one in NOTEBOOKS if one.stem == "05_gradcam_explorer")
    book = nbformat.read(outcomes[path].run.folder / "executed.ipynb", as_version=4)
    (panel,) = (cell for cell in book.cells if "panel.Explorer" in cell.source)
    assert [sorted(output.data) for output in panel.outputs if "data" in output] == [
        ["image/png", "text/plain"]
    ]
