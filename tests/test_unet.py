"""The U-Net: shapes, bridges, what it refuses."""

import pytest
import torch

from medrobust_utils.core.errors import ContractError
from medrobust_utils.models import build_unet


@pytest.mark.parametrize(
    ("classes", "width", "depth", "size"), [(6, 4, 2, 32), (2, 3, 1, 10), (6, 2, 4, 48)]
)
def test_a_logit_for_every_class_and_pixel(classes, width, depth, size):
    model = build_unet(classes, width=width, depth=depth, size=size).eval()
    images = torch.rand(2, 3, size, size)
    logits = model(images)
    assert logits.shape == (2, classes, size, size) and logits.isfinite().all()
    assert model(torch.rand(1, 3, size, 2 * size)).shape == (1, classes, size, 2 * size)
    torch.testing.assert_close(model(images[1:]), logits[1:])  # for itself, whatever the batch
    gray = model(images[:, :1])
    torch.testing.assert_close(gray, model(images[:, :1].expand(-1, 3, -1, -1)))


def test_the_original_has_31_million_parameters():
    """Width 64, depth 4 (Ronneberger et al. 2015, figure 1), with batch norm in place of biases."""
    widths = (64, 128, 256, 512, 1024)
    count, before = 0, 3
    for width in widths:  # down: twice convolution and batch norm
        count += 9 * before * width + 9 * width * width + 4 * width
        before = width
    for width in widths[-2::-1]:  # up: transposed convolution with bias, then as above
        count += 2 * width * width * 4 + width
        count += 9 * 2 * width * width + 9 * width * width + 4 * width
    count += 64 * 6 + 6
    model = build_unet(6, width=64, depth=4, size=256)
    assert sum(p.numel() for p in model.parameters()) == count
    assert 31.0e6 < count < 31.1e6


def test_every_pixel_is_seen_at_every_size():
    """Without a bridge, detail finer than the coarsest map could not come out again."""
    torch.manual_seed(0)
    model = build_unet(2, width=4, depth=3, size=32).eval()
    for level in range(3):
        images = torch.rand(1, 3, 32, 32)
        merge = model.backbone.merge[level][0]
        half = merge.weight.shape[1] // 2
        before = model(images)
        with torch.no_grad():
            merge.weight[:, half:] *= 2  # of the bridge
        assert not torch.allclose(model(images), before)
    pixels = torch.rand(1, 3, 32, 32, requires_grad=True)
    (slope,) = torch.autograd.grad(model(pixels)[0, 0, 16, 16], pixels)
    seen = slope.abs().sum((0, 1)) > 0
    assert seen[16, 16] and seen[:, 16].sum() > 20  # far beyond the 9 pixels of full size alone


@pytest.mark.parametrize(
    ("width", "depth", "size"), [(0, 2, 32), (4, 0, 32), (4, 3, 36), (4, 6, 32)]
)
def test_what_cannot_be_halved_is_refused(width, depth, size):
    with pytest.raises(ContractError, match="multiple of 2\\^depth"):
        build_unet(6, width=width, depth=depth, size=size)
