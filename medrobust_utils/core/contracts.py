"""The contract between images, models and scores, and the one gate to every network.

Images are float32 in [0, 1], (N, C, H, W). Models take such images and return logits;
normalisation lives inside the model. The most common faults of robustness code (normalising
twice, attacking probabilities, scoring in training mode) break one of these and raise here,
with the remedy, instead of giving a plausible wrong number.

Whatever wants logits of a network gets them by ``ask``; what attacks it begins with ``gate.admit``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain

import numpy as np
import torch
from torch import nn

from . import env
from .errors import ContractError, MedrobustError
from .losses import IGNORED


def ask(
    model: nn.Module, images: torch.Tensor, dtype: torch.dtype = torch.float32, slopes: bool = False
) -> torch.Tensor:
    """Logits float32 (N, K), or (N, K, H, W), for a private copy of ``images`` (N, C, H, W).

    Looks at types and shapes only, so a GPU need not be waited for. ``dtype`` bfloat16 computes in
    mixed precision, float32 in all its digits; ``slopes`` keeps a graph for gradients.
    """
    with (
        torch.inference_mode(False),
        torch.set_grad_enabled(slopes),
        env.full_float32(),
        env.autocast(images.device, dtype),
        blamed(model, images),
    ):
        # the copy is no leaf and nobody else's, for models that work in place
        logits = _logits(model(images.clone()), len(images))
    if slopes and images.requires_grad and not logits.requires_grad:
        raise ContractError(
            "no gradient leads from the logits to the images. Take torch.no_grad, inference_mode, "
            "detach, argmax and numpy out of the model's forward."
        )
    return logits


class Asked(nn.Module):
    """``ask`` as a module, for libraries that call the network themselves."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.training = model, False

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return ask(self.model, images, slopes=torch.is_grad_enabled())


@contextmanager
def blamed(model: nn.Module, images: torch.Tensor) -> Iterator[None]:
    """Turn what the model raises into an error that says so; a full memory is not its fault."""
    try:
        yield
    except (MedrobustError, MemoryError):
        raise
    except Exception as error:
        if env.out_of_memory(error):
            raise
        hint = bare_norm(model) or "Call model(images) by itself to see where."
        if exported(model):
            hint = "Export it with dynamic_shapes=({0: torch.export.Dim.AUTO},) for any batch."
        raise ContractError(
            f"the model raised {type(error).__name__} for images {tuple(images.shape)} on "
            f"{images.device}: {str(error).strip().partition(chr(10))[0]}. {hint}"
        ) from error


def _logits(answer: object, count: int) -> torch.Tensor:
    """What a model returned for so many images, if it can be logits."""
    if not isinstance(answer, torch.Tensor):
        pick = "[0]" if isinstance(answer, tuple | list) else ".logits"
        if isinstance(answer, Mapping):
            pick = f"[{next((k for k in ('out', 'logits', *answer) if k in answer), 0)!r}]"
        raise ContractError(
            f"the model returned {type(answer).__name__}, not a tensor of logits. Wrap it in a "
            f"module whose forward returns `self.model(images){pick}`."
        )
    if not answer.is_floating_point():
        raise ContractError(f"the model returned {answer.dtype}: return logits, before any argmax.")
    _check_shape(answer, count)
    return answer.float()


def as_labels(labels: object, images: torch.Tensor) -> torch.Tensor:
    """Labels in a tensor, array or list as a tensor beside the images; uint16 to 64 as int64."""
    if not isinstance(labels, torch.Tensor):
        try:
            array = np.array(labels)
            labels = torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
        except (TypeError, ValueError) as error:
            raise ContractError(
                f"labels are a {type(labels).__name__} that makes no tensor of numbers ({error}). "
                "Give int64 class indices (N,), multi-hot labels (N, K) or label maps (N, H, W)."
            ) from error
    if labels.is_complex() or not labels.ndim:
        raise ContractError(f"labels are one {labels.dtype}: give int64 numbers, one an image.")
    if len(labels) != len(images):
        raise ContractError(f"{len(images)} images but {len(labels)} labels. Give one an image.")
    with torch.inference_mode(False):
        labels = labels.detach().to(images.device)
        if labels.dtype in (torch.uint16, torch.uint32, torch.uint64):
            labels = labels.to(torch.int64)
        return labels.clone() if labels.is_inference() else labels


def check_images(images: torch.Tensor) -> None:
    """Raise ContractError unless ``images`` is float32 (N, C, H, W) in [0, 1] without NaN."""
    if not isinstance(images, torch.Tensor):
        raise ContractError(f"images are a {type(images).__name__}; expected a tensor.")
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
    _check_shape(logits, len(logits))
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


def _check_shape(logits: torch.Tensor, count: int) -> None:
    fits = logits.ndim == 2 or (logits.ndim == 4 and logits.shape[1] >= 2)
    if not fits or len(logits) != count:
        raise ContractError(
            f"the model returned shape {tuple(logits.shape)} for {count} images; expected logits "
            "(N, K), or (N, K, H, W) with K >= 2 of a segmentation, for one image too."
        )


def check_labels(labels: torch.Tensor, logits: torch.Tensor, extremes: tuple[float, float]) -> None:
    """Raise ContractError unless ``labels`` fit a head with ``logits`` (N, K).

    Classes int (N,) from 0 to K - 1 for K >= 2, zeros and ones (N,) for K = 1, or zeros and
    ones (N, K); for logits (N, K, H, W) label maps int (N, H, W) of 0 to K - 1 or IGNORED. Looks
    at shapes, types and ``extremes`` only, so a GPU need not be waited for.

    Args:
        extremes: the smallest and the largest of ``labels``, without IGNORED pixels.
    """
    classes, whole = logits.shape[1], not labels.is_floating_point()
    maps = logits.ndim == 4
    expected = (len(logits), *logits.shape[2:]) if maps else logits.shape
    if maps and not (whole and labels.shape == expected):
        raise ContractError(
            f"labels are {labels.dtype} {tuple(labels.shape)}, logits {tuple(logits.shape)}; "
            f"expected whole class numbers {expected}, one for every pixel. Bring label maps to "
            "the size of the images, by the nearest pixel."
        )
    if labels.shape not in ((len(logits),), expected):
        raise ContractError(
            f"labels have shape {tuple(labels.shape)}, logits {tuple(logits.shape)}; expected "
            "class indices (N,), or multi-hot labels of the shape of the logits."
        )
    if labels.ndim == 1 and classes > 1 and not whole:
        raise ContractError(f"labels are {labels.dtype}; {classes} classes need int64 indices.")
    largest = classes - 1 if maps or (labels.ndim == 1 and classes > 1) else 1
    if extremes[0] >= 0 and extremes[1] <= largest:
        return
    if maps:
        raise ContractError(
            f"label maps hold {extremes[0]:g} to {extremes[1]:g}; this head of {classes} classes "
            f"knows 0 to {largest}, and {IGNORED} for pixels without a label. Map the values of "
            "your label files to classes first."
        )
    raise ContractError(
        f"labels range over {extremes[0]} to {extremes[1]}; this head of {classes} logits knows 0 "
        f"to {largest}. Check the order of the classes and the size of the head."
    )


def check_finite(finite: torch.Tensor) -> None:
    """Raise ContractError unless a gradient was ``finite``, bool (); reads that back."""
    if not finite:
        raise ContractError(
            "the gradient of the loss has NaN or infinity, so nothing can follow it. Use "
            "dtype=torch.float32, and look for the root or norm of a zero in the model."
        )


def check_model(model: nn.Module) -> None:
    """Raise ContractError unless ``model`` is a module in evaluation mode and in float32."""
    if not isinstance(model, nn.Module):
        raise ContractError(
            f"the model is a {type(model).__name__}, no torch.nn.Module: wrap it in one. Of an "
            "exported program take .module()."
        )
    fixed = exported(model)  # has no modes: what it does was settled when it was exported
    parts = [pair for pair in model.named_modules() if pair[1].training and pair[1] not in fixed]
    if parts:
        raise ContractError(
            f"the model is in training mode ({parts[0][0] or type(model).__name__} and "
            f"{len(parts) - 1} more parts): dropout and batch norm would change the scores. Call "
            "model.eval()."
        )
    for name, values in chain(model.named_parameters(), model.named_buffers()):
        if values.is_inference():
            raise ContractError(
                f"the model ({name}) was built inside torch.inference_mode(): no gradient passes "
                "through it. Build it outside, or take copy.deepcopy(model) there."
            )
        number = isinstance(values, nn.Parameter) and values.is_floating_point()
        if number and values.dtype != torch.float32:
            raise ContractError(
                f"the model's parameters are {values.dtype} ({name}); images, gradients and scores "
                "are float32 here. Call model.float(), and take casts out of its forward."
            )


def bare_norm(model: nn.Module) -> str:
    """What to do about the first batch norm that judges each batch by itself; empty without one."""
    for name, part in model.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is None:
            return (
                f"{name!r} is batch norm without running statistics: build it with "
                "track_running_stats=True and train it so, or take nn.GroupNorm."
            )
    return ""


def exported(model: nn.Module) -> set[nn.Module]:
    """Parts of the model that came out of torch.export, whose ``eval`` only raises."""
    roots = [part for part in model.modules() if "eval" in vars(part)]
    return {part for root in roots for part in root.modules()}
