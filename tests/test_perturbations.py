"""Rings, ellipses and splotches that were planted are found, and noise shows none."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from medrobust_utils.core.errors import ContractError
from medrobust_utils.data import to_float
from medrobust_utils.data.phantoms import phantom_set
from medrobust_utils.explain import perturbations as measures

SIZE = 96
ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE]
EPS = 0.01


def disc(radius, y=48, x=48):
    return (ROWS - y) ** 2 + (COLUMNS - x) ** 2 <= radius**2


def signs(count=4, channels=3):
    """What PGD's signs look like without structure: every value at plus or minus eps."""
    rng = np.random.default_rng(0)
    return EPS * rng.choice([-1.0, 1.0], (count, channels, SIZE, SIZE))


MASKS = np.stack([disc(28)] * 4)


def test_noise_has_no_ring_and_no_ellipse():
    rng = np.random.default_rng(1)
    for noise in (signs(), rng.uniform(-EPS, EPS, (4, 3, SIZE, SIZE))):
        found = measures.density(noise, MASKS)
        np.testing.assert_allclose(found.ring, 1, atol=0.05)
        np.testing.assert_allclose(found.ellipse, 1, atol=0.05)


def test_clipping_at_black_makes_no_ellipse():
    """An even attack on a bright disc in black: half of what it does outside is clipped away."""
    images = np.where(disc(28), 0.5, 0.0)[None, None].repeat(4, 0).repeat(3, 1)
    noise = gaussian_filter(np.random.default_rng(5).normal(size=images.shape), (0, 0, 2, 2))
    images, masks = np.concatenate([images] * 2), np.concatenate([MASKS] * 2)
    noise = np.concatenate([noise, -noise])  # each and its negative: no preference at all
    moved = (images + EPS * np.sign(noise)).clip(0, 1) - images
    plain = measures.density(moved, masks).ellipse
    fair = measures.density(measures.relative(moved, images, EPS), masks)
    assert (plain < 0.6).all()
    np.testing.assert_allclose(fair.ellipse, 1, atol=0.1)
    np.testing.assert_allclose(fair.ring, 1, atol=0.1)


def test_a_planted_ring_is_found_at_the_rim_only():
    ring = disc(32) & ~disc(24)
    found = measures.density(signs() * (0.2 + 0.8 * ring), MASKS)
    assert (found.ring > 2.5).all() and (found.rim > 2 * found.outside).all()
    np.testing.assert_allclose(found.centre, 0.2 * EPS)
    np.testing.assert_allclose(found.ellipse, 1)
    for side in (disc(28) & ~disc(24), disc(32) & ~disc(28)):  # the rim has two sides
        assert (measures.density(signs() * (0.2 + 0.8 * side), MASKS).ring > 1.8).all()


def test_a_sparse_ellipse_is_found():
    found = measures.density(signs() * np.where(disc(28), 0.3, 1.0), MASKS)
    np.testing.assert_allclose(found.ellipse, 1 / 0.3)


def test_zones_need_pixels_and_a_perturbation():
    masks = np.stack([disc(28), np.zeros_like(disc(1)), np.ones_like(disc(1)), disc(28)])
    changes = signs()
    changes[3] = 0
    found = measures.density(changes, masks)
    for values in (found.centre, found.rim, found.outside):
        assert np.isnan(values).tolist() == [False, True, True, False]
    assert np.isnan(found.ring).tolist() == [False, True, True, True]


def test_the_eye_of_a_fundus_image_is_found():
    eyes = phantom_set("fundus", 6, size=96)
    bright = gaussian_filter(eyes.images.max(3).astype(float), (0, 1, 1)) > 20
    masks = measures.eye_masks(to_float(eyes.images))
    assert masks.dtype == bool and masks.shape == (6, 96, 96)
    overlap = (masks & bright).sum((1, 2)) / (masks | bright).sum((1, 2))
    assert (overlap > 0.9).all()
    assert not masks[:, 0, 0].any() and masks[:, 48, 48].all()


def test_a_perturbation_is_scaled_to_be_seen_around_gray():
    changes = torch.zeros(2, 1, 4, 4)
    changes[0, 0, 0, 0], changes[0, 0, 1, 1] = -0.004, 0.002
    seen = measures.to_be_seen(changes)
    assert seen.dtype == np.float32
    assert seen[0, 0, 0, 0] == 0 and seen[0, 0, 1, 1] == 0.75 and seen[0, 0, 2, 2] == 0.5
    assert (seen[1] == 0.5).all()


def test_tensors_and_arrays_measure_the_same_and_shapes_are_checked():
    changes = signs()
    as_tensor = measures.density(torch.tensor(changes), MASKS)
    np.testing.assert_array_equal(as_tensor.rim, measures.density(changes, MASKS).rim)
    with pytest.raises(ContractError, match="Give one mask"):
        measures.density(changes, MASKS[:2])
    with pytest.raises(ContractError, match="expected \\(N, C, H, W\\)"):
        measures.to_be_seen(changes[0])


def test_likeness_is_one_for_equal_images_and_counts_the_change():
    before = np.random.default_rng(0).random((2, 3, 16, 16), np.float32)
    after = before.copy()
    after[1, 0, 0, 0] += 0.3
    found = measures.likeness(before, torch.from_numpy(after))
    assert found["similarity"][0] == 1 > found["similarity"][1]
    assert found["largest"] == pytest.approx([0, 0.3], abs=1e-6)
    assert found["mean"] == pytest.approx([0, 0.3 / (16 * 16 * 3)], abs=1e-6)
    with pytest.raises(ValueError):
        measures.likeness(before, after[:1])
