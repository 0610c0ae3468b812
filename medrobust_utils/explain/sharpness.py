"""How sharp the loss is around an image: "on a sharp loss landscape, a small perturbation can
cause drastic changes" (slides of paper 3, after Ma et al. 2021).

All take float32 images (N, C, H, W) in [0, 1] on the model's device, labels that
``losses.per_image`` takes, and a model in evaluation mode, and run it in float32; losses are in
nats. Label every image with the network's own answer, in particular where images of different
sets are compared: where a network is wrong its loss is high and steep to begin with.

The numbers belong to a network as much as to its images. The loss of a head that is very sure of
itself is flat, to the point where float32 knows no gradient, and falls off steeply behind: a
large number is a sharp loss, a small one may be either. ``attacks.red_flags`` tells.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ..attacks import bim
from ..attacks.engine import check_eps, extremes, gradient
from ..attacks.radii import score
from ..core.contracts import check_finite, check_labels, check_logits
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
    rise there is, without chance.

    Raises:
        ContractError: for a breach of the contract.
    """
    values = []
    for some, truth in _parts(model, images, labels):
        moved = bim(model, some, truth, eps, steps=steps, step_size=eps / 4)
        values.append(_loss(model, moved, truth) - _loss(model, some, truth))
    return np.concatenate(values)


@gate()
def gradient_norm(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """Sum over all pixels and channels of the gradient's magnitude, float64 (N,).

    Times eps it is what the loss rises by, to first order, when every value changes by eps in
    the worst direction: nats per unit of the full range. More pixels have a larger sum: compare
    images of one size.

    Raises:
        ContractError: for a breach of the contract, or a gradient with NaN or infinity.
    """
    values = []
    for some, truth in _parts(model, images, labels):
        slopes, logits = gradient(model, some, truth, extremes(truth))
        check_logits(logits, truth.ndim == 2)
        values.append(slopes.abs().sum((1, 2, 3)).cpu().numpy().astype(np.float64))
    found = np.concatenate(values)
    check_finite(np.isfinite(found).all())
    return found


@gate()
def surface(
    model: nn.Module,
    image: torch.Tensor,
    label: torch.Tensor,
    span: float = 8 * EPS,
    *,
    points: int = 21,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """The loss over the plane through one image along two directions, for a figure.

    Both change every value by the same amount: one by the sign of the loss's gradient, one by
    signs drawn at random, which are all but orthogonal to it. Images are clipped to [0, 1].

    Args:
        image: (1, C, H, W).
        label: of that image, (1,) or (1, K).
        span: largest change along either direction, in [0, 1].
        points: odd, so that the image itself is the one in the middle.
        seed: of the random signs.

    Returns:
        Changes (points,) from -span to span, and losses float64 (points, points) in nats, with
        the gradient's direction down and the random one across.

    Raises:
        ContractError: for a breach of the contract.
    """
    check_eps(span)
    if len(image) != 1 or points < 3 or points % 2 == 0:
        raise ContractError(
            f"{len(image)} images and {points} points: give one image as image[None], and an odd "
            "number of points from 3."
        )
    ((image, label),) = _parts(model, image, label)
    slopes, _ = gradient(model, image, label, extremes(label))
    draw = torch.Generator().manual_seed(seed)
    coin = (torch.randint(0, 2, image.shape, generator=draw) * 2 - 1).to(image)
    changes = np.linspace(-span, span, points)
    # float32 before it reaches the device: MPS knows no float64
    across = (
        coin * torch.from_numpy(changes.astype(np.float32)).to(image.device)[:, None, None, None]
    )
    rows = [
        _loss(model, (image + change * slopes.sign() + part).clamp(0, 1), label)
        for change in changes.tolist()
        for part in across.split(BATCH)
    ]
    return changes, np.concatenate(rows).reshape(points, points)


def _parts(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images and labels in batches, checked."""
    labels = admit(model, images, labels)
    if not len(images):
        raise ContractError("no image to measure: give at least one.")
    return list(zip(images.split(BATCH), labels.split(BATCH), strict=True))


def _loss(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """Of each image, float64 (N,); one label may stand for all images."""
    logits = score(model, images)
    labels = labels.expand(len(images), *labels.shape[1:])
    check_labels(labels, logits, extremes(labels))
    check_logits(logits, labels.ndim == 2)
    # the loss of a network that is sure of itself drowns in float32's rounding
    return per_image(logits.cpu().double(), labels.cpu()).numpy()
