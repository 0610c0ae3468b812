"""Soft attention against plain loops that follow the released layer and the paper step by step."""

import math

import numpy as np
import pytest
import torch

from medrobust_utils.core.errors import ContractError
from medrobust_utils.models import SoftAttention


def convolve(volume, kernel):
    """TensorFlow's "same" cross-correlation of (H, W, C) with (a, b, c, heads), stride C along C.

    Zeros go before and after, the odd one after.
    """
    strides = (1, 1, volume.shape[2])
    pads = []
    for size, side, stride in zip(volume.shape, kernel.shape, strides, strict=False):
        total = max((math.ceil(size / stride) - 1) * stride + side - size, 0)
        pads.append((total // 2, total - total // 2))
    padded = np.pad(volume, pads)
    out = np.zeros((*volume.shape[:2], kernel.shape[3]))
    for i, j in np.ndindex(*out.shape[:2]):
        window = padded[i : i + kernel.shape[0], j : j + kernel.shape[1], : kernel.shape[2]]
        out[i, j] = np.tensordot(window, kernel, 3)
    return out


def reference(x, layer):
    """Weighted map and 16 maps of one image (C, H, W), in numpy."""
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    volume = x.numpy().transpose(1, 2, 0).astype("f8")  # H, W, C as in TensorFlow
    # over H, W and C lies a kernel of (C, 3, 3, heads) as released, of (3, 3, C, heads) as intended
    scores = convolve(volume, weight.transpose(2, 3, 1, 0))
    powers = np.exp(np.maximum(scores + bias, 0))
    maps = powers / powers.sum((0, 1))
    weighted = volume * maps.sum(2)[:, :, None]
    return weighted.transpose(2, 0, 1), maps.transpose(2, 0, 1)


def layer_and_input(channels, height, width, form, **options):
    torch.manual_seed(1)
    layer = SoftAttention(channels, form, **options)
    torch.nn.init.uniform_(layer.bias, -0.3, 0.3)
    # 8 times wider weights than at the start: maps far from flat
    layer.weight.data.mul_(8)
    return layer, torch.randn(2, channels, height, width)


@pytest.mark.parametrize("form", ["released", "intended"])
@pytest.mark.parametrize(
    "shape", [(12, 5, 4), (13, 6, 3), (8, 4, 7), (6, 1, 1), (2048, 7, 7)], ids=str
)
def test_the_layer_is_the_plain_loop(form, shape):
    layer, x = layer_and_input(*shape, form)
    weighted, maps = layer(x)
    for image in range(2):
        expected, expected_maps = reference(x[image], layer)
        np.testing.assert_allclose(maps[image].detach(), expected_maps, atol=1e-5)
        np.testing.assert_allclose(weighted[image].detach(), expected, atol=1e-4)
    if shape[1] > 1:
        assert maps.amax() > 1.5 * maps.mean()  # or a flat map would pass as well


def test_the_released_layer_reads_three_channels_by_1872_weights():
    layer, x = layer_and_input(2048, 7, 7, "released")
    layer.bias.data.fill_(500.0)  # no ReLU in the way
    layer.weight.data.mul_(0.01)
    maps = layer(x.requires_grad_())[1]
    (maps * torch.randn_like(maps)).sum().backward()
    assert x.grad.abs().amax((0, 2, 3)).nonzero().flatten().tolist() == [0, 1, 2]
    assert (layer.weight.grad != 0).sum() == 13 * 3 * 3 * 16 == 1872


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
