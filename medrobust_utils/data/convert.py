"""Between stored bytes and what models take."""

from __future__ import annotations

import numpy as np
import torch


def to_float(images: np.ndarray) -> torch.Tensor:
    """uint8, or float32 in [0, 1], (N, H, W, C) as float32 (N, C, H, W) in [0, 1]: a copy."""
    tensor = torch.from_numpy(np.array(images, order="C")).permute(0, 3, 1, 2)
    return tensor if tensor.is_floating_point() else tensor.float().div_(255)


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """Float (N, C, H, W) in [0, 1] as uint8 (N, H, W, C), rounded: what a PNG would keep."""
    return images.mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
