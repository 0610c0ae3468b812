"""The benchmarks' arithmetic on clocks that are set by hand: no test waits for a real one."""

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from subprocess import CalledProcessError
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import (  # noqa: E402
    MODULES,
    __main__,
    contest,
    explorer,
    glcm,
    imports,
    limits,
    memory,
    method_two,
    networks,
    record,
    steps,
    strength,
    timing,
)
from medrobust_utils import attacks
from medrobust_utils.attacks.selective import combinations  # noqa: E402
from medrobust_utils.core.errors import ContractError, DataError, RunError  # noqa: E402
from medrobust_utils.data import phantom_set, to_float  # noqa: E402
from medrobust_utils.models import build  # noqa: E402
from medrobust_utils.reporting import protocol  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
README = f"# Speed\n{record.BEGIN}\nold\n{record.END}\nthe rest\n"


@pytest.fixture(autouse=True)
def unprobed(monkeypatch):
    """The probe for the fastest type of training is a matter of time as well."""
    monkeypatch.setattr(record.env, "training_dtype", lambda device: torch.float32)
    monkeypatch.setattr(record.env, "pick_device", lambda: torch.device("cpu"))


@pytest.fixture
def readme(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(README)
    return path


class Clock:
    """A clock that stands still until a side is run; each run takes the next of its times."""

    def __init__(self, **times):
        self.now, self.times, self.order = 100.0, {k: iter(v) for k, v in times.items()}, []

    def __call__(self):
        return self.now

    def side(self, name):
        def run():
            self.order.append(name)
            self.now += next(self.times[name])

        return name, run


def compared(base, other, **promise):
    clock = Clock(plain=base, dear=other)
    found = timing.compare(
        "plain against dear",
        clock.side("plain"),
        clock.side("dear"),
        rounds=len(base) - 1,
        clock=clock,
        **(promise or {"at_most": 1.3}),
    )
    return found, clock


def test_sides_take_turns_and_the_first_round_does_not_count():
    found, clock = compared([50, 1, 1, 1, 1], [0.1, 2, 2, 2, 2])
    rounds = [clock.order[i : i + 2] for i in range(0, 10, 2)]
    assert rounds[1:] == [["plain", "dear"], ["dear", "plain"]] * 2
    assert sorted(rounds[0]) == ["dear", "plain"]
    assert (found.base_seconds, found.other_seconds, found.ratio) == (1, 2, 2)
    assert (found.low, found.high, found.rounds) == (2, 2, 4)


def test_several_sides_take_turns_and_a_warm_round_may_be_left_out():
    clock = Clock(a=[1, 2], b=[3, 4], c=[5, 6])
    sides = [clock.side(name)[1] for name in "abc"]
    found = timing.take_turns(sides, 2, warm=False, clock=clock)
    assert found == [[1, 2], [3, 4], [5, 6]] and clock.order == list("abccba")


def test_the_ratio_is_the_median_of_the_rounds():
    """From the second round on another process takes most of the machine."""
    found, _ = compared([9, 1, 10, 10], [9, 1.2, 12, 13])
    assert found.ratio == pytest.approx(1.2) and found.low == pytest.approx(1.2)
    assert found.high == pytest.approx(1.3)
    assert (found.base_seconds, found.other_seconds) == pytest.approx((10, 12))


@pytest.mark.parametrize(("other", "reached"), [(1.25, True), (1.5, True), (1.51, False)])
def test_a_cost_may_be_as_large_as_was_promised(other, reached):
    found, _ = compared([1, 1], [1, other], at_most=1.5)
    line = found.record()
    assert found.reached is reached and line["reached"] is reached
    assert ("reached" if reached else "MISSED") in record.text([line])


@pytest.mark.parametrize(("other", "reached"), [(0.5, True), (0.25, True), (0.51, False)])
def test_a_gain_must_be_as_large_as_was_promised(other, reached):
    found, _ = compared([1, 1], [1, other], at_least=2)
    assert found.reached is reached and found.ratio == pytest.approx(1 / other)


def test_a_quick_side_that_is_too_weak_reaches_nothing():
    found, _ = compared([1, 1], [1, 0.1], at_least=2, kept=False, bound="arithmetic")
    assert not found.reached and "arithmetic" in record.text([found.record()])


@pytest.mark.parametrize("ratio", [1.1, 2.0])
def test_a_run_prints_its_table_and_leaves_json_and_readme(
    ratio, tmp_path, monkeypatch, capsys, readme
):
    found, _ = compared([1, 1], [1, ratio], at_most=1.3, bound="the machine")
    monkeypatch.setattr(glcm, "measure", lambda: [found])
    path = tmp_path / "results" / "bench.json"
    assert __main__.main(["glcm"], path, readme) == (0 if ratio < 1.3 else 1)
    assert "plain -> dear" in capsys.readouterr().out
    ((machine, modules),) = json.loads(path.read_text()).items()
    (line,) = modules["glcm"]
    assert line["ratio"] == pytest.approx(ratio) and line["at_most"] == 1.3
    assert line["reached"] is (ratio < 1.3) and line["before"] is None
    assert {"versions", "device", "platform", "git_commit"} <= line["provenance"].keys()
    assert line["provenance"]["peers"]["pyautoattack"]
    page = readme.read_text()
    assert page.startswith("# Speed\n") and page.endswith("the rest\n") and "old" not in page
    assert machine in page and ("not reached (1)" in page) is (ratio > 1.3)
    assert ("1. the machine" in page) is (ratio > 1.3)
    # once more: the time before stands beside it, and nothing doubles
    assert __main__.main(["glcm"], path, readme) == (0 if ratio < 1.3 else 1)
    (line,) = json.loads(path.read_text())[machine]["glcm"]
    assert line["before"] == line["ratio"] and readme.read_text().count("dear: plain") == 1


def test_another_machines_lines_stay(tmp_path, monkeypatch):
    found, _ = compared([1, 1], [1, 1.1])
    path = tmp_path / "bench.json"
    record.add(path, "glcm", found, {})
    monkeypatch.setattr(record, "machine", lambda: "cuda (another)")
    record.add(path, "glcm", found, {})
    record.add(path, "steps", found, {})
    machines = record.read(path)
    assert len(machines) == 2 and sorted(map(len, machines.values())) == [1, 2]
    assert "cuda (another)" in record.markdown(machines)


LINE = '{"a": {"b": [{"name": "c", "reached": true}]}}'


@pytest.mark.parametrize("content", ["[1]", "{", '{"a": {"b": [{}]}}', '{"a": 1}', LINE])
def test_a_damaged_record_is_refused_and_stays(content, tmp_path):
    path = tmp_path / "bench.json"
    path.write_text(content)
    with pytest.raises(RunError, match="bench.json: cannot be read"):
        record.add(path, "glcm", compared([1, 1], [1, 1])[0], {})
    assert path.read_text() == content


def test_a_miss_without_a_reason_is_refused():
    found, _ = compared([1, 1], [1, 2])
    with pytest.raises(RunError, match="nothing says why"):
        record.check(found)
    record.check(replace(found, bound="the machine"))


def test_a_miss_without_a_reason_is_not_recorded(tmp_path, monkeypatch, capsys, readme):
    monkeypatch.setattr(glcm, "measure", lambda: [compared([1, 1], [1, 2])[0]])
    assert __main__.main(["glcm"], tmp_path / "bench.json", readme) == 1
    assert "glcm: NOT MEASURED: plain against dear: the promise" in capsys.readouterr().out
    assert record.markdown({}) in readme.read_text() and not (tmp_path / "bench.json").exists()


def test_every_miss_on_record_says_what_bounds_it():
    lines = [
        line
        for modules in record.read(ROOT / "results" / "bench.json").values()
        for found in modules.values()
        for line in found
    ]
    assert lines and all(line["reached"] or line["bound"] for line in lines)


def test_a_page_or_record_that_cannot_take_the_result_costs_no_measurement(tmp_path, monkeypatch):
    monkeypatch.setattr(glcm, "measure", lambda: pytest.fail("measured"))
    page, path = tmp_path / "README.md", tmp_path / "bench.json"
    page.write_text("nothing")
    with pytest.raises(RunError, match="needs the line"):
        __main__.main(["glcm"], path, page)
    page.write_text(README)
    path.write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        __main__.main(["glcm"], path, page)
    assert page.read_text() == README


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DataError("gone"), ValueError("odd")])
def test_a_run_that_is_stopped_leaves_what_it_did_not_come_to(
    error, tmp_path, monkeypatch, readme, capsys
):
    first, second = (
        replace(compared([1, 1], [1, 1])[0], name=name) for name in ("the first", "the second")
    )
    monkeypatch.setattr(glcm, "measure", lambda: [first, second])
    path = tmp_path / "bench.json"
    __main__.main(["glcm"], path, readme)

    def broken():
        yield replace(first, ratio=0.5)
        raise error

    monkeypatch.setattr(glcm, "measure", broken)
    if isinstance(error, Exception):
        assert __main__.main(["glcm"], path, readme) == 1
        named = "gone" if isinstance(error, DataError) else "ValueError: odd"
        assert f"glcm: NOT MEASURED: {named}\n" in capsys.readouterr().out
    else:
        with pytest.raises(KeyboardInterrupt):
            __main__.main(["glcm"], path, readme)

    def told():
        (modules,) = record.read(path).values()
        assert f"\n{record.markdown(record.read(path))}\n" in readme.read_text()
        return [(line["name"], line["ratio"], line["before"]) for line in modules["glcm"]]

    assert told() == [("the first", 0.5, 1), ("the second", 1, None)]
    monkeypatch.setattr(glcm, "measure", lambda: [second])  # it has no first any more
    __main__.main(["glcm"], path, readme)
    assert told() == [("the second", 1, 1)]


def test_a_record_that_cannot_be_written_ends_the_run(tmp_path, monkeypatch, readme):
    monkeypatch.setattr(steps, "measure", lambda: pytest.fail("measured"))

    def gone():
        readme.unlink()
        yield compared([1, 1], [1, 1])[0]

    monkeypatch.setattr(glcm, "measure", gone)
    with pytest.raises(FileNotFoundError):
        __main__.main(["glcm", "steps"], tmp_path / "bench.json", readme)


def test_a_measurement_that_fails_costs_itself_alone(tmp_path, monkeypatch, capsys, readme):
    def missing():
        raise DataError("MEDROBUST_DATA is not set.")
        yield

    def peerless():
        raise ModuleNotFoundError("No module named 'torchattacks'")
        yield

    def damaged():
        raise RunError("strength.npz: holds something else.")
        yield

    def crashed():
        raise CalledProcessError(1, "python")
        yield

    def contract():
        raise ContractError("NaN in the gradient.")
        yield

    def gone():
        raise FileNotFoundError("no such folder")
        yield

    monkeypatch.setattr(explorer, "measure", crashed)
    monkeypatch.setattr(method_two, "measure", contract)
    monkeypatch.setattr(imports, "measure", peerless)
    monkeypatch.setattr(memory, "measure", damaged)
    monkeypatch.setattr(steps, "measure", missing)
    monkeypatch.setattr(glcm, "measure", lambda: [compared([1, 1], [1, 1])[0]])
    path = tmp_path / "bench.json"
    monkeypatch.setitem(sys.modules, "benchmarks.reading", SimpleNamespace(measure=gone))
    asked = ["steps", "memory", "imports", "explorer", "method_two", "reading", "glcm"]
    assert __main__.main(asked, path, readme) == 1
    printed = capsys.readouterr().out
    assert "memory: NOT MEASURED: strength.npz: holds something else.\n" in printed
    assert "steps: NOT MEASURED: MEDROBUST_DATA" in printed
    assert "method_two: NOT MEASURED: NaN" in printed
    assert "reading: NOT MEASURED: FileNotFoundError: no such folder" in printed
    assert "explorer: NOT MEASURED: CalledProcessError: Command 'python'" in printed
    assert "No module named 'torchattacks' Run it by `make bench`." in printed
    (modules,) = record.read(path).values()
    assert list(modules) == ["glcm"]


def test_the_readme_shows_what_was_measured():
    found = record.read(ROOT / "results" / "bench.json")
    assert (
        f"{record.BEGIN}\n{record.markdown(found)}\n{record.END}"
        in (ROOT / "README.md").read_text()
    )


def test_every_registered_module_measures(monkeypatch, tmp_path, readme):
    asked = []

    def imported(name):
        asked.append(name)
        return SimpleNamespace(measure=lambda: [])

    monkeypatch.setattr(__main__.importlib, "import_module", imported)
    assert __main__.main([], tmp_path / "bench.json", readme) == 0
    assert asked == [f"benchmarks.{name}" for name in MODULES]


def test_an_unknown_measurement_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as refusal:
        __main__.main(["glmc"], tmp_path / "bench.json")
    assert refusal.value.code == 2 and "there are imports" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_both_sides_of_the_glcm_measurement_train(monkeypatch):
    """Tiny and without a clock: the sides run, and differ by the GLCM loss alone."""
    monkeypatch.setattr(glcm, "BATCH", 2)
    monkeypatch.setattr(glcm, "SIZE", 40)
    losses = {}

    def run(name, base, other, **how):
        losses.update({side: [step(), step()] for side, step in (base, other)})
        return timing.judge(name, (base[0], [1.0]), (other[0], [1.5]), **_promise(how))

    monkeypatch.setattr(glcm, "compare", run)
    (found,) = glcm.measure()
    assert "2 images of 40 px" in found.name and found.at_most == 1.3 and not found.reached
    assert found.bound.endswith(": 250.0 ms an image.")
    plain, dear = losses["cross-entropy"], losses["with the GLCM loss"]
    assert plain[0] != plain[1] and dear[0] != dear[1] and dear[0] != plain[0]


class Passes:
    """Notes the largest batch that any convolution got."""

    def __enter__(self):
        self.largest = 0
        self.hook = register_module_forward_pre_hook(self.note)
        return self

    def __exit__(self, *error):
        self.hook.remove()

    def note(self, module, arguments):
        if isinstance(module, torch.nn.Conv2d):
            self.largest = max(self.largest, len(arguments[0]))


def test_method_two_is_measured_against_trying_one_by_one(monkeypatch):
    """Tiny and without a clock: what the sides choose, and what is told of it."""
    monkeypatch.setattr(method_two, "WIDTHS", (4,))
    monkeypatch.setattr(method_two, "SIZE", 32)
    monkeypatch.setattr(method_two, "PHANTOMS", 80)
    monkeypatch.setattr(method_two, "IMAGES", 2)
    monkeypatch.setattr(method_two, "RECIPE", method_two.RECIPE | dict(epochs=1))
    monkeypatch.setattr(method_two.selective, "combinations", lambda k: combinations(k)[::9])
    passes = []

    def run(name, base, other, **how):
        for side, choose in (base, other):
            with Passes() as counted:
                assert choose().signs.shape == (1, 6)
            passes.append((side, counted.largest))
        return timing.judge(name, (base[0], [4.0]), (other[0], [1.0]), **_promise(how))

    monkeypatch.setattr(method_two, "compare", run)
    monkeypatch.setattr(limits, "matmul_gflops", lambda device, dtype: 100.0)
    found = list(method_two.measure())
    assert [line.other for line in found[:2]] == ["in batches", "screened"]
    assert [line.at_least for line in found[:2]] == [1, 3]
    assert passes[0] == ("one by one", 6) and passes[1] == (
        "in batches",
        method_two.selective.BATCH,
    )  # 6: the gradients
    for line in found:
        facts = line.facts
        assert facts["images"] == 2 and facts["misses"] <= 2 and facts["val_loss"] > 0
        assert line.reached is (facts["misses"] == 0) and "GFLOP/s" in line.bound
    batched = found[0].facts
    assert batched["same_signs"] == 2 and batched["misses"] == 0


def test_a_miss_is_a_loss_above_the_least():
    signs = torch.tensor([[0, 1], [1, 1], [-1, 0]], dtype=torch.int8)
    best = SimpleNamespace(signs=signs, loss=torch.tensor([0.5, 0.5, 0.5]), before=torch.ones(3))
    chosen = SimpleNamespace(signs=signs.clone(), loss=torch.tensor([0.5, 0.5000005, 0.51]))
    chosen.signs[2] = 0
    facts = method_two._facts(best, chosen)
    assert facts["images"] == 3 and facts["same_signs"] == 2 and facts["misses"] == 1
    assert facts["largest_gap"] == pytest.approx(0.01) and facts["gain"] == pytest.approx(0.5)


def test_facts_are_printed_and_kept():
    facts = {"misses": 0, "gap": 0.25, "accuracy": [0.5, 0.25]}
    found = timing.compare("a", ("b", int), ("c", int), at_most=1, rounds=1, facts=facts)
    assert found.record()["facts"] == facts
    assert "misses 0, gap 0.25, accuracy 0.5/0.25" in record.text([found.record()])


def test_the_explorers_slider_finds_a_new_eps_each_time_and_an_old_one_at_once(monkeypatch):
    monkeypatch.setattr(explorer, "CASES", (("resnet10t", 32, 4.0),))
    monkeypatch.setattr(explorer, "ROUNDS", 2)
    looked, sides = [], []
    monkeypatch.setattr("medrobust_utils.explorer.gallery.look", _counting(looked))

    def run(name, base, other, **how):
        for side, step in (base, other):
            before = len(looked)
            shown = [step(), step()]
            sides.append((side, len(looked) - before, [one[0].record["eps_255"] for one in shown]))
        return timing.judge(name, (base[0], [3.0]), (other[0], [0.1]), **_promise(how))

    monkeypatch.setattr(explorer, "compare", run)
    (found,) = explorer.measure()
    assert sides[0][1] == 4 and len(set(sides[0][2])) == 2  # two networks, two new steps
    assert sides[1][1] == 0 and sides[1][2] == [1, 1]
    assert found.facts == {"seconds_allowed": 4.0} and found.at_least == 50
    assert not found.reached and "4 are allowed" in found.bound  # 30 times, and in time


def _promise(how):
    return {name: value for name, value in how.items() if name != "rounds"}


def _counting(looked):
    from medrobust_utils.explorer.look import look

    def counted(*args, **how):
        looked.append(1)
        return look(*args, **how)

    return counted


def test_arithmetic_is_counted_and_bounded(monkeypatch):
    """One convolution: 2 operations a weight and place, twice that with the way back to X."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)).eval()
    images = torch.rand(4, 3, 10, 10)
    forward = 2 * 3 * 8 * 9 * 100 / 1e9
    assert limits.gradient_gflop(model, images) == pytest.approx(2 * forward)
    assert limits.training_gflop(model, images) == pytest.approx(2 * forward)  # X needs none
    assert model[0].weight.requires_grad and model[0].weight.grad is None
    peaks = {torch.float32: 100.0, torch.bfloat16: 5.0}
    monkeypatch.setattr(limits, "matmul_gflops", lambda device, dtype: peaks[dtype])
    device = torch.device("cpu")
    words = limits.bound(50, 80, 3, device)
    assert words.startswith("Arithmetic: ") and "50 GFLOP/s" in words
    assert "100 in float32" in words and "2.0 times" in words
    assert "The kit is at 80% of it." in words and "slower" not in words
    assert "Why it is 20% slower than the other side was not found." in limits.bound(
        50, 40, 3, device
    )
    words = limits.bound(50, 80, 1.9, device)  # twice as fast would be possible
    assert words.startswith("Memory and overhead: ") and "at 80% of it" in words


def test_a_device_without_an_entry_of_its_own_takes_the_cpus(monkeypatch):
    for device, entry in (("cpu", 1), ("cuda", 2), ("mps", 1)):
        monkeypatch.setattr(limits.env, "pick_device", lambda d=device: torch.device(d))
        assert limits.by_device({"cpu": 1, "cuda": 2}) == entry


def test_a_matrix_product_is_timed(monkeypatch):
    monkeypatch.setattr(limits, "SIDES", (8,))
    found = limits.matmul_gflops(torch.device("cpu"), torch.float32)
    assert 0 < found < 1e6


def told(clean, **found):
    """What is known of each side: 1 stands, 0 was felled, -1 nobody knows."""
    sides = {name: np.array(rows, np.int8) for name, rows in found.items()}
    for side in contest.SIDES:
        sides.setdefault(side, np.full_like(sides["foolbox"], contest.UNKNOWN))
    return strength.Strength(np.array(clean, bool), sides)


def test_strength_is_judged_eps_by_eps_on_the_images_of_both(monkeypatch):
    monkeypatch.setattr(contest, "WANTED", 4)
    monkeypatch.setattr(strength, "ENOUGH", 1)
    found = told(
        [1, 1, 1, 0],
        foolbox=[[1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]],
        nested=[[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]],
        independent=[[1, 1, -1, 0], [1, 1, -1, 0], [1, 0, -1, 0]],
    )
    assert found.images("nested") == 4 and found.images("independent") == 2
    assert found.inside("nested") == 1  # 2 of the 3 that were right; 3 of 3 and 0 are outside
    assert found.above("nested") == 0 and found.kept("nested")
    assert found.above("independent") == 0.5 and not found.kept("independent")
    facts = found.facts("nested")
    assert facts["foolbox_at_least"] == facts["foolbox_at_most"] == [0.75, 0.5, 0]
    assert facts["clean_accuracy"] == 0.75 and facts["mode_at_most"] == [0.5, 0.25, 0]
    assert found.facts("independent")["foolbox_at_least"] == [1, 1, 0]


def test_whom_foolbox_met_only_where_nested_leaves_them_bounds_the_difference(monkeypatch):
    """Whom Foolbox has not met counts against the nested mode, and against the ladder."""
    monkeypatch.setattr(contest, "WANTED", 5)
    monkeypatch.setattr(strength, "ENOUGH", 1)
    nested = [[1, 1, 1, 1, 0], [0, 0, 1, 0, 0]]
    found = told([1] * 5, foolbox=[[1, 1, 1, 1, -1], [1, -1, 1, 0, -1]], nested=nested)
    assert found.images("nested") == 5 and found.images("independent") == 1
    assert not any(pairs.any() for pairs in found.missing("nested").values())
    missing = found.missing("independent")
    assert missing["foolbox"].sum() == 3
    assert missing["independent"].sum() == 4  # the same, and the one that Foolbox is known to fell
    # one that Foolbox leaves and nested fells is known, and makes up for one the other way round
    assert found.above("nested") == 0
    facts = found.facts("nested")
    assert facts["foolbox_at_least"] == [0.8, 0.4] and facts["foolbox_at_most"] == [1, 0.8]
    assert found.inside("nested") == 1 and found.kept("nested")  # the second
    found = told([1] * 5, foolbox=[[1, 0, 1, 0, -1], [1, -1, 1, -1, -1]], nested=nested)
    assert found.above("nested") == 0.4 and found.weaker("nested")
    assert found.inside("nested") == 1 and not found.kept("nested")  # the first: 40 to 60 %
    found = told([1] * 5, foolbox=[[1, 1, -1, 0, -1], [1, -1, 1, -1, -1]], nested=nested)
    assert found.images("nested") == 2  # the third is left, and nobody knows what Foolbox does


def test_whom_foolbox_leaves_the_independent_mode_needs_not_meet(monkeypatch):
    monkeypatch.setattr(contest, "WANTED", 4)
    monkeypatch.setattr(strength, "ENOUGH", 1)
    foolbox = [[1, 1, 0, -1], [1, 0, 0, 0]]
    found = told([1] * 4, foolbox=foolbox, independent=[[-1, -1, 0, 0], [-1, 1, 0, 0]])
    assert found.images("independent") == 4
    assert not any(pairs.any() for pairs in found.missing("independent").values())
    facts = found.facts("independent")
    assert facts["mode_at_least"] == [0, 0.25] and facts["mode_at_most"] == [0.5, 0.5]
    assert facts["above_foolbox"] == 0.25  # the second image at the second eps
    found = told([1] * 4, foolbox=foolbox, independent=[[-1, -1, -1, 0], [-1, 1, 0, 0]])
    assert found.images("independent") == 2  # the third may stand


def test_a_reader_is_told_where_the_difference_is_a_bound():
    facts = {
        "images": 200,
        "above_foolbox": -0.015,
        "gradients_an_image": 16.9,
        "gradients": "bfloat16",
        "mode_at_least": [0.6, 0.2],
        "mode_at_most": [0.6, 0.2],
        "foolbox_at_least": [0.7, 0.25],
        "foolbox_at_most": [0.7, 0.25],
    }
    assert record._besides(facts) == (
        "-1.5 points against Foolbox at the worst eps, 200 images (leaves 60/20 %, Foolbox 70/25 "
        "%); 17 bfloat16 gradients an image"
    )
    bounded = facts | {"foolbox_at_most": [0.7, 0.4], "above_foolbox": 0.005}
    assert record._besides(bounded) == (
        "at most +0.5 points against Foolbox at the worst eps, 200 images (leaves 60/20 %, Foolbox "
        "70/25-40 %); 17 bfloat16 gradients an image"
    )
    unmet = facts | {"mode_at_most": [0.6, 0.25], "above_foolbox": 0}
    words = record._besides(unmet)
    assert words.startswith("at most +0.0 points against Foolbox at the worst eps, 200 images")
    assert "(leaves 60/20-25 %, Foolbox 70/25 %)" in words


def test_one_percent_of_the_images_is_no_weakness_and_too_few_are_no_proof():
    standing = np.zeros((3, 200), bool)
    standing[:, :100] = True
    weaker = standing.copy()
    weaker[1, 100:102] = True
    clean = np.ones(200, bool)
    found = told(clean, foolbox=standing, nested=weaker)
    assert found.above("nested") == pytest.approx(0.01) and found.kept("nested")
    weaker[1, 102] = True
    assert not told(clean, foolbox=standing, nested=weaker).kept("nested")
    few = standing[:, :199]
    assert not told(clean[:199], foolbox=few, nested=few).kept("nested")


@pytest.fixture
def victim(tmp_path):
    torch.manual_seed(0)
    data = phantom_set("dermatoscopy7", 20, size=32)
    model = build("resnet10t", 7, start="scratch").eval()
    images = torch.from_numpy(data.images).permute(0, 3, 1, 2).float() / 255
    data.targets[::2] = model(images).argmax(1)[::2].numpy()  # every other image is right
    return networks.Victim("a network", model, data, np.arange(20), tmp_path / "kept")


@pytest.fixture
def asked(monkeypatch):
    """What is asked of the attacks, four images at a time of twenty."""
    monkeypatch.setattr(contest, "BATCH", {"cpu": {32: 4}})
    monkeypatch.setattr(contest, "WANTED", 20)
    asked = []

    def sweep(model, data, rows, epsilons, **how):
        asked.append((how.get("engine", how["mode"]), rows.tolist(), list(epsilons)))
        return attacks.attack_sweep(model, data, rows, epsilons, **how)

    monkeypatch.setattr(contest, "attack_sweep", sweep)
    return asked


LADDER = [1 / 255, 8 / 255]


def test_strength_attacks_who_was_right_and_goes_on_where_it_stopped(victim, asked, monkeypatch):
    short = strength.measure(victim, LADDER, 2)  # the first images are never left out
    four = short.clean[:4].nonzero()[0].tolist()
    assert asked == [
        *(("foolbox", four, [eps]) for eps in LADDER),
        *(("independent", four, [eps]) for eps in LADDER),
        ("nested", four, LADDER),
    ]
    assert short.images("nested") >= 4 and not short.found["nested"][:, ~short.clean].any()
    strength.extend(victim, LADDER, 2)
    assert all(row in short.clean.nonzero()[0] for _, rows, _ in asked for row in rows)
    asked.clear()
    whole = strength.measure(victim, LADDER, 2)
    strength.extend(victim, LADDER, 2)
    assert not asked  # all is known
    assert whole.images("nested") == whole.images("independent") == 20
    for side in contest.SIDES:
        assert (whole.found[side][:, :4] == short.found[side][:, :4]).all()
    assert (whole.found["independent"] == contest.UNKNOWN).any()  # whom Foolbox leaves

    sources = contest.SOURCES | dict.fromkeys(("nested", "independent"), ["other"])
    monkeypatch.setattr(contest, "SOURCES", sources)
    changed = strength.measure(victim, LADDER, 2)  # by other sources: anew; Foolbox's stays
    assert changed.images("nested") == 20 and changed.images("independent") >= 4
    assert (changed.found["independent"] == contest.UNKNOWN).any()
    assert {side for side, *_ in asked} == {"nested", "independent"}


def test_few_who_stand_only_now_are_met_by_foolbox_at_once(victim, asked, monkeypatch):
    """By other sources, or another order of sums, the nested mode leaves one or the other more."""

    def leaves(rows):
        sweep = by_rule(lambda side, row, eps: row not in rows and side != "foolbox")
        monkeypatch.setattr(contest, "attack_sweep", sweep)
        found = contest.SOURCES | {"nested": [str(rows)]}
        monkeypatch.setattr(contest, "SOURCES", found)

    monkeypatch.setattr(strength, "_show_ladder", lambda job: None)
    right = contest.known(victim, LADDER, 2).clean.nonzero()[0]
    leaves(right[:4])
    strength.extend(victim, LADDER, 2)
    known = contest.known(victim, LADDER, 2).found["foolbox"]
    leaves([*right[:4], right[-1]])
    found = strength.measure(victim, LADDER, 2)
    assert found.images("nested") == 20
    assert (known[:, right[-1]] == contest.UNKNOWN).all()
    assert (found.found["foolbox"][:, right[-1]] == contest.STANDS).all()
    leaves(right)  # these are not few
    assert strength.measure(victim, LADDER, 2).images("nested") < 20


def test_what_was_found_in_another_setting_is_not_taken_for_it(victim, asked, monkeypatch):
    names = set(contest.known(victim, LADDER, 2).paths.values())

    def others(ladder=LADDER, steps=2):
        return set(contest.known(victim, ladder, steps).paths.values()) - names

    assert not others() and len(names) == 3
    assert len(others(LADDER[:1])) == 3
    assert len(others(steps=3)) == 2  # the nested mode has its own
    monkeypatch.setattr(contest, "SOURCES", contest.SOURCES | {"foolbox": ["other"]})
    assert len(others()) == 1
    monkeypatch.setattr(contest, "version", lambda package: "0")
    assert len(others()) == 3
    monkeypatch.undo()
    with torch.no_grad():
        next(victim.model.parameters()).mul_(1.001)
    assert len(others()) == 3


def test_two_processes_on_one_file_lose_nothing(victim, asked):
    one, other = (contest.known(victim, LADDER, 2) for _ in range(2))
    wanted = np.zeros((2, 20), bool)
    wanted[0] = True
    one.ask("foolbox", wanted)
    other.ask("foolbox", ~wanted)
    found = contest.known(victim, LADDER, 2).found["foolbox"]
    assert (found != contest.UNKNOWN).all() and (found == other.found["foolbox"]).all()


def test_what_was_found_before_a_kill_is_kept(victim, asked, monkeypatch):
    sweep = contest.attack_sweep

    def killed(*args, **how):
        if len(asked) == 5:
            raise KeyboardInterrupt
        return sweep(*args, **how)

    monkeypatch.setattr(contest, "attack_sweep", killed)
    with pytest.raises(KeyboardInterrupt):
        strength.extend(victim, LADDER, 2)
    monkeypatch.setattr(contest, "attack_sweep", sweep)
    before = asked.copy()
    strength.extend(victim, LADDER, 2)
    pairs = [(side, row, eps) for side, rows, ladder in asked for row in rows for eps in ladder]
    assert len(before) == 5 and len(pairs) == len(set(pairs))  # nothing was done twice
    found = contest.known(victim, LADDER, 2).found
    judged = strength.Strength(found["foolbox"][0] != contest.FELLED, found)
    assert judged.images("nested") == judged.images("independent") == 20


def test_a_damaged_file_is_named_and_stays(victim, asked):
    strength.measure(victim, LADDER, 2)
    (path,) = victim.folder.glob("strength-foolbox-*")
    path.write_bytes(b"no zip")
    with pytest.raises(RunError, match="strength-foolbox-.*cannot be read.*Delete it"):
        strength.measure(victim, LADDER, 2)
    assert path.read_bytes() == b"no zip"
    for strange in (np.zeros((20, 2), np.int8), np.full((2, 20), 7)):
        np.savez(path, found=strange)
        with pytest.raises(RunError, match="strength-foolbox-.*something else.*Delete it"):
            strength.measure(victim, LADDER, 2)


def by_rule(falls):
    """A sweep in which ``falls(side, row, eps)`` decides."""

    def sweep(model, data, rows, epsilons, *, batch, mode, engine=None, **how):
        right = [[not falls(engine or mode, row, eps) for row in rows] for eps in epsilons]
        return SimpleNamespace(right=np.array(right))

    return sweep


def all_right(job, monkeypatch):
    """Let every image of a contest be right before the attack."""
    job.clean[:] = True
    for side in contest.SIDES:
        job.found[side][:] = contest.UNKNOWN
    monkeypatch.setattr(contest, "known", lambda *args: job)


def test_nobody_is_met_who_tells_nothing(victim, asked, monkeypatch):
    """At five eps the nested mode leaves the first 17, 15, 14, 13 and 2 of 20 images.

    The independent mode leaves one more. Foolbox leaves images 1 to 12 at each, and the last at
    the first eps.
    """
    ladder = [eps / 255 for eps in (1, 2, 3, 4, 5)]
    leaves = dict(zip(ladder, (17, 15, 14, 13, 2), strict=True))
    job = contest.known(victim, ladder, 2)
    all_right(job, monkeypatch)
    who = {side: [] for side in contest.SIDES}
    met = who["foolbox"]

    def falls(side, row, eps):
        who[side].append((int(row), eps))
        if side != "foolbox":
            return row >= leaves[eps] + (side == "independent")
        return row in (0, *range(13, 19)) or (row == 19 and eps > ladder[0])

    monkeypatch.setattr(contest, "attack_sweep", by_rule(falls))
    monkeypatch.setattr(strength, "SLACK", 0.5)  # no bound is too loose
    strength.extend(victim, ladder, 2)
    left = [(row, eps) for eps in ladder for row in range(leaves[eps])]
    assert sorted(met[: len(left)]) == sorted(left)
    # then the three largest eps of those where it leaves a fifth, each until it fells a fifth:
    # one, two and three more of the batch of images 12 to 15
    rest = [(15, ladder[1]), (14, ladder[2]), (15, ladder[2])]
    rest += [(13, ladder[3]), (14, ladder[3]), (15, ladder[3])]
    assert met[len(left) : len(left) + len(rest)] == rest
    # then whom the independent mode leaves, which met nobody whom Foolbox left
    assert met[len(left) + len(rest) :] == [(2, ladder[4]), (17, ladder[0])]
    stand = {(row, eps) for row, eps in left if row in range(1, 13)}
    assert sorted(who["independent"]) == sorted(set(who["nested"]) - stand)
    found = strength.Strength(job.clean, job.found)
    # at the first eps Foolbox leaves 12 and fells six; nobody met it with the last two
    assert found.images("nested") == 20 and found.facts("nested")["foolbox_at_most"][0] == 0.7
    assert found.above("nested") == pytest.approx((17 - 12) / 20)
    assert found.images("independent") == 20
    assert found.above("independent") == pytest.approx((18 - 12) / 20)

    monkeypatch.setattr(strength, "SLACK", 0.15)  # both meet all where the bound is looser
    strength.extend(victim, ladder, 2)
    found = strength.Strength(job.clean, job.found)
    assert found.above("nested") == pytest.approx((17 - 13) / 20)
    assert found.above("independent") == pytest.approx((18 - 13) / 20)
    for side in ("foolbox", "independent"):
        whole = (job.found[side] != contest.UNKNOWN).all(1)
        assert whole.tolist() == [True, True, False, False, False]
    assert all(len(pairs) == len(set(pairs)) for pairs in who.values())


def test_a_ladder_of_which_too_little_shows_is_met_whole(victim, asked, monkeypatch):
    """The nested mode leaves an image in ten where Foolbox leaves half."""
    job = contest.known(victim, LADDER, 2)
    all_right(job, monkeypatch)
    sweep = by_rule(lambda side, row, eps: row >= (10 if side == "foolbox" else 2))
    monkeypatch.setattr(contest, "attack_sweep", sweep)
    strength.extend(victim, LADDER, 2)
    assert strength.Strength(job.clean, job.found).inside("nested") == 2


def test_the_long_comparison_is_a_command_of_its_own(victim, monkeypatch, capsys):
    done = []
    monkeypatch.setattr(strength, "victim", lambda name, size: (name, size))
    monkeypatch.setattr(strength, "extend", lambda *args: done.append(args))
    strength.main(["swin", "224"])
    ((who, epsilons, steps),) = done
    assert who == ("swin", 224) and steps == 40
    assert epsilons == [level / 255 for level in contest.LADDERS["swin", 224]]

    def missing(name, size):
        raise DataError("set MEDROBUST_DATA")

    monkeypatch.setattr(strength, "victim", missing)
    with pytest.raises(SystemExit):
        strength.main(["swin", "224"])
    assert "set MEDROBUST_DATA" in capsys.readouterr().err


def test_both_sides_of_an_attacks_step_move_and_both_of_the_training_learn(monkeypatch):
    monkeypatch.setattr(steps, "SIZE", 32)
    monkeypatch.setattr(steps, "build", lambda name, *args, **how: build("resnet10t", *args, **how))
    monkeypatch.setattr(limits, "matmul_gflops", lambda device, dtype: 10.0)
    ran = {}

    def run(name, base, other, **how):
        ran.update({side: [step(), step()] for side, step in (base, other)})
        return timing.judge(name, (base[0], [2.0]), (other[0], [1.0]), **_promise(how))

    monkeypatch.setattr(steps, "compare", run)
    attack, training = steps.measure()
    assert attack.at_most == 1.05 and training.at_least == 1.8 and "GFLOP/s" in training.bound
    plain, ours = ran["plain float32 loop"], ran["kit"]
    assert plain[0] == pytest.approx(ours[0], rel=1e-3)  # the same network and loss
    assert plain[1] < plain[0] and ours[1] < ours[0]
    assert ran["bare forward and backward"][0] != 0 and 0 <= ran["PGD"][0] <= 1


def test_the_import_of_each_part_is_timed_in_a_process_of_its_own(monkeypatch):
    monkeypatch.setattr(imports, "ROUNDS", 1)
    lines = []

    def process(command, check):
        lines.append(command[-1])

    def turns(sides, rounds):
        for side in sides:
            side()
        return [[3.0], [3.25], [4.0], [7.0]]

    monkeypatch.setattr(imports.subprocess, "run", process)
    monkeypatch.setattr(imports, "take_turns", turns)
    (found,) = imports.measure()
    assert lines == list(imports.LINES.values())
    assert found.ratio == 0.25 and found.reached and list(found.facts.values()) == [0.25, 1, 4]


def test_the_peak_of_a_sweep_is_told_in_bytes(monkeypatch, capsys):
    monkeypatch.setattr(memory, "DRAWN", 8)
    memory.sweep(20)
    assert 1e8 < int(capsys.readouterr().out.split()[-1]) < 1e11
    monkeypatch.setattr(memory, "_peak", lambda count: {100: 500.0, 10_000: 503.0}[count])
    (found,) = memory.measure()
    assert found.reached and found.ratio == pytest.approx(1.006)
    monkeypatch.setattr(memory, "_peak", lambda count: {100: 500.0, 10_000: 530.0}[count])
    (found,) = memory.measure()
    assert not found.reached and "3.0 kB with each image" in found.bound


def test_who_is_attacked_at_224_was_not_trained_on_at_64(tmp_path, monkeypatch):
    """The same draw at both sizes; should it ever differ, nothing is measured."""
    monkeypatch.setattr(networks, "EPOCHS", 1)
    monkeypatch.setattr(networks, "PROFILE", "smoke")
    monkeypatch.setenv("MEDROBUST_HOME", str(tmp_path))
    large = networks.victim("resnet", 48)
    small = networks.victim("resnet", 32)
    assert large.data.images.shape[1] == 48 and small.data.images.shape[1] == 32
    assert sorted(large.held_out) == sorted(small.held_out)
    assert large.folder != small.folder and large.title == "ResNet-50 at 48 px"
    assert not large.model.training

    settings = protocol.load(networks.PAPER).settings("smoke")
    (task,) = networks.thousands(settings, seed=0, role="isic")
    leaky = replace(task, fit=np.append(task.fit, task.attacked[:3]))
    with pytest.raises(ContractError, match="3 of the attacked images were trained on"):
        networks._grown(small.model, settings, "resnet", 48, tmp_path, leaky)


def test_networks_are_those_of_the_protocol():
    """Sizes, arms and names that the measurements rely on."""
    settings = protocol.load(networks.PAPER).settings(networks.PROFILE)
    how = settings["thousand"]
    assert how["size"] == 64 and how["attacked"] == contest.WANTED
    assert {arm["model"] for arm in how["arms"]} == {"swin", "resnet"}


@pytest.fixture
def rivals(monkeypatch):
    """The modules that need torchattacks, which only the benchmark's own environment has."""
    calls = []

    class PGD:
        def __init__(self, model, **how):
            self.model, self.how = model, how

        def __call__(self, images, labels):
            calls.append((self.how, images.is_contiguous(), len(images)))
            return images + self.how["eps"]

    known = sys.modules.get("torchattacks", SimpleNamespace(PGD=None))
    monkeypatch.setitem(sys.modules, "torchattacks", known)
    from benchmarks import peers, scaling, sweep

    monkeypatch.setattr(peers, "torchattacks", SimpleNamespace(PGD=PGD))
    return SimpleNamespace(peers=peers, sweep=sweep, scaling=scaling, calls=calls)


def test_peers_take_the_steps_they_are_asked_for_inside_the_ball(rivals, victim):
    model = networks.plain(victim.model)
    images = torch.rand(3, 3, 32, 32)
    moved = rivals.peers.foolbox_pgd(model, images, torch.arange(3), 0.03, 4)
    assert 0 < (moved - images).abs().max() <= 0.03 + 1e-6
    rivals.peers.torchattacks_pgd(model, images, torch.arange(3), 0.03, 4)
    ((how, _, _),) = rivals.calls
    assert how == {"eps": 0.03, "alpha": pytest.approx(0.001), "steps": 4}
    assert all(p.requires_grad for p in model.parameters())  # as its manual shows it


def test_a_peers_sweep_is_eight_times_one_eps(rivals, victim, monkeypatch):
    """Every side takes a second here: what differs is how much of the work that second did."""
    sweep = rivals.sweep
    ladder = (1, 2, 3, 4, 5, 6, 7, 8)
    monkeypatch.setattr(sweep, "LADDERS", {("resnet", 32): ladder})
    monkeypatch.setattr(contest, "BATCH", {"cpu": {32: 3}})
    monkeypatch.setattr(sweep, "TIMES", {32: 2})
    monkeypatch.setattr(sweep, "ROUNDS", 3)
    monkeypatch.setattr(sweep, "STEPS", 2)
    monkeypatch.setattr(sweep, "victim", lambda name, size: victim)
    monkeypatch.setattr(contest, "WANTED", 20)
    monkeypatch.setattr(limits, "matmul_gflops", lambda device, dtype: 100.0)
    swept = []

    def attack(model, data, rows, epsilons, *, batch, **how):
        """What is timed is what is judged."""
        assert (model(to_float(data.images[rows])).argmax(1).numpy() == data.targets[rows]).all()
        assert how == contest.plans(2)["nested"] and batch == 3
        swept.append((how["mode"], len(rows), [round(255 * eps) for eps in epsilons]))
        with mock.patch.object(attacks.engine, "gradient", wraps=attacks.engine.gradient) as real:
            result = attacks.attack_sweep(model, data, rows, epsilons, batch=batch, **how)
        taken.append(sum(len(call.args[1]) for call in real.call_args_list))
        return result

    def turns(sides, rounds, **how):
        for side in (*sides, *sides):
            side()
        return [[1.0] * rounds for _ in sides]

    def climb(model, images, labels, epsilons, *, rows, through, **how):
        assert (model(images).argmax(1) == labels).all()
        assert how == contest.plans(2)["independent"]
        swept.append((how["mode"], len(images), [round(255 * eps) for eps in epsilons]))
        return attacks.climb(model, images, labels, epsilons, rows=rows, through=through, **how)

    taken = []
    monkeypatch.setattr(sweep, "attack_sweep", attack)
    monkeypatch.setattr(sweep, "climb", climb)
    monkeypatch.setattr(sweep, "take_turns", turns)
    strength.extend(victim, [level / 255 for level in ladder], 2)
    found = list(sweep.measure())
    assert [(c.base, c.other) for c in found] == [
        ("Foolbox", "nested"),
        ("torchattacks", "nested"),
        ("Foolbox", "independent"),
        ("torchattacks", "independent"),
    ]
    assert [c.ratio for c in found] == pytest.approx([16, 16, 1, 1])
    assert [c.at_least for c in found] == [15, 15, 2, 2]
    assert swept == [
        ("independent", 3, [3]),
        ("nested", 6, list(ladder)),
        ("independent", 3, [4]),  # another eps each round
        ("nested", 6, list(ladder)),
    ]
    assert [round(255 * how["eps"]) for how, *_ in rivals.calls] == [3, 4]
    assert all(contiguous and count == 3 for _, contiguous, count in rivals.calls)
    assert found[0].facts["images"] == 20 and "fastest matrix product" in found[2].bound
    assert "Gradients: " not in found[0].bound  # it is fast enough
    assert [c.facts["timed_images"] for c in found] == [6, 6, 3, 3]
    assert found[0].facts["eps"] == 8 and found[0].facts["gradients"] == "float32"
    assert found[0].facts["gradients_an_image"] == taken[0] / 6 == taken[1] / 6
    assert found[2].facts["gradients_an_image"] == 16  # two steps at each eps


@pytest.mark.parametrize("mode", ["nested", "independent"])
def test_a_sweep_that_is_too_weak_reaches_nothing(mode, rivals, victim, monkeypatch):
    """Each mode by its own strength: the other one is as strong as Foolbox."""
    standing = np.zeros((8, 20), bool)
    standing[:4, :10] = True
    strong = told(np.ones(20), foolbox=standing, nested=standing, independent=standing)
    strong.found[mode][:] = contest.STANDS
    monkeypatch.setattr(contest, "WANTED", 20)
    monkeypatch.setattr(contest, "BATCH", {"cpu": {32: 3}})
    monkeypatch.setattr(rivals.sweep, "TIMES", {32: 1})
    monkeypatch.setattr(rivals.sweep, "_nested", lambda *args: 1)
    monkeypatch.setattr(limits, "matmul_gflops", lambda device, dtype: 100.0)

    def turns(sides, rounds, **how):
        sides[1]()  # nested, whose gradients are counted
        return [[0.1], [0.1], [100.0], [100.0]]

    monkeypatch.setattr(rivals.sweep, "take_turns", turns)
    ladder = [k / 255 for k in range(1, 9)]
    found = list(rivals.sweep._timed("resnet", 32, victim, ladder, strong))
    for one in found:
        assert one.ratio > one.at_least and one.reached is (one.other != mode)
    assert "Strength: up to 100.0% more stand" in next(c.bound for c in found if c.other == mode)


def sweep_judged(seconds, base, other, goal):
    return timing.judge("sweep", (base, seconds[base]), (other, seconds[other]), at_least=goal)


def test_a_median_of_ratios_that_misses_says_why_though_that_of_seconds_does_not(
    rivals, monkeypatch
):
    monkeypatch.setattr(limits, "matmul_gflops", lambda device, dtype: 180.0)
    standing = np.zeros((8, 200), bool)
    strong = told(np.ones(200), foolbox=standing, nested=standing)
    seconds = {"Foolbox": [12.0, 18.0], "nested": [0.85, 1.15]}
    judged = sweep_judged(seconds, "Foolbox", "nested", 15)
    assert judged.base_seconds / judged.other_seconds == 15 > judged.ratio
    gradients = {"Foolbox": 320, "nested": 16.0}
    assert "Gradients: " in rivals.sweep._bound(judged, seconds, 5.0, gradients, strong)


def test_a_nested_sweep_that_is_too_slow_says_what_it_took(rivals, monkeypatch):
    monkeypatch.setattr(limits, "matmul_gflops", lambda device, dtype: 180.0)
    standing = np.zeros((8, 200), bool)
    standing[:4, :100] = True
    strong = told(np.ones(200), foolbox=standing, nested=standing)
    seconds = {"Foolbox": [32.0], "torchattacks": [16.0], "nested": [2.0]}
    gradients = {"torchattacks": 320, "nested": 16.0}
    judged = sweep_judged(seconds, "torchattacks", "nested", 15)
    words = rivals.sweep._bound(judged, seconds, 5.0, gradients, strong)
    assert words == (
        "Gradients: 16.0 an image for torchattacks's 320, 20.0 times fewer, at 0.40 of its rate, "
        "scoring included: 40 GFLOP/s for 100, where 180 are the most."
    )


def test_who_was_not_compared_with_all_says_what_that_takes(rivals, monkeypatch):
    monkeypatch.setattr(limits, "matmul_gflops", lambda device, dtype: 180.0)
    met = np.where(np.arange(200) < 10, 1, -1)[None].repeat(8, 0)
    met[:, 150:] = 0  # who was wrong before, for whom nobody pays
    strong = told(np.arange(200) < 150, foolbox=met, independent=met)
    seconds = {"Foolbox": [72.0], "torchattacks": [16.0], "independent": [36.0]}
    gradients = {"Foolbox": 320, "independent": 320}
    judged = sweep_judged(seconds, "Foolbox", "independent", 2)
    words = rivals.sweep._bound(judged, seconds, 5.0, gradients, strong)
    assert words.startswith("Time: strength is compared on 10 of 200 images so far; the rest takes")
    hours = 140 * (72 + 36) / 3600  # for nobody who was wrong before
    assert f"about {hours:.1f} hours" in words and "Eps" not in words

    # who is missing at one eps climbs the whole ladder
    met[:] = 1
    met[7, 10:150] = -1
    strong = told(np.arange(200) < 150, foolbox=met, nested=met)
    seconds["nested"], gradients["nested"] = [2.0], 16.0
    judged = sweep_judged(seconds, "Foolbox", "nested", 15)
    words = rivals.sweep._bound(judged, seconds, 5.0, gradients, strong)
    hours = 140 * (72 / 8 + 2) / 3600
    assert f"about {hours:.1f} hours" in words


def test_what_grows_is_drawn_for_each_side(rivals, victim, monkeypatch):
    scaling = rivals.scaling
    monkeypatch.setattr(scaling, "BASE", {"images": 2, "steps": 2, "eps values": 2, "pixels": 32})
    monkeypatch.setattr(
        scaling,
        "VARIED",
        {"images": (1, 2), "steps": (1, 2), "eps values": (1, 2), "pixels": (32, 64)},
    )
    table = scaling.measure(victim)
    assert len(table) == 4 * 2 * 3 and (table["seconds"] > 0).all()
    figure = scaling.draw(table)
    assert [place.get_xlabel() for place in figure.axes] == list(scaling.VARIED)
    assert all(len(place.get_lines()) >= 3 for place in figure.axes)


def test_both_autoattacks_attack_the_same_images(victim, monkeypatch):
    from benchmarks import autoattack

    monkeypatch.setattr(autoattack, "PHANTOMS", 60)
    monkeypatch.setattr(autoattack, "SIZE", 32)
    monkeypatch.setattr(autoattack, "ROUNDS", {200: 1, 0.01: 1})
    monkeypatch.setattr(autoattack, "IMAGES", 4)
    monkeypatch.setattr(
        autoattack, "build", lambda name, *args, **how: build("resnet10t", *args, **how)
    )
    # both cut short: this is about the bookkeeping
    short = dict(version="custom", attacks=["apgd-ce"])
    monkeypatch.setattr(autoattack, "AutoAttack", partial(autoattack.AutoAttack, **short))
    cheap = partial(attacks.autoattack_sweep, steps=5, targets=1, queries=5)
    monkeypatch.setattr(autoattack, "autoattack_sweep", cheap)
    all_fall, some_stand = autoattack.measure()
    assert all_fall.at_least == 2 and all_fall.base == "pyautoattack" and all_fall.kept
    assert all_fall.facts == {"pyautoattack_robust_accuracy": 0, "kit_robust_accuracy": 0}
    assert some_stand.facts["kit_robust_accuracy"] > 0 and some_stand.kept
    assert some_stand.bound.startswith("100% of the kit's passes go to images that stand")
    monkeypatch.setattr(autoattack, "APART", -1)
    assert not next(autoattack.measure()).kept


def test_reading_gives_the_same_images_on_both_sides(monkeypatch, tmp_path):
    """A tree in the publisher's layout, read by torchvision's own ImageFolder too."""
    from PIL import Image

    from benchmarks import reading

    for place in range(24):
        kind = ("NORMAL", "PNEUMONIA")[place % 2]
        name = f"person{place}_bacteria_1.jpeg" if place % 2 else f"IM-{place:04d}-0001.jpeg"
        folder = tmp_path / "chest_xray" / ("train" if place < 20 else "test") / kind
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (50, 40), (10 * place, 0, 0)).save(folder / name)
    monkeypatch.setenv("MEDROBUST_DATA", str(tmp_path))
    monkeypatch.setattr(reading, "IMAGES", 8)
    monkeypatch.setattr(reading, "BATCH", 1)
    monkeypatch.setattr(reading, "WORKERS", 0)
    monkeypatch.setattr(reading.glcm, "plain_step", lambda: int)
    monkeypatch.setattr(reading, "take_turns", lambda sides, rounds: [[0.2], [1.0]])
    sums = {}

    def run(name, base, other, **how):
        sums.update({side: read() for side, read in (base, other)})
        return timing.judge(name, (base[0], [2.0]), (other[0], [0.1]), **_promise(how))

    monkeypatch.setattr(reading, "compare", run)
    (found,) = reading.measure()
    assert sums["ImageFolder"] == pytest.approx(sums["decoded cache"], abs=0.005) and found.reached
    assert found.name.startswith("reading 8 chest X-rays") and "GB a second" in found.bound
    assert found.facts["share_of_a_training_step"] == pytest.approx(0.2 / 8)
    monkeypatch.setattr(reading, "take_turns", lambda sides, rounds: [[0.81], [1.0]])
    assert not next(reading.measure()).reached  # reading would be the bottleneck
