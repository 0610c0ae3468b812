"""The study of paper 1 on a few phantoms: arms, sweeps, rows, and the claims they speak to."""

import pandas as pd
import pytest

from medrobust_utils import models, plots
from medrobust_utils.core.errors import ProtocolError
from medrobust_utils.reporting import protocol, results
from medrobust_utils.scoring import predict
from medrobust_utils.studies import swin_noise as study
from medrobust_utils.studies import swin_noise_compare as compare
from medrobust_utils.studies import swin_noise_plots as figures
from medrobust_utils.studies import swin_noise_rows as rows

TINY = (
    "phantoms=300 size=32 training.epochs.nih=1 training.epochs.isic=1 noise.seeds.variance=2 "
    "models.swin.options.img_size=32 models.swin.options.embed_dim=24 noise_images=50"
)
PAPER = protocol.load("1_swin_noise")
LADDER = (0.0, 0.025, 0.1, 0.4)


@pytest.fixture(scope="module")
def settings():
    return PAPER.settings("smoke", TINY)


@pytest.fixture(scope="module")
def tasks(settings):
    return study.tasks(settings, seed=0)


@pytest.fixture(scope="module")
def trained(settings, tasks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return [study.train(arm, settings, folder, seed=0) for arm in study.arms(settings, tasks)]


@pytest.fixture(scope="module")
def sweeps(settings, trained):
    return [study.sweep(arm, model, settings, folder, seed=0) for arm, model, _, folder in trained]


@pytest.fixture(scope="module")
def record(settings, tasks, trained, sweeps, tmp_path_factory):
    """A whole record, made as the notebook makes it."""
    run = results.Run.start(
        "01_swin_noise", PAPER.name, "smoke", {}, tmp_path_factory.mktemp("run")
    )
    for task in tasks:
        rows.add_task(run, task)
    for sweep in sweeps:
        rows.add_sweep(run, sweep, LADDER)
    compare.add_comparisons(run, sweeps)
    compare.add_imbalance(run, tasks)
    compare.add_complexity(run, [14, 28, 56, 112], channels=96, window=7)
    run.save()
    return results.read(run.out)


def find(record, metric, **tags):
    return [
        row for row in record["rows"] if row["metric"] == metric and tags.items() <= row.items()
    ]


def test_the_chest_set_comes_in_both_protocols(tasks):
    assert [(t.role, t.protocol) for t in tasks] == [
        ("nih", "multi_label"),
        ("nih", "single_label"),
        ("isic", "single_label"),
    ]
    sound, copies, skin = tasks
    assert sound.ignore == (14,) and copies.ignore == () == skin.ignore
    assert len(sound.noisy) == 50 and set(sound.noisy) <= set(sound.split.val)
    assert len(copies.data) == sound.data.targets.sum()


def test_unknown_roles_and_models_are_refused(settings, tasks):
    with pytest.raises(ProtocolError, match="nih or isic"):
        study.tasks(settings, seed=0, role="mnist")
    with pytest.raises(ProtocolError, match="resnet, swin"):
        list(study.arms(settings, tasks, "vgg"))
    assert {arm.model for arm in study.arms(settings, tasks, "swin")} == {"swin"}


def test_a_trained_arm_is_read_back_and_another_recipe_has_another_folder(
    settings, trained, monkeypatch
):
    arm, model, history, folder = trained[0]
    monkeypatch.setattr("medrobust_utils.training.fit._Job._step", None)
    _, again, same_history, same_folder = study.train(arm, settings, folder.parent, seed=0)
    assert (same_history, same_folder) == (history, folder)
    assert all(
        (a == b).all()
        for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )
    other = PAPER.settings("smoke", TINY + " training.lr.scratch=0.003")
    with pytest.raises(TypeError):  # it would train, and training is switched off
        study.train(arm, other, folder.parent, seed=0)


def test_bad_settings_are_refused_before_anything_runs():
    with pytest.raises(ProtocolError, match="patient or official"):
        study.tasks(PAPER.settings("smoke", "nih_split=oficial"), seed=0)
    with pytest.raises(ProtocolError, match="0 or more"):
        study.tasks(PAPER.settings("smoke"), seed=-1)


def test_a_finished_sweep_is_read_back(settings, trained, sweeps, monkeypatch):
    monkeypatch.setattr(predict, "predict", None)
    arm, model, _, folder = trained[0]
    again = study.sweep(arm, model, settings, folder, seed=0)
    assert again.clean["top1"].value == sweeps[0].clean["top1"].value
    assert set(again.noisy) == {("none", 0.0)} | {
        (reading, level)
        for reading in ("variance", "multiplier")
        for level in (0.025, 0.04, 0.1, 0.4)
    }


def test_drops_are_clean_minus_noisy_on_the_same_images(sweeps):
    sweep = sweeps[1]
    drop = sweep.drop("top1", "variance", 0.4)
    gap = sweep.noisy["none", 0.0]["top1"].value - sweep.noisy["variance", 0.4]["top1"].value
    assert drop.value == pytest.approx(gap)
    assert len(drop.replicates) == len(sweep.clean["top1"].replicates)


def test_accuracy_is_top_1_in_every_single_label_row(record):
    found = find(record, "val_accuracy_minus_top1")
    assert len(found) == 4 * 11  # clean, and five levels of two readings
    assert all(row["value"] == row["low"] == row["high"] == 0 for row in found)


def test_every_arm_and_the_majority_line_have_their_scores(record):
    for role, protocol_name in (
        ("nih", "multi_label"),
        ("nih", "single_label"),
        ("isic", "single_label"),
    ):
        tags = {"role": role, "protocol": protocol_name, "reading": "none"}
        assert {row["model"] for row in find(record, "auc_micro", **tags)} == {
            "swin",
            "resnet",
            "majority",
        }
        noisy = find(record, "top1_drop", role=role, protocol=protocol_name, model="swin")
        assert len(noisy) == 8 and all(row["n"] == 50 for row in noisy)
    assert find(record, "auc_macro", model="majority")[0]["value"] == 0.5


def test_the_pixel_range_is_that_of_normalised_images(tasks):
    low, high = rows.pixel_range(tasks[2])
    pixels = tasks[2].data.images[tasks[2].split.val] / 255
    normal = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert (low, high) == (
        pytest.approx(normal.min(), abs=1e-5),
        pytest.approx(normal.max(), abs=1e-5),
    )
    assert low < 0 and high <= (1 - 0.406) / 0.225 + 1e-6


def test_figures_are_drawn_from_rows(record, tasks):
    frame = pd.DataFrame(record["rows"])
    single = frame[frame["protocol"] == "single_label"]
    reported = {
        role: [
            (c.select["noise"], c.value)
            for c in PAPER.reported(metric="top1", role=role, model="swin")
        ]
        for role in study.ROLES
    }
    figure = figures.noise_curves(single, reported, "top1", {"nih": "a", "isic": "b"})
    lines = {line.get_label() for line in figure.axes[0].lines}
    assert {"paper, Swin-T", "label frequencies alone", "swin, scratch", "resnet, scratch"} <= lines
    paper = next(line for line in figure.axes[1].lines if line.get_label() == "paper, Swin-T")
    assert list(paper.get_ydata()) == [0.891, 0.759, 0.736, 0.694]
    assert figures.auc_by_size(frame[frame["metric"] == "auc_class"]).axes
    assert len(plots.samples(tasks[0].data, 8).axes) >= 8


def test_the_named_models_build_at_their_size():
    spec = PAPER.settings("smoke").models["swin"]
    model = models.build(spec["backbone"], 3, start="scratch", options=spec["options"])
    assert 5e4 < sum(p.numel() for p in model.parameters()) < 2e6
