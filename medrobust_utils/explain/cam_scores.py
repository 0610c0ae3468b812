"""What a class activation map explains: one number of each image, and its gradient."""

from __future__ import annotations

import numpy as np
import torch

from ..core.errors import ContractError
from ..core.losses import BACKGROUND


class Score:
    """What the library differentiates: one image's logit of a class, or its sum over a region.

    Attributes:
        wanted: the class; found in the logits where it was None.
        empty: why there is nothing to differentiate; empty where there is.
    """

    def __init__(self, wanted: int | None, region: np.ndarray | torch.Tensor | None) -> None:
        self.wanted, self.region, self.empty = wanted, region, ""

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        if logits.ndim == 3:
            return self._over_region(logits)
        if logits.ndim != 1 or self.region is not None:
            raise ContractError(
                f"the model returned {logits.ndim + 1} dimensions, not (N, K)"
                f"{' or, for regions, (N, K, H, W)' if self.region is not None else ''}."
            )
        single = len(logits) == 1
        if self.wanted is None:
            self.wanted = int(logits[0] > 0) if single else int(logits.argmax())
        self._check(2 if single else len(logits), len(logits))
        return logits[0] * (2 * self.wanted - 1) if single else logits[self.wanted]

    def _over_region(self, logits: torch.Tensor) -> torch.Tensor:
        answer = logits.argmax(0)
        if self.wanted is None:
            counts = answer.flatten().bincount(minlength=len(logits))
            counts[BACKGROUND] = 0
            self.wanted = int(counts.argmax()) if counts.any() else BACKGROUND
        self._check(len(logits), len(logits))
        region = answer == self.wanted
        self.empty = "" if region.any() else "no pixel is given to the class"
        if self.region is not None:
            given = self.region
            region = torch.tensor(given) if isinstance(given, np.ndarray) else given
            region = region.to(logits.device)
            self.empty = "" if region.any() else "the region holds no pixel"
        if region.shape != answer.shape:
            raise ContractError(
                f"a region of {tuple(region.shape)} pixels for an answer of {tuple(answer.shape)}."
                " Bring it to the size of the images, by the nearest pixel."
            )
        return (logits[self.wanted] * region).sum()

    def _check(self, classes: int, logits: int) -> None:
        if not 0 <= self.wanted < classes:
            raise ContractError(
                f"class {self.wanted} of a model with {logits} logit(s). Classes count from 0."
            )
