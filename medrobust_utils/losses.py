"""The one loss of every head, and what counts as right: softmax, single logit, several labels.

A head is told by its logits (N, K) and targets: indices (N,) with K >= 2 are softmax classes,
zeros and ones (N,) with K = 1 a single logit, zeros and ones (N, K) several labels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def per_image(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Loss (N,) of each image in nats.

    Args:
        logits: (N, K).
        targets: int64 (N,) classes for cross-entropy; zeros and ones (N,) of any type for a
            single logit (K = 1); or multi-hot (N, K) for binary cross-entropy, averaged over
            the K labels.
    """
    if targets.ndim == 2:
        target = targets.to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1)
    return F.cross_entropy(as_classes(logits), targets.long(), reduction="none")


def correct(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Whether each image is judged right, bool (N,).

    The largest logit names the class; a single logit says yes above 0; an image with several
    labels is right when every one of its K yes-or-no decisions is.
    """
    if targets.ndim == 2:
        return ((logits > 0) == targets.bool()).all(1)
    return as_classes(logits).argmax(1) == targets.long()


def as_classes(logits: torch.Tensor) -> torch.Tensor:
    """A single logit z (N, 1) as the two classes (0, z): sigmoid(z) is the softmax of those.

    Cross-entropy, decision and AUC are the same either way. Other logits return as they are.
    """
    return F.pad(logits, (1, 0)) if logits.shape[1] == 1 else logits
