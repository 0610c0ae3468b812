"""Gaussian noise, the "attack" of paper 1 (section 2.2): untargeted, blind, reproducible."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..core.contracts import ask
from ..core.errors import ContractError

if TYPE_CHECKING:  # timm is slow to import, and attacks need it for nothing else
    from ..models import MedicalModel


def noise_std(level: float, reading: str) -> float:
    """Standard deviation meant by a noise level of the paper.

    Args:
        level: the paper's sigma squared, in normalised pixel units.
        reading: ``variance`` takes it at its word (std = sqrt(level)); ``multiplier`` supposes
            that ``randn`` was multiplied by it (std = level).
    """
    if level < 0:
        raise ContractError(f"noise level {level} is negative; a variance is 0 or more.")
    readings = {"variance": math.sqrt(level), "multiplier": level}
    if reading not in readings:
        raise ContractError(f"reading={reading!r}: choose one of {', '.join(readings)}.")
    return readings[reading]


def gaussian(shape: Sequence[int], index: Sequence[int], seed: int) -> Tensor:
    """Standard normal noise (len(index), *shape), image by image from (seed, index).

    An image gets the same noise whatever the batch it comes in, so two models are compared
    on the same noisy pictures.
    """
    noise = torch.empty(len(index), *shape)
    for row, image in enumerate(index):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + int(image))
        noise[row].normal_(generator=generator)
    return noise


def uniform(images: Tensor, index: Sequence[int], seed: int) -> Tensor:
    """Noise in [-1, 1] beside ``images`` (len(index), C, H, W), image by image as ``gaussian``."""
    normal = gaussian(images.shape[1:], index, seed)
    return torch.erf(normal / math.sqrt(2)).to(images.device)


def signs(shape: Sequence[int], index: Sequence[int], seed: int) -> Tensor:
    """Plus or minus 1 in each pixel, int64 (len(index), *shape), from (seed, index)."""
    draws = [np.random.default_rng([seed, int(image)]) for image in index]
    return torch.from_numpy(np.stack([2 * draw.integers(0, 2, shape) - 1 for draw in draws]))


def noisy_logits(model: MedicalModel, images: Tensor, noise: Tensor, std: float) -> Tensor:
    """Logits with ``noise`` (N, 3, H, W) times ``std`` added after normalisation, unclipped.

    One unit is one unit of ImageNet-normalised pixels for every model (``model.noise_unit``),
    about 0.226 of the [0, 1] range of ``images`` (N, C, H, W), so that models with another
    normalisation see the same noise.
    """
    if not hasattr(model, "noise_unit"):
        raise ContractError(
            f"noise is added behind the model's own normalisation, and a {type(model).__name__} "
            "tells nothing of it. Put the network into a models.MedicalModel(network, mean, std)."
        )
    return ask(model.backbone, model.normalise(images) + noise * std * model.noise_unit)
