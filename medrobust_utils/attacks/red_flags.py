"""Red flags: signs that a robust accuracy says more about the attack than about the model.

After Athalye et al. 2018 (section 3.1) and Carlini et al. 2019 (section 3): a model that hides
its gradients looks robust, and gives itself away by these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
        eps: above 0, within [0, 1]; one at which part of the images is robust tells most.
        seed: of the random starts and of the noise.

    Raises:
        ContractError: for a breach of the contract.
    """
    labels = admit(model, images, labels)
    images, labels = images[:MOST], labels[:MOST]
    before = _right(model, images, labels)
    images, labels, n = images[before], labels[before], int(before.sum())
    if not n:
        return [Flag("nothing to attack", True, f"0 of {len(before)} images right before")]
    draw = torch.Generator().manual_seed(seed)

    def attacked(attack: Callable, radius: float, **how: Any) -> torch.Tensor:
        parts = zip(images.split(BATCH), labels.split(BATCH), strict=True)
        return torch.cat([attack(model, x, y, radius, dtype=dtype, **how) for x, y in parts])

    moved = attacked(pgd, eps, steps=steps, step_size=eps / 4, generator=draw)
    up = _right(model, moved, labels)
    robust = int(up.sum())
    how = dict(steps=3 * steps, step_size=eps / 4, dtype=dtype)  # on from where they were left
    rest = zip(*(x[up].split(BATCH) for x in (images, labels, moved)), strict=True)
    longer = [pgd(model, x, y, eps, start=start, **how) for x, y, start in rest if len(x)]
    lost = int((~_right(model, torch.cat(longer), labels[up])).sum()) if longer else 0
    under = torch.ones_like(up)
    for _ in range(DRAWS):  # plus or minus eps in each pixel, the largest noise there is
        coin = torch.randint(0, 2, images.shape, generator=draw).to(images) * 2 - 1
        under &= _right(model, (images + eps * coin).clamp(0, 1), labels)
    missed = int((up & ~under).sum())
    huge = attacked(pgd, HUGE, steps=2 * steps, step_size=HUGE / 4, generator=draw)
    left = int(_right(model, huge, labels).sum())
    parts = zip(images.split(BATCH), labels.split(BATCH), strict=True)
    # below the smallest normal float32 counts as zero: devices may flush such numbers
    zero = torch.cat([gradient(model, x, y, extremes(y))[0].abs() < TINY for x, y in parts])
    none = int(zero.flatten(1).all(1).sum())
    once = int(_right(model, attacked(fgsm, eps), labels).sum())
    return [
        Flag(
            "more steps help much",
            lost > max(1, MUCH * n),
            f"of {n} images {robust} are robust after {steps} steps, {robust - lost} after "
            f"{4 * steps}",
        ),
        Flag(
            "random noise beats PGD",
            missed > 0,
            f"{DRAWS} draws leave {int(under.sum())} of {n} images right, PGD {robust}; noise "
            f"fools {missed} that PGD does not",
        ),
        Flag(
            "accuracy does not reach 0 at a huge eps",
            left > 0,
            f"{left} of {n} images are robust at eps {HUGE:g}",
        ),
        Flag(
            "zero gradients",
            none > 0,
            f"{none} of {n} images have no gradient at all; {zero.float().mean():.0%} of all "
            "pixels",
        ),
        Flag(
            "iterative weaker than single-step",
            robust > once,
            f"of {n} images FGSM leaves {once}, PGD {robust}",
        ),
    ]


def _right(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Which images are judged right, bool (N,)."""
    if not len(images):
        return torch.zeros(0, dtype=torch.bool, device=images.device)
    logits = score(model, images, BATCH)
    check_logits(logits, labels.ndim == 2)
    return correct(logits, labels)
