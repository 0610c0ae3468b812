"""What AutoAttack is after, and what its members ask of a model, counted.

Three goals cover every head of this kit. Softmax and single logits: another class than the true
one. Several labels: *any* label flipped, or *one finding* flipped, whatever the others do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...core.contracts import check_finite
from ...core.errors import ContractError
from ...core.losses import as_classes, correct, per_image
from ..engine import Loss, extremes, gradient
from ..radii import score

FLOOR = 1e-12  # below a difference of logits; Croce and Hein 2020 do the same


@dataclass(frozen=True)
class Goal:
    """When an image with several labels counts as fooled.

    That is when ``finding`` flips, or any of them if it is None, as for every other head.
    """

    finding: int | None = None

    def check(self, labels: Tensor, logits: Tensor) -> None:
        """Raise ContractError if the head has no such goal."""
        if logits.ndim != 2:
            raise ContractError("AutoAttack judges whole images. Segmentations: pgd or segpgd.")
        known = labels.shape[1] if labels.ndim == 2 else 0
        if self.finding is not None and not 0 <= self.finding < known:
            raise ContractError(
                f"finding={self.finding}: these labels have {known} findings to choose from. Leave "
                "it out for heads with one answer an image."
            )

    def robust(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Bool (N,): not fooled."""
        if self.finding is None:
            return correct(logits, labels)
        return (logits[:, self.finding] > 0) == labels[:, self.finding].bool()

    def margins(self, logits: Tensor, labels: Tensor) -> Tensor:
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

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of the head (N,); that of the one finding alone where there is one."""
        if self.finding is None:
            return per_image(logits, labels)
        return per_image(logits[:, [self.finding]], labels[:, self.finding])

    def margin(self, way: Tensor) -> Loss:
        """The margin of each image in its own way (N,), a column of ``margins``."""
        return lambda logits, labels: self.margins(logits, labels).gather(1, way[:, None])[:, 0]

    def towards(self, way: Tensor) -> Loss:
        """The loss that fools each image in its own way (N,), the targeted ratio (equation 7).

        The margin itself, negated, below four classes and for labels that do not compete.
        """

        def loss(logits: Tensor, labels: Tensor) -> Tensor:
            margin = self.margin(way)(logits, labels)
            if labels.ndim == 2 or logits.shape[1] < 4:
                return -margin
            top = logits.topk(4, 1).values
            return -margin / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + FLOOR)

        return loss


class QueryCounter:
    """A model, the labels (N,) or (N, K) of some images, and a goal.

    Gradients are taken ``through`` the model or a ``quick_copy`` of it, in ``dtype``; answers are
    its own, in float32. ``queries``, int64 (N,), counts both for each image.
    """

    def __init__(
        self, model: nn.Module, through: nn.Module, labels: Tensor, goal: Goal, dtype: torch.dtype
    ) -> None:
        self.model, self.through, self.labels, self.goal = model, through, labels, goal
        self.dtype, self.span = dtype, extremes(labels)
        self.queries = torch.zeros(len(labels), dtype=torch.int64, device=labels.device)

    def robust(self, images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, K) in float32 of the images with these numbers, and which are robust (n,)."""
        self.queries[rows] += 1
        logits = score(self.model, images)
        return logits, self.goal.robust(logits, self.labels[rows])

    def uphill(self, images: Tensor, rows: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
        """The loss (n,), its gradient by the pixels, and whether each image is robust.

        With gradients in mixed precision, or through a copy, an image that seems fooled is asked
        about again: the model itself, in float32.
        """
        labels = self.labels[rows]
        uphill, logits = gradient(self.through, images, labels, self.span, self.dtype, loss)
        self.queries[rows] += 1
        check_finite(uphill.isfinite().all())
        up = self.goal.robust(logits, labels)
        rough = self.dtype != torch.float32 or self.through is not self.model
        if rough and not up.all():
            doubted = (~up).nonzero()[:, 0]
            up = up.index_copy(0, doubted, self.robust(images[doubted], rows[doubted])[1])
        return loss(logits, labels), uphill, up
