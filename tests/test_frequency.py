"""Waves land in their band, noise is of one band, and filters show where they are sensitive."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from medrobust_utils import attacks, models
from medrobust_utils.core.errors import ContractError
from medrobust_utils.data import to_float
from medrobust_utils.explain.spectrum import (
    band_noise,
    centres,
    centroid,
    density,
    margin,
    rings,
    sensitivity,
    spectrum,
    under_band_noise,
    white_centroid,
)
from medrobust_utils.scoring import predict

SIDE, BANDS = 16, 4
BLUR = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
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


@pytest.mark.parametrize("side", [8, 15, 16, 33])
@pytest.mark.parametrize("bands", [1, 3, 4])
def test_rings_are_what_their_edges_say(side, bands):
    place = torch.fft.fftfreq(side, dtype=torch.float64)
    radius = (place[:, None] ** 2 + place**2).sqrt()
    found = rings(side, bands)
    assert found.dtype == torch.int64 and found.shape == (side, side)
    assert found[0, 0] == -1 and (found == -1).sum() == 1
    assert set(found.flatten().tolist()) == set(range(-1, bands))
    for band in range(bands):
        inside = radius[found == band]
        assert inside.min() > band / (2 * bands) - 1e-12
        assert band == bands - 1 or inside.max() < (band + 1) / (2 * bands) + 1e-12
    assert (radius[found == bands - 1].max() > 0.5) and torch.equal(found, found.T)
    np.testing.assert_allclose(centres(bands), (np.arange(bands) + 0.5) * 0.5 / bands)


def test_a_frequency_on_an_edge_belongs_below_whatever_the_size():
    for side in range(8, 400, 8):  # 1/8 is the edge between the first two of four bands
        assert rings(side, 4)[0, side // 8] == 0 and rings(side, 4)[side // 2, 0] == 3
        assert rings(side, 4)[0, side // 8 + 1] == 1


@pytest.mark.parametrize("side", [16, 17])
@pytest.mark.parametrize(("down", "across"), [(0, 1), (1, 0), (3, 0), (4, 4), (0, 7), (8, 8)])
def test_a_wave_has_all_its_energy_in_its_band(side, down, across):
    frequency = math.hypot(min(down, side - down), min(across, side - across)) / side
    band = min(math.ceil(frequency * 2 * BANDS) - 1, BANDS - 1)
    field = (3 + 2 * wave(side, down, across)).float()  # the mean counts nowhere
    np.testing.assert_allclose(spectrum(field, BANDS), np.eye(BANDS)[[band]], atol=1e-9)
    np.testing.assert_allclose(centroid(field), frequency, rtol=1e-6)
    assert density(field, BANDS)[0].argmax() == band


def test_energies_add_up_over_waves_and_channels():
    low, high = wave(16, 0, 1), wave(16, 0, 7)
    field = torch.cat([2 * low, high, torch.zeros_like(low)], 1)
    np.testing.assert_allclose(spectrum(field, BANDS), [[0.8, 0, 0, 0.2]], atol=1e-12)
    np.testing.assert_allclose(centroid(field), (0.8 * 1 + 0.2 * 7) / 16)
    np.testing.assert_allclose(spectrum(2 * low + high, BANDS), spectrum(field, BANDS), atol=1e-12)


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
        assert centroid(noise).mean() == pytest.approx(white_centroid(side), rel=0.01)
    assert white_centroid(512) == pytest.approx(0.3826, abs=1e-3)
    assert white_centroid(2) == pytest.approx((0.5 + 0.5 + math.sqrt(0.5)) / 3)


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


def test_band_noise_belongs_to_seed_and_image_not_to_the_batch():
    how = dict(shape=(3, SIDE, SIDE), band=2, bands=BANDS)
    noise = band_noise(rows=np.arange(10), seed=1, **how)
    assert torch.equal(noise[[7, 3]], band_noise(rows=np.array([7, 3]), seed=1, **how))
    assert not torch.equal(noise[7], band_noise(rows=[7], seed=2, **how)[0])
    assert not torch.equal(noise[7], noise[8])
    white = attacks.gaussian((3, SIDE, SIDE), [7], 1)
    parts = torch.fft.fft2(white.double()) * (rings(SIDE, BANDS) == 2)
    expected = torch.fft.ifft2(parts).real
    assert torch.allclose(noise[7], (expected[0] / expected.square().mean().sqrt()).float())


def test_sensitivity_of_a_linear_model_is_the_difference_of_its_weights():
    weights, images = attacks.gaussian((3, 8, 8), range(4), 0), uniform(6, 3, 8, 8)
    model, labels = Linear(weights).eval(), torch.tensor([0, 1, 2, 3, 0, 1])
    logits = model(images)
    logits[range(6), labels] = -torch.inf
    found = sensitivity(model, images, labels, batch=4)
    assert torch.equal(found, weights[labels] - weights[logits.argmax(1)])
    assert found.dtype == torch.float32 and not found.requires_grad


def test_single_logits_and_several_labels_have_their_own_sign():
    weights, images = attacks.gaussian((1, 8, 8), range(3), 0), uniform(2, 1, 8, 8)
    single = Linear(weights[:1]).eval()
    for labels in (torch.tensor([0, 1]), torch.tensor([0.0, 1.0]), torch.tensor([[0], [1]])):
        found = sensitivity(single, images, labels)
        assert torch.equal(found, torch.cat([-weights[:1], weights[:1]]))
    hot = torch.tensor([[1, 0, 0], [1, 1, 1]], dtype=torch.uint8)
    model = Linear(weights).eval()
    signs = 2.0 * hot - 1
    nearest = (signs * model(images)).argmin(1)  # the label that flips first
    found = sensitivity(model, images, hot)
    expected = signs[[0, 1], nearest].view(2, 1, 1, 1) * weights[nearest]
    assert torch.allclose(found, expected, atol=1e-6)


def test_the_margin_is_how_far_the_truth_is_ahead():
    logits = torch.tensor([[3.0, 1, 2], [3.0, 1, 2]])
    assert margin(logits, torch.tensor([0, 1])).tolist() == [1, -2]
    assert margin(logits[:, :1], torch.tensor([1, 0])).tolist() == [3, -3]
    assert margin(logits, torch.tensor([[1, 0, 1], [0, 0, 0]]).byte()).tolist() == [-1, -3]


def test_a_blur_is_sensitive_to_lower_frequencies_than_a_laplacian():
    images, labels = uniform(8, 1, SIDE, SIDE), torch.arange(8) % 2
    low, high = (sensitivity(Filter(k).eval(), images, labels) for k in (BLUR, LAPLACIAN))
    assert (centroid(low) < white_centroid(SIDE)).all()
    assert (centroid(high) > white_centroid(SIDE)).all()


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


def test_noisy_images_stay_in_range_and_are_scored_as_they_come(skin):
    seen = []

    class Spy(models.MedicalModel):
        def forward(self, images):
            seen.append(images.clone())
            return super().forward(images)

    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 7, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model, index = Spy(backbone, (0.5,) * 3, (0.25,) * 3).eval(), np.arange(10, 30)
    logits, targets = predict.predict(model, skin, index), skin.targets[index]
    still = under_band_noise(model, skin, index, bands=2, rms=0, seed=0)
    np.testing.assert_array_equal(still, [logits.argmax(1) == targets] * 2)
    seen.clear()
    right = under_band_noise(model, skin, index, bands=2, rms=0.5, seed=0, batch=16)
    images = torch.cat(seen).cpu()
    assert images.min() == 0 and images.max() == 1
    noise = band_noise((3, 32, 32), index, 1, 2, 0)
    expected = (to_float(skin.images[index]) + 0.5 * noise).clamp(0, 1)
    assert torch.allclose(images[20:], expected, atol=1e-6)
    some = under_band_noise(model, skin, index[[4, 1]], bands=2, rms=0.5, seed=0)
    np.testing.assert_array_equal(some, right[:, [4, 1]])


class Root(Linear):
    def forward(self, images):
        return super().forward((images - images).sqrt())


FIELD, TRUTH = uniform(2, 3, 8, 8), torch.tensor([0, 1])
MODEL = Linear(uniform(3, 3, 8, 8)).eval()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rings(8, 5), "at most half"),
        (lambda: spectrum(FIELD[:, :, :6], 2), "Crop or resize to a square"),
        (lambda: centroid(FIELD / 0), "Leave those images out"),
        (lambda: band_noise((3, 8, 8), [0], 2, 2, 0), "from 0 to 1"),
        (lambda: sensitivity(MODEL, FIELD, torch.zeros(2, 8, 8).long()), "a label map has many"),
        (lambda: sensitivity(Root(MODEL.weights).eval(), FIELD, TRUTH), "root or norm of a zero"),
    ],
)
def test_a_breach_is_explained(call, message):
    with pytest.raises(ContractError, match=message):
        call()
