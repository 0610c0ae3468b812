"""The networks behind the headlines: what is trained, in which order, and what is written down."""

import json
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from medrobust_utils.core.errors import ProtocolError
from medrobust_utils.reporting import protocol

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import evidence
from evidence import Network


def test_the_queue_holds_every_network_once_and_needs_nothing_that_comes_later():
    every = list(evidence.order())
    assert len(every) == len(set(every)) == 1 + 10 * 7 + 5 * 3
    assert every[0] == Network(2, 100, "none")
    for network in every:
        if network.paper == 4 and network.arm in evidence.AGAINST_CLEAN:
            clean = network._replace(arm="clean")
            assert every.index(clean) < every.index(network)
    assert every.index(Network(2, 0, "none")) == 1 + 3 * 7, "after three seeds of paper 4"
    for paper in (2, 4):
        about = protocol.load(evidence.PAPERS[paper])
        planned = {one.seed for one in every if one.paper == paper and one.seed < 100}
        asked = max(one.needs.seeds for one in about.headlines if one.needs)
        assert len(planned) == about.settings("reference")["seeds"] == asked


@pytest.mark.parametrize(
    ("auc", "top1", "epochs"),
    [
        ([0.9] * 3 + [0.95] * 7, [0.8] * 10, 4),
        ([0.9] * 5 + [0.95] * 5, [0.8] * 10, 6),
        ([0.95] * 6 + [0.97] * 4, [0.8] * 10, 8),  # a later epoch is better by more than 0.01
        ([0.95] * 10, [0.6] * 5 + [0.8] * 5, 6),  # no better than a constant answer before
        ([0.92] * 10, [0.8] * 10, 10),
    ],
)
def test_the_fewest_passes_that_are_competent_and_as_good_as_the_best(auc, top1, epochs):
    settings = protocol.load("2_attentive_cnn").settings("reference")
    points = [dict(val_auc_macro=a, val_top1=t) for a, t in zip(auc, top1, strict=True)]
    assert evidence.chosen_epochs(points, settings, majority=0.67) == epochs


def test_the_length_that_validation_chose_is_the_one_trained(tmp_path):
    first, network = Network(2, 100, "none"), Network(2, 0, "released")
    with pytest.raises(SystemExit, match="--seed 100 --arm none first"):
        evidence.settings_of(network, tmp_path)
    assert evidence.settings_of(first, tmp_path)["training"]["epochs"] == {"skin": 10}
    (tmp_path / "2-epochs.json").write_text(json.dumps({"epochs": 6}))
    chosen = evidence.settings_of(network, tmp_path)
    assert chosen["training"]["epochs"] == {"skin": 6} and chosen["seeds"] == 5
    assert evidence.settings_of(first, tmp_path)["training"]["epochs"] == {"skin": 10}


def test_perturbed_images_of_another_kind_of_machine_are_made_again(small, tmp_path, monkeypatch):
    network = Network(4, 3, "layered")
    train = evidence.unet_adversarial.train

    def killed(arm, settings, checkpoints):
        if arm.scheme == "clean":
            return train(arm, settings, checkpoints)
        (clean,) = checkpoints.glob("*-clean-3-??????????")
        for name in ("layered-0123456789", "selective-0123456789"):
            (clean / name).mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(evidence.unet_adversarial, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        evidence.train(network, tmp_path)
    monkeypatch.setattr(evidence.unet_adversarial, "train", train)
    here = evidence.machine()
    monkeypatch.setattr(evidence, "machine", lambda: here | {"kind": "another"})
    assert json.loads(evidence.train(network, tmp_path).read_text())["machine"]["kind"] == "another"
    (clean,) = (tmp_path / "paper4").glob("*-clean-3-??????????")
    assert not (clean / "layered-0123456789").exists()
    assert (clean / "selective-0123456789").exists(), "not of this arm"


def test_a_card_that_only_emulates_bfloat16_has_none(monkeypatch):
    monkeypatch.setattr(evidence.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(evidence.torch.cuda, "get_device_name", lambda: "a card")
    able = lambda including_emulation=True: including_emulation  # noqa: E731
    monkeypatch.setattr(evidence.torch.cuda, "is_bf16_supported", able)
    assert evidence.machine() == {"kind": "a card", "bfloat16": False}


def test_paper_2s_notebook_waits_for_the_length_that_validation_chooses():
    settings = protocol.load("2_attentive_cnn").settings("reference")
    with pytest.raises(ProtocolError, match=r"tools/evidence\.py queue --paper 2"):
        next(evidence.attentive_cnn.arms(settings, seed=0))
    assert "epochs_from" not in evidence._for_study(settings)


def test_outputs_never_land_in_the_checkout(monkeypatch, capsys):
    inside = str(Path(evidence.__file__).resolve().parents[1] / "runs")
    monkeypatch.setattr(sys, "argv", ["evidence.py", "queue", "--out", inside])
    with pytest.raises(SystemExit):
        evidence.main()
    assert "inside the checkout" in capsys.readouterr().err


@pytest.fixture
def small(monkeypatch):
    """Paper 4's profile on a few phantoms, so small that a network takes a second."""
    overrides = (
        "datasets.histology=phantom-histology phantoms=40 size=32 unet.width=4 unet.depth=2 "
        "training.epochs=2 training.precision=float32 adversarial.steps=1 method_one.steps=2 "
        "method_two.search=greedy attack.images=6 attack.steps=2"
    )
    real = protocol.load
    settings = real("4_unet_adversarial_training").settings("reference", overrides)

    class Tiny:
        def settings(self, profile):
            assert profile == "reference"
            return settings

    monkeypatch.setattr(evidence.protocol, "load", lambda name: Tiny())
    evidence._arms.cache_clear()
    yield
    evidence._arms.cache_clear()


def test_a_record_tells_what_made_the_weights_and_is_not_made_twice(small, tmp_path, monkeypatch):
    path = evidence.train(Network(4, 3, "clean_layered"), tmp_path)
    assert {one.stem for one in path.parent.glob("*.json")} == {"4-3-clean_layered", "4-3-clean"}
    found = json.loads(path.read_text())
    assert found["seed"] == 3 and found["headlines"] == evidence.headline_hashes(4)
    assert [row["epoch"] for row in found["curve"]] == [1]  # half of two epochs, twice the images
    assert (
        found["precision"]
        == [evidence.settings_of(Network(4, 3, "clean"), tmp_path).training["precision"]]
        and found["machine"]["kind"]
    )
    task = evidence.arm_of(Network(4, 3, "clean")).task
    assert found["split"] == evidence.split_hashes(task)
    assert found["split"]["test"].split()[0] == str(len(task.split.test))
    folder = tmp_path / "paper4" / found["weights"]["folder"]
    network = Network(4, 3, "clean")
    settings = evidence.settings_of(network, tmp_path)
    model = evidence.unet_adversarial.build_arm(evidence.arm_of(network), settings)
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    assert evidence.digest(model) == found["weights"]["digest"]
    monkeypatch.setattr(evidence.unet_adversarial, "train", None)
    assert evidence.train(Network(4, 3, "clean_layered"), tmp_path) == path


def test_a_network_that_fails_does_not_stop_the_queue(tmp_path, monkeypatch, capsys):
    asked = []

    def train(network, out):
        asked.append(network)
        if len(asked) == 2:
            raise RuntimeError("the loss became nan")

    monkeypatch.setattr(evidence, "train", train)
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "2-100-none.json").write_text("{}")
    assert evidence.queue(tmp_path) == 1
    assert asked == list(evidence.order())[1:]
    asked.clear()
    assert evidence.queue(tmp_path, 2) == 1
    assert asked == [n for n in evidence.order() if n.paper == 2][1:]
    assert "arm='layered'): RuntimeError('the loss became nan')" in capsys.readouterr().err


def test_a_second_queue_takes_other_seeds(tmp_path, monkeypatch):
    asked = []

    def train(network, out):
        if not asked:
            asked.append(network)
            assert evidence.queue(tmp_path, 4) == 0  # as another process would, now
        else:
            asked.append(network)

    monkeypatch.setattr(evidence, "train", train)
    assert evidence.queue(tmp_path, 4) == 0
    mine = evidence.ARMS[4]
    assert asked[0] == Network(4, 0, "clean")
    assert asked[1 : 1 + 9 * 7] == [n for n in evidence.order() if n.paper == 4 and n.seed > 0]
    assert asked[1 + 9 * 7 :][: len(mine) - 1] == [Network(4, 0, arm) for arm in mine[1:]]
