"""The record of a run: strict, honest about phantoms, written whole or not at all."""

import json
import os
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from PIL import Image

from medrobust_utils.core import env, storage
from medrobust_utils.core.errors import RunError
from medrobust_utils.reporting import results

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


@pytest.fixture(autouse=True)
def known_machine(monkeypatch):
    monkeypatch.setattr(env, "provenance", lambda: {"device": "test", "git_commit": "abc"})


def images(name="phantom-chest", synthetic=True, complete=True, n=5):
    return SimpleNamespace(
        name=name,
        synthetic=synthetic,
        complete=complete,
        checksum="00ff",
        images=np.zeros((n, 2, 2, 1), np.uint8),
        census={"found": np.int64(n)},
    )


@pytest.fixture
def run(tmp_path):
    run = results.Run.start("01_x", "1_swin_noise", "smoke", {"SEED": 3}, tmp_path / "run", 3)
    run.dataset(images())
    return run


def test_a_saved_run_reads_back(run):
    for _ in range(2):
        run.warn("careful")
    run.deviation("fewer epochs")
    given = {"low": 0.4, "high": 0.6, "dataset": "phantom-chest"}
    run.add("top1", np.float32(0.5), n=np.int64(5), **given)
    run.history("swin", [{"epoch": 1, "loss": np.float64(2.0)}])
    record = results.read(run.save())
    assert record["status"] == "complete"
    assert record["warnings"] == ["careful"] and record["deviations"] == ["fewer epochs"]
    assert record["datasets"]["phantom-chest"]["n"] == 5
    assert record["datasets"]["phantom-chest"]["census"] == {"found": 5}
    known = {"metric": "top1", "value": 0.5, "n": 5, "synthetic": True, "complete": True}
    assert record["rows"] == [known | given]
    assert record["history"] == {"swin": [{"epoch": 1, "loss": 2.0}]}
    provenance = record["provenance"]
    assert provenance["seed"] == 3 and provenance["device"] == "test"
    assert provenance["started"] <= provenance["finished"]


def test_a_row_takes_its_origin_from_its_data_set(run):
    run.dataset(images("nih", synthetic=False, complete=True))
    assert run.add("a", 1, dataset="nih+phantom-chest")["synthetic"] is True
    assert run.add("a", 1, dataset="nih")["synthetic"] is False
    assert run.add("a", 1, dataset="nih", complete=False)["complete"] is False
    run.dataset(images("ham10000", synthetic=False, complete=False))
    assert run.add("a", 1, dataset="nih+ham10000", complete=True)["complete"] is False
    assert "synthetic" not in run.add("a", 1, scope="analytic")


@pytest.mark.parametrize(
    "wrong",
    [
        {"low": 0.1},
        {"low": 0.6, "high": 0.4},
        {"path": "x"},
        {"dataset": "phantom-chest", "synthetic": False},  # a phantom cannot be called real
        {"dataset": "nih"},  # no data set of the record
    ],
)
def test_a_contradictory_row_is_refused(run, wrong):
    with pytest.raises(RunError):
        run.add("top1", 0.5, **wrong)
    assert run.record["rows"] == []


def test_what_is_not_finite_becomes_null_with_a_note(run):
    row = run.add("auc", float("nan"), low=float("-inf"), high=np.float32("nan"))
    assert row["value"] is row["low"] is row["high"] is None
    assert "value (nan)" in row["note"]
    run.history("swin", [{"loss": float("inf")}])
    path = run.save()
    record = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert record["history"]["swin"] == [{"loss": None}]
    assert any("history.swin.0.loss (inf)" in text for text in record["warnings"])


def test_a_failing_save_leaves_the_earlier_file_and_no_debris(run, monkeypatch):
    path = run.save()
    before = path.read_bytes()
    run.add("top1", 0.5)

    def fail(*names):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        run.save()
    assert path.read_bytes() == before
    assert [file.name for file in run.out.iterdir()] == ["result.json"]


def test_figures_stay_small_and_say_what_was_done(run):
    figure, axes = plt.subplots(figsize=(4, 3))
    axes.plot([0, 1], [0, 1])
    plain = run.figure(figure, "line", "A line.")
    assert Image.open(plain).mode == "RGBA" and run.record["warnings"] == []
    figure, axes = plt.subplots(figsize=(8, 6))
    axes.imshow(np.random.default_rng(0).random((500, 700, 3)))
    noisy = run.figure(figure, "noise.png")
    assert noisy.stat().st_size <= storage.FIGURE_BYTES
    assert Image.open(noisy).size[0] > 300
    assert any("noise.png" in text for text in run.record["warnings"])
    assert run.record["figures"] == ["line.png", "noise.png"]
    assert run.record["captions"]["line.png"] == {"text": "A line.", "label": "phantom"}
    run.dataset(images("nih", synthetic=False))
    run.figure(figure, "both")
    run.figure(figure, "real", dataset="nih")
    labels = [run.record["captions"][f"{name}.png"]["label"] for name in ("both", "real")]
    assert labels == ["phantom and real", "real"]


DAMAGE = {
    "another schema": lambda r: json.dumps(r | {"schema": 2}),
    "no rows": lambda r: json.dumps({key: r[key] for key in r if key != "rows"}),
    "figures of another kind": lambda r: json.dumps(r | {"figures": {}}),
    "a row without a value": lambda r: json.dumps(r | {"rows": [{"metric": "top1"}]}),
    "half a file": lambda r: json.dumps(r)[:-9],
    "brackets without end": lambda r: "[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_faulty_record_is_refused_by_name(run, damage):
    path = run.save()
    path.write_text(DAMAGE[damage](json.loads(path.read_text())))
    for load in (results.read, results.collect):
        with pytest.raises(RunError, match=str(path)):
            load(run.out)


def test_collect_puts_the_newest_last_and_rows_carry_their_run(tmp_path, monkeypatch):
    for name, moment in (("a", "2030-01-02"), ("b", "2030-01-01")):
        monkeypatch.setattr(results, "_now", lambda moment=moment: moment)
        run = results.Run.start(name, "1_swin_noise", "smoke", {}, tmp_path / name)
        run.add("top1", 0.5, model=name)
        run.add("auc", 0.7)
        run.save()
    runs = results.collect(tmp_path)
    assert [run["notebook"] for run in runs] == ["b", "a"]
    rows = results.rows(runs)
    assert [row["notebook"] for row in rows] == ["b", "b", "a", "a"]
    assert all(row["overrides"] == "" for row in rows)


def test_an_empty_out_lies_below_the_project(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    run = results.Run.start("01_x", "p", "smoke", {})
    assert run.out == tmp_path / "results" / "01_x" / "smoke"
