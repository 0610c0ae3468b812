"""Maps are the published formulas, find what speaks for a class, and leave no trace."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import Out, noise, small, swin, traces, vit
from segmenters import SIZE, Plain, tissue, trained, untrained
from torch import nn

from medrobust_utils.core.errors import ContractError
from medrobust_utils.core.losses import BACKGROUND
from medrobust_utils.explain.cam_layers import layers
from medrobust_utils.explain.cams import METHODS, Maps, grad_cam
from medrobust_utils.explain.measures import energy_inside, pointing
from medrobust_utils.models.assimilation import build_assimilated
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


def raw_map(method, maps, slopes):
    """Raw map (h, h) of activations and gradients (C, h, h), in doubles, place by place."""
    raw = np.zeros(maps.shape[1:])
    for held, slope in zip(maps.astype(float), slopes.astype(float), strict=True):
        if method == "grad-cam":
            raw += slope.mean() * held
        elif method == "grad-cam++":
            total, weight = held[held > 0].sum(), 0.0
            for g in slope.flat:
                if g > 0:
                    weight += g**2 / (2 * g**2 + total * g**3) * g
            raw += weight * held
        elif method == "hirescam":
            raw += slope * held
        else:
            raw += np.where(slope > 0, slope, 0) * held
    return raw


def by_hand(method, front, behind, images, score):
    """Maps (N, H, H) from 0 to 1; ``score`` picks one number of each image from the logits."""
    held = front(images).detach().requires_grad_()
    (slopes,) = torch.autograd.grad(score(behind(held)), held)
    found = []
    for pair in zip(held.detach().numpy(), slopes.numpy(), strict=True):
        positive = torch.tensor(np.maximum(raw_map(method, *pair), 0))
        large = F.interpolate(positive[None, None], size=SIZE, mode="bilinear")[0, 0]
        found.append(((large - large.min()) / (large.max() - large.min())).numpy())
    return np.stack(found)


def body(*head):
    """Maps of 8 x 8 at layer 1, then more convolutions, so that places differ in gradient."""
    torch.manual_seed(3)
    first = [nn.Conv2d(3, 6, 4, 4), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1), nn.Tanh()]
    return nn.Sequential(*first, *(part() for part in head)).eval()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layer", [0, 1], ids=["before the ReLU", "after it"])
@pytest.mark.parametrize("slope", [30, 1, 1e-4])
def test_every_method_is_the_published_formula(method, layer, slope):
    model = body(lambda: nn.AdaptiveMaxPool2d(2), nn.Flatten, lambda: nn.Linear(32, 4))
    images, parts = noise(SIZE, 4), (model[: layer + 1], model[layer + 1 :])
    with torch.no_grad():
        model[-1].weight *= slope
    wanted = by_hand(method, *parts, images, lambda out: out.diagonal().sum())
    found = grad_cam(model, images, range(4), method=method, layer=str(layer))
    assert found.valid.all() and found.layer == str(layer)
    np.testing.assert_allclose(found.maps, wanted, atol=2e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("own", [True, False], ids=["the model's pixels", "given pixels"])
def test_a_segmentation_is_explained_by_its_logits_over_a_region(method, own):
    model = body(lambda: nn.Upsample(scale_factor=4), lambda: nn.Conv2d(8, 3, 3, padding=1))
    images = noise(SIZE, 3)
    answer = model(images).argmax(1)
    classes = [int(k.flatten().mode().values) for k in answer]
    regions = torch.stack([one == k for one, k in zip(answer, classes, strict=True)])
    if not own:
        regions = torch.zeros(3, SIZE, SIZE, dtype=torch.bool)
        for n, corner in enumerate((0, 8, 16)):
            regions[n, corner : corner + 9, 4:20] = True

    def score(logits):
        return sum(logits[n, k][regions[n]].sum() for n, k in enumerate(classes))

    wanted = by_hand(method, model[:2], model[2:], images, score)
    given = None if own else regions
    found = grad_cam(model, images, classes, method=method, layer="1", regions=given, batch=2)
    assert found.valid.sum() >= 2 and found.classes.tolist() == classes
    np.testing.assert_allclose(found.maps[found.valid], wanted[found.valid], atol=2e-4)


FAMILIES = {
    "resnet": lambda: small("resnet10t"),
    "densenet": lambda: small("densenet121", growth_rate=8, block_config=(1, 1, 1, 1)),
    "swin": swin,
    "vit": vit,
    "attentive": lambda: build_attentive(
        "resnet10t", 7, attention="released", start="scratch", size=64
    ),
    "assimilated": lambda: build_assimilated("resnet10t", 7, colour="conv", start="scratch"),
    "u-net": lambda: trained(3),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_on_offer_gives_a_map_by_every_method(family):
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    images, classes = noise(64, 7, 1 if family == "assimilated" else 3), range(7)
    if family == "u-net":
        images, classes = tissue(3)[0][:7], [0, 1, 2, 0, 1, 2, 0]
    before = traces(model)
    for layer in layers(model, tuple(images.shape[1:])):
        for method in METHODS:
            found = grad_cam(model, images, classes, method=method, layer=layer)
            assert found.valid.any(), (layer, method, found.reasons)
            kept = found.maps[found.valid]
            assert kept.shape[1:] == images.shape[2:] and np.isfinite(kept).all()
            assert kept.min() == 0 and kept.max() == pytest.approx(1, abs=1e-4)
            assert not any("gradient" in reason for reason in found.reasons)
    assert traces(model) == before


def test_behind_the_last_attention_only_the_class_token_counts():
    found = grad_cam(vit(), noise(64, 1), [0], layer="backbone.norm")
    assert found.reasons == ("no gradient reaches the layer",)


def test_batches_and_gray_images_change_nothing():
    model, images = small("resnet10t"), noise(64, 5, channels=1)
    whole = grad_cam(model, images)
    assert (whole.classes == model(images).argmax(1).numpy()).all()
    colour = images.expand(-1, 3, -1, -1).contiguous()
    for other in (grad_cam(model, images, batch=2), grad_cam(model, colour, batch=3)):
        np.testing.assert_allclose(other.maps, whole.maps, atol=1e-4)
        assert (other.classes == whole.classes).all() and other.reasons == whole.reasons


def test_layers_that_write_in_place_do_not_change_the_map():
    found = []
    for inplace in (False, True):
        torch.manual_seed(0)
        first = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.BatchNorm2d(8), nn.ReLU(inplace))
        model = nn.Sequential(first, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
        found.append(grad_cam(model.eval(), noise(64), [0, 1, 2], layer="0.1"))
    assert found[0].valid.any()
    np.testing.assert_array_equal(found[0].maps, found[1].maps)


def test_a_foreign_segmentation_net_is_explained_as_it_would_be_without_its_wrapper():
    images = tissue(3)[0][:5]
    plain = grad_cam(trained(3), images)
    foreign = grad_cam(Plain(Out(trained(3))).eval(), images, batch=2)
    assert foreign.layer == "net.net.backbone.down.2" and foreign.reasons == plain.reasons
    np.testing.assert_allclose(foreign.maps, plain.maps, atol=1e-4)


class Faulty(nn.Module):
    """Overflows on images whose first pixel is white."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.eval()

    def forward(self, images):
        logits = self.net(images)
        white = images[:, 0, 0, 0] == 1
        return logits.masked_fill(white.view(-1, *[1] * (logits.ndim - 1)), torch.inf)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("method", METHODS)
def test_maps_that_say_nothing_are_reported_and_not_kept(patches, method):
    images, _ = patches
    images = torch.cat([images, torch.full((1, 3, 64, 64), 0.5)])
    images[1, 0, 0, 0] = 1
    found = grad_cam(Faulty(Colours()), images, [0, 0, 0], method=method)
    assert found.valid.tolist() == [True, False, False]
    assert [reason.split(":")[0] for reason in found.reasons] == ["", "not finite", "constant"]
    assert np.isnan(found.maps[1:]).all() and np.isfinite(found.maps[0]).all()
    contrary = Colours(head=((-1.0, 0.0), (0.0, 1.0)))
    against = grad_cam(contrary, images[:1], [0], method=method)
    assert against.reasons[0].startswith("empty")
    images = tissue(3)[0][:2].clone()
    images[0, 0, 0, 0] = 1
    found = grad_cam(Faulty(trained(3)), images, [0, 0], method=method)
    assert found.valid.tolist() == [False, True]


def leaning(*bias):
    """A U-Net as it begins, whose logits lean to some classes."""
    model = untrained(len(bias))
    with torch.no_grad():
        model.backbone.head.bias += torch.tensor(bias)
    return model


@pytest.mark.parametrize("method", METHODS)
def test_a_class_without_a_pixel_has_no_map(method):
    images, model = tissue(3)[0][:2], leaning(0.0, 0.0, 50.0)
    found = grad_cam(model, images, [1, 2], method=method)
    assert found.reasons == ("no pixel is given to the class", "")
    assert np.isnan(found.maps[0]).all() and np.isfinite(found.maps[1]).all()
    regions = np.ones((2, SIZE, SIZE), bool)
    regions[1] = False
    found = grad_cam(model, images, [1, 2], method=method, regions=regions)
    assert found.reasons == ("", "the region holds no pixel")


def test_without_a_class_the_most_frequent_one_beside_the_background_is_explained():
    images = tissue(3)[0][:6]
    answer = trained(3)(images).argmax(1)
    wanted = [max((1, 2), key=lambda k, one=one: int((one == k).sum())) for one in answer]
    assert any(int((one == BACKGROUND).sum()) > SIZE**2 / 2 for one in answer)
    assert grad_cam(trained(3), images).classes.tolist() == wanted
    assert grad_cam(leaning(50.0, 0.0, 0.0), images).classes.tolist() == [BACKGROUND] * 6
    assert grad_cam(leaning(0.0, 0.0, 50.0), images).classes.tolist() == [2] * 6


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
    ("maps", "change", "message"),
    [
        (False, dict(classes=[0]), "1 classes for 2 images"),
        (False, dict(classes=[0, 2]), "class 2 of a model with 2 logit"),
        (False, dict(method="scorecam"), "'scorecam': choose grad-cam, grad-cam\\+\\+, hirescam"),
        (False, dict(layer="head"), "no square map"),
        (False, dict(regions=np.ones((2, 64, 64), bool)), "not \\(N, K\\) or, for reg"),
        (False, dict(model=nn.Sequential(Colours(), nn.Softmax(1)).eval()), "probabilities"),
        (True, dict(regions=np.ones((1, SIZE, SIZE), bool)), "\\(1, 32, 32\\) for 2 images"),
        (True, dict(regions=np.ones((2, SIZE, SIZE))), "float64 .* expected bool"),
        (True, dict(regions=torch.ones(2, 16, 16, dtype=torch.bool)), "\\(16, 16\\) pixels"),
        (True, dict(classes=[0, 3]), "class 3 of a model with 3 logit"),
        (True, dict(model=nn.Sequential(untrained(3), nn.Softmax(1)).eval()), "probabilities"),
    ],
)
def test_misuse_is_explained(patches, maps, change, message):
    call = dict(model=Colours(), images=patches[0], classes=None)
    if maps:
        call = dict(model=untrained(3), images=tissue(3)[0][:2], classes=[1, 1])
    with pytest.raises(ContractError, match=message):
        grad_cam(**(call | change))


def test_the_figure_never_draws_an_invalid_map(patches):
    images, masks = patches
    maps = grad_cam(Colours(), images, [0, 0])
    half = maps.maps * [[[1]], [[np.nan]]]
    broken = Maps(half, np.array([True, False]), ("", "empty: none"), maps.classes, maps.layer)
    columns = {"picture": images, "map": maps, "broken": broken}
    figure = image_plots.explanations(images, columns, labels=["one", "two"], masks=masks[0])
    cells = np.array(figure.axes[:8]).reshape(2, 4)
    pictures = [[len(axis.images) for axis in row] for row in cells]
    assert pictures == [[1, 1, 2, 2], [1, 1, 2, 0]]
    (text,) = cells[1, 3].texts
    assert "no map: empty: none" in text.get_text().replace("\n", " ")
    with pytest.raises(ContractError, match="'map': 2"):
        image_plots.explanations(images[:1], {"map": maps})
