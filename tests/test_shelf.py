"""Networks for the explorer: found by their cards, opened as they were trained, or trained here."""

import io
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scenes
import torch
from PIL import Image

from medrobust_utils.core.errors import ContractError, MedrobustError, ProtocolError, RunError
from medrobust_utils.data import to_float
from medrobust_utils.data.phantoms import phantom_set
from medrobust_utils.data.views import enhanced
from medrobust_utils.explorer.gallery import Gallery
from medrobust_utils.explorer.shelf import OFFERED, Place, Shelf, _unseen
from medrobust_utils.explorer.studies import STUDIES
from medrobust_utils.models import digest
from medrobust_utils.reporting import protocol
from medrobust_utils.training import cards

CT = "3_domain_assimilation"
TINY = {
    "1_swin_noise": "phantoms=60 size=32 training.epochs.isic=1 noise_images=8 "
    "models.swin.options.img_size=32",
    "2_attentive_cnn": "phantoms=120 models.resnet.size=32 training.epochs.skin=1 "
    "attack.images=5 validation_images=8",
    CT: "phantoms=60 size=32 training.epochs.test_resnet=1 attack.images.ct=5",
    "4_unet_adversarial_training": "phantoms=24 size=32 training.epochs=1 unet.width=4 "
    "unet.depth=2 method_two.search=greedy attack.images=3",
}
PAIRS = {
    "1_swin_noise": ("resnet, scratch", "swin, scratch"),
    "2_attentive_cnn": (
        "vanilla (resnet, scratch, seed 0)",
        "soft attention, released (resnet, scratch, seed 0)",
    ),
    CT: (
        "vanilla (test_resnet, scratch, seed 0)",
        "adversarial training (test_resnet, scratch, seed 0)",
    ),
    "4_unet_adversarial_training": ("vanilla (seed 0)", "method two (seed 0)"),
}


@pytest.fixture(scope="module", autouse=True)
def quick():
    """The smoke profile, smaller still."""
    whole = protocol.Protocol.settings

    def small(self, profile, overrides=""):
        return whole(self, profile, TINY.get(self.name, ""))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol.Protocol, "settings", small)
        yield


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Where every paper's pair has been trained."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for paper in STUDIES:
        shelf = Shelf(folder)
        shelf.open(shelf.places(paper)[-1])
    return folder


def weights(scene):
    return [network.identity for network in scene.networks]


@pytest.mark.parametrize("paper", STUDIES)
def test_without_earlier_runs_there_is_a_pair_to_train(paper, checkpoints, monkeypatch, tmp_path):
    fresh = Shelf(tmp_path)
    assert [place.key for place in fresh.places(paper)] == ["pair"] == [fresh.first(paper).key]
    monkeypatch.setattr("medrobust_utils.training.fit._Job._step", None)  # it is read back
    shelf = Shelf(checkpoints)
    scene = shelf.open(fresh.first(paper))
    assert tuple(network.name for network in scene.networks) == PAIRS[paper]
    assert scene.data.synthetic and scene is shelf.open(fresh.first(paper))
    assert not any(part.training for one in scene.networks for part in one.model.modules())
    sample = scene.sample(0)
    assert sample.image.shape == (1, scene.data.images.shape[3], 32, 32)
    assert len(scene.names) == len(scene.rows) and scene.names[0].startswith("0: ")


@pytest.mark.parametrize("paper", STUDIES)
def test_an_earlier_run_is_found_and_opens_with_its_weights(paper, checkpoints):
    shelf = Shelf(checkpoints)
    earlier, pair = shelf.places(paper)
    assert "PHANTOMS" in earlier.title and "2 networks" in earlier.title and not pair.finished
    trained, found = shelf.open(pair), shelf.open(earlier)
    assert weights(found) == weights(trained) == [digest(one.model) for one in found.networks]
    assert [one.name for one in found.networks] == [one.name for one in trained.networks]
    assert (found.rows == trained.rows).all() and found.data.checksum == trained.data.checksum
    images = found.sample(0).image
    with torch.no_grad():
        ours, theirs = (scene.networks[1].model(images) for scene in (found, trained))
    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("paper", STUDIES)
def test_images_on_offer_were_never_trained_on(paper, checkpoints):
    study, shelf = STUDIES[paper], Shelf(checkpoints)
    scene = shelf.open(shelf.places(paper)[0])
    settings = protocol.load(paper).settings("smoke")
    task = next(a.task for a in study.arms(settings, 0, study.role) if a.task.key == scene.key)
    assert len(scene.rows) and not set(scene.rows) & set(task.split.train)
    assert not set(task.data.groups[scene.rows]) & set(task.data.groups[task.split.train])


def copy(checkpoints, tmp_path, paper=CT):
    """The folders of a paper's networks, to be tampered with; vanilla first."""
    found = [folder for folder, card in cards.find(checkpoints) if card.paper == paper]
    for folder in found:
        target = tmp_path / folder.name
        target.mkdir()
        for file in folder.glob("c*"):  # card and checkpoint
            (target / file.name).write_bytes(file.read_bytes())
    return sorted(tmp_path.iterdir(), key=lambda one: "adversarial" in one.name)


def changed(folder, **values):
    path = folder / cards.NAME
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | values))


def test_the_undefended_network_is_first_then_what_it_is_best_compared_with(checkpoints, tmp_path):
    folder, _ = copy(checkpoints, tmp_path)
    settings = protocol.load(CT).settings("smoke")
    study = STUDIES[CT]
    for arm in study.arms(settings, 0, "ct"):
        study.train(arm, settings, tmp_path, 0)
    shelf = Shelf(tmp_path)
    scene = shelf.open(shelf.places(CT)[0])
    assert [one.name.partition(" (")[0] for one in scene.networks[:2]] == [
        "vanilla",
        "adversarial training",
    ]
    assert {one.name.partition(" (")[0] for one in scene.networks} == {
        "vanilla",
        "adversarial training",
        "domain assimilation",
        "T and C alone",
    }
    assert weights(scene.pair) == weights(scene)[:2]


@pytest.mark.parametrize("values, words", [({"seed": 5}, "seed 5"), ({"split": "abcd"}, "split")])
def test_a_run_with_another_split_is_offered_by_itself(checkpoints, tmp_path, values, words):
    folder, other = copy(checkpoints, tmp_path)
    changed(other, **values)
    titles = [place.title for place in Shelf(tmp_path).places(CT)]
    assert len(set(titles)) == 3 and sum("1 network" in title for title in titles) == 2
    assert any(words in title for title in titles)


@pytest.mark.parametrize(
    "values, words",
    [
        ({"checksum": "other"}, "trained on other images"),
        ({"arm": "no such arm"}, r"card\.json: does not fit this version.*KeyError"),
        ({"settings": {}}, r"card\.json: does not fit this version"),
    ],
)
def test_what_has_changed_since_is_refused(checkpoints, tmp_path, values, words):
    for folder in copy(checkpoints, tmp_path):
        changed(folder, **values)
    shelf = Shelf(tmp_path)
    with pytest.raises(MedrobustError, match=words):
        shelf.open(shelf.places(CT)[0])


def test_weights_that_a_network_began_with_must_be_there_and_no_hub_is_asked(
    checkpoints, tmp_path, monkeypatch
):
    for folder in copy(checkpoints, tmp_path):
        changed(folder, source="Keras' weights")
    monkeypatch.setattr("timm.create_model", lambda *args, **how: pytest.fail("a hub was asked"))
    shelf = Shelf(tmp_path)
    network = shelf.open(shelf.places(CT)[0]).networks[0]
    assert "imagenet" in network.name  # so the card says
    with pytest.raises(RunError, match="began with Keras' weights.*MEDROBUST_WEIGHTS"):
        network.model  # noqa: B018


def test_weights_from_timms_hub_need_no_hub_again(checkpoints, tmp_path):
    trained = Shelf(checkpoints).open(Shelf(checkpoints).places(CT)[0])
    for folder in copy(checkpoints, tmp_path):
        changed(folder, source="timm resnet10t.c3_in1k")
    shelf = Shelf(tmp_path)
    found = shelf.open(shelf.places(CT)[0])
    assert weights(found) == weights(trained)
    assert found.networks[0].model.source == "timm resnet10t.c3_in1k"


def pretended(root: Path, paper: str, task: str, arms: str, age: int) -> None:
    """Cards of a run whose networks nobody opens here."""
    for arm in arms:
        folder = root / f"{task}-{arm}"
        folder.mkdir()
        (folder / "checkpoint.pt").touch()
        cards.leave(folder, cards.Card(paper, task, arm, "ct", 0, {}, "s", "c", "d"))
        os.utime(folder / cards.NAME, (1e9 - age, 1e9 - age))


def test_the_newest_run_on_real_images_opens_first(tmp_path):
    pretended(tmp_path, CT, "ct-phantom-ct-64", "ab", age=0)
    pretended(tmp_path, CT, "ct-iq_othnccd-128", "ab", age=30)
    pretended(tmp_path, "2_attentive_cnn", "skin-ham10000-224", "ab", age=20)
    pretended(tmp_path, "2_attentive_cnn", "fundus-retinopathy-224", "a", age=10)
    shelf = Shelf(tmp_path)
    assert shelf.first().key.startswith("skin-ham10000")  # with one network nothing is compared
    assert shelf.first("4_unet_adversarial_training").key == "pair"
    assert shelf.first(CT).key.startswith("ct-iq_othnccd")
    assert [place.synthetic for place in shelf.places(CT)] == [False, True, True]
    drawn = Shelf(tmp_path, synthetic=True)
    assert (drawn.first().paper, drawn.first().key) == (CT, "pair")
    assert all(place.synthetic for paper in STUDIES for place in drawn.places(paper))


def test_copies_of_training_images_are_not_offered(checkpoints):
    shelf = Shelf(checkpoints)
    scene = shelf.open(shelf.places(CT)[0])
    images = scene.data.images[np.arange(6)]
    images[4] = images[1]
    groups = np.array([0, 1, 2, 3, 1, 5])  # a copy has its original's
    data = type("Set", (), {"census": {"duplicates_kept": 1}, "images": images, "groups": groups})
    split = type("S", (), {"train": np.arange(3)})
    task = type("Task", (), {"data": data, "split": split, "key": "ct"})
    assert _unseen(task, np.array([3, 4, 5])).tolist() == [3, 5]
    with pytest.raises(RunError, match="ct: every test image has an exact copy"):
        _unseen(task, np.array([4]))
    data.census = {}
    assert _unseen(task, np.array([3, 4, 5])).tolist() == [3, 4, 5]


def test_papers_and_images_that_are_not_there_are_refused(checkpoints):
    shelf = Shelf(checkpoints)
    assert list(shelf.papers()) == protocol.list_papers()
    for call in (shelf.places, shelf.first):
        with pytest.raises(ProtocolError, match="no paper '3_domain'"):
            call("3_domain")
    scene = shelf.open(Place(CT, "pair", "", True))
    for number in (-1, len(scene.rows)):
        with pytest.raises(ContractError, match=f"image {number}: .* Choose 0 to"):
            scene.sample(number)
    assert len(scene.rows) <= OFFERED and np.all(np.diff(scene.rows) > 0)


def test_an_own_image_goes_through_the_filter_that_its_networks_see_images_through():
    data = phantom_set("fundus", 2, size=32)
    task = type("Task", (), {"tags": {"filter": "contrast"}})
    prepare, word = STUDIES["2_attentive_cnn"].filter(task)
    assert (prepare(data.images[1]) == enhanced(data).images[1]).all() and "contrast" in word
    task.tags["filter"] = "none"
    assert STUDIES["2_attentive_cnn"].filter(task) is None
    scene = scenes.single_label()
    raw = scene.data.images[scene.rows[0]]
    buffer = io.BytesIO()
    Image.fromarray(raw).save(buffer, "png")
    negative = replace(scene, prepare=lambda pixels: 255 - pixels, prepared="turned negative")
    for one, image in ((scene, raw), (negative, 255 - raw)):
        gallery = Gallery(one)
        sample = gallery.sample(gallery.add("a.png", buffer.getvalue()))
        assert torch.equal(sample.image, to_float(image[None]))
        assert ("turned negative" in sample.notes) == (one is negative)
