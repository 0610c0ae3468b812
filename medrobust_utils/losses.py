"""The one loss of every head: cross-entropy, or binary cross-entropy for several labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def per_image(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Loss (N,) of each image in nats.

    Args:
        logits: (N, K).
        targets: int64 (N,) classes for cross-entropy, or multi-hot (N, K) for binary
            cross-entropy, averaged over the K labels.
    """
    if targets.ndim == 2:
        target = targets.to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1)
    return F.cross_entropy(logits, targets, reduction="none")
