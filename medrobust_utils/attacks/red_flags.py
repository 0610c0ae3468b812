"""Red flags: signs that a robust accuracy says more about the attack than about the model.

After Athalye et al. 2018 (section 3.1) and Carlini et al. 2019 (section 3): a model that hides
its gradients looks robust, and gives itself away by these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..core.contracts import check_logits
from ..core.gate import admit, gate
from ..core.losses import correct
from .engine import TINY, extremes, fgsm, gradient, pgd
from .radii import score

MOST = 64  # images looked at
BATCH = 16
DRAWS = 10  # of random noise
HUGE = 0.5  # every image can be made the same gray
MUCH = 0.05  # share of the images on which more steps may succeed
SIGNS = (
    "more steps help much",
    "random noise beats PGD",
    "accuracy does not reach 0 at a huge eps",
    "zero gradients",
    "iterative weaker than single-step",
)


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
    images: Tensor,
    labels: Tensor,
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
    """
    labels = admit(model, images, labels)
    images, labels = images[:MOST], labels[:MOST]

    def right(images: Tensor, labels: Tensor) -> Tensor:
        logits = score(model, images, BATCH)
        check_logits(logits, labels.ndim == 2)
        return correct(logits, labels)

    def batched(compute: Callable, *tensors: Tensor) -> Tensor:
        parts = zip(*(tensor.split(BATCH) for tensor in tensors), strict=True)
        return torch.cat([compute(*part) for part in parts])

    def attacked(attack: Callable, radius: float, **how: Any) -> Tensor:
        attack = partial(attack, model, eps=radius, dtype=dtype, **how)
        return batched(attack, images, labels)

    before = right(images, labels)
    images, labels, n = images[before], labels[before], int(before.sum())
    if not n:
        return [Flag("nothing to attack", True, f"0 of {len(before)} images right before")]
    draw = torch.Generator().manual_seed(seed)
    moved = attacked(pgd, eps, steps=steps, step_size=eps / 4, generator=draw)
    up = right(moved, labels)
    robust, lost = int(up.sum()), 0
    if robust:  # on from where they were left
        how = dict(eps=eps, steps=3 * steps, step_size=eps / 4, dtype=dtype)
        three = (images[up], labels[up], moved[up])
        longer = batched(lambda x, y, start: pgd(model, x, y, start=start, **how), *three)
        lost = int((~right(longer, labels[up])).sum())
    under = torch.ones_like(up)
    for _ in range(DRAWS):  # plus or minus eps in each pixel, the largest noise there is
        coin = torch.randint(0, 2, images.shape, generator=draw).to(images) * 2 - 1
        under &= right((images + eps * coin).clamp(0, 1), labels)
    missed = int((up & ~under).sum())
    huge = attacked(pgd, HUGE, steps=2 * steps, step_size=HUGE / 4, generator=draw)
    left = int(right(huge, labels).sum())
    # below the smallest normal float32 counts as zero: devices may flush such numbers
    slopes = batched(lambda x, y: gradient(model, x, y, extremes(y))[0], images, labels)
    zero = slopes.abs() < TINY
    none = int(zero.flatten(1).all(1).sum())
    once = int(right(attacked(fgsm, eps), labels).sum())
    told = [
        f"of {n} images {robust} are robust after {steps} steps, {robust - lost} after {4 * steps}",
        f"{DRAWS} draws leave {int(under.sum())} of {n} images right, PGD {robust}; noise fools "
        f"{missed} that PGD does not",
        f"{left} of {n} images are robust at eps {HUGE:g}",
        f"{none} of {n} images have no gradient at all; {zero.float().mean():.0%} of all pixels",
        f"of {n} images FGSM leaves {once}, PGD {robust}",
    ]
    seen = (lost > max(1, MUCH * n), missed > 0, left > 0, none > 0, robust > once)
    return list(map(Flag, SIGNS, seen, told))
