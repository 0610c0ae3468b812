"""What is asked of an attack: how it goes through the radii, and how hard AutoAttack tries."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..core.errors import ContractError
from .gradient import USUAL

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
        steps: steps at each eps: 5 by bisection, where gradients gather as in MI-FGSM, else those
            of the function ``attack`` names, unless given. FGSM has one step of length eps, and
            refuses another.
        rel_step: length of a step as a share of eps: 0.7 by bisection, else that of the function
            ``attack`` names, unless given; None with ``step_size``. By bisection that is the first
            step's, and the k-th has a k-th of it.
        seed: of PGD's random starts, one an image (see ``gaussian``), the same at every eps. The
            other attacks start at the image.
        dtype: bfloat16 computes gradients in mixed precision; scores are float32 always.
        attack: ``pgd``, ``fgsm``, ``bim`` or ``mifgsm``.
        step_size: the same length at every eps, in [0, 1], instead of ``rel_step * eps``. A step
            may be larger than the ball, as 2/255 is at eps 1/255: it ends at the ball's border.
    """

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
        halving = self.mode == "bisection"
        if (self.attack != "pgd" or self.engine == "foolbox") and halving:
            raise ContractError(
                "only the kit's own pgd goes by bisection, on from where another attack ended. "
                "Choose mode='skip_fooled', or 'independent' for what the papers did."
            )
        if self.attack != "pgd" and self.engine == "foolbox":
            raise ContractError("engine='foolbox' sweeps pgd only: use 'native'.")
        if self.rel_step is not None and self.step_size is not None:
            raise ContractError("rel_step and step_size both tell the length of a step: give one.")
        steps, share = BISECTION if halving else USUAL[self.attack]
        # this is the way to fill in a frozen dataclass
        if self.steps is None:
            object.__setattr__(self, "steps", steps)
        if self.rel_step is None and self.step_size is None:
            share = 1 / max(1, self.steps) if share is None else share
            object.__setattr__(self, "rel_step", share)
        length = self.rel_step if self.step_size is None else self.step_size
        if not (self.steps >= 1 and length >= 0 and (self.step_size or 0) <= 1):
            raise ContractError(
                f"{self.steps} steps of {length}: take 1 step or more, forward, and no step_size "
                "above 1. Two gray levels are 2/255, not 2."
            )
        if self.attack == "fgsm" and (self.steps, self.rel_step) != (1, 1.0):
            raise ContractError("fgsm is one step of length eps. For more take attack='bim'.")

    def lengths(self, eps: float | torch.Tensor) -> list[float | torch.Tensor]:
        """Of the steps at ``eps``, which may be each image's own."""
        length = self.rel_step * eps if self.step_size is None else self.step_size
        if self.mode != "bisection":
            return [length] * self.steps
        return [length / k for k in range(1, self.steps + 1)]


@dataclass(frozen=True)
class AutoAttackConfig:
    """How hard AutoAttack tries (Croce and Hein 2020); the defaults are the published settings.

    Attributes:
        steps: of Auto-PGD and of FAB.
        targets: at most so many ways to fall are aimed at: the closest ones of each image.
        queries: of Square.
        finding: with several labels, the one that has to flip; None for any of them.
        to_the_end: go on with images that are fooled, and return the point of the lowest margin
            of each: for an AUC under attack, which asks how low scores can be pushed. Only where
            there is one way to fall: one finding, a single logit, two classes. FAB, which seeks the
            nearest point, is left out.
        seed: of starting points and squares, which are an image's own (see ``gaussian``).
        dtype: bfloat16 computes gradients in mixed precision; answers are float32 always.
    """

    steps: int = 100
    targets: int = 9
    queries: int = 5000
    finding: int | None = None
    to_the_end: bool = False
    seed: int = 0
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if min(self.steps, self.targets, self.queries) < 1:
            raise ContractError(
                f"steps={self.steps}, targets={self.targets}, queries={self.queries}: 1 or more."
            )
        if self.dtype not in (torch.float32, torch.bfloat16):
            raise ContractError(f"dtype={self.dtype}: choose torch.float32 or torch.bfloat16.")

    def shortened(self, ways: int) -> str:
        """What is less than the published settings where there are so many ways to fall.

        Such as "20 of 100 steps, 200 of 5000 queries"; empty where nothing is.
        """
        full = AutoAttackConfig()
        pairs = {
            "steps": (self.steps, full.steps),
            "targets": (min(self.targets, ways), min(full.targets, ways)),
            "queries": (self.queries, full.queries),
        }
        less = [f"{few} of {all} {name}" for name, (few, all) in pairs.items() if few < all]
        return ", ".join(less)

    @property
    def members(self) -> tuple[str, ...]:
        """The attacks that are run, in order."""
        return tuple(m for m in MEMBERS if not (self.to_the_end and m.startswith("fab")))
