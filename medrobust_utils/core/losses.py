"""The one loss of every head, and what counts as right: softmax, single logit, several labels.

A head is told by its logits (N, K) and targets: indices (N,) with K >= 2 are softmax classes,
zeros and ones (N,) with K = 1 a single logit, zeros and ones (N, K) several labels. Logits
(N, K, H, W) with label maps (N, H, W) are a segmentation: a softmax over the K classes at each
pixel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

BACKGROUND = 0  # its class number in every label map of this kit
IGNORED = 255  # in a label map: a pixel whose class nobody can say


def per_image(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Loss (N,) of each image in nats.

    Args:
        logits: (N, K).
        targets: int64 (N,) classes for cross-entropy; zeros and ones (N,) of any type for a
            single logit (K = 1); or multi-hot (N, K) for binary cross-entropy, averaged over
            the K labels; or label maps (N, H, W) for cross-entropy, averaged over the labelled
            pixels of each image (0 for an image without any).
    """
    if targets.ndim == 3:
        return per_pixel(logits, targets).sum((1, 2)) / labelled(targets)
    if targets.ndim == 2:
        target = targets.to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1)
    return F.cross_entropy(as_classes(logits), targets.long(), reduction="none")


def per_pixel(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy (N, H, W) of each pixel in nats, 0 where it is ``IGNORED``."""
    return F.cross_entropy(logits, targets.long(), ignore_index=IGNORED, reduction="none")


def labelled(targets: torch.Tensor) -> torch.Tensor:
    """Labelled pixels (N,) of each label map, at least 1."""
    return (targets != IGNORED).sum((1, 2)).clamp(min=1)


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
