"""Each method's map against the published formula, written out by hand, and for label maps too."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import Out, noise, small, swin, traces
from segmenters import Plain, tissue, trained, untrained
from torch import nn

from medrobust_utils.core.errors import ContractError
from medrobust_utils.core.losses import BACKGROUND
from medrobust_utils.explain.cam_layers import layers
from medrobust_utils.explain.cams import METHODS, grad_cam
from medrobust_utils.models.assimilation import build_assimilated
from medrobust_utils.models.attentive import build_attentive

SIZE = 32


def by_hand(method, maps, slopes):
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


def drawn(raw, size=SIZE):
    """A raw map as it is handed out: positive part, enlarged, from 0 to 1."""
    positive = np.maximum(raw, 0)
    large = F.interpolate(torch.tensor(positive)[None, None], size=size, mode="bilinear")[0, 0]
    return ((large - large.min()) / (large.max() - large.min())).numpy()


def expected(method, front, behind, images, score):
    """Maps (N, H, H) by hand; ``score`` picks one number of each image from the logits."""
    held = front(images).detach().requires_grad_()
    (slopes,) = torch.autograd.grad(score(behind(held)), held)
    pairs = zip(held.detach().numpy(), slopes.numpy(), strict=True)
    return np.stack([drawn(by_hand(method, *pair)) for pair in pairs])


def body(*head):
    """Maps of 8 x 8 at layer 1, then more convolutions, so that places differ in gradient."""
    torch.manual_seed(3)
    first = [nn.Conv2d(3, 6, 4, 4), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1), nn.Tanh()]
    return nn.Sequential(*first, *(part() for part in head)).eval()


def classifier():
    return body(lambda: nn.AdaptiveMaxPool2d(2), nn.Flatten, lambda: nn.Linear(32, 4))


def segmenter():
    return body(lambda: nn.Upsample(scale_factor=4), lambda: nn.Conv2d(8, 3, 3, padding=1))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layer", [0, 1], ids=["before the ReLU", "after it"])
@pytest.mark.parametrize("slope", [30, 1, 1e-4])
def test_every_method_is_the_published_formula(method, layer, slope):
    model, images = classifier(), noise(SIZE, 4)
    with torch.no_grad():
        model[-1].weight *= slope
    wanted = expected(
        method, model[: layer + 1], model[layer + 1 :], images, lambda out: out.diagonal().sum()
    )
    found = grad_cam(model, images, range(4), method=method, layer=str(layer))
    assert found.valid.all() and found.layer == str(layer)
    np.testing.assert_allclose(found.maps, wanted, atol=2e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("own", [True, False], ids=["the model's pixels", "given pixels"])
def test_a_segmentation_is_explained_by_its_logits_over_a_region(method, own):
    model, images = segmenter(), noise(SIZE, 3)
    answer = model(images).argmax(1)
    classes = [int(k.flatten().mode().values) for k in answer]
    regions = torch.stack([one == k for one, k in zip(answer, classes, strict=True)])
    if not own:
        regions = torch.zeros(3, SIZE, SIZE, dtype=torch.bool)
        for n, corner in enumerate((0, 8, 16)):
            regions[n, corner : corner + 9, 4:20] = True

    def score(logits):
        return sum(logits[n, k][regions[n]].sum() for n, k in enumerate(classes))

    wanted = expected(method, model[:2], model[2:], images, score)
    given = None if own else regions
    found = grad_cam(model, images, classes, method=method, layer="1", regions=given, batch=2)
    assert found.valid.sum() >= 2 and found.classes.tolist() == classes
    np.testing.assert_allclose(found.maps[found.valid], wanted[found.valid], atol=2e-4)


def test_where_the_head_averages_place_by_place_is_the_same():
    """Draelos and Carin 2020, section 3: there HiResCAM is Grad-CAM."""
    model, images = small("resnet10t"), noise(96, 7)
    one, other = (grad_cam(model, images, range(7), method=m) for m in ("grad-cam", "hirescam"))
    assert one.valid.sum() >= 2 and one.reasons == other.reasons
    np.testing.assert_allclose(one.maps, other.maps, atol=1e-4)
    early = [
        grad_cam(model, images, range(7), method=m, layer="backbone.layer2").maps
        for m in ("grad-cam", "hirescam")
    ]
    assert np.nanmax(np.abs(early[0] - early[1])) > 0.1


def attentive():
    return build_attentive("resnet10t", 7, attention="released", start="scratch", size=64)


@pytest.mark.parametrize(
    ("build", "channels", "size"),
    [
        (lambda: small("resnet10t"), 3, 64),
        (swin, 3, 64),
        (attentive, 3, 64),
        (lambda: build_assimilated("resnet10t", 7, colour="conv", start="scratch"), 1, 64),
        (lambda: trained(3), 3, SIZE),
    ],
    ids=["resnet", "swin", "attentive", "assimilated", "u-net"],
)
def test_every_layer_on_offer_gives_a_map_by_every_method(build, channels, size):
    torch.manual_seed(0)
    model = build().eval()
    images = noise(size, 7, channels) if size != SIZE else tissue(3)[0][:7]
    classes = range(7) if size != SIZE else [0, 1, 2, 0, 1, 2, 0]
    before = traces(model)
    for layer in layers(model, (channels, size, size)):
        for method in METHODS:
            found = grad_cam(model, images, classes, method=method, layer=layer)
            assert found.valid.any(), (layer, method, found.reasons)
            kept = found.maps[found.valid]
            assert kept.shape[1:] == (size, size) and np.isfinite(kept).all()
            assert kept.min() == 0 and kept.max() == pytest.approx(1, abs=1e-4)
            assert not any("gradient" in reason for reason in found.reasons)
    assert traces(model) == before


@pytest.mark.filterwarnings("error")
def test_only_the_region_counts():
    """Behind the last convolution of one pixel, a place outside of it has no gradient."""
    images, _ = tissue(3)
    region = np.zeros((2, SIZE, SIZE), bool)
    region[0, 4:12, 4:12] = region[1, 20:30, 10:14] = True
    region.flags.writeable = False
    for classes in ([1, 1], [2, 2]):
        maps = grad_cam(
            trained(3),
            images[:2],
            classes,
            regions=region,
            layer="backbone.merge.1",
            method="layercam",
        ).maps
        assert (maps[~region] == 0).all() and maps[0].max() > 0.99 and maps[1].max() > 0.99


def leaning(*bias):
    """A U-Net as it begins, whose logits lean to some classes."""
    model = untrained(len(bias))
    with torch.no_grad():
        model.backbone.head.bias += torch.tensor(bias)
    return model


def test_without_a_class_the_most_frequent_one_beside_the_background_is_explained():
    images = tissue(3)[0][:6]
    answer = trained(3)(images).argmax(1)
    wanted = [max((1, 2), key=lambda k, one=one: int((one == k).sum())) for one in answer]
    assert any(int((one == BACKGROUND).sum()) > SIZE**2 / 2 for one in answer)
    assert grad_cam(trained(3), images).classes.tolist() == wanted
    assert grad_cam(leaning(50.0, 0.0, 0.0), images).classes.tolist() == [BACKGROUND] * 6
    assert grad_cam(leaning(0.0, 0.0, 50.0), images).classes.tolist() == [2] * 6


@pytest.mark.parametrize("method", METHODS)
def test_a_class_without_a_pixel_has_no_map(method):
    images = tissue(3)[0][:2]
    found = grad_cam(leaning(0.0, 0.0, 50.0), images, [1, 2], method=method)
    assert found.reasons == ("no pixel is given to the class", "")
    assert np.isnan(found.maps[0]).all() and np.isfinite(found.maps[1]).all()
    regions = np.ones((2, SIZE, SIZE), bool)
    regions[1] = False
    found = grad_cam(leaning(0.0, 0.0, 50.0), images, [1, 2], method=method, regions=regions)
    assert found.reasons == ("", "the region holds no pixel")


class Faulty(nn.Module):
    """A U-Net that overflows in one corner of images whose first pixel is white."""

    def __init__(self):
        super().__init__()
        self.net = trained(3)

    def forward(self, images):
        logits = self.net(images)
        corner = torch.zeros_like(logits)
        corner[:, :, 0, 0] = torch.where(images[:, :1, 0, 0] < 1, 0.0, torch.inf)
        return logits + corner


@pytest.mark.filterwarnings("error")
def test_an_overflow_on_one_image_does_not_touch_another():
    images = tissue(3)[0][:2].clone()
    images[0, 0, 0, 0] = 1
    found = grad_cam(Faulty().eval(), images, [0, 0])
    usual = grad_cam(trained(3), images, [0, 0])
    assert usual.valid.all()
    assert [reason.split(":")[0] for reason in found.reasons] == ["not finite", ""]
    np.testing.assert_allclose(found.maps[1], usual.maps[1], atol=1e-4)


def test_a_foreign_segmentation_net_and_any_batch():
    images = tissue(3)[0][:5]
    plain = grad_cam(trained(3), images)

    foreign = grad_cam(Plain(Out(trained(3))).eval(), images, batch=2)
    assert foreign.layer == "net.net.backbone.down.2" and foreign.reasons == plain.reasons
    np.testing.assert_allclose(foreign.maps, plain.maps, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(regions=np.ones((1, SIZE, SIZE), bool)), "\\(1, 32, 32\\) for 2 images"),
        (dict(regions=np.ones((2, SIZE, SIZE))), "float64 .* expected bool"),
        (dict(regions=torch.ones(2, 16, 16, dtype=torch.bool)), "\\(16, 16\\) pixels"),
        (dict(classes=[0, 3]), "class 3 of a model with 3 logit"),
        (dict(model=nn.Sequential(untrained(3), nn.Softmax(1)).eval()), "probabilities"),
    ],
)
def test_misuse_of_a_segmentation_is_explained(change, message):
    call = dict(model=untrained(3), images=tissue(3)[0][:2], classes=[1, 1]) | change
    with pytest.raises(ContractError, match=message):
        grad_cam(**call)
