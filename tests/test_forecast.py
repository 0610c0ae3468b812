"""What a long run costs is said before it starts, and what of it is done already is not counted."""

import re
from importlib import import_module
from types import SimpleNamespace

import pytest

from medrobust_utils.reporting import protocol
from medrobust_utils.studies import forecast


def fake(train=100, attacked=10, attacks="all", **tags):
    data, split = SimpleNamespace(classes="abcdef"), SimpleNamespace(train=range(train))
    task = SimpleNamespace(role="ct", data=data, split=split, attacked=range(attacked), before=None)
    tags = {"start": "scratch", **tags}
    return SimpleNamespace(task=task, tags=tags, attacks=attacks)


AUTO = {"images": 4, "steps": 10, "targets": 2, "queries": 30}
FIRST = SimpleNamespace(split=SimpleNamespace(train=range(50)))


@pytest.mark.parametrize(
    ("settings", "tags", "gradients"),
    [
        ({"epochs": {"ct": 3}, "share": {"ct": 0.5}}, {"model": "resnet"}, 150),
        ({"epochs": {"ct": 3, "r18": 7}}, {"backbone": "r18", "defence": "none"}, 700),
        ({"epochs": {"ct": 3}}, {"backbone": "r18", "defence": "adversarial"}, 3 * 300),
        ({"epochs": 3}, {"scheme": "union"}, 300),
        ({"epochs": 3}, {"scheme": "layered"}, 300 + 100 * 6 * 5),
        ({"epochs": 3}, {"scheme": "selective"}, 300 + 100 * 729 / 3),
        ({"epochs": 3}, {"scheme": "on_the_fly"}, 300 * 7),
    ],
)
def test_every_gradient_of_a_training_is_counted(settings, tags, gradients):
    settings = {"training": settings, "adversarial": {"steps": 2}, "method_one": {"steps": 5}}
    assert forecast.trainings(settings, fake(**tags)) == pytest.approx(gradients)


def test_what_random_weights_learn_before_the_thousand_is_counted():
    settings = {"training": {"epochs": {}}, "before": {}, "epochs": {"before": 6, "fit": 2}}
    arm = fake(model="swin")
    arm.task.before = FIRST
    assert forecast.trainings(settings, arm) == 2 * 100 + 6 * 50
    arm.tags["start"] = "imagenet"
    assert forecast.trainings(settings, arm) == 2 * 100


@pytest.mark.parametrize(
    ("attack", "gradients"),
    [
        (None, (0, 0)),
        ({"steps": 7, "ensemble": {"steps": 3}}, (10 * 5 * 7, 10 * 4 * 3)),
        ({"eps_255": [1, 2], "mode": "independent", "steps": 5}, (10 * 2 * 5, 4 * 2 * 60)),
        ({"eps_255": [1, 2], "mode": "bisection", "steps": 5}, (10 * 5 * 5, 4 * 2 * 60)),
        (
            {"eps": [0.1, 0.2], "scales": {"0-1": 1, "signed": 2}, "smallest": 0, "steps": 5}
            | {"mode": "independent", "radii": {"count": 4}},
            (10 * 7 * 5, 4 * 60),
        ),
        (
            {"eps_255": [1, 2], "fine_255": [0.5], "strong_steps": 2}
            | {"quarter": {"steps": 3}, "torchattacks": {"steps": 4}},
            (10 * (2 * (1 + 3 * 7) + (5 + 3) * 2), 4 * 2 * 60),
        ),
    ],
)
def test_every_gradient_of_an_attack_is_counted(attack, gradients):
    settings = {"attack": attack and {"autoattack": AUTO, **attack}}
    assert forecast.attacks(settings, fake()) == pytest.approx(gradients)


@pytest.mark.parametrize("paper", protocol.list_papers())
def test_hours_are_told_of_long_profiles_alone_and_finished_work_is_left_out(
    paper, tmp_path, capsys
):
    """Nobody waits for a measurement of the quick profiles; who goes on is told what remains."""
    study = import_module(f"medrobust_utils.studies.{paper[2:].removesuffix('_training')}")
    settings = protocol.load(paper).settings("smoke")
    planned = [(settings, arm) for arm in study.arms(settings, seed=0)]
    if paper == "1_swin_noise":
        both = {**settings, **settings.thousand}
        planned += [(both, arm) for arm in study.arms(both, seed=0)]

    def told(profile="colab"):
        forecast.announce(profile, planned, study.build_arm, tmp_path, seconds=0.0)
        return capsys.readouterr().out

    assert told("smoke") == told("small") == ""
    hours, remain = re.search(r"that is ([\d.]+) hours; .* ([\d.]+) hours remain", told()).groups()
    assert hours == remain
    for _, arm in planned:
        for name in ("card.json", "pgd-1", "scored-none", "autoattack-1", "ensemble-1"):
            (tmp_path / f"{arm.key.replace('nothing', 'rest')}-1" / name).mkdir(parents=True)
    assert " 0.0 hours remain" in told()
