"""Networks for the explorer: what a training leaves, how it is found, and what ships ready."""

import io
import json
import os

import numpy as np
import pytest
import scenes
import torch
from PIL import Image

from medrobust_utils.core.errors import ContractError, ProtocolError, RunError
from medrobust_utils.core.losses import correct
from medrobust_utils.data import to_float
from medrobust_utils.data.views import enhanced_pixels
from medrobust_utils.explorer.networks import COMPARED, PAIR, Index
from medrobust_utils.explorer.scene import CONTRAST
from medrobust_utils.models import digest
from medrobust_utils.reporting import protocol
from medrobust_utils.studies import attentive_cnn, domain_assimilation, swin_noise, unet_adversarial
from medrobust_utils.training import cards

CT = "3_domain_assimilation"
TINY = {
    "1_swin_noise": (
        swin_noise,
        "isic",
        "phantoms=60 size=32 training.epochs.isic=1 noise_images=8 models.swin.options.img_size=32",
    ),
    "2_attentive_cnn": (
        attentive_cnn,
        "skin",
        "phantoms=120 models.resnet.size=32 training.epochs.skin=1 attack.images=5 "
        "validation_images=8",
    ),
    CT: (
        domain_assimilation,
        "ct",
        "phantoms=60 size=32 training.epochs.test_resnet=1 attack.images.ct=5",
    ),
    "4_unet_adversarial_training": (
        unet_adversarial,
        "histology",
        "phantoms=24 size=32 training.epochs=1 unet.width=4 unet.depth=2 method_two.search=greedy "
        "attack.images=3",
    ),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Where every paper's pair has been trained, and the trained models by their folders."""
    folder, models = tmp_path_factory.mktemp("checkpoints"), {}
    for paper, (module, role, longer) in TINY.items():
        settings = protocol.load(paper).settings("smoke", longer)
        kind, *pair, _ = COMPARED[paper]
        for arm in module.arms(settings, seed=0, role=role):
            if getattr(arm, kind) in pair:
                trained = module.train(arm, settings, folder)
                models[trained.folder.name] = trained
    return folder, models


def copied(checkpoints, target, paper=CT, **changes):
    """The folders of a paper's networks, with other cards; vanilla first."""
    for folder, card in cards.find(checkpoints[0]):
        if card.paper == paper:
            copy = target / folder.name
            copy.mkdir()
            for name in (cards.NAME, cards.SAMPLES, "checkpoint.pt"):
                (copy / name).write_bytes((folder / name).read_bytes())
            changed(copy, **changes)
    return sorted(target.iterdir(), key=lambda one: "adversarial" in one.name)


def changed(folder, **values):
    path = folder / cards.NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("paper", COMPARED)
def test_an_earlier_run_opens_with_its_weights_on_images_it_never_saw(paper, checkpoints):
    folder, models = checkpoints
    earlier, pair = Index(folder).entries(paper)
    assert "PHANTOMS" in earlier.title and "2 networks" in earlier.title and pair.title == PAIR
    scene = earlier.open()
    kind, plain, partner, _ = COMPARED[paper]
    for network, wanted in zip(scene.networks, (plain, partner), strict=True):
        trained = models[network.facts["folder"]]
        task = trained.arm.task
        assert network.name == trained.arm.title and getattr(trained.arm, kind) == wanted
        assert network.weights == digest(trained.model)
        assert network.read().source == trained.model.source
        images = scene.sample(0).image
        with torch.no_grad():
            ours, theirs = network.read()(images), trained.model.cpu()(images)
        assert torch.allclose(ours, theirs, atol=1e-5)
        rows = [task.data.ids.index(name) for name in scene.data.ids]
        assert not set(rows) & set(task.split.train) and len(rows) <= cards.OFFERED
        assert not set(task.data.groups[rows]) & set(task.data.groups[task.split.train])
        assert (task.data.targets[rows] == scene.data.targets).all()
        assert (task.data.images[rows] == scene.data.images).all()
    assert scene.data.synthetic and scene.names[0].startswith("0: ")
    for number in (-1, len(scene.samples)):
        with pytest.raises(ContractError, match=f"image {number}: .* Choose 0 to"):
            scene.sample(number)


def test_strides_and_normalisation_of_a_weights_file_come_back_without_it(checkpoints, tmp_path):
    """Keras' ResNet has others than timm's; neither weights file nor hub is asked again."""
    trained = next(one for one in checkpoints[1].values() if one.arm.task.role == "skin")
    arm, model = (
        trained.arm,
        attentive_cnn.build_arm(
            trained.arm,
            protocol.load("2_attentive_cnn").settings("smoke", TINY["2_attentive_cnn"][2]),
        ),
    )
    convolutions = [part for part in model.modules() if isinstance(part, torch.nn.Conv2d)]
    assert convolutions[0].stride == (2, 2) and convolutions[1].stride == (1, 1)
    convolutions[0].stride, convolutions[1].stride = (1, 1), (2, 2)
    model.renormalise((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    model.built["how"]["start"] = "imagenet"
    model.source = "Keras' weights"
    torch.save({"best": None, "model": model.state_dict()}, tmp_path / "checkpoint.pt")
    cards.leave(tmp_path, arm, model, "2_attentive_cnn")
    found = cards.network(tmp_path)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(found(images), model.eval()(images), atol=1e-5)
    assert found.source == "Keras' weights"


def test_a_finished_training_of_an_earlier_version_is_read_back_and_gets_its_card(
    checkpoints, tmp_path, monkeypatch
):
    old, _ = copied(checkpoints, tmp_path)
    content = json.loads((old / cards.NAME).read_text())
    names = ("paper", "task", "arm", "seed", "source", "checksum", "split")
    before = {"schema": 1, "role": "ct", "settings": {}} | {name: content[name] for name in names}
    (old / cards.NAME).write_text(json.dumps(before))
    (old / cards.SAMPLES).unlink()
    with pytest.raises(RunError, match=f"{old.name}: was trained by an earlier version"):
        Index(tmp_path).first(CT).open()
    monkeypatch.setattr("medrobust_utils.training.fit._Job._step", None)  # nothing is trained
    module, role, longer = TINY[CT]
    settings = protocol.load(CT).settings("smoke", longer)
    arm = checkpoints[1][old.name].arm
    assert module.train(arm, settings, tmp_path).folder == old
    assert len(Index(tmp_path).first(CT).open().networks) == 2


@pytest.mark.parametrize(
    "built",
    [
        {"builder": "os.system", "args": ["x"]},
        {"builder": "build", "how": {"options": {"checkpoint_path": "x.pt"}, "start": "scratch"}},
        {"builder": "build", "args": ["hf-hub:some/body", 2]},
        {"builder": "build", "args": ["resnet10t", 5]},
        {"builder": "build", "how": {"no such": 1}},
    ],
)
def test_a_card_builds_nothing_but_the_kits_networks(checkpoints, tmp_path, built, monkeypatch):
    folder, _ = copied(checkpoints, tmp_path)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", None)
    content = json.loads((folder / cards.NAME).read_text())
    changed(folder, built=content["built"] | built)
    with pytest.raises(RunError, match="does not build its network|timm knows no"):
        cards.network(folder)


class Trap:
    def __reduce__(self):
        return (os.mkdir, ("sprung",))


def test_damaged_weights_are_refused_and_samples_run_no_code(checkpoints, tmp_path, monkeypatch):
    folder, _ = copied(checkpoints, tmp_path)
    monkeypatch.chdir(tmp_path)
    (folder / "checkpoint.pt").write_bytes(b"PK\x03\x04")
    with pytest.raises(RunError, match=r"checkpoint\.pt: cannot be read .* again"):
        cards.network(folder)
    np.savez(folder / cards.SAMPLES, ids=np.array([Trap()], object))
    with pytest.raises(RunError, match="cannot be read"):
        cards.samples(folder, cards.read(folder))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"schema": 99}', "\udcff", "9" * 5000, "[" * 100_000]
)
def test_what_is_no_card_is_passed_over(checkpoints, tmp_path, text):
    bad, good = copied(checkpoints, tmp_path)
    (bad / cards.NAME).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert [folder for folder, _ in cards.find(tmp_path)] == [good]
    (good / "checkpoint.pt").unlink()
    assert cards.find(tmp_path) == [] == cards.find(tmp_path / "nowhere")


def test_the_undefended_network_is_first_then_what_it_is_best_compared_with(checkpoints, tmp_path):
    for number, folder in enumerate(copied(checkpoints, tmp_path)):
        for defence in ("glcm", "modules"):
            copy = tmp_path / f"{defence}-{number}"
            copy.mkdir()
            for file in folder.iterdir():
                (copy / file.name).write_bytes(file.read_bytes())
            own = json.loads((folder / cards.NAME).read_text())["own"]
            changed(copy, arm=copy.name, title=defence, own=own | {"defence": defence})
    names = [one.name.partition(" (")[0] for one in Index(tmp_path).first(CT).open().networks]
    assert names[:2] == ["vanilla", "adversarial training"] and len(names) == 6


@pytest.mark.parametrize("values, words", [({"seed": 5}, "seed 5"), ({"split": "abcd"}, "split")])
def test_a_run_with_another_split_is_offered_by_itself(checkpoints, tmp_path, values, words):
    _, other = copied(checkpoints, tmp_path)
    changed(other, **values)
    titles = [entry.title for entry in Index(tmp_path).entries(CT)]
    assert len(set(titles)) == 3 and sum("1 network" in title for title in titles) == 2
    assert any(words in title for title in titles)


def pretended(root, paper, task, arms, age):
    """Cards of a run whose networks nobody opens here."""
    for arm in arms:
        folder = root / f"{task}-{arm}"
        folder.mkdir()
        (folder / "checkpoint.pt").touch()
        about = dict(seed=0, source="s", checksum="c", split="d")
        card = cards.Card(paper=paper, task=task, arm=arm, **about)
        (folder / cards.NAME).write_text(card.model_dump_json(by_alias=True))
        os.utime(folder / cards.NAME, (1e9 - age, 1e9 - age))


def test_the_newest_run_on_real_images_opens_first(tmp_path):
    pretended(tmp_path, CT, "ct-phantom-ct-64", "ab", age=0)
    pretended(tmp_path, CT, "ct-iq_othnccd-128", "ab", age=30)
    pretended(tmp_path, "2_attentive_cnn", "skin-ham10000-224", "ab", age=20)
    pretended(tmp_path, "2_attentive_cnn", "fundus-retinopathy-224", "a", age=10)
    index = Index(tmp_path)
    assert index.first().title.startswith("skin-ham10000")  # with one network nothing is compared
    assert index.first("4_unet_adversarial_training").title == PAIR
    assert index.first(CT).title.startswith("ct-iq_othnccd")
    assert [entry.synthetic for entry in index.entries(CT)] == [False, True, True]
    drawn = Index(tmp_path, synthetic=True)
    assert (drawn.first().paper, drawn.first().title) == ("2_attentive_cnn", PAIR)
    assert all(entry.synthetic for paper in COMPARED for entry in drawn.entries(paper))
    assert list(index.papers()) == protocol.list_papers()
    for call in (index.entries, index.first):
        with pytest.raises(ProtocolError, match="no paper '3_domain'"):
            call("3_domain")


def test_copies_of_training_images_are_not_offered(checkpoints):
    task = next(one.arm.task for one in checkpoints[1].values() if one.arm.task.role == "ct")
    images = task.data.images[np.arange(6)]
    images[4] = images[1]
    groups = np.array([0, 1, 2, 3, 1, 5])  # a copy has its original's
    data = type("Set", (), {"census": {"duplicates_kept": 1}, "images": images, "groups": groups})
    split = type("S", (), {"train": np.arange(3)})
    task = type("Task", (), {"data": data, "split": split})
    assert cards._unseen(task, np.array([3, 4, 5])).tolist() == [3, 5]
    data.census = {}
    assert cards._unseen(task, np.array([3, 4, 5])).tolist() == [3, 4, 5]


@pytest.mark.parametrize("paper", COMPARED)
def test_a_pair_ships_ready_and_knows_its_phantoms(paper, tmp_path):
    """Else train it anew: `python tools/ready_pairs.py PAPER`."""
    scene = Index(tmp_path, synthetic=True).first(paper).open()
    images, labels = to_float(scene.data.images), torch.from_numpy(scene.data.targets)
    largest = np.bincount(labels.flatten()).max() / labels.numel()
    assert len(scene.networks) == 2 and scene.data.synthetic
    for network in scene.networks:
        with torch.no_grad():
            logits = network.read().cpu()(images)
        right = logits.argmax(1).eq(labels) if labels.ndim > 1 else correct(logits, labels)
        assert right.float().mean() > largest + 0.05, network.name
    assert not any(tmp_path.iterdir())


def test_an_own_image_goes_through_the_filter_that_its_networks_see_images_through():
    scene = scenes.single_label()
    raw, buffer = scene.data.images[0], io.BytesIO()
    Image.fromarray(raw).save(buffer, "png")
    for enhanced, image in ((False, raw), (True, enhanced_pixels(raw[None])[0])):
        object.__setattr__(scene, "enhanced", enhanced)
        sample = scene.uploaded("a.png", buffer.getvalue())
        assert torch.equal(sample.image, to_float(image[None]))
        assert (CONTRAST in sample.notes) == enhanced
    object.__setattr__(scene, "enhanced", False)
