"""Scores of a network on some images of a data set, with intervals over its groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from ..data import ImageSet
from . import metrics
from .metrics import Estimate
from .predict import predict

CURVE = ("loss", "top1", "balanced_accuracy", "auc_macro")


def weights(data: ImageSet, index: np.ndarray, draw: int | Sequence[int] = 0) -> np.ndarray:
    """Bootstrap weights (1 + draws, n) of the images of ``index``, drawn by whole groups.

    Within strata where an image has one class.
    """
    targets = data.targets[index]
    classes = targets if targets.ndim == 1 else None
    return metrics.group_weights(data.groups[index], draw, classes=classes)


def unscored(data: ImageSet) -> tuple[int, ...]:
    """Classes without an AUC of their own: "No Finding" is the absence of the others."""
    none = data.multi_label and "No Finding" in data.classes
    return (data.classes.index("No Finding"),) if none else ()


def clean_scores(
    data: ImageSet, index: np.ndarray, logits: np.ndarray, draw: int | Sequence[int] = 0
) -> dict[str, Estimate]:
    """Scores (see ``metrics.score``) of clean logits on the images of ``index``."""
    drawn = weights(data, index, draw)
    return metrics.score(logits, data.targets[index], drawn, ignore=unscored(data))


def curve_scores(model: nn.Module, data: ImageSet, chosen: np.ndarray) -> dict[str, float]:
    """What a learning curve shows after each epoch, on the images that choose the epoch."""
    logits, ones = predict(model, data, chosen), np.ones((1, len(chosen)))
    scores = metrics.score(logits, data.targets[chosen], ones, ignore=unscored(data))
    return {f"val_{name}": round(scores[name].value, 4) for name in CURVE}
