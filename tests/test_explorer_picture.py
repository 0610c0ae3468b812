"""The explorer's figures: readable, complete, and safe to draw whatever a file is called."""

import io
import itertools
import warnings
from dataclasses import replace

import numpy as np
import pytest
import scenes
import torch
from IPython.core.formatters import DisplayFormatter
from matplotlib.image import AxesImage
from matplotlib.text import Text
from PIL import Image

from medrobust_utils.core.errors import ContractError
from medrobust_utils.explain.perturbations import to_be_seen
from medrobust_utils.explorer import picture, twin
from medrobust_utils.explorer.look import Choice, Memory, Seen, look
from medrobust_utils.explorer.scene import Network
from medrobust_utils.models import digest

HOSTILE = (
    "$\\frac{$ 100$ %s {0}",
    "<script>alert('x')</script>.png",
    "\u540d\u524d \U0001f600 \u202egnp.exe",
    "line\nbreak\ttab\x00\x07.png",
    "x" * 500,
)
every_scene = pytest.mark.parametrize("make", scenes.SCENES)
MEMORY = Memory()


def seen(make, eps=4.0, number=0, sample=None, **choice):
    scene = make()
    choice = Choice(**({"attack": "pgd", "eps_255": eps} | choice))
    sample = sample or scene.sample(number)
    return [look(scene, network, sample, choice, memory=MEMORY) for network in scene.networks]


def words(figure):
    return [one for one in figure.findobj(Text) if one.get_visible() and one.get_text().strip()]


def told(figure):
    return "\n".join(one.get_text() for one in words(figure))


def check_readable(figure):
    """No text is small, leaves the figure or lies on another."""
    renderer = figure.canvas.get_renderer()
    figure.draw(renderer)
    whole = figure.bbox.padded(0.5)
    boxes = [(one, one.get_window_extent(renderer)) for one in words(figure)]
    for one, box in boxes:
        assert one.get_fontsize() >= 8, one.get_text()
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1, one.get_text()
        assert whole.y0 <= box.y0 and box.y1 <= whole.y1, one.get_text()
    for (one, a), (two, b) in itertools.combinations(boxes, 2):
        wide = min(a.x1, b.x1) - max(a.x0, b.x0)
        high = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert wide <= 1 or high <= 2, (one.get_text(), two.get_text())


@every_scene
@pytest.mark.parametrize("eps", [0, 0.0625, 16])
def test_a_picture_is_readable(make, eps):
    check_readable(picture.draw(seen(make, eps)))


@every_scene
def test_one_block_a_network(make):
    both = seen(make)
    for shown in (both, both[:1]):
        png = picture.encode(picture.draw(shown))
        found = Image.open(io.BytesIO(png))
        assert found.format == "PNG" and found.size == (620 * len(shown), 530)
        pixels = np.asarray(found.convert("L"))
        for place in range(len(shown)):
            assert pixels[:, 620 * place : 620 * place + 620].std() > 20, "an empty block"
    names = [one.record["network"] for one in both]
    text = told(picture.draw(both))
    assert all(name in text for name in names)


def test_the_picture_says_what_happened():
    (one, _) = seen(scenes.single_label, 4)
    numbers, text = one.record, told(picture.draw([one]))
    values = [numbers[f"probabilities_{k}"] for k in ("before", "after")]
    first, second = numbers["answer_before"], numbers["answer_after"]
    assert first != second
    assert f"says {first} {values[0][first]:.2f} → {second} {values[1][second]:.2f}" in text
    assert "PGD, 10 steps, eps 4/255" in text and "attacked, eps 4/255" in text
    assert "the change, × 32" in text
    assert f"SSIM {numbers['similarity']:.2f}, correlation {numbers['correlation']:.2f}" in text
    assert f"{numbers['inside_after']:.2f} of it on the finding" in text
    assert f"white dashes: finding, {numbers['mask_share']:.2f} of the image" in text
    assert f"a phantom, label: {numbers['label']}" in text
    assert f"grad-cam at {numbers['layer']}" in text


def test_without_an_attack_nothing_is_said_to_have_changed():
    text = told(picture.draw(seen(scenes.single_label, 0)))
    assert "→" not in text and "no change" in text and "no attack" in text


def test_findings_are_found_and_pixels_are_given():
    assert "finds " in told(picture.draw(seen(scenes.multi_label)))
    one, _ = seen(scenes.segmentation, target="neoplastic")
    text, numbers = told(picture.draw([one])), one.record
    shares = [numbers[f"probabilities_{k}"]["neoplastic"] for k in ("before", "after")]
    assert f"gives {shares[0]:.2f} → {shares[1]:.2f} of the pixels to neoplastic" in text
    assert f"image: Dice {numbers['dice_before']:.2f}" in text
    assert f"attacked: Dice {numbers['dice_after']:.2f}" in text
    assert "orange line: the network's area" in text and "white dashes: label" in text


def test_the_pictures_are_those_that_were_looked_at():
    (one, _) = seen(scenes.single_label, 4)
    shown = [axis.findobj(AxesImage) for axis in picture.draw([one]).axes]
    shown = [[np.asarray(image.get_array()) for image in images] for images in shown if images]
    assert len(shown) == 5
    expected = (one.image, one.attacked, to_be_seen(one.change[None])[0])
    for found, wanted in zip(shown, expected, strict=False):
        assert np.allclose(found[0], wanted.transpose(1, 2, 0))
    for found, maps in zip(shown[3:], (one.before, one.after), strict=True):
        assert np.array_equal(found[1], maps.maps[0])


def test_a_missing_map_is_a_reason():
    scene = scenes.single_label()
    model = scenes.plain_net(7).eval()
    torch.nn.init.constant_(model.backbone[-1].weight, -1)
    gloomy = replace(scene, networks=(Network("gloomy", model, digest(model)),))
    figure = picture.draw(seen(lambda: gloomy))
    assert told(figure).replace("\n", " ").count("no map: empty: nothing speaks for the class") == 2
    assert "SSIM" not in told(figure)
    check_readable(figure)
    figure, _ = twin.grid(gloomy, gloomy.sample(0), Choice(), (0, 2), MEMORY)
    check_readable(figure)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_may_be_called_anything(name):
    make = scenes.multi_label
    scene = make()
    sample = replace(scene.sample(0), name=name, label=None, mask=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shown = seen(make, 2, sample=sample)
        figure = picture.draw(shown)
        picture.encode(figure)
        static, records = twin.grid(scene, sample, Choice(), (2,), MEMORY)
        picture.encode(static)
    for one in (figure, static):
        check_readable(one)
        assert "no label" in told(one) and "a phantom" not in told(one), "an upload is no phantom"
        assert "the network knows phantoms only" in told(one)
    assert records[0]["image"] == name


def test_long_names_of_networks_and_layers_are_cut():
    one, two = seen(scenes.single_label)
    long = {"network": "network " * 30, "layer": "backbone.layer." * 20, "label": "finding " * 40}
    figure = picture.draw([Seen(**(vars(x) | {"record": x.record | long})) for x in (one, two)])
    check_readable(figure)


def test_a_notebook_shows_the_figure_before_pyplot_has_drawn_any():
    formats = DisplayFormatter()  # of a notebook in which nobody has asked for a backend
    figure = picture.draw(seen(scenes.single_label))
    content, _ = formats.format(figure)
    assert content["image/png"] == picture.encode(figure)


def test_nothing_to_draw_is_refused():
    with pytest.raises(ContractError, match="choose a network"):
        picture.draw([])
    scene = scenes.single_label()
    with pytest.raises(ContractError, match="no eps"):
        twin.grid(scene, scene.sample(0), Choice(), (), MEMORY)


@pytest.mark.parametrize(
    ("make", "radii"),
    [
        (scenes.single_label, (0,)),
        (scenes.segmentation, (0, 2)),
        (scenes.multi_label, (0, 0.5, 1, 2, 4, 8)),
        (scenes.segmentation, (0.5, 1, 2, 4, 8, 16)),
    ],
)
def test_the_twin_has_a_column_an_eps_and_two_rows_a_network(make, radii):
    scene = make()
    figure, records = twin.grid(scene, scene.sample(1), Choice(), radii, MEMORY)
    assert len(figure.axes) == 2 * len(scene.networks) * len(radii)
    expected = [(network.name, eps) for network in scene.networks for eps in radii]
    assert [(one["network"], one["eps_255"]) for one in records] == expected
    assert [a.get_title() for a in figure.axes if a.get_title()] == [
        f"eps {eps:g}/255" for eps in radii
    ]
    check_readable(figure)
    png = Image.open(io.BytesIO(picture.encode(figure)))
    assert png.width == 1000
    assert "a phantom" in told(figure)
