"""What AutoAttack's members ask of a model, counted: gradients, and answers in float32."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ...core.contracts import check_finite
from ..engine import extremes, gradient
from ..radii import score
from .margins import Goal


class QueryCounter:
    """A model, the labels of some images, and a goal.

    Attributes:
        queries: int64 (N,): how often the model was asked about each image, with or without a
            gradient.
    """

    def __init__(
        self,
        model: nn.Module,
        labels: torch.Tensor,
        goal: Goal,
        dtype: torch.dtype = torch.float32,
        through: nn.Module | None = None,
    ) -> None:
        """
        Args:
            labels: (N,) or (N, K), on the device of the images.
            dtype: of the gradients; answers are float32 always.
            through: a ``quick_copy`` of ``model`` to take the gradients of.
        """
        self.through = model if through is None else through
        self.model, self.labels, self.goal = model, labels, goal
        self.dtype = dtype
        self.span = extremes(labels)
        self.queries = torch.zeros(len(labels), dtype=torch.int64, device=labels.device)

    def robust(self, images: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (n, K) in float32 of the images with these row numbers, and who stands (n,)."""
        self.queries[rows] += 1
        logits = score(self.model, images)
        return logits, self.goal.robust(logits, self.labels[rows])

    def uphill(
        self, images: torch.Tensor, rows: torch.Tensor, loss: Callable
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The loss (n,), its gradient by the pixels, and whether each image stands.

        With gradients in mixed precision, or through a copy, an image that seems fooled is asked
        about again: the model itself, in float32.

        Raises:
            ContractError: if the gradient is not finite.
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
