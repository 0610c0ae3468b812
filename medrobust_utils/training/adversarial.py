"""Adversarial training (Madry et al. 2018): learn from the images that an attack makes.

The attack sees the model as it is now, in evaluation mode (as in TRADES' code), so that batch
norm's running statistics are those of the training step alone. ``LayeredTraining`` does so with
method one of paper 4, which its authors leave to future work ("integrate steps into conventional
training").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ..attacks import Layered, pgd
from ..core import env
from ..core.losses import per_image


@dataclass(frozen=True)
class AdversarialTraining:
    """Cross-entropy of images that PGD moved.

    Attributes:
        eps: radius, in units of the full range.
        steps: of PGD, from a random start.
        step_size: in the units of ``eps``.
    """

    eps: float
    steps: int
    step_size: float

    @property
    def identity(self) -> str:
        return repr(self)

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        targets: Tensor,
        rows: np.ndarray,
        dtype: torch.dtype,
    ) -> Tensor:
        how = dict(steps=self.steps, step_size=self.step_size, dtype=dtype)
        return _loss(model, partial(pgd, model, images, targets, self.eps, **how), targets, dtype)


@dataclass(frozen=True)
class LayeredTraining(Layered):
    """Cross-entropy of images that ``Layered`` moved, with its attributes; ``steps`` is of a class.

    The model never sees a clean image, as model 2 of the paper does not.
    """

    @property
    def identity(self) -> str:
        return repr(self)

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        targets: Tensor,
        rows: np.ndarray,
        dtype: torch.dtype,
    ) -> Tensor:
        attack = Layered(**vars(self))
        return _loss(model, lambda: attack(model, images, targets, dtype)["images"], targets, dtype)


def _loss(
    model: nn.Module, attack: Callable[[], Tensor], targets: Tensor, dtype: torch.dtype
) -> Tensor:
    """The mean loss of the images that ``attack`` makes of the model in evaluation mode."""
    model.eval()
    moved = attack()
    model.train()
    with env.autocast(moved.device, dtype):
        logits = model(moved)
    return per_image(logits.float(), targets).mean()
