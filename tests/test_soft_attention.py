"""Soft attention against plain loops that follow the released layer and the paper step by step."""

import math

import numpy as np
import pytest
import torch

from medrobust_utils.core.errors import ContractError
from medrobust_utils.models import SoftAttention


def same_padding(size, kernel, stride):
    """TensorFlow's "same": zeros before and after, the odd one after."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def convolve_3d(volume, kernel, strides):
    """Cross-correlation of (A, B, C) with a kernel (a, b, c, heads), "same", tap by tap."""
    pads = [
        same_padding(*three) for three in zip(volume.shape, kernel.shape, strides, strict=False)
    ]
    padded = np.pad(volume, pads)
    shape = [math.ceil(n / s) for n, s in zip(volume.shape, strides, strict=True)]
    out = np.zeros((*shape, kernel.shape[3]))
    for place in np.ndindex(*shape):
        for tap in np.ndindex(*kernel.shape[:3]):
            where = tuple(p * s + t for p, s, t in zip(place, strides, tap, strict=True))
            out[place] += padded[where] * kernel[tap]
    return out


def convolve_2d(volume, kernel):
    """Cross-correlation of (H, W, C) with a kernel (3, 3, C, heads), zeros around, tap by tap."""
    h, w, _ = volume.shape
    out = np.zeros((h, w, kernel.shape[3]))
    padded = np.pad(volume, ((1, 1), (1, 1), (0, 0)))
    for i, j in np.ndindex(h, w):
        for tap in np.ndindex(*kernel.shape[:3]):
            out[i, j] += padded[i + tap[0], j + tap[1], tap[2]] * kernel[tap]
    return out


def reference(x, layer):
    """Weighted map and 16 maps of one image (C, H, W), in numpy."""
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    volume = x.numpy().transpose(1, 2, 0).astype("f8")  # H, W, C as in TensorFlow
    h, w, channels = volume.shape
    if layer.form == "released":
        kernel = weight.transpose(2, 3, 1, 0)  # (C, 3, 3, heads) over H, W, C
        assert kernel.shape == (channels, 3, 3, 16)
        scores = convolve_3d(volume, kernel, (1, 1, channels))
        assert scores.shape == (h, w, 1, 16)  # the stride leaves one place along the channels
        scores = scores[:, :, 0]
    else:
        scores = convolve_2d(volume, weight.transpose(2, 3, 1, 0))
    scores = np.maximum(scores + bias, 0).reshape(h * w, 16)
    maps = np.zeros_like(scores)
    for head in range(16):
        powers = np.exp(scores[:, head] - scores[:, head].max())
        maps[:, head] = powers / powers.sum()
    maps = maps.reshape(h, w, 16)
    weighted = volume * maps.sum(2)[:, :, None]
    return weighted.transpose(2, 0, 1), maps.transpose(2, 0, 1)


def layer_and_input(channels, height, width, form, **options):
    torch.manual_seed(1)
    layer = SoftAttention(channels, form, **options)
    torch.nn.init.uniform_(layer.bias, -0.3, 0.3)
    # 8 times wider weights than at the start: maps far from flat
    layer.weight.data.mul_(8)
    return layer, torch.randn(2, channels, height, width)


@pytest.mark.parametrize("shape", [(12, 5, 4), (13, 6, 3), (8, 4, 7), (6, 1, 1)], ids=str)
@pytest.mark.parametrize("form", ["released", "intended"])
def test_the_layer_is_the_plain_loop(form, shape):
    layer, x = layer_and_input(*shape, form)
    weighted, maps = layer(x)
    for image in range(2):
        expected, expected_maps = reference(x[image], layer)
        np.testing.assert_allclose(maps[image].detach(), expected_maps, atol=1e-5)
        np.testing.assert_allclose(weighted[image].detach(), expected, atol=1e-5)
    if shape[1] > 1:
        assert maps.amax() > 1.5 * maps.mean()  # or a flat map would pass as well


def test_the_released_layer_at_the_size_of_resnet50():
    layer, x = layer_and_input(2048, 7, 7, "released")
    layer.weight.data.mul_(4)
    kernel = layer.weight.detach().numpy().transpose(2, 3, 1, 0)
    volume = x[0].numpy().transpose(1, 2, 0)
    before = same_padding(7, 2048, 1)[0]
    scores = np.zeros((7, 7, 16))
    for i, j, row, b, c in np.ndindex(7, 7, 7, 3, 3):
        column = j + b - 1  # the tap that meets ``row`` from place ``i`` is row - i + before
        if 0 <= column < 7:
            scores[i, j] += volume[row, column, c] * kernel[row - i + before, b, c]
    powers = np.exp(np.maximum(scores + layer.bias.detach().numpy(), 0)).reshape(49, 16)
    expected = (powers / powers.sum(0)).reshape(7, 7, 16).transpose(2, 0, 1)
    np.testing.assert_allclose(layer(x)[1][0].detach(), expected, atol=1e-5)


@pytest.mark.parametrize("form", ["released", "intended"])
def test_which_channels_the_maps_depend_on(form):
    layer, x = layer_and_input(10, 4, 5, form)
    layer.bias.data.fill_(50.0)  # no ReLU in the way
    maps = layer(x)[1]
    moved = []
    for channel in range(10):
        changed = x.clone()
        changed[:, channel] += torch.randn(2, 4, 5)
        if not torch.equal(layer(changed)[1], maps):
            moved.append(channel)
    assert moved == ([0, 1, 2] if form == "released" else list(range(10)))


def test_only_1872_weights_of_the_released_layer_are_alive():
    layer, x = layer_and_input(2048, 7, 7, "released")
    layer.bias.data.fill_(500.0)  # no ReLU in the way
    layer.weight.data.mul_(0.01)
    maps = layer(x)[1]
    (maps * torch.randn_like(maps)).sum().backward()
    assert (layer.weight.grad != 0).sum() == 13 * 3 * 3 * 16 == 1872


@pytest.mark.parametrize("form", ["released", "intended"])
def test_each_map_sums_to_one_and_all_to_sixteen(form):
    layer, x = layer_and_input(16, 7, 6, form)
    weighted, maps = layer(torch.ones_like(x))
    assert torch.allclose(maps.sum((2, 3)), torch.ones(2, 16), atol=1e-5)
    assert torch.allclose(weighted.sum((2, 3)), torch.full((2, 16), 16.0), atol=1e-4)
    assert weighted.shape == (2, 16, 7, 6) and maps.shape == (2, 16, 7, 6)


@pytest.mark.parametrize(("channels", "count"), [(2048, 294_928), (192, 27_664)])
@pytest.mark.parametrize("form", ["released", "intended"])
def test_parameter_counts_do_not_tell_the_forms_apart(form, channels, count):
    layer = SoftAttention(channels, form)
    assert sum(p.numel() for p in layer.parameters()) == count
    gamma = SoftAttention(channels, form, gamma=True)
    assert sum(p.numel() for p in gamma.parameters()) == count + 1


@pytest.mark.parametrize("form", ["released", "intended"])
def test_weights_start_like_keras_he_uniform(form):
    torch.manual_seed(0)
    layer = SoftAttention(192, form)
    limit = math.sqrt(6 / (192 * 9))
    assert 0.99 * limit < layer.weight.abs().max() <= limit
    assert layer.weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.02)
    assert not layer.bias.any()


@pytest.mark.parametrize("form", ["released", "intended"])
def test_gamma_scales_the_weighted_map_only_and_learns(form):
    plain, x = layer_and_input(9, 4, 4, form)
    scaled, _ = layer_and_input(9, 4, 4, form, gamma=True)
    assert plain.gamma is None and scaled.gamma.item() == pytest.approx(0.01)
    scaled.gamma.data.fill_(0.25)
    (weighted, maps), (smaller, same) = plain(x), scaled(x)
    assert torch.equal(maps, same) and torch.allclose(smaller, 0.25 * weighted)
    smaller.sum().backward()
    assert scaled.gamma.grad.item() == pytest.approx(weighted.sum().item(), rel=1e-4)


@pytest.mark.parametrize("form", ["released", "intended"])
def test_the_gradient_is_that_of_the_numbers(form):
    layer, x = layer_and_input(5, 2, 3, form, gamma=True)
    layer.double()
    layer.bias.data.fill_(20.0)  # off the kink of the ReLU
    inputs = x[:1].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda t: layer(t)[0], inputs)
    layer(inputs)[0].square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in layer.parameters())


def test_a_map_higher_than_the_kernel_reaches_is_refused():
    x = torch.rand(1, 8, 5, 4)
    with pytest.raises(ContractError, match="height 5 is too high for 8 channels"):
        SoftAttention(8, "released")(x)
    assert SoftAttention(8, "released")(x[:, :, :4])[0].shape == (1, 8, 4, 4)
    assert SoftAttention(9, "released")(torch.rand(1, 9, 5, 4))[0].shape == (1, 9, 5, 4)
    assert SoftAttention(8, "intended")(x)[0].shape == x.shape


def test_an_unknown_form_is_refused():
    with pytest.raises(ContractError, match="'hard'.*released, intended"):
        SoftAttention(8, "hard")


def test_the_uniform_form_is_the_mean_of_the_others_maps():
    for form in ("released", "intended"):
        layer, x = layer_and_input(12, 5, 4, form)
        weighted, maps = SoftAttention(12, "uniform")(x)
        theirs = layer(x)[1]
        assert maps.shape == theirs.shape
        mean = theirs.mean((2, 3), keepdim=True).expand_as(maps)
        assert torch.allclose(maps, mean, atol=1e-6) and not torch.allclose(maps, theirs, atol=1e-2)
        assert torch.allclose(weighted, x * theirs.sum(1, keepdim=True).mean((2, 3), keepdim=True))


def test_the_uniform_form_has_nothing_to_learn_but_lets_gradients_through():
    layer = SoftAttention(12, "uniform")
    assert list(layer.parameters()) == [] and layer.state_dict() == {}
    x = torch.randn(2, 12, 5, 4, requires_grad=True)
    layer(x)[0].sum().backward()
    assert torch.allclose(x.grad, torch.full_like(x, 16 / 20))
    assert SoftAttention(12, "uniform", gamma=True)(x)[0].std() < layer(x)[0].std() / 50


def test_what_is_drawn_after_the_layer_begins_alike_in_every_form():
    after = []
    for form in ("released", "intended", "uniform"):
        torch.manual_seed(3)
        SoftAttention(12, form)
        after.append(torch.rand(4))
    assert torch.equal(after[0], after[2]) and torch.equal(after[1], after[2])
