"""Scores of a network on some images of a data set, with intervals over its groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
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


@dataclass(frozen=True)
class PerImage:
    """One number an image (n,), NaN where it is not known, and the weights that average it.

    Differences are taken image by image, so that both sides are of the same images. ``groups`` are
    the patient, lesion or tile of each image, where they are known.
    """

    values: np.ndarray
    weights: np.ndarray
    groups: np.ndarray | None = None

    def __sub__(self, other: PerImage) -> PerImage:
        return replace(self, values=self.values - other.values)

    @property
    def known(self) -> int:
        """How many images the mean is over."""
        return int(np.isfinite(self.values).sum())

    def mean(self) -> Estimate:
        """Mean with an interval."""
        return replace(metrics.weighted_mean(self.values, self.weights), groups=self.groups)


def image_means(values: Mapping[str, np.ndarray], groups: np.ndarray) -> pd.DataFrame:
    """Rows of means of one number an image (N,) each, by whole groups; NaN is left out."""
    weights = metrics.group_weights(groups)
    rows = [(name, PerImage(numbers, weights, groups)) for name, numbers in values.items()]
    return means(pd.DataFrame(rows, columns=["metric", "estimate"]))


def means(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the means of what is ``PerImage``; ``n`` counts the images that are known.

    Of rows that differ in their training seed alone, ``n`` is the fewest; 0 leaves a row out.
    """
    inside = [isinstance(one, PerImage) for one in table["estimate"]]
    cells = [*zip(inside, table["estimate"], table.get("n", [0] * len(table)), strict=True)]
    known = [one.known if image else n for image, one, n in cells]
    found = [one.mean() if image else one for image, one, _ in cells]
    table = table.assign(estimate=found, n=known)[np.not_equal(known, 0)]
    keys = [name for name in table if name not in {"estimate", "seed", "n"}]
    return table.assign(n=table.groupby(keys, dropna=False)["n"].transform("min"))
