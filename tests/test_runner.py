"""The runner: what it refuses, what it runs, and how it goes on after an end by force."""

import csv
import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import nbformat
import pytest
import tiny

from medrobust_utils.__main__ import main
from medrobust_utils.core.errors import ProtocolError
from medrobust_utils.reporting import planning, runner

RUN = [sys.executable, "-m", "medrobust_utils", "run"]


def test_a_grid_has_one_run_per_combination_each_in_a_folder_of_its_own(tmp_path):
    path = tiny.notebook(tmp_path, "01_tiny")
    given = [("SEED", "0,-1"), ("NAME", "a b,ü/../c[1,2]"), ("FAST", "true"), ("RATE", "1e-3")]
    runs = planning.plan([path], "smoke", given, tmp_path)
    values = [(run.parameters["SEED"], run.parameters["NAME"]) for run in runs]
    assert values == [(0, "a b"), (0, "ü/../c[1,2]"), (-1, "a b"), (-1, "ü/../c[1,2]")]
    assert len({run.folder for run in runs}) == 4
    for run in runs:
        assert run.folder.parent == tmp_path / "01_tiny"
        assert re.fullmatch(r"smoke-[A-Za-z0-9._=+-]{,80}-[0-9a-f]{10}", run.folder.name)
        assert run.parameters["OUT"] == str(run.folder)
        assert run.parameters["FAST"] is True and run.parameters["RATE"] == 0.001


def test_the_folder_follows_what_is_computed_and_nothing_else(tmp_path, monkeypatch):
    cell = 'CHECKPOINTS: str = ""  # a folder\n' + tiny.PARAMETERS
    monkeypatch.delenv("MEDROBUST_WEIGHTS", raising=False)

    def name(text="x = 1", prose="# Title", given=(), **more):
        path = tiny.notebook(tmp_path, "tiny", text, parameters=cell)
        book = nbformat.read(path, as_version=4)
        book.cells[0].source = prose
        nbformat.write(book, path)
        return planning.plan([path], given=given, **more)[0].folder.name

    usual = name()
    same = [
        name(prose="# Another title"),
        name(given=[("SEED", "0"), ("RATE", "0.50")]),
        name(given=[("CHECKPOINTS", "/drive/x")], profile="smoke", out=tmp_path / "elsewhere"),
    ]
    assert set(same) == {usual}
    longs = [name(given=[("NAME", "x" * length)]) for length in (500, 501)]
    assert all(len(long) < 100 for long in longs)
    others = [name("x = 2"), name(given=[("SEED", "1")]), name(profile="small"), *longs]
    others += [name('paper = "1_swin_noise"')]
    monkeypatch.setattr(planning.resources, "files", lambda _: tmp_path)  # another protocol
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "1_swin_noise.yaml").write_text("changed: true")
    others += [name('paper = "1_swin_noise"')]
    monkeypatch.setenv("MEDROBUST_WEIGHTS", str(tmp_path))
    assert name() == usual, "an empty folder of weights changes nothing"
    for weights in (b"weights", b"thgiews"):  # the same size
        (tmp_path / "resnet50.safetensors").write_bytes(weights)
        others.append(name())
    assert len({usual, *others}) == 1 + len(others)


REFUSED = {
    "wrong case": (["-p", "seed", "3"], "did you mean 'SEED'"),
    "close": (["-p", "SEEED", "3"], "did you mean 'SEED'"),
    "float for int": (["-p", "SEED", "1.5"], "SEED takes int"),
    "no finite float": (["-p", "RATE", "nan"], "RATE takes float"),
    "text for bool": (["-p", "FAST", "2"], "true or false"),
    "empty element": (["-p", "SEED", "0,,1"], "empty value"),
    "twice": (["--profile", "smoke", "-p", "PROFILE", "small"], "given twice"),
    "out": (["-p", "OUT", "here"], "--out"),
    "a file for a folder": (["--out", __file__], "is a file"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_usage_is_refused_before_anything_runs(tmp_path, capsys, arguments, message):
    path = tiny.notebook(tmp_path, "tiny")
    assert main(["run", str(path), "--out", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


BAD_LINES = (
    'SEED: int = "0"  # seed',
    "SEED = 0  # seed",
    "SEED: list = []  # seed",
    'SEED: str = "a=1"  # papermill does not see this one',
    "print(",
)


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_notebook_whose_parameters_are_no_typed_scalars_is_refused(tmp_path, line):
    path = tiny.notebook(tmp_path, "tiny", parameters=line)
    with pytest.raises(ProtocolError, match="must read|cannot (be )?read"):
        planning.plan([path])


def test_profile_and_overrides_are_checked_against_the_paper(tmp_path):
    parameters = 'PROFILE: str = "smoke"  # profile\nSET: str = ""  # overrides'
    path = tiny.notebook(tmp_path, "tiny", 'paper = "1_swin_noise"', parameters=parameters)
    assert planning.plan([path], None, [("PROFILE", "smoke")], tmp_path)
    for name, value in (("PROFILE", "smokey"), ("SET", "no_such_setting=1")):
        with pytest.raises(ProtocolError, match=value.split("=")[0]):
            planning.plan([path], None, [(name, value)], tmp_path)


def test_notebooks_are_found_by_name_beginning_and_path(tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    books = {n: tiny.notebook(folder, n) for n in ("01_one", "02_two", "02_twin", "_draft")}
    aside = tiny.notebook(tmp_path, "aside")
    find = planning.find_notebooks
    assert find([], folder) == [books["01_one"], books["02_twin"], books["02_two"]]
    assert find(["01", "01_one.ipynb", "01_one"], folder) == [books["01_one"]]
    assert find([str(aside)], folder) == [aside]
    for wanted, place, message in (
        (["02"], folder, "several notebooks: 02_twin, 02_two"),
        (["02_tow"], folder, "did you mean '02_two'"),
        ([], tmp_path / "empty", "no notebooks"),
    ):
        with pytest.raises(ProtocolError, match=message):
            find(wanted, place)


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """Good and bad notebooks, run once from the command line with hostile Jupyter settings."""
    folder = tmp_path_factory.mktemp("batch")
    names = "'OMP_NUM_THREADS', 'MEDROBUST_DATA', 'MEDROBUST_HEADLESS', 'MALLOC_MMAP_MAX_'"
    show = f"import os, sys\nprint(os.getcwd(), sys.executable, *map(os.environ.get, [{names}]))"
    gate = f"from pathlib import Path\nif not Path({str(folder)!r}, 'gate').exists(): 1 / 0"
    paths = [
        tiny.notebook(folder, "raises", "x = 1", f"# a division\n{gate}", tiny.SAVE),
        tiny.notebook(folder, "dies", "import os\nos.kill(os.getpid(), 9)", tiny.SAVE),
        tiny.notebook(folder, "forgets", "x = 1"),
        tiny.notebook(folder, "good {1}", show, tiny.SAVE),
    ]
    book = nbformat.read(paths[-1], as_version=4)
    book.metadata = {}  # as jupytext and VS Code save it: no kernel, no language
    nbformat.write(book, paths[-1])
    kernel = folder / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text('{"argv": ["/bin/false"], "display_name": "broken"}')
    surroundings = os.environ | {"JUPYTER_PATH": str(folder / "jupyter"), "MEDROBUST_DATA": "sets"}
    surroundings.pop("OMP_NUM_THREADS", None)
    command = [*RUN, *map(str, paths), "--jobs", "2", "-p", "SEED", "5", "--out", "out"]
    done = subprocess.run(command, cwd=folder, env=surroundings, capture_output=True, text=True)
    rows = {row["notebook"]: row for row in csv.DictReader((folder / "out/summary.csv").open())}
    runs = planning.plan(paths, None, [("SEED", "5")], folder / "out")
    return done, rows, {run.notebook.stem: run for run in runs}


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
    assert f"{runs['raises']}: FAILED: {wanted}" in done.stdout
    trace = (runs["raises"].folder / "failure.txt").read_text()
    assert "exists(): 1 / 0" in trace and "\x1b" not in trace
    assert rows["dies"]["error"].startswith('cell 3/4 "import os": DeadKernelError')
    assert re.search(r"SIGKILL.* MB of memory, \d+ MB of disk at", rows["dies"]["error"])
    assert rows["forgets"]["error"] == "the notebook ended without a complete result.json"


def test_the_executed_copy_ran_with_the_parameters_on_this_interpreter(batch):
    _, rows, runs = batch
    run = runs["good {1}"]
    book = nbformat.read(run.folder / "executed.ipynb", as_version=4)
    printed = next(c for c in book.cells if c.source.startswith("import os, sys")).outputs[0].text
    here, threads = run.notebook.parent, max(1, len(os.sched_getaffinity(0)) // 2)
    variables = [str(threads), str(here / "sets"), "1", "0"]
    assert printed.split() == [str(here), sys.executable, *variables]
    assert json.loads((run.folder / "result.json").read_text())["parameters"]["SEED"] == 5
    assert 10 < float(rows["good {1}"]["peak_mb"]) < 2000
    assert float(rows["good {1}"]["seconds"]) > 0


def test_a_failed_run_is_tried_again_and_a_finished_one_is_skipped(batch):
    runs = [batch[2]["raises"], batch[2]["good {1}"]]
    written = (runs[1].folder / "executed.ipynb").stat().st_mtime_ns
    (runs[0].notebook.parent / "gate").touch()
    (runs[0].folder / "result.json").write_text('{"status": "complete"')  # half a record is none
    assert [o.status for o in runner.run_batch(runs, 1, io.StringIO())] == ["done", "skipped"]
    assert not (runs[0].folder / "failure.txt").exists()
    assert (runs[1].folder / "executed.ipynb").stat().st_mtime_ns == written


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_an_interrupted_batch_leaves_no_kernel_behind_and_goes_on_where_it_was(tmp_path, how):
    os.mkfifo(tmp_path / "pipe")
    wait = (
        "import os, time\nif SEED == 1 and not os.path.exists(NAME + '-gate'):\n"
        "    pipe = open(NAME, 'w')\n    print('here', file=pipe, flush=True)\n"
        "    time.sleep(600)\n    print('survived', file=pipe, flush=True)"
    )
    path = tiny.notebook(tmp_path, "slow", wait, tiny.SAVE)
    out, given = tmp_path / "out", ["-p", "SEED", "0,1,2", "-p", "NAME", str(tmp_path / "pipe")]
    victim = subprocess.Popen(
        [*RUN, str(path), *given, "--out", str(out)],
        stdout=subprocess.PIPE,
        text=True,
        # a test run in the background ignores Ctrl-C, and its children would inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with (tmp_path / "pipe").open() as kernel:
        assert kernel.readline() == "here\n"
        victim.send_signal(how)
        assert kernel.read() == "", "it ends when the kernel does"
    printed, _ = victim.communicate()
    if how == signal.SIGINT:
        assert victim.returncode == 130
        assert "1 done, 2 stopped" in printed and "goes on where it was" in printed
    assert not list(out.rglob("failure.txt"))
    (tmp_path / "pipe-gate").touch()
    assert main(["run", str(path), *given, "--out", str(out), "--jobs", "2"]) == 0
    rows = csv.DictReader((out / "summary.csv").open())
    assert [row["status"] for row in rows] == ["skipped", "done", "done"]


def test_two_runners_do_not_execute_one_run_twice(tmp_path):
    count = "print('executed', file=open(NAME, 'a'))"
    path = tiny.notebook(tmp_path, "tiny", count, tiny.SAVE)
    runs = planning.plan([path], None, [("NAME", str(tmp_path / "count"))], tmp_path)
    with ThreadPoolExecutor(2) as pool:  # either starts before the other can have finished
        both = list(pool.map(runner.run_batch, [runs, runs], [1, 1], [io.StringIO()] * 2))
    assert [outcome.status for outcomes in both for outcome in outcomes] == ["done", "done"]
    assert (tmp_path / "count").read_text() == "executed\n"


def test_a_terminal_shows_the_running_cell_and_keeps_one_line_a_run(tmp_path):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

        def write(self, text):
            if 'cell 3/4 "# waits"' in text:
                (tmp_path / "gate").touch()
            return super().write(text)

    wait = (
        "# waits\nimport os, time\n"
        "while not os.path.exists(NAME) and time.process_time() < 60: time.sleep(0.01)"
    )
    path = tiny.notebook(tmp_path, "tiny", wait, tiny.SAVE)
    runs = planning.plan([path], None, [("NAME", str(tmp_path / "gate"))], tmp_path)
    terminal = Terminal()
    assert [outcome.status for outcome in runner.run_batch(runs, 1, terminal)] == ["done"]
    assert (tmp_path / "gate").exists(), "the cell was not shown"
    lines = [line.rpartition("\r")[2] for line in terminal.getvalue().split("\n")]
    assert [line for line in lines if "[1/1]" in line] == [lines[0]]
    assert "done in" in lines[0]


def test_a_full_disk_is_said_in_a_sentence(tmp_path):
    path = tiny.notebook(tmp_path, "tiny", tiny.SAVE)
    done = subprocess.run(
        [*RUN, str(path), "--out", str(tmp_path / "out")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),  # nothing fits
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "FAILED: the notebook's process ended with status 1; free now:" in done.stdout
    assert "File too large" in done.stderr and "Make room" in done.stderr
