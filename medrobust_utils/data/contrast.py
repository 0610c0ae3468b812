"""The contrast filter of paper 2 (section 3.2): flatten the lighting, lift the edges.

``x' = 4 x - 4 blur(x) + 128`` on images stretched to [0, 255], with a Gaussian blur of
sigma 20. The paper blurs with OpenCV (sigma_y = 0 means sigma_y = sigma_x, and the kernel's size
follows from sigma); what leaves [0, 255] is clipped here, as 8-bit arithmetic in OpenCV does.
Written in torch, so that an attack can go through the filter.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..core.errors import ContractError

SIGMA = 20.0  # pixels of a 224 pixel image; OpenCV's 8-bit kernel is then 121 pixels wide
REACH = 3.0  # standard deviations to each side, OpenCV's rule for 8-bit images


def blur(images: torch.Tensor, sigma: float = SIGMA) -> torch.Tensor:
    """Gaussian blur of float images (N, C, H, W), borders mirrored without repeating the edge.

    Two one-dimensional passes, since 121 x 121 taps a pixel would cost more than the network.
    Wide kernels are cut to what a mirrored border can supply (smaller than 61 pixels only).
    """
    radius = min(round(REACH * sigma), images.shape[-1] - 1, images.shape[-2] - 1)
    if radius < 1:
        raise ContractError(f"images of shape {tuple(images.shape)} are too small to blur.")
    taps = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = torch.softmax(-taps.square() / (2 * sigma**2), 0)
    n, c, h, w = images.shape
    flat = F.pad(images.reshape(n * c, 1, h, w), [radius] * 4, mode="reflect")
    flat = F.conv2d(F.conv2d(flat, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    return flat.view(n, c, h, w)


def enhance(images: torch.Tensor) -> torch.Tensor:
    """The whole filter on float32 images (N, C, H, W) in [0, 1]; the result lies in [0, 1].

    Each image is stretched over the range by its own least and greatest value. A constant image
    has nothing to stretch and comes out gray.
    """
    low = images.amin((1, 2, 3), keepdim=True)
    high = images.amax((1, 2, 3), keepdim=True)
    stretched = (images - low) / (high - low).clamp_min(1e-6)
    return (4 * stretched - 4 * blur(stretched) + 128 / 255).clamp(0, 1)
