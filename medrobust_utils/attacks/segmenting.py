"""Attacks on segmentations as values: what they are called with, and the call itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ..core.contracts import ask
from ..core.errors import ContractError
from ..core.losses import BACKGROUND
from .gradient import madry_step, pgd, segpgd
from .layered import full_area, layered_pgd
from .selective import selective_fgsm

ATTACKS = ("background", "pgd", "segpgd")


@dataclass(frozen=True)
class Attack:
    """An attack on a segmentation.

    Attributes:
        kind: ``background`` pushes the whole prediction to the background (PGD; Avramidis et al.,
            section 3), ``pgd`` away from the truth, ``segpgd`` likewise, right pixels first.
        eps: radius, in units of the full range. 1 bounds nothing.
        steps: number of steps.
        step_size: in the units of ``eps``; ``attacks.madry_step`` unless given.
    """

    kind: str
    eps: float
    steps: int
    step_size: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in ATTACKS:
            raise ContractError(f"attack {self.kind!r}: choose {', '.join(ATTACKS)}.")
        madry_step(self.eps, self.steps)  # refuses what is no number of steps

    def __call__(
        self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, dtype: torch.dtype
    ) -> dict[str, torch.Tensor]:
        """``images`` (N, C, H, W), attacked."""
        length = madry_step(self.eps, self.steps) if self.step_size is None else self.step_size
        how = dict(steps=self.steps, step_size=length, dtype=dtype)
        if self.kind == "segpgd":
            return {"images": segpgd(model, images, labels, self.eps, **how)}
        aimed = self.kind == "background"
        goal = full_area(images, BACKGROUND) if aimed else labels
        how |= dict(random_start=False, targeted=aimed)
        return {"images": pgd(model, images, goal, self.eps, **how)}


@dataclass(frozen=True)
class Layered:
    """Method one of paper 4; see ``attacks.layered``. Steps are ``attacks.madry_step`` long."""

    eps: float
    steps: int
    ball: str = "stage"
    present: bool = False

    def __post_init__(self) -> None:
        madry_step(self.eps, self.steps)  # refuses what is no number of steps

    def __call__(
        self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, dtype: torch.dtype
    ) -> dict[str, torch.Tensor]:
        """``images`` (N, C, H, W), layered."""
        classes = range(ask(model, images[:1]).shape[1])
        how = dict(ball=self.ball, present=self.present, dtype=dtype)
        how |= dict(steps=self.steps, step_size=madry_step(self.eps, self.steps))
        return {"images": layered_pgd(model, images, labels, self.eps, classes=classes, **how)}


@dataclass(frozen=True)
class Selective:
    """Method two of paper 4; see ``attacks.selective``, whose arguments these are."""

    step_size: float
    bound: float
    search: str = "exhaustive"

    def __call__(
        self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, dtype: torch.dtype
    ) -> dict[str, torch.Tensor]:
        """``images`` (N, C, H, W), ``signs`` (N, K), ``loss``, ``before``, ``evaluations`` (N,)."""
        how = dict(step_size=self.step_size, bound=self.bound, search=self.search, dtype=dtype)
        return vars(selective_fgsm(model, images, labels, **how))
