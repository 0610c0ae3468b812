"""How sharp the loss is around an image: "on a sharp loss landscape, a small perturbation can
cause drastic changes" (slides of paper 3, after Ma et al. 2021).

The number belongs to a network as much as to its images. The loss of a head that is very sure of
itself is flat, to the point where float32 knows no gradient, and falls off steeply behind: a
large number is a sharp loss, a small one may be either. ``attacks.red_flags`` tells.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ..attacks import bim
from ..attacks.engine import extremes
from ..attacks.radii import score
from ..core.contracts import check_labels, check_logits
from ..core.errors import ContractError
from ..core.gate import admit, gate
from ..core.losses import per_image

BATCH = 32
EPS = 1 / 255  # one gray level


@gate()
def rise(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    eps: float = EPS,
    *,
    steps: int = 10,
) -> np.ndarray:
    """How far the loss rises within ``eps`` of each image, float64 (N,) in nats.

    It is climbed from the image by ``steps`` steps of eps / 4, so this is a lower bound of the
    rise there is, without chance. Label every image with the network's own answer, in particular
    where images of different sets are compared: where a network is wrong its loss is steep anyway.

    Args:
        model: in evaluation mode; run in float32.
        images: float32 (N, C, H, W) in [0, 1], on the model's device.
        labels: as ``losses.per_image`` takes them.

    Raises:
        ContractError: for a breach of the contract, or no image.
    """
    labels = admit(model, images, labels)
    if not len(images):
        raise ContractError("no image to measure: give at least one.")
    values = []
    for some, truth in zip(images.split(BATCH), labels.split(BATCH), strict=True):
        moved = bim(model, some, truth, eps, steps=steps, step_size=eps / 4)
        values.append(_loss(model, moved, truth) - _loss(model, some, truth))
    return np.concatenate(values)


def _loss(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """Of each image, float64 (N,)."""
    logits = score(model, images)
    check_labels(labels, logits, extremes(labels))
    check_logits(logits, labels.ndim == 2)
    # the loss of a network that is sure of itself drowns in float32's rounding
    return per_image(logits.cpu().double(), labels.cpu()).numpy()
