"""What an attack is after: which answers count as fooled, and how far each image is from that.

Three goals cover every head of this kit. Softmax and single logits: another class than the true
one. Several labels: *any* label flipped, or *one finding* flipped, whatever the others do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...core.errors import ContractError
from ...core.losses import as_classes, correct, per_image

FLOOR = 1e-12  # below a difference of logits; Croce and Hein 2020 do the same
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Goal:
    """When an image with several labels counts as fooled.

    Attributes:
        finding: the label that has to flip; None for any of them. None for every other head.
    """

    finding: int | None = None

    def check(self, labels: torch.Tensor, logits: torch.Tensor) -> None:
        """Raise ContractError if the head has no such goal."""
        if logits.ndim != 2:
            raise ContractError(
                f"AutoAttack judges whole images; logits are {tuple(logits.shape)}. For a "
                "segmentation use pgd or segpgd."
            )
        if self.finding is None:
            return
        if labels.ndim != 2 or not 0 <= self.finding < labels.shape[1]:
            raise ContractError(
                f"finding={self.finding}: needs labels (N, K) of several findings, and one of 0 "
                "to K - 1. Leave it out for heads with one answer an image."
            )

    def robust(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Bool (N,): not fooled."""
        if self.finding is None:
            return correct(logits, labels)
        return (logits[:, self.finding] > 0) == labels[:, self.finding].bool()

    def margins(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """How far each image is from being misclassified in each way, (N, T); negative where it is.

        The ways are the T = K - 1 other classes in order (one for a single logit), the K labels,
        or the one finding.
        """
        if labels.ndim == 2:
            signed = logits * (2 * labels.to(logits.dtype) - 1)
            return signed if self.finding is None else signed[:, [self.finding]]
        logits, labels = as_classes(logits), labels.long()
        true = logits.gather(1, labels[:, None])
        other = torch.ones_like(logits, dtype=torch.bool).scatter_(1, labels[:, None], False)
        return true - logits[other].view(len(logits), -1)

    def cross_entropy(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of the head (N,); that of the one finding alone where there is one."""
        if self.finding is None:
            return per_image(logits, labels)
        return per_image(logits[:, [self.finding]], labels[:, self.finding])

    def towards(self, way: torch.Tensor) -> Loss:
        """The loss that fools each image in its own way (N,), the targeted ratio (equation 7).

        The margin itself, negated, below four classes and for labels that do not compete.
        """

        def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            margin = self.margins(logits, labels).gather(1, way[:, None])[:, 0]
            if labels.ndim == 2 or logits.shape[1] < 4:
                return -margin
            top = logits.topk(4, 1).values
            return -margin / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + FLOOR)

        return loss
