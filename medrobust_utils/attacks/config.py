"""What is asked of an attack: how it goes through the radii, and how hard AutoAttack tries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.errors import ContractError
from .engine import USUAL

CHOICES = {
    "mode": ("bisection", "skip_fooled", "independent"),
    "engine": ("native", "foolbox"),
    "attack": ("pgd", "fgsm", "bim", "mifgsm"),
}
BISECTION = (5, 0.7)  # steps, and the first as a share of eps
# AutoAttack's standard version, its members in order, as in the reference code.
MEMBERS = ("apgd-ce", "apgd-t", "fab-t", "square")
ROBUST, WRONG = "", "wrong before"  # in the record, beside the names of the members
EARLIER = "earlier attack"  # likewise: what was fooled before AutoAttack was asked


@dataclass(frozen=True)
class AttackConfig:
    """How a gradient attack goes through the radii.

    Attributes:
        mode: ``bisection`` (PGD only), ``skip_fooled`` or ``independent``.
        engine: ``native``, or ``foolbox`` (PGD only, and not by bisection).
        steps: at each eps; unless given 5 by bisection, where gradients gather as in MI-FGSM, else
            those of the function that ``attack`` names. FGSM has one step of length eps.
        rel_step: length of a step as a share of eps, unless given that of the same function, or
            0.7 by bisection, whose k-th step has a k-th of it; None with ``step_size``.
        seed: of PGD's random starts, one an image (see ``gaussian``), the same at every eps. The
            other attacks start at the image.
        dtype: bfloat16 computes gradients in mixed precision; scores are float32 always.
        attack: ``pgd``, ``fgsm``, ``bim`` or ``mifgsm``.
        step_size: the same length at every eps, in [0, 1], instead of ``rel_step * eps``. A step
            may be larger than the ball, as 2/255 is at eps 1/255: it ends at the ball's border.
    """

    version: ClassVar[int] = 1  # counts changes of results
    mode: str = "bisection"
    engine: str = "native"
    steps: int | None = None
    rel_step: float | None = None
    seed: int = 0
    dtype: torch.dtype = torch.float32
    attack: str = "pgd"
    step_size: float | None = None

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                value = f"{name}={getattr(self, name)!r}"
                raise ContractError(f"{value}: choose one of {', '.join(known)}.")
        if (self.halving, self.engine == "foolbox", self.attack != "pgd").count(True) > 1:
            raise ContractError(
                "only the kit's own pgd goes by bisection, and Foolbox runs pgd alone. Choose "
                "mode='skip_fooled', or 'independent' for what the papers did."
            )
        usual, share = BISECTION if self.halving else USUAL[self.attack]
        steps = usual if self.steps is None else self.steps
        if self.rel_step is not None or self.step_size is not None:
            share = self.rel_step
        elif share is None:  # the steps add up to eps
            share = 1 / max(1, steps)
        object.__setattr__(self, "steps", steps)  # the way to fill in a frozen dataclass
        object.__setattr__(self, "rel_step", share)
        lengths = [length for length in (share, self.step_size) if length is not None]
        forward = len(lengths) == 1 and lengths[0] >= 0 and (self.step_size or 0) <= 1
        single = self.attack != "fgsm" or (steps, share) == (1, 1.0)
        if not (steps >= 1 and forward and single):
            raise ContractError(
                f"{steps} steps of rel_step={share}, step_size={self.step_size}: take 1 step or "
                "more, forward, as a share of eps or of a length in [0, 1] (two gray levels are "
                "2/255); fgsm is one step of length eps."
            )

    @property
    def halving(self) -> bool:
        """Whether it goes by bisection."""
        return self.mode == "bisection"

    def lengths(self, eps: float | Tensor) -> list[float | Tensor]:
        """Of the steps at ``eps``, which may be each image's own."""
        length = self.rel_step * eps if self.step_size is None else self.step_size
        return [length / (k if self.halving else 1) for k in range(1, self.steps + 1)]


@dataclass(frozen=True)
class AutoAttackConfig:
    """How hard AutoAttack tries (Croce and Hein 2020); the defaults are the published settings.

    Attributes:
        steps: of Auto-PGD and of FAB.
        targets: at most so many ways to be fooled are aimed at: the closest ones of each image.
        queries: of Square.
        seed: of starting points and squares, which are an image's own (see ``gaussian``).
        dtype: bfloat16 computes gradients in mixed precision; answers are float32 always.
    """

    mode: ClassVar[str] = "autoattack"
    version: ClassVar[int] = 4  # counts changes of results
    steps: int = 100
    targets: int = 9
    queries: int = 5000
    seed: int = 0
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        known = self.dtype in (torch.float32, torch.bfloat16)
        if min(self.steps, self.targets, self.queries) < 1 or not known:
            raise ContractError(f"{self}: counts are 1 or more, dtype is float32 or bfloat16.")

    def shortened(self, ways: int) -> str:
        """What is less than the published settings where there are so many ways to be fooled.

        Such as "20 of 100 steps, 200 of 5000 queries"; empty where nothing is.
        """
        full = AutoAttackConfig(targets=min(ways, AutoAttackConfig.targets))
        less = [
            f"{getattr(self, name)} of {getattr(full, name)} {name}"
            for name in ("steps", "targets", "queries")
            if getattr(self, name) < getattr(full, name)
        ]
        return ", ".join(less)
