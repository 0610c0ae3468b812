"""Adversarial training (Madry et al. 2018): learn from the images that an attack makes.

``LayeredTraining`` does so with method one of paper 4, which its authors leave to future work
("integrate steps into conventional training").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..attacks import Layered, pgd
from ..core import env
from ..core.losses import per_image


@dataclass(frozen=True)
class AdversarialTraining:
    """Cross-entropy of images that PGD moved against the model as it is now.

    The attack sees the model in evaluation mode (as in TRADES' code), so that batch norm's
    running statistics are those of the training step alone.

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
        images: torch.Tensor,
        targets: torch.Tensor,
        rows: np.ndarray,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        model.eval()
        how = dict(steps=self.steps, step_size=self.step_size, dtype=dtype)
        moved = pgd(model, images, targets, self.eps, **how)
        model.train()
        with env.autocast(images.device, dtype):
            logits = model(moved)
        return per_image(logits.float(), targets).mean()


@dataclass(frozen=True)
class LayeredTraining:
    """Cross-entropy of images that method one moved against the model as it is now.

    Like ``AdversarialTraining``, with the layers of ``attacks.layered`` in place of PGD: the model
    never sees a clean image, as model 2 of the paper does not.

    Attributes:
        eps, steps, ball, present: of ``Layered``; ``steps`` is of each class.
    """

    eps: float
    steps: int
    ball: str = "stage"
    present: bool = False

    @property
    def identity(self) -> str:
        return repr(self)

    def __call__(
        self,
        model: nn.Module,
        images: torch.Tensor,
        targets: torch.Tensor,
        rows: np.ndarray,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        model.eval()
        how = Layered(self.eps, self.steps, self.ball, self.present)
        moved = how(model, images, targets, dtype)["images"]
        model.train()
        with env.autocast(images.device, dtype):
            logits = model(moved)
        return per_image(logits.float(), targets).mean()
