"""The benchmarks' arithmetic on clocks that are set by hand: no test waits for a real one."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import MODULES, __main__, explorer, glcm, method_two, timing  # noqa: E402
from medrobust_utils.attacks.selective import combinations  # noqa: E402


@pytest.fixture(autouse=True)
def unprobed(monkeypatch):
    """The probe for the fastest type of training is a matter of time as well."""
    monkeypatch.setattr(__main__.env, "training_dtype", lambda device: torch.float32)


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


def compared(base, other, target=1.3):
    clock = Clock(plain=base, dear=other)
    found = timing.compare(
        "plain against dear",
        clock.side("plain"),
        clock.side("dear"),
        target=target,
        rounds=len(base) - 1,
        clock=clock,
    )
    return found, clock


def test_sides_take_turns_and_the_first_round_does_not_count():
    found, clock = compared([50, 1, 1, 1, 1], [0.1, 2, 2, 2, 2])
    rounds = [clock.order[i : i + 2] for i in range(0, 10, 2)]
    assert rounds[1:] == [["plain", "dear"], ["dear", "plain"]] * 2
    assert sorted(rounds[0]) == ["dear", "plain"]
    assert (found.base_seconds, found.other_seconds, found.ratio) == (1, 2, 2)
    assert (found.low, found.high, found.rounds) == (2, 2, 4)


def test_the_ratio_is_the_median_of_the_rounds():
    """From the second round on another process takes most of the machine."""
    found, _ = compared([9, 1, 10, 10], [9, 1.2, 12, 13])
    assert found.ratio == pytest.approx(1.2) and found.low == pytest.approx(1.2)
    assert found.high == pytest.approx(1.3)
    assert (found.base_seconds, found.other_seconds) == pytest.approx((10, 12))


@pytest.mark.parametrize(("other", "reached"), [(1.25, True), (1.5, True), (1.51, False)])
def test_the_target_is_the_largest_ratio_that_will_do(other, reached):
    found, _ = compared([1, 1], [1, other], target=1.5)
    assert found.reached is reached and found.record()["reached"] is reached
    assert ("reached" if reached else "MISSED") in __main__.table([found])


@pytest.mark.parametrize("ratio", [1.1, 2.0])
def test_a_run_prints_its_table_and_leaves_json(ratio, tmp_path, monkeypatch, capsys):
    found, _ = compared([1, 1], [1, ratio])
    monkeypatch.setattr(glcm, "measure", lambda: [found])
    path = tmp_path / "results" / "bench.json"
    assert __main__.main(["glcm"], path) == (0 if ratio < 1.3 else 1)
    assert "plain -> dear" in capsys.readouterr().out
    record = json.loads(path.read_text())
    (line,) = record["comparisons"]
    assert line["ratio"] == pytest.approx(ratio) and line["target"] == 1.3
    assert line["reached"] is (ratio < 1.3)
    assert {"versions", "device", "platform", "git_commit"} <= record["provenance"].keys()


def test_every_registered_module_measures(monkeypatch, tmp_path):
    asked = []

    def imported(name):
        asked.append(name)
        return SimpleNamespace(measure=lambda: [])

    monkeypatch.setattr(__main__.importlib, "import_module", imported)
    assert __main__.main([], tmp_path / "bench.json") == 0
    assert asked == [f"benchmarks.{name}" for name in MODULES]


def test_an_unknown_measurement_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as refusal:
        __main__.main(["glmc"], tmp_path / "bench.json")
    assert refusal.value.code == 2 and "there are glcm" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_both_sides_of_the_glcm_measurement_train(monkeypatch):
    """Tiny and without a clock: the sides run, and differ by the GLCM loss alone."""
    monkeypatch.setattr(glcm, "BATCH", 2)
    monkeypatch.setattr(glcm, "SIZE", 40)
    losses = {}

    def run(name, base, other, **how):
        losses.update({side: [step(), step()] for side, step in (base, other)})
        return name, how["target"]

    monkeypatch.setattr(glcm, "compare", run)
    for name, target in glcm.measure():
        assert "2 images of 40 pixels" in name and target == 1.3
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
        return name, other[0], how["target"], how["facts"]

    monkeypatch.setattr(method_two, "compare", run)
    found = method_two.measure()
    assert [line[1] for line in found[:2]] == ["in batches", "screened"]
    assert [line[2] for line in found[:2]] == [1, pytest.approx(1 / 3)]
    assert passes[0] == ("one by one", 6) and passes[1] == (
        "in batches",
        method_two.selective.BATCH,
    )  # 6: the gradients
    for line in found:
        facts = line[3]
        assert facts["images"] == 2 and facts["misses"] <= 2 and facts["val_loss"] > 0
    batched = found[0][3]
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
    found = timing.compare(
        "a", ("b", int), ("c", int), target=1, rounds=1, facts={"misses": 0, "gap": 0.25}
    )
    assert found.record()["facts"] == {"misses": 0, "gap": 0.25}
    assert "misses 0, gap 0.25" in __main__.table([found])


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
        return timing.Comparison(name, base[0], other[0], 3.0, 0.1, 1 / 30, 0, 1, how["target"], 2)

    monkeypatch.setattr(explorer, "compare", run)
    (found,) = explorer.measure()
    assert sides[0][1] == 4 and len(set(sides[0][2])) == 2  # two networks, two new steps
    assert sides[1][1] == 0 and sides[1][2] == [1, 1]
    assert found.facts == {"seconds_allowed": 4.0, "steps_in_time": 1.0} and not found.reached


def _counting(looked):
    from medrobust_utils.explorer.look import look

    def counted(*args, **how):
        looked.append(1)
        return look(*args, **how)

    return counted
