"""Waves land in their band, noise is of one band, and filters show where they are sensitive."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from medrobust_utils import attacks
from medrobust_utils.core.errors import ContractError
from medrobust_utils.data import to_float
from medrobust_utils.explain.spectrum import (
    band_noise,
    centroid,
    density,
    heard,
    rings,
    sensitivity,
    spectrum,
    under_band_noise,
)

SIDE, BANDS = 16, 4
LAPLACIAN = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])


def uniform(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def wave(side, down, across):
    """A pure wave (1, 1, side, side) with so many periods in each direction."""
    place = torch.arange(side).double()
    phase = 2 * math.pi * (down * place[:, None] + across * place) / side
    return torch.sin(phase + 0.3)[None, None]


class Linear(nn.Module):
    """Logits are the images times weights (K, C, H, W)."""

    def __init__(self, weights):
        super().__init__()
        self.register_buffer("weights", weights)

    def forward(self, images):
        return images.flatten(1) @ self.weights.flatten(1).T


class Filter(nn.Module):
    """Class 1 where the filtered image has more energy a pixel than ``most``, else class 0."""

    def __init__(self, kernel, most=0.0):
        super().__init__()
        self.register_buffer("kernel", kernel)
        self.most = most

    def forward(self, images):
        gray = F.pad(images.mean(1, keepdim=True), (1, 1, 1, 1), mode="circular")
        energy = F.conv2d(gray, self.kernel[None, None]).square().mean((1, 2, 3)) - self.most
        return torch.stack([-energy, energy], 1)


@pytest.mark.parametrize("side", [16, 17])
@pytest.mark.parametrize(("down", "across"), [(0, 1), (1, 0), (3, 0), (4, 4), (0, 7), (8, 8)])
def test_a_wave_has_all_its_energy_in_its_band(side, down, across):
    frequency = math.hypot(min(down, side - down), min(across, side - across)) / side
    band = min(math.ceil(frequency * 2 * BANDS) - 1, BANDS - 1)
    field = (3 + 2 * wave(side, down, across)).float()  # the mean counts nowhere
    np.testing.assert_allclose(spectrum(field, BANDS), np.eye(BANDS)[[band]], atol=1e-9)
    np.testing.assert_allclose(centroid(field), frequency, rtol=1e-6)
    assert density(field, BANDS)[0].argmax() == band


def test_white_noise_is_flat_and_its_shares_add_up():
    for side in (16, 21):
        noise = attacks.gaussian((3, side, side), range(200), 0)
        shares, flat = spectrum(noise, BANDS), density(noise, BANDS)
        assert shares.shape == flat.shape == (200, BANDS) and shares.dtype == np.float64
        np.testing.assert_allclose(shares.sum(1), 1)
        np.testing.assert_allclose(flat.mean(0), 1, atol=0.05)
        assert shares.mean(0)[3] > 5 * shares.mean(0)[0]  # which is why there is a density
        counts = np.bincount(rings(side, BANDS).flatten() + 1)[1:]
        np.testing.assert_allclose(flat @ counts / counts.sum(), 1)  # over all coefficients
        assert centroid(noise).mean() == pytest.approx(0.38, abs=0.02)


def test_a_field_without_energy_is_nan_and_spoils_no_other():
    gray = torch.full((1, 3, 15, 15), 0.1, dtype=torch.float64)  # neither it nor its mean is exact
    fields = torch.cat([gray, uniform(1, 3, 15, 15), 0 * gray])
    for found in (spectrum(fields, 2), density(fields, 2), centroid(fields)[:, None]):
        assert np.isnan(found[[0, 2]]).all() and np.isfinite(found[1]).all()
    tiny = 1e-30 * fields[1:2]  # a gradient may be small
    np.testing.assert_allclose(spectrum(tiny, 2), spectrum(fields[1:2], 2), rtol=1e-5)
    assert spectrum(fields[:0], 2).shape == (0, 2) and centroid(fields[:0]).shape == (0,)


@pytest.mark.parametrize("side", [8, 15, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_band_noise_has_one_band_and_one_size(side, channels):
    for band in range(BANDS):
        noise = band_noise((channels, side, side), range(5), band, BANDS, seed=1)
        assert noise.shape == (5, channels, side, side) and noise.dtype == torch.float32
        size = noise.double().square().mean((1, 2, 3)).sqrt()
        np.testing.assert_allclose(size, 1, rtol=1e-6)
        np.testing.assert_allclose(spectrum(noise, BANDS), np.eye(BANDS)[[band] * 5], atol=1e-9)
        assert noise.double().mean((2, 3)).abs().max() < 1e-6


def test_sensitivity_of_a_linear_model_is_the_difference_of_its_weights():
    weights, images = attacks.gaussian((3, 8, 8), range(4), 0), uniform(6, 3, 8, 8)
    model, labels = Linear(weights).eval(), torch.tensor([0, 1, 2, 3, 0, 1])
    logits = model(images)
    logits[range(6), labels] = -torch.inf
    found = sensitivity(model, images, labels, batch=4)
    assert torch.equal(found, weights[labels] - weights[logits.argmax(1)])
    assert found.dtype == torch.float32 and not found.requires_grad


def test_the_root_of_the_density_is_what_noise_of_a_band_does():
    weights = F.avg_pool2d(
        attacks.gaussian((3, 14, 14), range(2), 0), 3, 1
    )  # lower bands weigh more
    model, images = Linear(weights).eval(), torch.full((1, 3, 12, 12), 0.5)
    field = sensitivity(model, images, torch.tensor([0]))
    change = {}
    for bands in (1, 3):
        for band in range(bands):
            noise = band_noise((3, 12, 12), range(1500), band, bands, 0)
            change[bands, band] = (noise * field).sum((1, 2, 3)).std().item()
    found = [change[3, band] / change[1, 0] for band in range(3)]
    expected = np.sqrt(density(field, 3)[0])
    assert expected[0] > 2 * expected[2]
    np.testing.assert_allclose(found, expected, rtol=0.08)


def test_an_image_falls_to_the_band_its_network_looks_at(skin):
    gray = np.full((140, SIDE, SIDE, 3), 128, np.uint8)
    data = replace(skin, images=gray, targets=np.zeros(140, np.int64), masks=None)
    index, how = np.array([3, 50, 7]), dict(bands=BANDS, rms=0.05, seed=0, batch=2)
    right = under_band_noise(Filter(LAPLACIAN, 0.007).eval(), data, index, **how)
    assert right.shape == (BANDS, 3) and right.dtype == bool
    assert right[:2].all() and not right[3].any()


def test_what_a_network_has_learnt_to_hear_is_told_image_by_image_and_kept(
    skin, tmp_path, monkeypatch
):
    index, how = np.array([3, 50, 7]), dict(bands=2, rms=0.05, seed=0)
    low, high = (Linear(attacks.gaussian((3, 32, 32), range(k, k + 7), 0)).eval() for k in (0, 9))
    rows = heard(low, high, skin, index, tmp_path, **how)
    images, labels = to_float(skin.images[index]), torch.from_numpy(skin.targets[index])
    both = [centroid(sensitivity(net, images, labels)) for net in (low, high)]
    found = {name: values for name, values, tags in rows if not tags}
    np.testing.assert_allclose(found["centroid"], both[0])
    np.testing.assert_allclose(found["centroid_learnt"], both[0] - both[1])
    banded = [(name, tags["band"]) for name, _, tags in rows if tags]
    assert banded == [
        (name, band)
        for name in ("sensitivity_density", "accuracy_band_noise")
        for band in (0.125, 0.375)
    ]
    monkeypatch.setattr("medrobust_utils.explain.spectrum.sensitivity", None)
    again = heard(low, high, skin, index, tmp_path, **how)
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(rows, again, strict=True))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rings(8, 5), "at most half"),
        (lambda: spectrum(uniform(2, 3, 8, 6), 2), "Crop or resize to a square"),
        (lambda: centroid(uniform(2, 3, 8, 8) / 0), "Leave those images out"),
        (lambda: band_noise((3, 8, 8), [0], 2, 2, 0), "from 0 to 1"),
    ],
)
def test_a_breach_is_explained(call, message):
    with pytest.raises(ContractError, match=message):
        call()
