"""Red flags: signs that a robust accuracy says more about the attack than about the model.

After Athalye et al. 2018 (section 3.1) and Carlini et al. 2019 (section 3): a model that hides
its gradients looks robust, and gives itself away by these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from ..core.contracts import check_logits
from ..core.gate import admit, gate
from ..core.losses import correct
from .engine import TINY, extremes, gradient
from .gradient import fgsm, pgd
from .radii import score

MOST = 64  # images looked at
BATCH = 16
DRAWS = 10  # of random noise
HUGE = 0.5  # every image can be made the same gray
MUCH = 0.05  # share of the images on which more steps may succeed


@dataclass(frozen=True)
class Flag:
    """A sign, whether it was seen, and the numbers behind that."""

    name: str
    raised: bool
    measured: str

    def __str__(self) -> str:
        return f"{'RED FLAG' if self.raised else 'fine'}: {self.name}: {self.measured}"


@gate()
def red_flags(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    eps: float,
    *,
    steps: int = 10,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> list[Flag]:
    """Five flags, computed on those of the first 64 images that are right before the attack.

    The PGD in question takes ``steps`` steps of eps / 4 from a random start. About seven times
    that many gradients an image are computed in all.

    Args:
        images: float32 (N, C, H, W) in [0, 1], on the model's device.
        labels: what ``losses.per_image`` takes for the model's head.
        eps: above 0, within [0, 1]; one that leaves part of the images standing tells most.
        seed: of the random starts and of the noise.

    Raises:
        ContractError: for a breach of the contract.
    """
    labels = admit(model, images, labels)
    images, labels = images[:MOST], labels[:MOST]
    right = _right(model, images, labels) if len(images) else torch.zeros(0, dtype=torch.bool)
    images, labels = images[right], labels[right]
    if not len(images):
        return [Flag("nothing to attack", True, f"0 of {len(right)} images right before")]
    draw = torch.Generator().manual_seed(seed)
    how = dict(generator=draw, dtype=dtype)
    moved = _batched(pgd, model, images, labels, eps, steps=steps, step_size=eps / 4, **how)
    up = _right(model, moved, labels)
    return [
        _more_steps(model, images, labels, eps, moved, up, steps, dtype),
        _noise(model, images, labels, eps, up, draw),
        _huge(model, images, labels, 2 * steps, how),
        _zero(model, images, labels),
        _single(model, images, labels, eps, up, dtype),
    ]


def _batched(attack: Callable, model: nn.Module, *args: object, **how: object) -> torch.Tensor:
    images, labels, eps = args
    parts = zip(images.split(BATCH), labels.split(BATCH), strict=True)
    return torch.cat([attack(model, x, y, eps, **how) for x, y in parts])


def _right(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    logits = torch.cat([score(model, part) for part in images.split(BATCH)])
    check_logits(logits, labels.ndim == 2)
    return correct(logits, labels)


def _more_steps(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    eps: float,
    moved: torch.Tensor,
    up: torch.Tensor,
    steps: int,
    dtype: torch.dtype,
) -> Flag:
    """Three times as many steps again, from where those still standing were left."""
    lost = 0
    if up.any():
        starts = zip(images[up].split(BATCH), moved[up].split(BATCH), strict=True)
        how = dict(steps=3 * steps, step_size=eps / 4, dtype=dtype)
        parts = zip(starts, labels[up].split(BATCH), strict=True)
        longer = [pgd(model, x, y, eps, start=start, **how) for (x, start), y in parts]
        lost = int((~_right(model, torch.cat(longer), labels[up])).sum())
    measured = f"of {len(images)} images {_standing(up)} stand after {steps} steps"
    measured += f", {_standing(up) - lost} after {4 * steps}"
    return Flag("more steps help much", lost > max(1, MUCH * len(images)), measured)


def _noise(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    eps: float,
    up: torch.Tensor,
    draw: torch.Generator,
) -> Flag:
    """Noise of plus or minus eps in each pixel, the largest there is."""
    under = torch.ones_like(up)
    for _ in range(DRAWS):
        coin = torch.randint(0, 2, images.shape, generator=draw).to(images) * 2 - 1
        under &= _right(model, (images + eps * coin).clamp(0, 1), labels)
    missed = int((up & ~under).sum())
    measured = f"{DRAWS} draws leave {_standing(under)} of {len(images)} images standing, PGD "
    measured += f"{_standing(up)}; noise fools {missed} that PGD does not"
    return Flag("random noise beats PGD", missed > 0, measured)


def _huge(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, steps: int, how: dict
) -> Flag:
    call = dict(steps=steps, step_size=HUGE / 4, **how)
    left = _standing(_right(model, _batched(pgd, model, images, labels, HUGE, **call), labels))
    measured = f"{left} of {len(images)} images stand at eps {HUGE:g}"
    return Flag("accuracy does not reach 0 at a huge eps", left > 0, measured)


def _zero(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Flag:
    """Gradients below the smallest normal float32 count as zero: devices may flush them."""
    parts = zip(images.split(BATCH), labels.split(BATCH), strict=True)
    slopes = torch.cat([gradient(model, x, y, extremes(y))[0] for x, y in parts]).abs()
    none = int((slopes.amax((1, 2, 3)) < TINY).sum())
    pixels = (slopes < TINY).float().mean().item()
    measured = f"{none} of {len(images)} images have no gradient at all; {pixels:.0%} of all pixels"
    return Flag("zero gradients", none > 0, measured)


def _single(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    eps: float,
    up: torch.Tensor,
    dtype: torch.dtype,
) -> Flag:
    once = _right(model, _batched(fgsm, model, images, labels, eps, dtype=dtype), labels)
    measured = f"of {len(images)} images FGSM leaves {_standing(once)}, PGD {_standing(up)}"
    return Flag("iterative weaker than single-step", _standing(up) > _standing(once), measured)


def _standing(up: torch.Tensor) -> int:
    return int(up.sum())
