"""One look: attacks, the question asked, layers, numbers, and what is not computed twice."""

import json
from dataclasses import replace

import numpy as np
import pytest
import scenes
import torch

from medrobust_utils import attacks
from medrobust_utils.core.errors import ContractError
from medrobust_utils.core.losses import BACKGROUND
from medrobust_utils.explain import cam_layers, cams
from medrobust_utils.explorer.look import Choice, Memory, attacks_for, look
from medrobust_utils.explorer.scene import Network
from medrobust_utils.models import MedicalModel, digest

every_scene = pytest.mark.parametrize("make", scenes.SCENES)


def seen(scene, choice, *, number=0, network=0, memory=None, **kwargs):
    sample = kwargs.pop("sample", None) or scene.sample(number)
    memory = Memory() if memory is None else memory
    return look(scene, scene.networks[network], sample, choice, memory=memory, **kwargs)


class Passes:
    """Counts passes through a model."""

    def __init__(self, model):
        self.count = 0
        self.hook = model.register_forward_pre_hook(self.more)

    def more(self, *_):
        self.count += 1


@pytest.fixture
def passes():
    counters = []

    def count(scene, network=0):
        counters.append(Passes(scene.networks[network].model))
        return counters[-1]

    yield count
    for counter in counters:
        counter.hook.remove()


@every_scene
def test_every_attack_stays_in_its_ball_and_is_the_same_again(make):
    scene = make()
    for kind in attacks_for(scene):
        first, second = (seen(scene, Choice(kind, 3)) for _ in range(2))
        assert np.array_equal(first.attacked, second.attacked)
        assert 0 < np.abs(first.change).max() <= 3 / 255
        assert first.attacked.min() >= 0 and first.attacked.max() <= 1
        assert first.record["largest_change_255"] == pytest.approx(3, abs=0.01)
        assert first.record["steps"] == (1 if kind in ("fgsm", "noise") else 10)


@every_scene
def test_an_attack_made_for_other_networks_is_refused(make):
    scene = make()
    for kind in {"pgd", "segpgd", "fgsm", "nonsense"} - set(attacks_for(scene)):
        with pytest.raises(ContractError, match=kind):
            seen(scene, Choice(kind, 3))


@every_scene
def test_eps_zero_changes_nothing(make):
    found = seen(make(), Choice(eps_255=0, attack="pgd"))
    assert np.array_equal(found.image, found.attacked)
    assert np.array_equal(found.before.maps, found.after.maps, equal_nan=True)
    numbers = found.record
    assert numbers["attack"] is None and numbers["steps"] is None and not numbers["changed"]
    assert (numbers["changed"] is None) == ("pixels_changed" in numbers)
    assert numbers["probabilities_before"] == numbers["probabilities_after"]


def test_pgd_is_that_of_the_attacks():
    scene = scenes.single_label()
    sample, eps = scene.sample(2), 4 / 255
    how = dict(steps=10, step_size=2.5 * eps / 10, generator=torch.Generator().manual_seed(0))
    model = scene.networks[0].model
    expected = attacks.pgd(model, sample.image, sample.label, eps, **how)
    assert np.array_equal(seen(scene, Choice("pgd", 4), number=2).attacked, expected[0].numpy())


def test_an_attack_takes_probability_from_the_label():
    scene = scenes.single_label()
    for number in range(4):
        numbers = seen(scene, Choice("pgd", 8), number=number).record
        before, after = (numbers[f"probabilities_{k}"] for k in ("before", "after"))
        assert after[numbers["label"]] < before[numbers["label"]]


def test_the_same_class_is_explained_before_and_after():
    scene = scenes.single_label()
    found = seen(scene, Choice("pgd", 8))
    numbers = found.record
    assert numbers["changed"] and numbers["answer_after"] != numbers["answer_before"]
    kind = scene.data.classes.index(numbers["answer_before"])
    assert found.before.classes.tolist() == found.after.classes.tolist() == [kind]
    for image, maps in ((found.image, found.before), (found.attacked, found.after)):
        again = cams.grad_cam(scene.networks[0].model, torch.from_numpy(image)[None], [kind])
        assert np.allclose(maps.maps, again.maps, atol=1e-5)


def test_a_class_is_chosen_by_name_by_label_and_by_answer():
    scene = scenes.single_label()
    numbers = seen(scene, Choice(target="answer"), number=3).record
    assert numbers["explained"] == numbers["answer_before"] != numbers["label"]
    numbers = seen(scene, Choice(target="label"), number=3).record
    assert numbers["explained"] == numbers["label"] and not numbers["notes"]
    assert seen(scene, Choice(target="vasc")).record["explained"] == "vasc"
    with pytest.raises(ContractError, match="'cat': choose answer, label or akiec"):
        seen(scene, Choice(target="cat"))


def test_of_several_findings_the_likeliest_is_explained():
    scene = scenes.multi_label()
    sample, names = scene.sample(0), np.array(scene.data.classes)
    numbers = seen(scene, Choice(target="label")).record
    present = names[sample.label[0].numpy().astype(bool)]
    values = numbers["probabilities_before"]
    assert len(present) > 1 and numbers["explained"] == max(present, key=values.get)
    assert numbers["label"].split(", ") == list(present)
    nothing = replace(sample, label=torch.zeros_like(sample.label))
    numbers = seen(scene, Choice(target="label"), sample=nothing).record
    assert numbers["label"] == "nothing" and numbers["explained"] == max(values, key=values.get)
    assert any("no finding" in note for note in numbers["notes"])


def test_findings_are_yes_or_no_each():
    scene = scenes.multi_label()
    with torch.no_grad():
        logits = scene.networks[0].model(scene.sample(3).image)[0]
    numbers = seen(scene, Choice(), number=3).record
    assert (logits > 0).any() and list(numbers["probabilities_before"].values()) == pytest.approx(
        logits.sigmoid().tolist()
    )
    found = np.array(scene.data.classes)[(logits > 0).numpy()]
    assert sorted(numbers["answer_before"].split(", ")) == sorted(found)


def test_a_single_logit_is_two_classes():
    scene = scenes.single_label()
    torch.manual_seed(0)
    model = scenes.plain_net(1).eval()
    data = replace(scene.data, targets=scene.data.targets % 2, classes=("benign", "malignant"))
    two = replace(scene, data=data, networks=(Network("one logit", model, digest(model)),))
    with torch.no_grad():
        p = model(two.sample(0).image).sigmoid().item()
    for target, kind in (("benign", 0), ("malignant", 1)):
        found = seen(two, Choice("pgd", 4, target=target))
        assert found.record["probabilities_before"]["malignant"] == pytest.approx(p)
        assert found.before.classes.tolist() == [kind]
    assert found.record["answer_before"] == ("malignant" if p > 0.5 else "benign")


def test_a_segmentation_is_explained_over_the_same_pixels():
    scene = scenes.segmentation()
    found = seen(scene, Choice("background", 16, target="other"), network=1)
    model, kind = scene.networks[1].model, scene.data.classes.index("other")
    with torch.no_grad():
        maps = [model(torch.from_numpy(x)[None]).argmax(1) for x in (found.image, found.attacked)]
    for region, one in zip((found.region_before, found.region_after), maps, strict=True):
        assert np.array_equal(region, (one == kind)[0].numpy())
    assert (found.region_before != found.region_after).any()
    attacked = torch.from_numpy(found.attacked)[None]
    again = cams.grad_cam(model, attacked, [kind], regions=found.region_before[None])
    other = cams.grad_cam(model, attacked, [kind], regions=found.region_after[None])
    assert found.after.valid[0] and np.allclose(found.after.maps, again.maps, atol=1e-5)
    assert not np.allclose(other.maps, again.maps, atol=1e-3), "the question would have changed"


def test_segmentation_numbers_are_those_of_a_count_by_hand():
    scene = scenes.segmentation()
    sample = scene.sample(0)
    label = sample.label.clone()
    label[0, :, :20] = 255  # nobody can say
    found = seen(scene, Choice("pgd", 4), sample=replace(sample, label=label))
    numbers, known = found.record, (label[0] != 255).numpy()
    kind = scene.data.classes.index(numbers["explained"])
    assert kind != BACKGROUND and np.array_equal(found.mask, (label[0] == kind).numpy())
    for side, region in (("before", found.region_before), ("after", found.region_after)):
        hit = (region & found.mask).sum()
        expected = 2 * hit / (found.mask.sum() + (region & known).sum())
        assert numbers[f"dice_{side}"] == pytest.approx(expected)
        share = numbers[f"probabilities_{side}"][numbers["explained"]]
        assert share == pytest.approx(region.mean())
    assert sum(numbers["probabilities_after"].values()) == pytest.approx(1)
    assert 0 < numbers["pixels_changed"] < 1 and numbers["changed"] is None


def test_the_hit_on_the_lesion():
    scene = scenes.single_label()
    found = seen(scene, Choice("pgd", 4))
    mask, before = scene.sample(0).mask, found.before.maps[0]
    numbers = found.record
    assert np.array_equal(found.mask, mask)
    assert numbers["mask_share"] == pytest.approx(mask.mean())
    assert numbers["inside_before"] == pytest.approx(before[mask].sum() / before.sum(), rel=1e-4)
    assert numbers["pointing_before"] == mask[np.unravel_index(before.argmax(), mask.shape)]
    flat = [found.before.maps.ravel(), found.after.maps.ravel()]
    assert numbers["correlation"] == pytest.approx(np.corrcoef(*flat)[0, 1], abs=1e-4)


@every_scene
@pytest.mark.parametrize("eps", [0, 4])
def test_a_record_is_strict_json_and_says_what_was_looked_at(make, eps):
    scene = make()
    for network in (0, 1):
        numbers = seen(scene, Choice("pgd", eps), network=network).record
        assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
        assert numbers["paper"] == scene.paper and numbers["synthetic"] is True
        assert numbers["network"] == scene.networks[network].name
        assert numbers["weights"] == scene.networks[network].identity
        assert numbers["image"] == scene.data.ids[scene.rows[0]]
        assert numbers["warnings"] == list(scene.warnings)


def test_a_network_with_nothing_to_say_for_a_class_has_no_map_and_a_reason():
    scene = scenes.single_label()
    model = scenes.plain_net(7).eval()
    torch.nn.init.constant_(model.backbone[-1].weight, -1)
    gloomy = replace(scene, networks=(Network("gloomy", model, digest(model)),))
    numbers = seen(gloomy, Choice("noise", 4)).record
    assert "empty" in numbers["no_map_before"] and "empty" in numbers["no_map_after"]
    for name in ("correlation", "similarity", "top_overlap", "inside_after", "pointing_after"):
        assert numbers[name] is None
    json.dumps(numbers, allow_nan=False)


def test_a_network_that_returns_nan_is_refused_with_a_word():
    class Broken(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(torch.nan))

        def forward(self, images):
            return self.scale * images.mean((2, 3)).repeat(1, 3)[:, :7]

    scene = scenes.single_label()
    model = MedicalModel(Broken(), scenes.HALF, scenes.HALF).eval()
    with pytest.raises(ContractError, match="NaN"):
        seen(replace(scene, networks=(Network("broken", model, "x"),)), Choice("pgd", 1))


@every_scene
def test_the_usual_layer_is_that_of_the_maps(make):
    scene = make()
    for number, network in enumerate(scene.networks):
        usual = cam_layers.target_layer(network.model, tuple(scene.sample(0).image.shape[1:]))
        assert seen(scene, Choice(), network=number).record["layer"] == usual


def test_the_same_look_again_computes_nothing(passes):
    for make in scenes.SCENES:
        scene, memory = make(), Memory()
        first = seen(scene, Choice("pgd", 4), memory=memory)
        counter = passes(scene)
        again = seen(scene, Choice("pgd", 4), memory=memory)
        assert counter.count == 0 and again.record == first.record


@every_scene
def test_networks_are_left_as_they_were(make):
    scene = make()
    before = [digest(network.model) for network in scene.networks]
    gradients = [[p.grad for p in network.model.parameters()] for network in scene.networks]
    for number, network in enumerate(scene.networks):
        seen(scene, Choice("pgd", 4), network=number)
        parameters = list(network.model.parameters())
        assert all(p.requires_grad for p in parameters)
        assert all(p.grad is g for p, g in zip(parameters, gradients[number], strict=True))
        assert not any(part.training for part in network.model.modules())
    assert [digest(network.model) for network in scene.networks] == before
