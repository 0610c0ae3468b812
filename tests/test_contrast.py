"""The contrast filter is OpenCV's, written so that a gradient can pass."""

import cv2
import numpy as np
import pytest
import torch

from medrobust_utils.core.errors import ContractError
from medrobust_utils.data import views
from medrobust_utils.data.imageset import to_float
from medrobust_utils.data.phantoms import phantom_set


@pytest.fixture(scope="module")
def pictures():
    """Images of the paper's size: two fundus and two chest phantoms, three channels each."""
    fundus = phantom_set("fundus", 2, size=224).images
    chest = phantom_set("chest", 2, size=224).images
    return np.concatenate([fundus, np.repeat(chest, 3, 3)])


def test_the_blur_is_opencvs_with_its_rule_for_bytes(pictures):
    ours = views.blur(to_float(pictures)).mul(255).permute(0, 2, 3, 1).numpy()
    for image, blurred in zip(pictures, ours, strict=True):
        assert np.abs(blurred - cv2.GaussianBlur(image, (0, 0), sigmaX=20, sigmaY=0)).max() < 2
        # its rule for float images is another (161 pixels wide), and 0.05 away
        exact = cv2.GaussianBlur(image.astype("f4"), (121, 121), sigmaX=20, sigmaY=0)
        assert np.abs(blurred - exact).max() < 0.01


def test_the_formula_is_clipped_to_what_a_byte_holds(pictures):
    ours = views.enhance(to_float(pictures)).mul(255).permute(0, 2, 3, 1).numpy()
    for image, filtered in zip(pictures, ours, strict=True):
        x = cv2.normalize(image.astype("f8"), None, 0, 255, cv2.NORM_MINMAX)
        free = 4 * x - 4 * cv2.GaussianBlur(x, (121, 121), sigmaX=20, sigmaY=0) + 128
        assert np.abs(filtered - free.clip(0, 255)).max() < 0.05
        assert 0.01 < ((free < 0) | (free > 255)).mean() < 0.9


def test_small_images_are_blurred_as_far_as_their_border_reaches():
    image = np.random.default_rng(1).random((32, 32), np.float32)
    ours = views.blur(torch.from_numpy(image)[None, None])[0, 0].numpy()
    exact = cv2.GaussianBlur(image, (63, 63), sigmaX=20)  # 31 pixels to each side
    assert np.abs(ours - exact).max() < 1e-5
    assert views.enhance(torch.rand(0, 1, 32, 32)).shape == (0, 1, 32, 32)
    with pytest.raises(ContractError, match="too small to blur"):
        views.blur(torch.rand(1, 1, 1, 5))


def test_the_gradient_passes_through_the_filter():
    torch.manual_seed(0)
    image = torch.rand(1, 1, 66, 66, dtype=torch.float64)
    smooth = torch.nn.functional.avg_pool2d(image, 9, 1, 4).requires_grad_()  # hardly any is cut
    assert torch.autograd.gradcheck(views.enhance, smooth, fast_mode=True)
    (gradient,) = torch.autograd.grad(views.enhance(smooth).square().sum(), smooth)
    assert (gradient != 0).all()
