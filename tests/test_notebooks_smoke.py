"""Every notebook runs in the smoke profile, headlessly, through the runner; its numbers hold."""

import os
import warnings

import golden
import nbformat
import notebook_rules as rules
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from medrobust_utils.reporting import results


@pytest.mark.parametrize("path", golden.NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_runs_in_smoke(path, tmp_path):
    """Its exercises stand in it twice, untouched and solved: learners meet both."""
    doubled = rules.with_solutions(nbformat.read(path, as_version=4))
    nbformat.write(doubled, tmp_path / path.name)
    outcome = golden.run(tmp_path / path.name, tmp_path / "out")
    assert outcome.status == "done", outcome.error
    record = results.read(outcome.run.folder)
    assert (record["status"], record["notebook"]) == ("complete", path.stem)
    assert record["profile"] == "smoke"
    assert record["rows"], "no numbers"
    assert record["figures"], "no figures"
    for name in record["figures"]:
        with Image.open(outcome.run.folder / name) as image:
            image.load()
            assert image.format == "PNG"
            extremes = image.convert("L").getextrema()
            assert extremes[0] < extremes[1], f"{name} is blank"
    book = nbformat.read(outcome.run.folder / "executed.ipynb", as_version=4)
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs), "no figure is shown"
    # Git hosts refuse what they take for damaged widgets; and nobody can move these.
    assert "widgets" not in book.metadata
    assert not any("widget" in kind for output in outputs for kind in output.get("data", {}))
    assert outcome.peak_mb < 4000
    if path.stem == "05_gradcam_explorer":
        _is_a_picture(book)
    _is_solved(book, 3)
    if path in golden.PAPERS:
        _holds(record, path)


def _is_solved(book, count):
    """Untouched exercises say `not yet`, solved ones agree with the kit or say what they found."""
    said = {"untouched": [], "solved": []}
    for cell in book.cells:
        for tag in said.keys() & set(rules.tags(cell)):
            said[tag].append("".join(output.get("text", "") for output in cell.outputs))
    assert min(map(len, said.values())) >= count
    assert all("not yet" in text for text in said["untouched"]), said
    wrong = ("not yet", "different", "False")
    assert not [text for text in said["solved"] if not text or any(w in text for w in wrong)], said


OWN_NETWORK = """
import torch

def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 5, 4), torch.nn.ReLU(),
                               torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(),
                               torch.nn.Linear(128, 7))
"""


def test_a_network_of_ones_own_goes_through_notebook_06_with_its_weights(tmp_path, monkeypatch):
    (tmp_path / "own_network.py").write_text(OWN_NETWORK)
    weights = {
        "0.weight": torch.randn(8, 3, 5, 5) / 5,
        "0.bias": torch.zeros(8),
        "4.weight": torch.randn(7, 128) / 9,
        "4.bias": torch.zeros(7),
    }
    save_file(weights, tmp_path / "own.safetensors")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    given = [("NETWORK", "own_network:build"), ("WEIGHTS", str(tmp_path / "own.safetensors"))]
    given += [("PHANTOMS", "60"), ("IMAGES", "8")]
    (path,) = (path for path in golden.NOTEBOOKS if path.stem == "06_your_model")
    outcome = golden.run(path, tmp_path / "out", given)
    assert outcome.status == "done", outcome.error
    rows = results.read(outcome.run.folder)["rows"]
    curve = [row for row in rows if row["metric"] == "accuracy_attacked"]
    assert len(curve) == 32 and {row["n"] for row in curve} == {8}
    assert {"accuracy_autoattack", "log2_radius_gain", "red_flag"} <= {r["metric"] for r in rows}


def _is_a_picture(book):
    """The explorer, where nobody can click."""
    (panel,) = (cell for cell in book.cells if "panel.Explorer" in cell.source)
    assert [sorted(output.data) for output in panel.outputs if "data" in output] == [
        ["image/png", "text/plain"]
    ]


def _holds(record, path):
    """A number that nobody meant to change is a fault; see `golden` for changes that are meant."""
    kept = golden.json.loads(golden.place(path).read_text())
    names, values = golden.differences(golden.digest(record), kept)
    if kept["kind"] == golden.kind():
        names += values
    elif values:
        kinds = f"golden rows are of {kept['kind']}, this is {golden.kind()}"
        warnings.warn(f"{path.stem}: {kinds}\n{golden.listed(values)}", stacklevel=1)
    assert not names, f"{len(names)} differences, the first are\n{golden.listed(names)}"


RECORD = {
    "figures": ["b.png", "a.png"],
    "rows": [
        {"metric": "images", "value": 28, "low": None, "high": None, "n": None, "side": "train"},
        {"metric": "top1", "value": 0.5, "low": 0.4, "high": 0.6, "n": 28, "model": "swin", "s": 1},
        {"metric": "top1", "value": 0.7, "low": 0.6, "high": 0.8, "n": 28, "model": "res", "s": 1},
        {"metric": "cost_seconds", "value": 3.2, "low": None, "high": None, "n": None},
    ],
}


def changed(place=1, **fields):
    rows = [row | fields if number == place else row for number, row in enumerate(RECORD["rows"])]
    return golden.digest(RECORD | {"rows": rows})


def test_golden_rows_are_read_back_as_they_were_written():
    kept = golden.digest(RECORD)
    assert golden.json.loads(golden.text({"kind": "here", **kept})) == {"kind": "here", **kept}
    assert "" not in kept["rows"], "what a clock measured"
    assert golden.differences(kept, kept) == ([], [])


@pytest.mark.parametrize(
    ("found", "names", "values"),
    [
        (golden.digest(RECORD | {"figures": ["a.png", "c.png"]}), ["figure b.png", "figure c"], []),
        (
            golden.digest(RECORD | {"rows": RECORD["rows"][1:]}),
            ["images [side=train]: is gone"],
            [],
        ),
        (changed(model="other"), ["top1 [model=swin s=1]: is gone", "top1 [model=other s=1]"], []),
        (changed(n=27), ["top1 [model=swin s=1]: n was"], []),
        (changed(low=0.4001), [], ["top1 [model=swin s=1]: was [[28, 0.5, 0.4, 0.6]], is [[28,"]),
        (changed(low=0.40005), [], []),
        (changed(value=None), [], ["top1 [model=swin s=1]"]),
        (changed(0, value=29), [], ["images [side=train]: was [[None, 28"]),
        (changed(3, value=9.9), [], []),
    ],
)
def test_a_changed_row_is_told_and_what_a_clock_measured_is_not(found, names, values):
    told = golden.differences(found, golden.digest(RECORD))
    for lines, beginnings in zip(told, (names, values), strict=True):
        assert len(lines) == len(beginnings)
        assert all(line.startswith(start) for line, start in zip(lines, beginnings, strict=True))
