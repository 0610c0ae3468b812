"""Gradient attacks, L-infinity, on images in [0, 1]: all small settings of one loop.

Each returns adversarial images of the shape of ``images``, in [0, 1] and at most ``eps`` away,
exactly so in float32. Images are float32 (N, C, H, W) on the model's device, the model is in
evaluation mode and returns logits (N, K); labels are class indices (N,), zeros and ones (N,)
for a single logit, multi-hot (N, K), or label maps (N, H, W) where the model segments and returns
(N, K, H, W). A breach raises ContractError. ``eps`` and ``step_size`` are in units of the full
range: eight gray levels are 8/255.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import ContractError
from ..core.gate import admit, gate
from ..core.losses import labelled, per_image, per_pixel
from . import engine

# Usual steps of an attack, and the length of one as a share of eps; None: the steps add up to eps.
USUAL = {
    "fgsm": (1, 1.0),  # Goodfellow et al. 2015, section 4
    "bim": (10, 0.2),  # Foolbox 3.3.4
    "mifgsm": (10, None),  # Dong et al. 2018, algorithm 1
    "pgd": (40, 0.01 / 0.3),  # Foolbox 3.3.4
}
MIFGSM_DECAY = 1.0  # Dong et al. 2018


def madry_step(eps: float, steps: int) -> float:
    """Length of a step that can cross the ball two and a half times (Madry et al. 2018)."""
    if steps < 1:
        raise ContractError(f"steps={steps}: take 1 step or more.")
    return 2.5 * eps / steps


def fgsm(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: float,
    *,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Fast gradient sign method: one step of length eps (Goodfellow et al. 2015, section 4)."""
    return pgd(model, images, labels, eps, **_usual("fgsm", eps, {"dtype": dtype}))


def bim(model: nn.Module, images: Tensor, labels: Tensor, eps: float, **how: Any) -> Tensor:
    """Basic iterative method (Kurakin et al. 2017): signed steps from the image itself.

    Ten of a fifth of eps, as in Foolbox 3.3.4, unless ``how`` says otherwise (see ``pgd``).
    """
    return pgd(model, images, labels, eps, **_usual("bim", eps, how))


def mifgsm(model: nn.Module, images: Tensor, labels: Tensor, eps: float, **how: Any) -> Tensor:
    """Momentum iterative method (Dong et al. 2018, algorithm 1).

    Ten steps that add up to eps, a decay (mu) of 1, unless ``how`` says otherwise (see ``pgd``).
    """
    return pgd(model, images, labels, eps, **_usual("mifgsm", eps, {"decay": MIFGSM_DECAY} | how))


def segpgd(model: nn.Module, images: Tensor, labels: Tensor, eps: float, **how: Any) -> Tensor:
    """PGD for segmentation (Gu et al. 2022, "SegPGD", equations 4 and 5).

    At first only pixels that are still right count; the weight of the wrong ones rises with the
    steps to one half, so that no step is spent on making a wrong pixel more wrong. Begins at the
    images themselves; ``labels`` are label maps (N, H, W), ``how`` is as for ``pgd``.
    """
    return pgd(model, images, labels, eps, random_start=False, loss=_still_right_first, **how)


@gate()
def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: float,
    *,
    steps: int = USUAL["pgd"][0],
    step_size: float | None = None,
    random_start: bool = True,
    generator: torch.Generator | None = None,
    start: Tensor | None = None,
    targeted: bool = False,
    decay: float | None = None,
    loss: Callable[..., Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Projected gradient descent (Madry et al. 2018), with the defaults of Foolbox 3.3.4.

    Args:
        step_size: eps * 0.01 / 0.3 unless given.
        random_start: begin at a uniform point of the ball, else at the image.
        generator: of the random start; torch's own without one.
        start: begin at these images instead, projected into the ball.
        targeted: ``labels`` are where the answer shall go: walk down their loss, not up.
        decay, loss: see ``engine.ascend``.
        dtype: bfloat16 computes gradients in mixed precision. Score the result in float32.
    """
    labels = admit(model, images, labels)
    if start is None and random_start:
        start = engine.random_start(images, eps, generator)
    lengths = [eps * USUAL["pgd"][1] if step_size is None else step_size] * steps
    loss = _towards if targeted else loss
    how = dict(lengths=lengths, start=start, decay=decay, loss=loss, dtype=dtype)
    return engine.ascend(model, images, labels, eps, **how)


def _usual(attack: str, eps: float, how: dict[str, Any]) -> dict[str, Any]:
    """``how``, and what it leaves open as is usual for an attack that begins at the image."""
    steps, share = USUAL[attack]
    steps, length = how.get("steps", steps), how.get("step_size")
    if length is None:
        length = eps / max(1, steps) if share is None else eps * share
    return {"random_start": False} | how | {"steps": steps, "step_size": length}


def _towards(logits: Tensor, labels: Tensor, *, done: float) -> Tensor:
    return -per_image(logits, labels)


def _still_right_first(logits: Tensor, labels: Tensor, *, done: float) -> Tensor:
    weight = done / 2  # (t - 1) / 2T
    weights = torch.where(logits.argmax(1) == labels, 1 - weight, weight)
    return (weights * per_pixel(logits, labels)).sum((1, 2)) / labelled(labels)
