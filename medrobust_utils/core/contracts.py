"""The contract between images, models and scores, checked where they meet.

Images are float32 in [0, 1], (N, C, H, W). Models take such images and return logits;
normalisation lives inside the model. The most common faults of robustness code (normalising
twice, attacking probabilities, scoring in training mode) break one of these and raise here,
with the remedy, instead of giving a plausible wrong number.
"""

from __future__ import annotations

import torch
from torch import nn

from .errors import ContractError
from .losses import IGNORED


def check_images(images: torch.Tensor) -> None:
    """Raise ContractError unless ``images`` is float32 (N, C, H, W) in [0, 1] without NaN."""
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ContractError(
            f"images have shape {tuple(images.shape)}; expected (N, C, H, W) with "
            "C = 1 or 3. For one image use image[None]."
        )
    if images.dtype != torch.float32:
        raise ContractError(
            f"images are {images.dtype}; expected float32. For uint8 use "
            "medrobust_utils.data.to_float(images)."
        )
    if not len(images):
        return
    low, high = images.amin().item(), images.amax().item()
    if not (low >= 0 and high <= 1):  # also catches NaN
        raise ContractError(
            f"images range over [{low:.3g}, {high:.3g}]; expected [0, 1] without NaN. "
            "Divide 8-bit images by 255, and leave normalisation to the model."
        )


def check_logits(logits: torch.Tensor, multi_label: bool) -> None:
    """Raise ContractError if ``logits`` (N, K) has NaN or holds probabilities already.

    Those of a segmentation are (N, K, H, W), with K >= 2.
    """
    if logits.ndim not in (2, 4) or (logits.ndim == 4 and logits.shape[1] < 2):
        raise ContractError(
            f"the model returned shape {tuple(logits.shape)}; expected logits (N, K), or "
            "(N, K, H, W) with K >= 2 of a segmentation."
        )
    if not torch.isfinite(logits).all():
        raise ContractError(
            "the model returned NaN or infinity. Lower the learning rate or train "
            "in float32, then start from the last good checkpoint."
        )
    inside = bool((logits >= 0).all() and (logits <= 1).all())
    if multi_label:
        # A few logits can lie in [0, 1] by chance; dozens that all do are sigmoid outputs.
        probabilities = inside and logits.numel() >= 32
    elif logits.shape[1] == 1:
        # Single logits of an untrained model crowd together; probabilities fill [0, 1].
        spread = (logits.amax() - logits.amin()).item() if len(logits) >= 32 else 0
        probabilities = inside and spread > 0.5
    else:
        # The two logits of one image can add up to 1 by chance, those of several cannot.
        sums = logits.float().sum(1)
        probabilities = inside and sums.numel() > 1 and bool(((sums - 1).abs() < 1e-3).all())
    if probabilities:
        raise ContractError(
            "the model returned probabilities, not logits. Remove its last softmax or "
            "sigmoid: losses, attacks and AUC are computed from logits here."
        )


def check_labels(labels: torch.Tensor, logits: torch.Tensor, extremes: tuple[float, float]) -> None:
    """Raise ContractError unless ``labels`` fit a head with ``logits`` (N, K).

    Classes int (N,) from 0 to K - 1 for K >= 2, zeros and ones (N,) for K = 1, or zeros and
    ones (N, K); for logits (N, K, H, W) label maps int (N, H, W) of 0 to K - 1 or IGNORED. Looks
    at shapes, types and ``extremes`` only, so a GPU need not be waited for.

    Args:
        extremes: the smallest and the largest of ``labels``, without IGNORED pixels.
    """
    if logits.ndim == 4:
        return _check_maps(labels, logits, extremes)
    classes = logits.shape[-1]
    whole = not labels.is_floating_point()
    if labels.ndim == 1 and classes > 1 and not whole:
        raise ContractError(f"labels are {labels.dtype}; {classes} classes need int64 indices.")
    if labels.shape not in ((len(logits),), logits.shape):
        raise ContractError(
            f"labels have shape {tuple(labels.shape)}, logits {tuple(logits.shape)}; expected "
            "class indices (N,), or multi-hot labels of the shape of the logits."
        )
    largest = classes - 1 if labels.ndim == 1 and classes > 1 else 1
    if not (extremes[0] >= 0 and extremes[1] <= largest):
        raise ContractError(
            f"labels range over {extremes[0]} to {extremes[1]}; this head of {classes} logits "
            f"knows 0 to {largest}. Check the order of the classes and the size of the head."
        )


def _check_maps(labels: torch.Tensor, logits: torch.Tensor, extremes: tuple[float, float]) -> None:
    """``check_labels`` for a segmentation."""
    expected = (len(logits), *logits.shape[2:])
    if tuple(labels.shape) != expected or labels.is_floating_point():
        raise ContractError(
            f"labels are {labels.dtype} {tuple(labels.shape)}, logits {tuple(logits.shape)}; "
            f"expected whole class numbers {expected}, one for every pixel. Bring label maps to "
            "the size of the images, by the nearest pixel."
        )
    classes = logits.shape[1]
    if not (extremes[0] >= 0 and extremes[1] < classes):
        raise ContractError(
            f"label maps hold {extremes[0]:g} to {extremes[1]:g}; this head of {classes} classes "
            f"knows 0 to {classes - 1}, and {IGNORED} for pixels without a label. Map the values "
            "of your label files to classes first."
        )


def check_eval(model: nn.Module) -> None:
    """Raise ContractError if any part of ``model`` is in training mode."""
    training = [
        name or type(model).__name__ for name, part in model.named_modules() if part.training
    ]
    if training:
        raise ContractError(
            f"the model is in training mode ({training[0]} and {len(training) - 1} more "
            "parts): dropout and batch norm would change the scores. Call model.eval()."
        )
