"""Flips and crops of training images, drawn by the seed and the epoch."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ..core.errors import ContractError


def flip(images: torch.Tensor, flipped: np.ndarray, kind: str) -> torch.Tensor:
    """Mirror the images (N, C, H, W) where ``flipped`` (N, 2) says so.

    Args:
        kind: ``none`` (chest X-rays have a left and a right), ``horizontal`` or ``both``.
    """
    if kind not in ("none", "horizontal", "both"):
        raise ContractError(f"flips={kind!r}: choose none, horizontal or both.")
    for column, axis in enumerate({"none": (), "horizontal": (3,), "both": (3, 2)}[kind]):
        chosen = torch.from_numpy(flipped[:, column]).view(-1, 1, 1, 1)
        images = torch.where(chosen, images.flip(axis), images)
    return images


def crop(images: torch.Tensor, boxes: np.ndarray, least: float) -> torch.Tensor:
    """A square part of each image (N, C, H, W), resized bilinearly to the size of the whole.

    Args:
        boxes: (N, 3) in [0, 1): how far the area lies between ``least`` and 1, and where the part
            lies between top and bottom, left and right.
        least: smallest share of the area.
    """
    side = np.sqrt(least + (1 - least) * boxes[:, 0])
    theta = np.zeros((len(boxes), 2, 3), np.float32)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, :, 2] = (1 - side)[:, None] * (2 * boxes[:, :0:-1] - 1)  # x before y
    grid = F.affine_grid(torch.from_numpy(theta), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
