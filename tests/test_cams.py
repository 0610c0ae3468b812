"""Grad-CAM finds what speaks for a class, in every kind of network, and leaves no trace."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import noise, small, swin, traces, vit
from torch import nn

from medrobust_utils.core.errors import ContractError
from medrobust_utils.explain.cam_layers import target_layer
from medrobust_utils.explain.cams import METHODS, Maps, grad_cam
from medrobust_utils.explain.measures import energy_inside, pointing
from medrobust_utils.models.attentive import build_attentive
from medrobust_utils.plots import images as image_plots


class Colours(nn.Module):
    """Knows red patches from blue ones: class 0 is the mean of red, class 1 of blue."""

    def __init__(self, head=((1.0, 0.0), (0.0, 1.0))):
        super().__init__()
        self.look = nn.Conv2d(3, 2, 8, stride=8, bias=False)
        with torch.no_grad():
            self.look.weight.zero_()
            self.look.weight[0, 0] = self.look.weight[1, 2] = 1 / 64
        self.head = nn.Linear(2, len(head), bias=False)
        self.head.weight.data = torch.tensor(head)
        self.eval()

    def forward(self, images):
        return self.head(self.look(images).mean((2, 3)))


@pytest.fixture
def patches():
    """Two gray images with a red and a blue patch, and the patches' masks."""
    images = torch.full((2, 3, 64, 64), 0.1)
    masks = np.zeros((2, 2, 64, 64), bool)  # colour, image
    for image, (red, blue) in enumerate((((8, 40), (40, 16)), ((48, 8), (16, 40)))):
        for colour, (y, x) in enumerate((red, blue)):
            images[image, 2 * colour, y : y + 8, x : x + 8] = 0.9
            masks[colour, image, y : y + 8, x : x + 8] = True
    return images, masks


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("colour", [0, 1])
def test_the_planted_patch_is_found_for_its_own_class(patches, colour, method):
    images, masks = patches
    found = grad_cam(Colours(), images, [colour] * 2, method=method)
    assert found.valid.all() and found.layer == "look"
    assert found.maps.dtype == np.float32 and found.maps.shape == (2, 64, 64)
    assert (pointing(found.maps, masks[colour]) == 1).all()
    assert (energy_inside(found.maps, masks[colour]) > 0.3).all()  # 1.6 % of the image
    assert (energy_inside(found.maps, masks[1 - colour]) < 0.01).all()


def test_a_single_logit_speaks_for_one_class_and_against_the_other(patches):
    images, masks = patches
    model = Colours(head=((1.0, -1.0),))
    for label, colour in ((1, 0), (0, 1)):
        maps = grad_cam(model, images, [label] * 2).maps
        assert (pointing(maps, masks[colour]) == 1).all()
    images[0, 0] += 0.1  # more red: class 1
    images[1, 2] += 0.1
    assert grad_cam(model, images).classes.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("build", "size", "layer"),
    [
        (lambda: small("resnet10t"), 96, "backbone.layer4"),
        (lambda: small("resnet10t"), 64, "backbone.layer3"),  # the last map is 2 x 2
        (
            lambda: small("densenet121", growth_rate=8, block_config=(1, 1, 1, 1)),
            96,
            "backbone.features",
        ),
        (swin, 64, "backbone.layers.2"),
        (vit, 64, "backbone.blocks.1.norm1"),
        (lambda: vit(global_pool="avg", class_token=False), 64, "backbone.norm"),
    ],
    ids=["resnet", "resnet at 64", "densenet", "swin", "vit", "vit without token"],
)
def test_every_family_gives_maps_of_the_image_size(build, size, layer):
    model = build()
    assert target_layer(model, (3, size, size)) == layer
    images = noise(size, 1)
    found = [grad_cam(model, images, [k]) for k in range(3)]
    assert all(one.maps.shape == (1, size, size) and one.layer == layer for one in found)
    valid = np.concatenate([one.maps[one.valid] for one in found])
    assert len(valid) and np.isfinite(valid).all()
    assert valid.min() == 0 and valid.max() == pytest.approx(1, abs=1e-4)


def test_attention_weights_are_not_taken_for_a_map():
    model = swin()
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # the weights, 4 x 4 here, then pass through a module
    assert target_layer(model, (3, 64, 64)) == "backbone.layers.2"


@pytest.mark.parametrize("attention", ["none", "released", "intended"])
def test_the_attentive_network_is_explained_before_its_attention(attention):
    torch.manual_seed(0)
    model = build_attentive("resnet10t", 7, attention=attention, start="scratch", size=96).eval()
    found = grad_cam(model, noise(96, 7), range(7))
    assert found.layer == "backbone.trunk" and found.valid.any()
    assert not any("gradient" in reason for reason in found.reasons)


def test_behind_the_last_attention_only_the_class_token_counts():
    found = grad_cam(vit(), noise(64, 1), [0], layer="backbone.norm")
    assert found.reasons == ("no gradient reaches the layer",)


def test_it_is_the_published_formula():
    model, images, classes = small("resnet10t"), noise(128, 7), torch.arange(7)
    kept = {}
    hook = model.backbone.layer4.register_forward_hook(lambda m, i, out: kept.update(map=out))
    logits = model(images)
    hook.remove()
    (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), kept["map"])
    raw = F.relu((gradient.mean((2, 3), keepdim=True) * kept["map"]).sum(1, keepdim=True)).detach()
    raw -= raw.amin((2, 3), keepdim=True)
    raw /= raw.amax((2, 3), keepdim=True)
    expected = F.interpolate(raw, size=128, mode="bilinear")[:, 0]
    expected -= expected.amin((1, 2), keepdim=True)  # enlarging can miss both ends
    expected /= expected.amax((1, 2), keepdim=True)
    found = grad_cam(model, images, classes, layer="backbone.layer4")
    assert found.valid.sum() >= 2
    keep = np.flatnonzero(found.valid)
    np.testing.assert_allclose(found.maps[keep], expected.numpy()[keep], atol=1e-4)


def test_batches_and_gray_images_change_nothing():
    model, images = small("resnet10t"), noise(64, 5, channels=1)
    whole = grad_cam(model, images)
    parts = grad_cam(model, images, batch=2)
    colour = grad_cam(model, images.expand(-1, 3, -1, -1).contiguous(), batch=3)
    assert (whole.classes == model(images).argmax(1).numpy()).all()
    for other in (parts, colour):
        np.testing.assert_allclose(other.maps, whole.maps, atol=1e-4)
        assert (other.classes == whole.classes).all() and other.reasons == whole.reasons


def test_layers_that_write_in_place_do_not_change_the_map():
    def net(inplace):
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.BatchNorm2d(8), nn.ReLU(inplace))
        return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()

    plain, inplace = (
        grad_cam(net(flag), noise(64), [0, 1, 2], layer="0.1") for flag in (False, True)
    )
    assert plain.valid.any()
    np.testing.assert_array_equal(plain.maps, inplace.maps)


class Faulty(Colours):
    """Overflows on images whose first pixel is white."""

    def forward(self, images):
        out = self.look(images)
        return self.head((out / (images[:, :1, :1, :1] < 1)).mean((2, 3)))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("method", METHODS)
def test_maps_that_say_nothing_are_reported_and_not_kept(patches, method):
    images, _ = patches
    images = torch.cat([images, torch.full((1, 3, 64, 64), 0.5)])
    images[1, 0, 0, 0] = 1
    found = grad_cam(Faulty(), images, [0, 0, 0], method=method)
    assert found.valid.tolist() == [True, False, False]
    assert [reason.split(":")[0] for reason in found.reasons] == ["", "not finite", "constant"]
    assert np.isnan(found.maps[1:]).all() and np.isfinite(found.maps[0]).all()
    contrary = Colours(head=((-1.0, 0.0), (0.0, 1.0)))
    against = grad_cam(contrary, images[:1], [0], method=method)
    assert against.reasons[0].startswith("empty")


def test_the_model_is_left_as_it_was_even_after_an_error():
    model = small("resnet10t")
    model(noise(64)).sum().backward()
    model.backbone.conv1.requires_grad_(False)
    before = traces(model)
    grad_cam(model, noise(64))
    assert traces(model) == before
    with pytest.raises(ContractError, match="class 9"):
        grad_cam(model, noise(64), [0, 1, 9])
    assert traces(model) == before
    model.backbone.fc.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ContractError, match="ZeroDivisionError"):
        grad_cam(model, noise(64), layer="backbone.layer3")
    assert traces(model) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(classes=[0]), "1 classes for 2 images"),
        (dict(classes=[0, 2]), "class 2 of a model with 2 logit"),
        (dict(method="scorecam"), "'scorecam': choose grad-cam, grad-cam\\+\\+, hirescam"),
        (dict(layer="head"), "no square map"),
        (dict(images=torch.rand(2, 3, 64, 32)), "64 x 32; only square"),
        (dict(regions=np.ones((2, 64, 64), bool)), "2 dimensions, not \\(N, K\\) or, for reg"),
        (dict(model=nn.Sequential(Colours(), nn.Softmax(1)).eval()), "probabilities"),
        (dict(model=nn.Sequential(nn.Flatten(), nn.Linear(12288, 2)).eval()), "no layer of this"),
    ],
)
def test_misuse_is_explained(patches, change, message):
    call = dict(model=Colours(), images=patches[0], classes=None) | change
    with pytest.raises(ContractError, match=message):
        grad_cam(**call)


def test_the_figure_never_draws_an_invalid_map(patches):
    images, masks = patches
    maps = grad_cam(Colours(), images, [0, 0])
    broken = Maps(
        maps.maps * [[[1]], [[np.nan]]],
        np.array([True, False]),
        ("", "empty: none"),
        maps.classes,
        maps.layer,
    )
    columns = {"picture": images, "map": maps, "broken": broken}
    figure = image_plots.explanations(images, columns, labels=["one", "two"], masks=masks[0])
    cells = np.array(figure.axes[:8]).reshape(2, 4)
    pictures = [[len(axis.images) for axis in row] for row in cells]
    assert pictures == [[1, 1, 2, 2], [1, 1, 2, 0]]
    (text,) = cells[1, 3].texts
    assert "no map: empty: none" in text.get_text().replace("\n", " ")
    with pytest.raises(ContractError, match="'map': 2"):
        image_plots.explanations(images[:1], {"map": maps})
