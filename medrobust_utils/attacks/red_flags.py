"""Red flags: signs that a robust accuracy says more about the attack than about the model.

After Athalye et al. 2018 (section 3.1) and Carlini et al. 2019 (section 3): a model that hides
its gradients looks robust, and gives itself away by these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.contracts import check_logits
from ..core.gate import admit, gate
from ..core.losses import correct
from .engine import TINY, extremes, gradient, pgd, uniform_start
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
        model, images, labels: see ``attacks.pgd``.
        eps: above 0, within [0, 1]; one at which part of the images is robust tells most.
        seed: of the random starts and of the noise.
    """
    labels = admit(model, images, labels)
    images, labels = images[:MOST], labels[:MOST]

    def right(images: Tensor, labels: Tensor) -> Tensor:
        logits = score(model, images, BATCH)
        check_logits(logits, labels.ndim == 2)
        return correct(logits, labels)

    def attacked(
        eps: float, steps: int, start: Tensor, some: Any = slice(None), length: float = 0.25
    ) -> Tensor:
        """``some`` of the images after steps of ``length * eps``."""
        how = dict(steps=steps, step_size=length * eps, dtype=dtype)
        parts = zip(*(x.split(BATCH) for x in (images[some], labels[some], start)), strict=True)
        return torch.cat([pgd(model, x, y, eps, start=at, **how) for x, y, at in parts])

    before = right(images, labels)
    images, labels, n = images[before], labels[before], int(before.sum())
    if not n:
        return [Flag("nothing to attack", True, f"0 of {len(before)} images right before")]
    draw, lost = torch.Generator().manual_seed(seed), 0
    moved = attacked(eps, steps, uniform_start(images, eps, draw))
    up = right(moved, labels)
    robust = int(up.sum())
    if robust:  # on from where they were left
        longer = attacked(eps, 3 * steps, moved[up], up)
        lost = int((~right(longer, labels[up])).sum())
    under = torch.ones_like(up)
    for _ in range(DRAWS):  # plus or minus eps in each pixel, the largest noise there is
        coin = torch.randint(0, 2, images.shape, generator=draw).to(images) * 2 - 1
        under &= right((images + eps * coin).clamp(0, 1), labels)
    missed = int((up & ~under).sum())
    gray = attacked(HUGE, 2 * steps, uniform_start(images, HUGE, draw))
    left = int(right(gray, labels).sum())
    # below the smallest normal float32 counts as zero: devices may flush such numbers
    asked = zip(images.split(BATCH), labels.split(BATCH), strict=True)
    zero = torch.cat([gradient(model, x, y, extremes(y))[0] for x, y in asked]).abs() < TINY
    none = int(zero.flatten(1).all(1).sum())
    once = int(right(attacked(eps, 1, images, length=1), labels).sum())
    more = f"{robust} are robust after {steps} steps, {robust - lost} after {4 * steps}"
    noise = f"{DRAWS} draws leave {int(under.sum())} of {n} images right, PGD {robust}; noise fools"
    blank = f"{none} of {n} images have no gradient at all; {zero.float().mean():.0%} of all pixels"
    at_huge = f"{left} of {n} images are robust at eps {HUGE:g}"
    single = f"of {n} images FGSM leaves {once}, PGD {robust}"
    return [
        Flag("more steps help much", lost > max(1, MUCH * n), f"of {n} images {more}"),
        Flag("random noise beats PGD", missed > 0, f"{noise} {missed} that PGD does not"),
        Flag("accuracy does not reach 0 at a huge eps", left > 0, at_huge),
        Flag("zero gradients", none > 0, blank),
        Flag("iterative weaker than single-step", robust > once, single),
    ]
