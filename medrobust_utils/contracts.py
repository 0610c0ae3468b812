"""The contract between images, models and scores, checked where they meet.

Images are float32 in [0, 1], (N, C, H, W). Models take such images and return logits;
normalisation lives inside the model. The most common faults of robustness code (normalising
twice, attacking probabilities, scoring in training mode) break one of these and raise here,
with the remedy, instead of giving a plausible wrong number.
"""

from __future__ import annotations

import torch
from torch import nn

from .errors import ContractError


def check_images(images: torch.Tensor) -> None:
    """Raise ContractError unless ``images`` is float32 (N, C, H, W) in [0, 1] without NaN."""
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ContractError(
            f"images have shape {tuple(images.shape)}; expected (N, C, H, W) with "
            "C = 1 or 3. For one image use image[None]."
        )
    if images.dtype != torch.float32:
        raise ContractError(
            f"images are {images.dtype}; expected float32. For uint8 use "
            "medrobust_utils.data.to_float(images)."
        )
    if not len(images):
        return
    low, high = images.amin().item(), images.amax().item()
    if not (low >= 0 and high <= 1):  # also catches NaN
        raise ContractError(
            f"images range over [{low:.3g}, {high:.3g}]; expected [0, 1] without NaN. "
            "Divide 8-bit images by 255, and leave normalisation to the model."
        )


def check_logits(logits: torch.Tensor, multi_label: bool) -> None:
    """Raise ContractError if ``logits`` (N, K) has NaN or holds probabilities already."""
    if logits.ndim != 2:
        raise ContractError(
            f"the model returned shape {tuple(logits.shape)}; expected (N, K) logits."
        )
    if not torch.isfinite(logits).all():
        raise ContractError(
            "the model returned NaN or infinity. Lower the learning rate or train "
            "in float32, then start from the last good checkpoint."
        )
    inside = bool((logits >= 0).all() and (logits <= 1).all())
    if multi_label:
        # A few logits can lie in [0, 1] by chance; dozens that all do are sigmoid outputs.
        probabilities = inside and logits.numel() >= 32
    else:
        sums = logits.float().sum(1)
        probabilities = inside and bool(((sums - 1).abs() < 1e-3).all())
    if probabilities and len(logits):
        raise ContractError(
            "the model returned probabilities, not logits. Remove its last softmax or "
            "sigmoid: losses, attacks and AUC are computed from logits here."
        )


def check_eval(model: nn.Module) -> None:
    """Raise ContractError if any part of ``model`` is in training mode."""
    training = [
        name or type(model).__name__ for name, part in model.named_modules() if part.training
    ]
    if training:
        raise ContractError(
            f"the model is in training mode ({training[0]} and {len(training) - 1} more "
            "parts): dropout and batch norm would change the scores. Call model.eval()."
        )
