"""What AutoAttack is after, and what its members ask of a model, counted.

An image is fooled as for every head of this kit (see ``losses.correct``): by another class than
the true one, or, with several labels, by *any* of them that flips.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...core.contracts import check_finite
from ...core.losses import as_classes, correct
from ..engine import Loss, extremes, gradient
from ..radii import score

FLOOR = 1e-12  # below a difference of logits; Croce and Hein 2020 do the same


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """How far each image is from being misclassified in each way, (N, T); negative where it is.

    The ways are the T = K - 1 other classes in order (one for a single logit), or the K labels.
    """
    if labels.ndim == 2:
        return logits * (2 * labels.to(logits.dtype) - 1)
    logits, labels = as_classes(logits), labels.long()
    true = logits.gather(1, labels[:, None])
    other = torch.ones_like(logits, dtype=torch.bool).scatter_(1, labels[:, None], False)
    return true - logits[other].view(len(logits), -1)


def margin(way: Tensor) -> Loss:
    """The margin of each image in its own way (N,), a column of ``margins``."""
    return lambda logits, labels: margins(logits, labels).gather(1, way[:, None])[:, 0]


def towards(way: Tensor) -> Loss:
    """The loss that fools each image in its own way (N,), the targeted ratio (equation 7).

    The margin itself, negated, below four classes and for labels that do not compete.
    """

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        negated = -margin(way)(logits, labels)
        if labels.ndim == 2 or logits.shape[1] < 4:
            return negated
        top = logits.topk(4, 1).values
        return negated / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + FLOOR)

    return loss


class QueryCounter:
    """A model and the labels (N,) or (N, K) of some images.

    Gradients are taken ``through`` the model or a ``quick_copy`` of it, in ``dtype``; answers are
    its own, in float32. ``queries``, int64 (N,), counts both for each image.
    """

    def __init__(
        self, model: nn.Module, through: nn.Module, labels: Tensor, dtype: torch.dtype
    ) -> None:
        self.model, self.through, self.labels, self.dtype = model, through, labels, dtype
        self.span = extremes(labels)
        self.queries = torch.zeros(len(labels), dtype=torch.int64, device=labels.device)

    def robust(self, images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, K) in float32 of the images with these numbers, and which are robust (n,)."""
        self.queries[rows] += 1
        logits = score(self.model, images)
        return logits, correct(logits, self.labels[rows])

    def uphill(self, images: Tensor, rows: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
        """The loss (n,), its gradient by the pixels, and whether each image is robust.

        With gradients in mixed precision, or through a copy, an image that seems fooled is asked
        about again: the model itself, in float32.
        """
        labels = self.labels[rows]
        uphill, logits = gradient(self.through, images, labels, self.span, self.dtype, loss)
        self.queries[rows] += 1
        check_finite(uphill.isfinite().all())
        up = correct(logits, labels)
        rough = self.dtype != torch.float32 or self.through is not self.model
        if rough and not up.all():
            doubted = (~up).nonzero()[:, 0]
            up = up.index_copy(0, doubted, self.robust(images[doubted], rows[doubted])[1])
        return loss(logits, labels), uphill, up
