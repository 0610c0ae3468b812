"""Gradient attacks, L-infinity, on images in [0, 1]."""

from __future__ import annotations

import torch
from torch import nn

from ..contracts import check_eval, check_images, check_logits
from ..errors import ContractError
from ..losses import per_image


def fgsm(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, eps: float) -> torch.Tensor:
    """Fast gradient sign method (Goodfellow et al. 2015, section 4).

    Args:
        model: returns logits (N, K), in evaluation mode.
        images: float32 (N, C, H, W) in [0, 1], on the model's device.
        labels: int64 (N,) classes, or (N, K) multi-hot for a multi-label model.
        eps: largest change of a pixel, in [0, 1]; 8/255 is eight gray levels.

    Returns:
        Adversarial images of the same shape, in [0, 1], at most ``eps`` away.

    Raises:
        ContractError: for images, logits or an eps that break the contract.
    """
    if not 0 <= eps <= 1:
        raise ContractError(f"eps={eps} lies outside [0, 1]. Eight gray levels are 8/255, not 8.")
    check_eval(model)
    check_images(images)
    moved = images.detach().clone().requires_grad_()
    logits = model(moved)
    check_logits(logits.detach(), labels.ndim == 2)
    # the sum keeps each image's gradient independent of the batch it comes in
    (gradient,) = torch.autograd.grad(per_image(logits, labels).sum(), moved)
    return (images + eps * gradient.sign()).clamp(0, 1).detach()
