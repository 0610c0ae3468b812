"""One look: attacks at 32 radii, the question asked, layers, numbers, curves, and their figure."""

import io
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import scenes
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from medrobust_utils import attacks
from medrobust_utils.core.errors import ContractError
from medrobust_utils.core.losses import BACKGROUND
from medrobust_utils.explain import cam_layers, cams
from medrobust_utils.explorer import curve, figure
from medrobust_utils.explorer.look import LEVELS, Choice, attacks_for, layers, look, place_of
from medrobust_utils.models import digest

every_scene = pytest.mark.parametrize("make", scenes.SCENES)
PLACE = place_of(4)


def looked(scene, *, number=0, network=0, sample=None, **choice):
    return look(scene, scene.networks[network], sample or scene.sample(number), Choice(**choice))


def record(scene, place=PLACE, **how):
    return looked(scene, **how).record(place)


@every_scene
def test_every_attack_fills_every_radius_and_leaves_none(make):
    scene = make()
    for kind in attacks_for(scene):
        one = looked(scene, attack=kind)
        change = np.abs(one.images - one.images[0]).max((1, 2, 3)) * 255
        assert (change <= np.array(LEVELS) + 1e-6).all()
        assert change == pytest.approx(LEVELS, rel=0.02), kind
        assert one.images.min() >= 0 and one.images.max() <= 1
    for kind in {"pgd", "segpgd", "fgsm"} - set(attacks_for(scene)):
        with pytest.raises(ContractError, match=kind):
            looked(scene, attack=kind)


def test_pgd_by_bisection_is_that_of_the_attacks():
    scene = scenes.single_label()
    model, image = scene.networks[0].read(), scene.sample(2).image
    answer = model(image).argmax(1).detach()
    radii = [eps / 255 for eps in LEVELS[1:]]
    fooled = [
        int(model(one.images).argmax()) != int(answer)
        for one in attacks.at_radii(model, image, answer, radii)
    ]
    ours = looked(scene, number=2).scores.argmax(1) != int(answer)
    assert ours.argmax() == fooled.index(True) + 1


@every_scene
def test_nothing_is_attacked_at_eps_zero(make):
    numbers = record(make(), 0)
    assert numbers["attack"] is None and numbers["largest_change_255"] == 0
    assert numbers["probabilities_before"] == numbers["probabilities_after"]


def test_the_same_class_is_explained_before_and_after():
    scene = scenes.single_label()
    one = looked(scene)
    numbers = one.record(len(LEVELS) - 1)
    assert numbers["answer_after"] != numbers["answer_before"] == numbers["explained"]
    assert set(one.maps.classes) == {scene.data.classes.index(numbers["answer_before"])}
    images = torch.from_numpy(one.images[[0, PLACE]])
    again = cams.grad_cam(scene.networks[0].read(), images, [one.explained] * 2)
    assert np.allclose(one.maps.maps[[0, PLACE]], again.maps, atol=1e-5)


def test_a_class_is_chosen_by_name_by_label_and_by_answer():
    scene = scenes.single_label()
    numbers = record(scene, target="answer", number=3)
    assert numbers["explained"] == numbers["answer_before"] != numbers["label"]
    numbers = record(scene, target="label", number=3)
    assert numbers["explained"] == numbers["label"] and not numbers["notes"]
    assert record(scene, target="vasc")["explained"] == "vasc"
    with pytest.raises(ContractError, match="'cat': choose answer, label or akiec"):
        record(scene, target="cat")


def test_of_several_findings_each_is_yes_or_no_and_the_likeliest_is_explained():
    scene = scenes.multi_label()
    sample, names = scene.sample(0), np.array(scene.data.classes)
    numbers = record(scene, target="label")
    present, values = names[sample.label[0].numpy().astype(bool)], numbers["probabilities_before"]
    assert len(present) > 1 and numbers["explained"] == max(present, key=values.get)
    assert numbers["label"].split(", ") == list(present)
    with torch.no_grad():
        logits = scene.networks[0].read()(sample.image)[0]
    assert list(values.values()) == pytest.approx(logits.sigmoid().tolist(), abs=1e-5)
    found = numbers["answer_before"].split(", ")
    assert sorted(found) == sorted(names[(logits > 0).numpy()]) or found == ["nothing"]
    nothing = replace(sample, label=torch.zeros_like(sample.label))
    numbers = record(scene, target="label", sample=nothing)
    assert numbers["label"] == "nothing" and numbers["explained"] == max(values, key=values.get)
    assert any("no finding" in note for note in numbers["notes"])


def test_a_single_logit_is_two_classes():
    scene = scenes.single_label()
    torch.manual_seed(0)
    model = scenes.plain_net(1).eval()
    data = replace(scene.data, targets=scene.data.targets % 2, classes=("benign", "malignant"))
    two = replace(scene, data=data, networks=(scenes.network("one logit", model),))
    with torch.no_grad():
        p = model(two.sample(0).image).sigmoid().item()
    for target, kind in (("benign", 0), ("malignant", 1)):
        found = looked(two, target=target)
        numbers = found.record(PLACE)
        assert numbers["probabilities_before"]["malignant"] == pytest.approx(p)
        assert found.explained == kind
    assert numbers["answer_before"] == ("malignant" if p > 0.5 else "benign")


def test_a_segmentation_is_explained_over_the_same_pixels():
    scene = scenes.segmentation()
    found = looked(scene, attack="background", target="other", network=1)
    model, last = scene.networks[1].read(), len(LEVELS) - 1
    images = torch.from_numpy(found.images[[0, last]])
    with torch.no_grad():
        maps = model(images).argmax(1).numpy() == found.explained
    assert (found.region(0) == maps[0]).all() and (found.region(last) == maps[1]).all()
    assert (maps[0] != maps[1]).any()
    how = dict(regions=np.stack([maps[0]] * 2))
    again = cams.grad_cam(model, images, [found.explained] * 2, **how)
    assert np.allclose(found.maps.maps[[0, last]], again.maps, atol=1e-5)


def test_segmentation_numbers_are_those_of_a_count_by_hand():
    scene = scenes.segmentation()
    sample = scene.sample(0)
    label = sample.label.clone()
    label[0, :, :20] = 255  # nobody can say
    found = looked(scene, sample=replace(sample, label=label))
    numbers, known = found.record(PLACE), (label[0] != 255).numpy()
    kind = found.explained
    assert kind != BACKGROUND and np.array_equal(found.mask, (label[0] == kind).numpy())
    for side, place in (("before", 0), ("after", PLACE)):
        region = found.region(place)
        expected = 2 * (region & found.mask).sum() / (found.mask.sum() + (region & known).sum())
        assert numbers[f"dice_{side}"] == pytest.approx(expected)
        share = numbers[f"probabilities_{side}"][numbers["explained"]]
        assert share == pytest.approx(region.mean())
    assert 0 < numbers["pixels_changed"] < 1


def test_the_hit_on_the_lesion_and_the_likeness_of_maps():
    scene = scenes.single_label()
    found = looked(scene)
    numbers, mask, maps = found.record(PLACE), scene.sample(0).mask, found.maps.maps
    assert numbers["mask_share"] == pytest.approx(mask.mean())
    assert numbers["inside_before"] == pytest.approx(maps[0][mask].sum() / maps[0].sum(), rel=1e-4)
    assert numbers["pointing_before"] == mask[np.unravel_index(maps[0].argmax(), mask.shape)]
    flat = maps[[0, PLACE]].reshape(2, -1)
    assert numbers["correlation"] == pytest.approx(np.corrcoef(flat)[0, 1], abs=1e-4)


@every_scene
def test_a_record_is_strict_json_and_says_what_was_looked_at(make):
    scene = make()
    for number, place in itertools.product((0, 1), (0, PLACE)):
        numbers, network = record(scene, place, network=number), scene.networks[number]
        assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
        assert (numbers["paper"], numbers["synthetic"]) == (scene.paper, True)
        assert (numbers["network"], numbers["weights"]) == (network.name, digest(network.read()))
        assert (numbers["image"], numbers["eps_255"]) == (scene.data.ids[0], LEVELS[place])
        shape = tuple(scene.sample(0).image.shape[1:])
        assert numbers["layer"] == cam_layers.target_layer(network.read(), shape)


def test_another_networks_layer_is_replaced_by_the_one_nearest_in_size():
    scene = scenes.single_label()
    (*_, wanted), own = (layers(scene, one) for one in scene.networks)
    assert record(scene, layer=wanted)["layer"] == wanted
    numbers = record(scene, layer=wanted, network=1)
    assert wanted in numbers["notes"][0] and own[numbers["layer"]] == 32
    with pytest.raises(ContractError, match="no network here has a layer 'head'"):
        record(scene, layer="head")


def gloomy():
    """A scene whose network has nothing to say for any class."""
    model = scenes.plain_net(7).eval()
    torch.nn.init.constant_(model.backbone[-1].weight, -1)
    return replace(scenes.single_label(), networks=(scenes.network("gloomy", model),))


def test_a_network_with_nothing_to_say_for_a_class_has_no_map_and_a_reason():
    numbers = record(gloomy(), attack="noise")
    assert "empty" in numbers["no_map_before"] and "empty" in numbers["no_map_after"]
    for name in ("correlation", "similarity", "top_overlap", "inside_after", "pointing_after"):
        assert numbers[name] is None


@every_scene
def test_a_look_is_taken_once_and_leaves_the_network_as_it_was(make):
    scene = make()
    model, passes = scene.networks[0].read(), []
    before = digest(model), [p.requires_grad for p in model.parameters()]
    first = looked(scene, number=1)
    assert (digest(model), [p.requires_grad for p in model.parameters()]) == before
    assert not any(part.training for part in model.modules()) and not model._forward_hooks
    hook = model.register_forward_pre_hook(lambda *_: passes.append(1))
    assert looked(scene, number=1) is first and not passes
    hook.remove()


def words(drawn):
    return [one for one in drawn.findobj(Text) if one.get_visible() and one.get_text().strip()]


def check_readable(drawn):
    """No text is small, leaves the figure or lies on another."""
    renderer = FigureCanvasAgg(drawn).get_renderer()
    drawn.draw(renderer)
    whole = drawn.bbox.padded(0.5)
    boxes = [(one, one.get_window_extent(renderer)) for one in words(drawn)]
    for one, box in boxes:
        assert one.get_fontsize() >= 8, one.get_text()
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1, one.get_text()
        assert whole.y0 <= box.y0 and box.y1 <= whole.y1, one.get_text()
    for (one, a), (two, b) in itertools.combinations(boxes, 2):
        wide = min(a.x1, b.x1) - max(a.x0, b.x0)
        high = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert wide <= 1 or high <= 2, (one.get_text(), two.get_text())


@pytest.mark.parametrize("make", [*scenes.SCENES, gloomy])
def test_a_figure_is_readable_with_a_block_for_each_network(make):
    scene = make()
    looks = [looked(scene, network=n) for n in range(len(scene.networks))]
    for place in (0, PLACE, len(LEVELS) - 1):
        drawn = figure.draw(looks, place)
        check_readable(drawn)
        pixels = np.asarray(Image.open(io.BytesIO(figure.encode(drawn))).convert("L"))
        assert pixels.shape[1] == 620 * len(looks)
        assert all(part.std() > 20 for part in np.split(pixels, len(looks), 1)), "an empty block"
        assert all(one.network.name in {text.get_text() for text in words(drawn)} for one in looks)


@pytest.mark.parametrize(
    "name", ["$\\frac{$ 100$ %s {0}", "<script>alert('x')</script>", "x" * 500]
)
def test_a_file_may_be_called_anything(name):
    scene = scenes.multi_label()
    sample = replace(scene.sample(0), name=name, label=None, mask=None)
    drawn = figure.draw([looked(scene, sample=sample, target="label")], PLACE)
    check_readable(drawn)
    assert not any("a phantom" in one.get_text() for one in words(drawn)), "an upload is no phantom"


def pick(found, metric, network, eps):
    (row,) = (
        r for r in found if (r["metric"], r["network"], r["eps_255"]) == (metric, network, eps)
    )
    return row


@every_scene
def test_curves_count_what_they_say(make):
    """Maps over images that have one everywhere, answers that were right, differences in pairs."""
    scene, eps, count = make(), (1, 4), 5
    found = curve.rows(scene, Choice(), eps, count, seed=3)
    drawn = np.sort(np.random.default_rng(3).permutation(len(scene.samples))[:count])
    records = [
        [[record(scene, place_of(e), network=n, number=int(i)) for i in drawn] for e in eps]
        for n in (0, 1)
    ]
    values = np.array(
        [[[x["correlation"] for x in line] for line in one] for one in records], float
    )
    everywhere = np.isfinite(values).all((0, 1))
    for n, network in enumerate(scene.networks):
        row = pick(found, "correlation", network.name, 4)
        assert row["n"] == everywhere.sum()
        assert row["value"] == pytest.approx(values[n, 1, everywhere].mean(), nan_ok=True)
        lost = pick(found, "lost", network.name, 4)
        if scene.data.segmentation:
            expected = [x["pixels_changed"] for x in records[n][1]]
        elif scene.data.multi_label:
            expected = [x["answer_after"] != x["answer_before"] for x in records[n][1]]
        else:
            right = [x for x in records[n][1] if x["answer_before"] == x["label"]]
            expected = [x["answer_after"] != x["label"] for x in right]
        assert lost["n"] == len(expected)
        assert lost["value"] == pytest.approx(
            np.mean(expected) if expected else np.nan, nan_ok=True
        )
        assert (lost["low"] is None) == (lost["groups"] < curve.FEW)
    first, second = (pick(found, "correlation", one.name, 4)["value"] for one in scene.networks)
    gain = pick(found, "correlation_difference", "second minus first", 4)["value"]
    assert gain == pytest.approx(second - first, nan_ok=True)
    with pytest.raises(ContractError, match="IMAGES=0: choose 1 or more"):
        curve.rows(scene, Choice(), eps, 0, seed=3)
