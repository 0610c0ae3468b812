"""The GLCM against scikit-image and a plain loop, its gradient, and what it refuses."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.feature import graycomatrix, graycoprops

from medrobust_utils.core.errors import ContractError
from medrobust_utils.data import to_float
from medrobust_utils.data.phantoms import phantom_set
from medrobust_utils.training import glcm

ANGLES = np.arange(8) * np.pi / 4
SHARED = ("ASM", "contrast", None, "correlation", "dissimilarity")  # scikit-image's names
LIMITS = {torch.float64: 1e-12, torch.float32: 1e-6}


@pytest.fixture(scope="module")
def images():
    """Drawn CT, ultrasound and MRI images, noise, and a black one: float64 (8, 1, 64, 64)."""
    drawn = [to_float(phantom_set(name, 2, size=64).images) for name in ("ct", "ultrasound", "mri")]
    noise = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 1), np.uint8)
    return torch.cat([*drawn, to_float(noise), torch.zeros(1, 1, 64, 64)]).double()


def tiles_of(images, area):
    """The areas, cut by a plain loop: (N, T, area, area)."""
    found = []
    for image in images[:, 0].numpy():
        rows, columns = (side // area for side in image.shape)
        top, left = ((side % area) // 2 for side in image.shape)
        found.append(
            [
                image[top + r * area :, left + c * area :][:area, :area]
                for r in range(rows)
                for c in range(columns)
            ]
        )
    return np.array(found)


def reference(tile, levels, distance, angles):
    """Features (angles, 5) of one area by scikit-image, homogeneity by a plain loop."""
    gray = np.minimum(np.floor(tile * levels), levels - 1).astype(np.uint8)
    matrix = graycomatrix(gray, [distance], angles, levels=levels, normed=True)
    found = np.zeros((len(angles), 5))
    for k, name in enumerate(SHARED):
        if name:
            found[:, k] = graycoprops(matrix, name)[0]
    for i in range(levels):
        for j in range(levels):
            found[:, 2] += matrix[i, j, 0] / (1 + abs(i - j))
    return found


def references(images, levels=8, distance=3, area=20, angles=ANGLES[:4]):
    return np.array(
        [
            [reference(tile, levels, distance, angles) for tile in tiles]
            for tiles in tiles_of(images, area)
        ]
    )


@pytest.mark.parametrize(
    ("levels", "distance", "area"),
    [(2, 3, 20), (3, 3, 20), (16, 3, 20), (64, 3, 20), (8, 1, 20), (8, 2, 7), (8, 5, 32)],
)
def test_hard_features_are_those_of_scikit_image(images, levels, distance, area):
    expected = references(images, levels, distance, area)
    how = dict(levels=levels, distance=distance, area=area, softness=0)
    for dtype, limit in LIMITS.items():
        found = glcm.texture(images.to(dtype), **how).numpy()
        # Contrast reaches thousands: float32 keeps a share of a number, not an absolute.
        np.testing.assert_allclose(found, expected, rtol=limit, atol=limit)


def test_orientations_carry_the_names_of_scikit_image(images):
    """Not only the features: the matrix itself, whose transpose would be the opposite angle."""
    tile = torch.from_numpy(tiles_of(images, 20)[0])
    gray = (tile * 8).clamp(max=7).byte().numpy()
    found = glcm.matrices(tile, levels=8, softness=0).numpy()
    for ours, theirs in zip(found, gray, strict=True):
        theirs = graycomatrix(theirs, [3], ANGLES, levels=8, normed=True)[:, :, 0]
        np.testing.assert_allclose(ours, theirs[..., :4].transpose(2, 0, 1), atol=1e-12)
        np.testing.assert_allclose(ours, theirs[..., 4:].transpose(2, 1, 0), atol=1e-12)
    assert not np.allclose(found, found.transpose(0, 1, 3, 2))


@pytest.mark.parametrize("rows", glcm.ROWS)
def test_both_readings_of_the_rows_by_a_plain_loop(images, rows):
    ours, theirs = images[:4], images[[1, 2, 3, 7]]
    found = glcm.texture_distance(
        glcm.texture(ours, softness=0), glcm.texture(theirs, softness=0), rows
    )
    apart = np.abs(references(ours, angles=ANGLES) - references(theirs, angles=ANGLES))
    for distance, image in zip(found, apart, strict=True):
        sums = {}
        for tile, angles in enumerate(image):
            for angle, features in enumerate(angles):
                row = tile if rows == "areas" else angle
                sums[row] = sums.get(row, 0) + sum(features)
        assert len(sums) == (9 if rows == "areas" else 8)
        assert distance.item() == pytest.approx(max(sums.values()), abs=1e-9)


@pytest.mark.parametrize(
    ("softness", "share"), [(1.0, 0.54), (0.5, 0.58), (0.1, 0.9), (0.02, 1.0), (0.0, 1.0)]
)
def test_softness_is_the_width_of_the_band_in_which_levels_share_a_pixel(softness, share):
    """The border between levels 0 and 1 lies at 1/4, the two centres 1/4 apart."""
    pixels = torch.tensor([[[0.25 - 0.01, 0.25 + 0.01, 0.0, 1.0]]], dtype=torch.float64)
    found = glcm.memberships(pixels, 4, softness)[0, :, 0]
    expected = [[share, 1 - share, 1, 0], [1 - share, share, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("softness", [1.0, 0.5])
@pytest.mark.parametrize("rows", glcm.ROWS)
def test_the_gradient_is_that_of_finite_differences(softness, rows):
    generator = torch.Generator().manual_seed(3)
    values = torch.rand(2, 1, 9, 17, generator=generator, dtype=torch.float64)
    # The bins have kinks at the centres, the borders and half-way between: keep off them.
    step = 1 / 8 / 4
    values = (values / step).floor().clamp(max=31) * step + step * (0.2 + 0.6 * values)
    theirs = glcm.texture(values.flip(0), area=8, softness=softness)

    def loss(images):
        return glcm.texture_distance(glcm.texture(images, area=8, softness=softness), theirs, rows)

    values.requires_grad_()
    assert torch.autograd.gradcheck(loss, values, eps=1e-7, atol=1e-5)
    assert torch.autograd.grad(loss(values).sum(), values)[0].abs().max() > 0.01


def test_soft_features_become_the_hard_ones_as_the_bins_sharpen(images):
    hard = glcm.texture(images[:7], softness=0)
    apart = [
        (glcm.texture(images[:7], softness=s) - hard).abs().mean((0, 1, 2))
        for s in (1, 0.5, 0.25, 0.1, 0.05, 0.01, 1e-4)
    ]
    for wide, narrow in zip(apart, apart[1:], strict=False):
        assert (narrow <= wide).all()
    assert (apart[0] > 0.01).all() and apart[-1].max() < 1e-9


@pytest.mark.parametrize("value", [0.0, 1 / 16, 0.1, 0.3, 7.5 / 8, 1.0])
@pytest.mark.parametrize("softness", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("dtype", LIMITS)
def test_constant_areas_have_finite_features_and_gradients(value, softness, dtype):
    images = torch.full((1, 1, 20, 20), value, dtype=dtype, requires_grad=True)
    found = glcm.texture(images, softness=softness)
    assert found.isfinite().all()
    if softness == 0:
        expected = torch.tensor([1.0, 0, 1, 1, 0], dtype=dtype)
        torch.testing.assert_close(found[0, 0], expected.expand(4, 5))
        return
    found.sum().backward()
    assert images.grad.isfinite().all()


def test_almost_constant_areas_have_bounded_gradients():
    noise = torch.rand(1, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    for size in 10.0 ** -torch.arange(1, 8):
        images = (1 / 16 + size * noise).requires_grad_()
        glcm.texture(images).sum().backward()
        assert 0 < images.grad.abs().max() < 1


def test_gray_is_pillows_within_one_level():
    colour = phantom_set("dermatoscopy7", 4, size=48).images
    noise = np.random.default_rng(0).integers(0, 256, (1, 48, 48, 3), np.uint8)
    colour = np.concatenate([colour, noise])
    found = glcm.grayscale(to_float(colour))
    expected = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in colour])
    assert found.shape == (5, 1, 48, 48)
    assert np.abs(found[:, 0].numpy() * 255 - expected).max() <= 1
    white = glcm.grayscale(torch.ones(1, 3, 1, 1)).item()
    assert white == pytest.approx(1, abs=1e-6) and white <= 1
    assert glcm.grayscale(found) is found


def test_a_set_is_measured_image_by_image(monkeypatch):
    data = phantom_set("ct", 5, size=64)
    monkeypatch.setattr(glcm, "BATCH", 2)
    found = glcm.texture_of_set(data.images, levels=4, softness=0.5)
    assert found.dtype == torch.float32
    for image, features in zip(to_float(data.images), found, strict=True):
        alone = glcm.texture(image[None], levels=4, softness=0.5)
        torch.testing.assert_close(alone[0], features)


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        ((1, 3, 40, 40), {}, "gray.*glcm.grayscale"),
        ((1, 1, 19, 40), {}, "19 x 40 .* no area of 20 x 20"),
        ((1, 1, 40, 40), {"softness": 1.1}, "softness=1.1"),
        ((1, 1, 40, 40), {"distance": 20}, "distance=20"),
    ],
)
def test_bad_settings_and_shapes_are_refused(shape, settings, message):
    for wants_gradient in (False, True):
        images = torch.zeros(shape, requires_grad=wants_gradient)
        with pytest.raises(ContractError, match=message):
            glcm.texture(images, **settings)


@pytest.mark.parametrize("value", [float("nan"), -0.1, 1.1, 255.0, float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bad_pixels_are_refused(value, dtype):
    images = torch.full((2, 1, 40, 40), 0.5, dtype=dtype)
    images[1, 0, 39, 7] = value
    with pytest.raises(ContractError, match=r"expected \[0, 1\], no NaN"):
        glcm.texture(images)
