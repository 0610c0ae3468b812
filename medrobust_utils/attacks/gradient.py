"""Gradient attacks, L-infinity, on images in [0, 1]: all small settings of one engine.

Each returns adversarial images of the shape of ``images``, in [0, 1] and at most ``eps`` away,
exactly so in float32. Images are float32 (N, C, H, W) on the model's device, the model is in
evaluation mode and returns logits (N, K); labels are class indices (N,), zeros and ones (N,)
for a single logit, multi-hot (N, K), or label maps (N, H, W) where the model segments and returns
(N, K, H, W). A breach raises ContractError. ``eps`` and ``step_size`` are in units of the full
range: eight gray levels are 8/255.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..core.errors import ContractError
from ..core.gate import admit, gate
from ..core.losses import labelled, per_image, per_pixel
from . import engine

PGD_STEPS = 40  # Foolbox 3.3.4, LinfPGD
PGD_STEP = 0.01 / 0.3  # share of eps; likewise
BIM_STEPS = 10  # Foolbox 3.3.4, LinfBasicIterativeAttack, and Dong et al. 2018
BIM_STEP = 0.2  # share of eps; Foolbox likewise
MIFGSM_DECAY = 1.0  # Dong et al. 2018


def madry_step(eps: float, steps: int) -> float:
    """Length of a step that can cross the ball two and a half times (Madry et al. 2018)."""
    if steps < 1:
        raise ContractError(f"steps={steps}: take 1 step or more.")
    return 2.5 * eps / steps


def fgsm(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    eps: float,
    *,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Fast gradient sign method: one step of length eps (Goodfellow et al. 2015, section 4)."""
    return _attack(model, images, labels, eps, lengths=[eps], dtype=dtype)


def bim(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    eps: float,
    *,
    steps: int = BIM_STEPS,
    step_size: float | None = None,
    random_start: bool = False,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Basic iterative method (Kurakin et al. 2017): signed steps from the image itself.

    Args:
        step_size: eps * 0.2 unless given, the default of Foolbox 3.3.4.
        random_start, generator: see ``pgd``.
    """
    return _attack(
        model,
        images,
        labels,
        eps,
        lengths=[eps * BIM_STEP if step_size is None else step_size] * steps,
        random_start=random_start,
        generator=generator,
        dtype=dtype,
    )


def mifgsm(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    eps: float,
    *,
    steps: int = BIM_STEPS,
    step_size: float | None = None,
    decay: float = MIFGSM_DECAY,
    random_start: bool = False,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Momentum iterative method (Dong et al. 2018, algorithm 1).

    Args:
        step_size: eps / steps unless given, as in the paper.
        decay: share of the gathered gradient that each step keeps (mu, 1 in the paper).
        random_start, generator: see ``pgd``.
    """
    return _attack(
        model,
        images,
        labels,
        eps,
        lengths=[eps / max(1, steps) if step_size is None else step_size] * steps,
        random_start=random_start,
        generator=generator,
        decay=decay,
        dtype=dtype,
    )


def pgd(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    eps: float,
    *,
    steps: int = PGD_STEPS,
    step_size: float | None = None,
    random_start: bool = True,
    generator: torch.Generator | None = None,
    start: torch.Tensor | None = None,
    targeted: bool = False,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Projected gradient descent (Madry et al. 2018), with the defaults of Foolbox 3.3.4.

    Args:
        step_size: eps * 0.01 / 0.3 unless given.
        random_start: begin at a uniform point of the ball, else at the image.
        generator: of the random start; torch's own without one.
        start: begin at these images instead, projected into the ball.
        targeted: ``labels`` are where the answer shall go: walk down their loss, not up.
        dtype: bfloat16 computes gradients in mixed precision. Score the result in float32.
    """
    return _attack(
        model,
        images,
        labels,
        eps,
        lengths=[eps * PGD_STEP if step_size is None else step_size] * steps,
        start=start,
        random_start=random_start,
        generator=generator,
        loss=_towards if targeted else None,
        dtype=dtype,
    )


def segpgd(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    eps: float,
    *,
    steps: int,
    step_size: float,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """PGD for segmentation (Gu et al. 2022, "SegPGD", equations 4 and 5).

    At first only pixels that are still right count; the weight of the wrong ones rises with the
    steps to one half, so that no step is spent on making a wrong pixel more wrong. Begins at the
    images themselves.

    Args:
        labels: label maps (N, H, W).
        steps, step_size: see ``pgd``.
    """
    return _attack(
        model,
        images,
        labels,
        eps,
        lengths=[step_size] * steps,
        loss=_still_right_first,
        dtype=dtype,
    )


@gate()
def _attack(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    eps: float,
    *,
    start: torch.Tensor | None = None,
    random_start: bool = False,
    generator: torch.Generator | None = None,
    **how: Any,
) -> torch.Tensor:
    labels = admit(model, images, labels)
    if start is None and random_start:
        start = engine.random_start(images, eps, generator)
    return engine.ascend(model, images, labels, eps, start=start, **how)


def _towards(logits: torch.Tensor, labels: torch.Tensor, *, done: float) -> torch.Tensor:
    return -per_image(logits, labels)


def _still_right_first(logits: torch.Tensor, labels: torch.Tensor, *, done: float) -> torch.Tensor:
    weight = done / 2  # (t - 1) / 2T
    right = logits.argmax(1) == labels
    weights = torch.where(right, 1 - weight, weight)
    return (weights * per_pixel(logits, labels)).sum((1, 2)) / labelled(labels)
