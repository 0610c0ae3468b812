"""The runner: what it refuses, what it runs, and how it goes on after an end by force."""

import csv
import fcntl
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import nbformat
import psutil
import pytest
import tiny

from medrobust_utils.__main__ import main
from medrobust_utils.core.errors import ProtocolError
from medrobust_utils.reporting import planning, runner


def wait_for(condition, seconds=600.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


# What is planned


def test_a_grid_has_one_run_per_combination_each_in_a_folder_of_its_own(tmp_path):
    path = tiny.notebook(tmp_path, "01_tiny")
    runs = planning.plan([path], "smoke", [("SEED", "0,1"), ("NAME", "a b,ü/../c")], tmp_path)
    values = [(run.parameters["SEED"], run.parameters["NAME"]) for run in runs]
    assert values == [(0, "a b"), (0, "ü/../c"), (1, "a b"), (1, "ü/../c")]
    assert len({run.folder for run in runs}) == 4
    for run in runs:
        assert run.folder.parent == tmp_path / "01_tiny"
        assert re.fullmatch(r"smoke-[A-Za-z0-9._=+-]+-[0-9a-f]{8}", run.id)
        assert run.parameters["OUT"] == str(run.folder)


def test_values_become_the_type_that_the_notebook_declares(tmp_path):
    path = tiny.notebook(tmp_path, "tiny")
    given = [("SEED", "-3"), ("RATE", "1e-3"), ("FAST", "true"), ("NAME", "7")]
    (run,) = planning.plan([path], None, given, tmp_path)
    wanted = {"SEED": -3, "RATE": 0.001, "FAST": True, "NAME": "7"}
    assert {name: run.parameters[name] for name in wanted} == wanted


def test_the_run_id_follows_what_is_computed_and_nothing_else(tmp_path):
    def run_id(text="x = 1", prose="# Title", **plan):
        path = tiny.notebook(tmp_path, "tiny", text)
        book = nbformat.read(path, as_version=4)
        book.cells[0].source = prose
        nbformat.write(book, path)
        return planning.plan([path], **plan)[0].id

    usual = run_id()
    assert run_id(prose="# Another title") == usual
    assert run_id(given=[("SEED", "0")]) == usual, "the default, spelled out"
    assert run_id(given=[("RATE", "0.50")]) == usual
    assert run_id(profile="smoke", out=tmp_path / "elsewhere") == usual
    others = [run_id("x = 2"), run_id(given=[("SEED", "1")]), run_id(profile="small")]
    assert len({usual, *others}) == 4


def test_a_long_value_makes_no_long_folder_name(tmp_path):
    path = tiny.notebook(tmp_path, "tiny")
    runs = planning.plan([path], None, [("NAME", f"{'x' * 500},{'x' * 501}")], tmp_path)
    assert all(len(run.id) < 100 for run in runs)
    assert runs[0].id != runs[1].id


def test_other_weights_make_another_run_and_other_places_do_not(tmp_path, monkeypatch):
    cell = 'CHECKPOINTS: str = ""  # a folder\nSEED: int = 0  # seed'
    path = tiny.notebook(tmp_path, "tiny", "x = 1", parameters=cell)
    (usual,) = planning.plan([path])
    (moved,) = planning.plan([path], None, [("CHECKPOINTS", "/drive/x")])
    assert moved.id == usual.id and moved.parameters["CHECKPOINTS"] == "/drive/x"
    monkeypatch.setenv("MEDROBUST_WEIGHTS", str(tmp_path))
    assert planning.plan([path])[0].id == usual.id, "an empty folder changes nothing"
    (tmp_path / "resnet50.safetensors").write_bytes(b"weights")
    (first,) = planning.plan([path])
    assert first.id != usual.id
    (tmp_path / "resnet50.safetensors").write_bytes(b"thgiews")
    assert planning.plan([path])[0].id not in (usual.id, first.id), "the same size, other weights"


def test_the_protocol_file_that_a_notebook_names_is_part_of_its_run_id(tmp_path, monkeypatch):
    path = tiny.notebook(tmp_path, "tiny", 'paper = "1_swin_noise"')
    before = planning.plan([path])[0].id
    monkeypatch.setattr(planning.resources, "files", lambda _: tmp_path)
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "1_swin_noise.yaml").write_text("changed: true")
    monkeypatch.setattr(planning.protocol, "list_papers", lambda: ["1_swin_noise"])
    monkeypatch.setattr(planning, "_check_settings", lambda papers, values: None)
    assert planning.plan([path])[0].id != before


REFUSED = {
    "unknown": (["-p", "EPOCHZ", "3"], "EPOCHZ"),
    "wrong case": (["-p", "seed", "3"], "did you mean 'SEED'"),
    "close": (["-p", "SEEED", "3"], "did you mean 'SEED'"),
    "float for int": (["-p", "SEED", "1.5"], "SEED takes int"),
    "text for float": (["-p", "RATE", "fast"], "RATE takes float"),
    "no finite float": (["-p", "RATE", "nan"], "RATE takes float"),
    "text for bool": (["-p", "FAST", "2"], "true or false"),
    "empty element": (["-p", "SEED", "0,,1"], "empty value"),
    "empty value": (["-p", "NAME", ""], "empty value"),
    "one bad of several": (["-p", "SEED", "0,x"], "SEED takes int"),
    "twice": (["-p", "SEED", "0", "-p", "SEED", "1"], "given twice"),
    "profile twice": (["--profile", "smoke", "-p", "PROFILE", "small"], "given twice"),
    "out": (["-p", "OUT", "here"], "--out"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_usage_is_refused_without_a_traceback_before_anything_runs(
    tmp_path, capsys, arguments, message
):
    path = tiny.notebook(tmp_path, "tiny")
    assert main(["run", str(path), *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_a_parameter_that_one_of_several_notebooks_lacks_is_refused_by_that_name(tmp_path):
    first = tiny.notebook(tmp_path, "first")
    second = tiny.notebook(tmp_path, "second", parameters='OUT: str = ""  # results')
    with pytest.raises(ProtocolError, match="second has no parameter 'SEED'"):
        planning.plan([first, second], None, [("SEED", "1")], tmp_path)


BAD_LINES = {
    'SEED: int = "0"  # seed': "must read",
    "SEED = 0  # seed": "must read",
    "SEED: list = []  # seed": "must read",
    "SEED: int = f()  # seed": "must read",
    'SEED: str = "a=1"  # papermill does not see this one': "cannot read",
    "print(1)": "cannot read",
}


@pytest.mark.parametrize(("line", "message"), BAD_LINES.items())
def test_a_notebook_whose_parameters_are_no_typed_scalars_is_refused(tmp_path, line, message):
    path = tiny.notebook(tmp_path, "tiny", parameters=line)
    with pytest.raises(ProtocolError, match=message):
        planning.plan([path])


@pytest.mark.parametrize("wrong", [("PROFILE", "smokey"), ("SET", "no_such_setting=1")])
def test_profile_and_overrides_are_checked_against_the_paper(tmp_path, wrong):
    parameters = """PROFILE: str = "smoke"  # profile
SET: str = ""  # overrides of the profile
"""
    path = tiny.notebook(tmp_path, "tiny", 'paper = "1_swin_noise"', parameters=parameters)
    assert planning.plan([path], None, [("PROFILE", "smoke")], tmp_path)
    with pytest.raises(ProtocolError, match=wrong[1].split("=")[0]):
        planning.plan([path], None, [wrong], tmp_path)


def test_brackets_keep_their_commas(tmp_path):
    path = tiny.notebook(tmp_path, "tiny")
    runs = planning.plan([path], None, [("NAME", "noise=[0.1,0.2] epochs=3,epochs=4")], tmp_path)
    assert [r.parameters["NAME"] for r in runs] == ["noise=[0.1,0.2] epochs=3", "epochs=4"]


def test_notebooks_are_found_by_name_beginning_and_path(tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    books = {n: tiny.notebook(folder, n) for n in ("01_one", "02_two", "02_twin", "_draft")}
    aside = tiny.notebook(tmp_path, "aside")
    find = planning.find_notebooks
    assert find([], folder) == [books["01_one"], books["02_twin"], books["02_two"]]
    assert find(["01", "01_one.ipynb", "01_one"], folder) == [books["01_one"]]
    assert find([str(aside)], folder) == [aside]
    with pytest.raises(ProtocolError, match="several notebooks: 02_twin, 02_two"):
        find(["02"], folder)
    with pytest.raises(ProtocolError, match="did you mean '02_two'"):
        find(["02_tow"], folder)
    with pytest.raises(ProtocolError, match="no notebooks"):
        find([], tmp_path / "empty")


# What is run


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """A batch of good and bad notebooks, run once from the command line, with a hostile setting."""
    folder = tmp_path_factory.mktemp("batch")
    checks = "import os, sys\nprint(os.getcwd(), sys.executable, os.environ['OMP_NUM_THREADS'])"
    paths = [
        tiny.notebook(folder, "raises", "x = 1", "# a division\ny = x / 0", tiny.SAVE),
        tiny.notebook(folder, "dies", "import os\nos.kill(os.getpid(), 9)", tiny.SAVE),
        tiny.notebook(folder, "forgets", "x = 1"),
        tiny.notebook(folder, "good {1}", checks, tiny.SAVE),
    ]
    kernel = folder / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text('{"argv": ["/bin/false"], "display_name": "broken"}')
    surroundings = {**os.environ, "JUPYTER_PATH": str(folder / "jupyter"), "MPLBACKEND": "Agg"}
    surroundings.pop("OMP_NUM_THREADS", None)
    out = folder / "out"
    command = [sys.executable, "-m", "medrobust_utils", "run", *map(str, paths), "--jobs", "2"]
    done = subprocess.run(
        [*command, "-p", "SEED", "5", "--out", str(out)],
        env=surroundings,
        capture_output=True,
        text=True,
        timeout=600,
    )
    rows = {row["notebook"]: row for row in csv.DictReader((out / "summary.csv").open())}
    runs = {run.notebook.name: run for run in planning.plan(paths, None, [("SEED", "5")], out)}
    return done, rows, runs


def test_one_failure_stops_no_other_run_and_sets_the_exit_status(batch):
    done, rows, _ = batch
    assert done.returncode == 1, done.stderr
    statuses = {name: row["status"] for name, row in rows.items()}
    failed = dict.fromkeys(("raises", "dies", "forgets"), "failed")
    assert statuses == {**failed, "good {1}": "done"}
    assert "3 failed, 1 done" in done.stdout
    assert [f"[{n}/4]" in done.stdout for n in (1, 2, 3, 4)] == [True] * 4


def test_a_failure_names_notebook_cell_first_line_and_error(batch):
    done, rows, runs = batch
    wanted = 'cell 4/5 "# a division": ZeroDivisionError: division by zero'
    assert rows["raises"]["error"] == wanted
    assert f"{runs['raises']}: FAILED" in done.stdout
    trace = (runs["raises"].folder / "failure.txt").read_text()
    assert "y = x / 0" in trace
    assert "\x1b" not in trace
    assert rows["dies"]["error"].startswith('cell 3/4 "import os": DeadKernelError')
    assert rows["forgets"]["error"] == "the notebook ended without a complete result.json"


def test_the_executed_copy_ran_with_the_parameters_on_this_interpreter(batch):
    _, rows, runs = batch
    run = runs["good {1}"]
    book = nbformat.read(run.folder / "executed.ipynb", as_version=4)
    printed = next(c for c in book.cells if c.source.startswith("import os, sys")).outputs[0].text
    threads = max(1, runner._cores() // 2)
    assert printed.split() == [str(run.notebook.path.parent), sys.executable, str(threads)]
    record = json.loads((run.folder / "result.json").read_text())
    assert record["parameters"]["SEED"] == 5
    assert 10 < float(rows["good {1}"]["peak_mb"]) < 2000
    assert float(rows["good {1}"]["seconds"]) > 0


def test_a_finished_run_is_kept_and_a_failed_one_is_tried_again(tmp_path):
    flaky = "from pathlib import Path\nif not Path(NAME).exists():\n    raise OSError('no gate')"
    gate = tmp_path / "gate"
    paths = [tiny.notebook(tmp_path, "flaky", flaky, tiny.SAVE), tiny.notebook(tmp_path, "kept")]
    runs = planning.plan(paths, None, [("NAME", str(gate))], tmp_path)
    tiny.complete(runs[1].folder)
    first = runner.run_batch(runs, 1, io.StringIO())
    assert [o.status for o in first] == ["failed", "kept"]
    assert (runs[0].folder / "failure.txt").exists()
    gate.touch()
    second = runner.run_batch(runs, 1, io.StringIO())
    assert [o.status for o in second] == ["done", "kept"]
    assert not (runs[0].folder / "failure.txt").exists()
    assert not (runs[1].folder / "executed.ipynb").exists(), "the kept run was executed"


@pytest.mark.parametrize("record", ['{"status": "complete"', '{"status": "partial"}', "[]", "7"])
def test_half_a_record_is_no_finished_run(tmp_path, record):
    tiny.complete(tmp_path)
    assert runner.is_complete(tmp_path)
    (tmp_path / "result.json").write_text(record)
    assert not runner.is_complete(tmp_path)


def test_an_interrupted_batch_leaves_no_kernel_behind_and_goes_on_where_it_was(tmp_path):
    wait = (
        "import os, time\nfrom pathlib import Path\nhere = Path(NAME)\n"
        "(here / 'pid').write_text(str(os.getpid()))\n"
        "while SEED == 1 and not (here / 'gate').exists(): time.sleep(0.05)"
    )
    path = tiny.notebook(tmp_path, "slow", wait, tiny.SAVE)
    out, given = tmp_path / "out", [("SEED", "0,1,2"), ("NAME", str(tmp_path))]
    first, second, third = planning.plan([path], None, given, out)
    words = [word for pair in given for word in ("-p", *pair)]
    command = ["run", str(path), *words, "--out", str(out)]
    victim = subprocess.Popen(
        [sys.executable, "-m", "medrobust_utils", *command],
        stdout=subprocess.PIPE,
        text=True,
        # a test run in the background ignores Ctrl-C, and its children would inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(lambda: runner.is_complete(first.folder))
    (tmp_path / "pid").unlink()
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    kernel = int((tmp_path / "pid").read_text())
    victim.send_signal(signal.SIGINT)
    printed, _ = victim.communicate(timeout=600)
    assert victim.returncode == 130
    assert "1 done, 2 stopped" in printed and "goes on where it was" in printed
    wait_for(lambda: not psutil.pid_exists(kernel) or is_zombie(kernel))
    assert not runner.is_complete(second.folder)
    (tmp_path / "gate").touch()
    written = (first.folder / "executed.ipynb").stat().st_mtime_ns
    assert main([*command, "--jobs", "2"]) == 0
    rows = list(csv.DictReader((out / "summary.csv").open()))
    assert [row["status"] for row in rows] == ["kept", "done", "done"]
    assert (first.folder / "executed.ipynb").stat().st_mtime_ns == written
    assert runner.is_complete(third.folder)


def is_zombie(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_two_runners_do_not_trample_on_one_run(tmp_path):
    path = tiny.notebook(tmp_path, "tiny", tiny.SAVE)
    runs = planning.plan([path], None, [], tmp_path)
    runs[0].folder.mkdir(parents=True)
    outcomes, printed = [], io.StringIO()
    with (runs[0].folder / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        second = threading.Thread(
            target=lambda: outcomes.extend(runner.run_batch(runs, 1, printed))
        )
        second.start()
        wait_for(lambda: "another runner" in printed.getvalue())
        assert not (runs[0].folder / "executed.ipynb").exists()
        tiny.complete(runs[0].folder)
    second.join(60)
    assert [o.status for o in outcomes] == ["kept"]
    assert not (runs[0].folder / "executed.ipynb").exists()


def test_relative_data_folders_stay_what_the_user_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDROBUST_DATA", "data sets")
    assert runner._environment(1)["MEDROBUST_DATA"] == str(tmp_path / "data sets")
