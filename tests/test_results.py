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
    run.model("swin", backbone="swin_tiny", start="scratch")
    run.warn("careful")
    run.warn("careful")
    run.deviation("fewer epochs")
    run.add("top1", np.float32(0.5), low=0.4, high=0.6, n=np.int64(5), dataset="phantom-chest")
    run.history("swin", [{"epoch": 1, "loss": np.float64(2.0)}])
    record = results.read(run.save())
    assert record["status"] == "complete"
    assert record["warnings"] == ["careful"] and record["deviations"] == ["fewer epochs"]
    assert record["datasets"]["phantom-chest"]["n"] == 5
    assert record["datasets"]["phantom-chest"]["census"] == {"found": 5}
    assert record["rows"] == [
        {
            "metric": "top1",
            "value": 0.5,
            "low": 0.4,
            "high": 0.6,
            "n": 5,
            "dataset": "phantom-chest",
            "synthetic": True,
            "complete": True,
        }
    ]
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


def test_a_phantom_cannot_be_called_real(run):
    with pytest.raises(RunError, match="synthetic"):
        run.add("top1", 0.5, dataset="phantom-chest", synthetic=False)


def test_an_unrecorded_data_set_is_refused(run):
    with pytest.raises(RunError, match="run.dataset"):
        run.add("top1", 0.5, dataset="nih")
    with pytest.raises(RunError, match="run.dataset"):
        run.figure(plt.figure(), "x", dataset="nih")


@pytest.mark.parametrize("wrong", [{"low": 0.1}, {"low": 0.6, "high": 0.4}, {"path": "x"}])
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
    monkeypatch.undo()
    run.record["parameters"]["odd"] = object()  # fails before anything is written
    with pytest.raises(TypeError):
        run.save()
    assert path.read_bytes() == before


def test_an_unknown_status_is_refused(run):
    with pytest.raises(RunError, match="status"):
        run.save("done")


def test_figures_stay_small_and_say_what_was_done(run):
    figure, axes = plt.subplots(figsize=(4, 3))
    axes.plot([0, 1], [0, 1])
    plain = run.figure(figure, "line", "A line.")
    assert Image.open(plain).mode == "RGBA" and run.record["warnings"] == []
    figure, axes = plt.subplots(figsize=(8, 6))
    axes.imshow(np.random.default_rng(0).random((500, 700, 3)))
    noisy = run.figure(figure, "noise.png")
    plt.close("all")
    assert noisy.stat().st_size <= storage.FIGURE_BYTES
    assert Image.open(noisy).size[0] > 300
    assert any("noise.png" in text for text in run.record["warnings"])
    assert run.record["figures"] == ["line.png", "noise.png"]
    assert run.record["captions"]["line.png"] == {"text": "A line.", "label": "phantom"}


def test_a_figure_of_both_kinds_says_so(run):
    run.dataset(images("nih", synthetic=False))
    figure = plt.figure()
    run.figure(figure, "both")
    run.figure(figure, "real", dataset="nih")
    plt.close(figure)
    labels = {name: about["label"] for name, about in run.record["captions"].items()}
    assert labels == {"both.png": "phantom and real", "real.png": "real"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r.update(schema=2), "schema"),
        (lambda r: r.pop("rows"), "'rows'"),
        (lambda r: r.update(figures={}), "'figures'"),
        (lambda r: r["rows"].append({"metric": "top1"}), "row 0"),
    ],
)
def test_a_faulty_record_is_refused_by_name(run, change, says):
    path = run.save()
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    with pytest.raises(RunError) as refusal:
        results.read(run.out)
    assert says in str(refusal.value) and str(path) in str(refusal.value)


def test_half_a_file_is_refused_by_name(tmp_path):
    (tmp_path / "result.json").write_text('{"schema": 1,')
    with pytest.raises(RunError, match="result.json cannot be read"):
        results.collect(tmp_path)
    with pytest.raises(RunError, match="cannot be read"):
        results.read(tmp_path / "nowhere.json")
    (tmp_path / "result.json").write_text("[" * 100_000)
    with pytest.raises(RunError, match="cannot be read"):
        results.read(tmp_path)


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
    assert len(rows) == sum(len(run["rows"]) for run in runs) and rows
    assert all(row["overrides"] == "" and row["notebook"] for row in rows)
    assert results.rows([]) == []


def test_an_empty_out_lies_below_the_project(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    run = results.Run.start("01_x", "p", "smoke", {})
    assert run.out == tmp_path / "results" / "01_x" / "smoke"
