"""What a run costs is said before it starts; the profile for Colab is a real study."""

from types import SimpleNamespace

import pytest
import torch

from medrobust_utils import data
from medrobust_utils.reporting import protocol
from medrobust_utils.studies import common


def arm(defence):
    split = SimpleNamespace(train=range(100))
    task = SimpleNamespace(role="ct", split=split, attacked=range(10))
    return SimpleNamespace(own={"defence": defence}, task=task)


def test_gradients_are_counted_with_those_of_adversarial_training():
    settings = {"training": {"epochs": {"ct": 3}}, "adversarial": {"steps": 2}}
    found = common.count_gradients(settings, [arm("none"), arm("adversarial")], attack_steps=7)
    assert found == 100 * 3 * (1 + 3) + 2 * 10 * 7


def test_hours_follow_from_the_measured_rate():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 2))
    drawings = data.load("phantom-dermatoscopy7", size=32, phantoms=32)
    assert (
        common.forecast(model, drawings, 0, seconds=0).split(" on ")[0].endswith("about 0.0 hours")
    )
    sentence = common.forecast(model, drawings, 10**15, seconds=0)
    assert float(sentence.split("about ")[1].split()[0]) > 1000


@pytest.mark.parametrize("paper", protocol.list_papers())
def test_the_profile_for_colab_has_real_images_and_three_seeds(paper):
    """Someone with one GPU gets rows that count, not a pilot."""
    colab, small = (protocol.load(paper).settings(name) for name in ("colab", "small"))
    assert colab.keys() == small.keys() and colab.phantoms == 0 and colab.seeds == 3
    assert len(colab.arms) < len(small.arms)
