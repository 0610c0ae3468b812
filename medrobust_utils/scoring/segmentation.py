"""Scores of segmentations, from one confusion matrix an image, with intervals by bootstrap.

Pixels of one image are no independent observations, nor are the images of one tile: whole groups
are resampled (see ``metrics``), and a score of the set is computed from the summed confusion
matrices of each draw, never averaged over images that lack the class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from ..attacks.engine import extremes
from ..core.contracts import ask, check_labels, check_logits
from ..core.errors import ContractError
from ..core.losses import BACKGROUND, IGNORED, labelled, per_pixel
from ..data import ImageSet
from .metrics import Estimate, known_mean
from .predict import on_device

BATCH = 32  # images of one forward pass
BINS = 15  # of the confidence, for the calibration error (Guo et al. 2017)


@dataclass(frozen=True)
class Tally:
    """What is kept of the segmentation of N images; enough for every score.

    Attributes:
        confusion: int64 (N, K, K), pixels by true class (rows) and predicted class.
        loss: float64 (N,), mean cross-entropy over the labelled pixels in nats; NaN where an
            image has none, and in the tally of ``constant``.
        bins: float64 (N, BINS, 3): pixels, summed confidence, pixels right, by confidence.
    """

    confusion: np.ndarray
    loss: np.ndarray
    bins: np.ndarray

    def __len__(self) -> int:
        return len(self.loss)

    def arrays(self) -> dict[str, np.ndarray]:
        """For an npz file; ``Tally(**arrays)`` is the way back."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def tally(logits: torch.Tensor, targets: torch.Tensor) -> Tally:
    """Tally of logits float32 (N, K, H, W) against label maps (N, H, W)."""
    n, classes = logits.shape[:2]
    targets = targets.to(logits.device)
    loss = per_pixel(logits, targets).sum((1, 2)) / labelled(targets)
    confidence, predicted = logits.softmax(1).amax(1).cpu(), logits.argmax(1).cpu()
    # Summed on the CPU in float64: in float32 the confidences of 256 x 256 pixels add up to a
    # calibration error that is off in the third digit after the point, and MPS has no float64.
    targets = targets.long().cpu()
    known = targets != IGNORED
    image = torch.arange(n).view(-1, 1, 1).expand_as(known)[known]
    truth, predicted, confidence = targets[known], predicted[known], confidence[known]
    cell = (image * classes + truth) * classes + predicted
    confusion = torch.bincount(cell, minlength=n * classes**2).view(n, classes, classes)
    place = (confidence * BINS).long().clamp(max=BINS - 1) + image * BINS
    summed = (torch.ones(len(place)), confidence, predicted == truth)
    sums = [torch.bincount(place, what.double(), n * BINS) for what in summed]
    bins = torch.stack(sums, 1).view(n, BINS, 3)
    loss = loss.cpu().double().where(known.flatten(1).any(1), torch.nan)
    return Tally(confusion.numpy(), loss.numpy(), bins.numpy())


def label_maps(
    model: nn.Module, data: ImageSet, index: np.ndarray, desc: str = ""
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Images and label maps on the model's device, BATCH at a time, checked."""
    if not data.segmentation:
        raise ContractError(
            f"{data.name}: its targets are classes of images, not of pixels. Take a set with "
            "label maps, or `data.views.label_maps` of one whose masks are such maps."
        )
    for _, images, labels in on_device(model, data, index, BATCH, desc):
        yield images, labels


def answers(
    model: nn.Module, data: ImageSet, index: np.ndarray, desc: str = ""
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Logits float32 (N, K, H, W) and label maps, BATCH at a time, checked."""
    for images, labels in label_maps(model, data, index, desc):
        logits = ask(model, images)
        check_logits(logits, multi_label=False)
        yield logits, labels


def tallied(model: nn.Module, data: ImageSet, index: np.ndarray, *, desc: str = "") -> Tally:
    """Tally of the images of ``index``, from float32 logits."""
    parts = []
    for logits, labels in answers(model, data, index, desc):
        check_labels(labels, logits, extremes(labels))
        parts.append(tally(logits, labels))
    return join(parts)


def join(parts: Sequence[Tally]) -> Tally:
    """Tallies of several batches as one."""
    names = [field.name for field in fields(Tally)]
    return Tally(**{k: np.concatenate([getattr(part, k) for part in parts]) for k in names})


def constant(truth: Tally) -> Tally:
    """What answering "background" everywhere, for certain, scores on the images of ``truth``.

    The majority line of a segmentation. Its loss would be infinite and is NaN.
    """
    pixels = truth.confusion.sum(2)
    confusion = np.zeros_like(truth.confusion)
    confusion[:, :, BACKGROUND] = pixels
    bins = np.zeros_like(truth.bins)
    bins[:, -1, 0] = bins[:, -1, 1] = pixels.sum(1)
    bins[:, -1, 2] = pixels[:, BACKGROUND]
    return Tally(confusion, np.full(len(truth), np.nan), bins)


def score(counts: Tally, weights: np.ndarray, classes: Sequence[str]) -> dict[str, Estimate]:
    """All scores of one set of images.

    ``loss``, ``pixel_accuracy``, ``foreground_accuracy`` (of the pixels that are not background,
    the share given their class), ``mean_iou`` and ``mean_dice`` (over the classes that the label
    maps show; in a draw of tiles that lacks a class, one stray pixel of it would otherwise cost a
    class's share), ``dice_<class>`` (NaN for a class not shown), and ``calibration_error``
    (expected calibration error of the pixels: mean distance of confidence and accuracy, weighted
    by pixels).

    Args:
        weights: (1 + draws, N), see ``metrics.group_weights``.
        classes: names of the K classes.

    Raises:
        ContractError: if there are not K names.
    """
    n, k = counts.confusion.shape[:2]
    if len(classes) != k:
        raise ContractError(
            f"{k} classes were scored, but {len(classes)} have a name ({', '.join(classes)}). "
            "Build the model with as many classes as the data set has."
        )
    matrix = (weights @ counts.confusion.reshape(n, -1)).reshape(-1, k, k)
    shares, hit, both = _shares(matrix)
    dice = _ratio(2 * hit, both) * np.where(matrix.any(2), 1.0, np.nan)
    bins = (weights @ counts.bins.reshape(n, -1)).reshape(len(weights), -1, 3)
    gap = np.abs(bins[:, :, 1] - bins[:, :, 2]).sum(1)
    seen = counts.confusion.any((1, 2))  # an image without a labelled pixel has no loss
    values = {
        "loss": _ratio(weights[:, seen] @ counts.loss[seen], weights[:, seen].sum(1)),
        **shares,
        "mean_dice": known_mean(dice.T),
        "calibration_error": _ratio(gap, bins[:, :, 0].sum(1)),
    }
    values |= {f"dice_{name}": dice[:, place] for place, name in enumerate(classes)}
    return {name: Estimate(float(value[0]), value[1:]) for name, value in values.items()}


def per_image(counts: Tally) -> dict[str, np.ndarray]:
    """``loss``, ``pixel_accuracy``, ``foreground_accuracy`` and ``mean_iou`` (N,) of each image.

    Mean IoU over the classes that the image's label map shows. NaN: foreground accuracy of an image
    without foreground, everything of one without a labelled pixel.
    """
    return {"loss": counts.loss, **_shares(counts.confusion.astype(float))[0]}


def _shares(matrix: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Scores (R,) of confusion matrices (R, K, K); hits, and true plus predicted, by class."""
    hit, truth = np.diagonal(matrix, axis1=1, axis2=2), matrix.sum(2)
    both, real = truth + matrix.sum(1), np.arange(matrix.shape[1]) != BACKGROUND
    found = {
        "pixel_accuracy": _ratio(hit.sum(1), truth.sum(1)),
        "foreground_accuracy": _ratio(hit[:, real].sum(1), truth[:, real].sum(1)),
        "mean_iou": known_mean(np.where(truth > 0, _ratio(hit, both - hit), np.nan).T),
    }
    return found, hit, both


def shape(maps: np.ndarray) -> dict[str, np.ndarray]:
    """What label maps (N, H, W) look like: (N,) each.

    ``largest_area``, the share of the image that its largest class has, and ``regions``, connected
    areas of one class (neighbours share an edge).
    """
    kinds = [np.unique(one, return_counts=True) for one in maps]
    return {
        "largest_area": np.array([counts.max() for _, counts in kinds]) / maps[0].size,
        "regions": np.array(
            [
                sum(ndimage.label(one == kind)[1] for kind in names)
                for one, (names, _) in zip(maps, kinds, strict=True)
            ]
        ),
    }


def worst(tallies: Sequence[Tally], by: str = "mean_iou") -> tuple[Tally, np.ndarray]:
    """For each image the tally with the worst score of the image, and which one it was (N,).

    The clean tally belongs among them: an attacker may do nothing. Of equals the first.

    Args:
        by: a score of ``per_image``; the highest ``loss``, the lowest of the others.
    """
    scores = np.stack([per_image(one)[by] for one in tallies])
    scores = np.nan_to_num(-scores if by == "loss" else scores, nan=np.inf)
    which = scores.argmin(0)
    picked = {
        name: np.stack([getattr(one, name) for one in tallies])[which, np.arange(len(which))]
        for name in tallies[0].arrays()
    }
    return Tally(**picked), which


def score_worst(
    tallies: Sequence[Tally], weights: np.ndarray, classes: Sequence[str]
) -> dict[str, Estimate]:
    """``score`` where the attacker takes, image by image, what hurts that very score most.

    An attack that renames nuclei and one that erases them hurt different scores. Dice and
    calibration error are those of the worst mean IoU.
    """
    found = score(worst(tallies)[0], weights, classes)
    for by in ("loss", "pixel_accuracy", "foreground_accuracy"):
        found[by] = score(worst(tallies, by)[0], weights, classes)[by]
    return found


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """``part / whole``, NaN where there is nothing to divide by."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)
