"""How hard AutoAttack tries (Croce and Hein 2020), and what is less than was published."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..errors import ContractError

# The members of each version, in order, as in the reference code; "plus" has five restarts of the
# untargeted ones, "rand" averages twenty gradients.
MEMBERS = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
STANDING, WRONG = "", "wrong before"  # in the record, beside the names of the members
RESTARTED = ("apgd-ce", "apgd-dlr", "fab")
RESTARTS, SAMPLES = 5, 20


@dataclass(frozen=True)
class AutoPlan:
    """How hard AutoAttack tries; the defaults are the published settings.

    Attributes:
        version: ``standard``; ``plus``, slower, with restarts; ``rand``, for models that draw at
            random when they answer.
        steps: of Auto-PGD and of FAB.
        targets: at most so many ways to fall are aimed at: the closest ones of each image.
        queries: of Square.
        finding: with several labels, the one that has to flip; None for any of them.
        to_the_end: go on with images that have fallen, and return the point of the lowest margin
            of each: for an AUC under attack, which asks how low scores can be pushed. Only where
            there is one way to fall: one finding, a single logit, two classes. FAB, which seeks the
            nearest point, is left out.
        seed: of starting points and squares, which are an image's own (see ``gaussian``).
        dtype: bfloat16 computes gradients in mixed precision; answers are float32 always.
    """

    version: str = "standard"
    steps: int = 100
    targets: int = 9
    queries: int = 5000
    finding: int | None = None
    to_the_end: bool = False
    seed: int = 0
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if self.version not in MEMBERS:
            known = ", ".join(MEMBERS)
            raise ContractError(f"version={self.version!r}: choose one of {known}.")
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
        full = AutoPlan()
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
        members = MEMBERS[self.version]
        return tuple(m for m in members if not (self.to_the_end and m.startswith("fab")))
