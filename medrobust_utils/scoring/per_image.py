"""One number an image: compared image by image first, and averaged at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from .metrics import Estimate, group_weights, weighted_mean


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
        return replace(weighted_mean(self.values, self.weights), groups=self.groups)


def image_means(values: Mapping[str, np.ndarray], groups: np.ndarray) -> pd.DataFrame:
    """Rows of means of one number an image (N,) each, by whole groups; NaN is left out."""
    weights = group_weights(groups)
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
