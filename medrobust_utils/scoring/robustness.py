"""What an attack at several radii leaves of a network: image by image, and with intervals.

In doublings of the radius (log2 of the smallest one that fools an image) the unit of a paper's
radii cancels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..attacks import Flag, SweepResult, red_flags
from ..core import env
from ..core.storage import cached_arrays, fingerprint
from ..data import ImageSet, to_float
from . import metrics
from .metrics import Estimate

FEW = 0.05  # share of images that still count as some


def robust(sweep: SweepResult, radii: Sequence[float]) -> np.ndarray:
    """Bool (R, n): right before the attack and at every radius of the sweep up to each one.

    What fools an image at one radius lies in every larger ball.

    Args:
        radii: (R,), of the sweep or between its radii.
    """
    ever = np.logical_and.accumulate([sweep.clean_right, *sweep.right])
    return ever[np.searchsorted(sweep.epsilons, np.array(radii) * (1 + 1e-9), side="right")]


def retained(sweep: SweepResult, weights: np.ndarray) -> list[Estimate]:
    """Share of the images right before the attack that are right after it, at each radius."""
    before = sweep.clean_right
    return [metrics.weighted_mean(np.where(before, one, np.nan), weights) for one in sweep.right]


def log2_radius(sweep: SweepResult) -> np.ndarray:
    """log2 of the smallest radius (n,) that fools each image, of images in [0, 1].

    Censored at the ends of the radii; an image wrong when clean is at the lowest.
    """
    return np.log2(np.clip(sweep.min_adversarial_radius(), *sweep.epsilons[[0, -1]]))


def doublings(
    sweep: SweepResult, weights: np.ndarray, chance: float, early: float
) -> dict[str, Estimate]:
    """How far a network holds.

    ``log2_radius`` is the mean over images, ``log2_radius_survived`` what a share of FEW survives,
    ``log2_radius_at_accuracy`` where accuracy passes ``chance``, and ``doublings_spared`` two
    minus the doublings from where ``early`` of the clean accuracy is gone to there.
    """
    reached = log2_radius(sweep)
    clean = weights @ sweep.clean_right / weights.sum(1)
    left, lost, some = (
        metrics.exceeded(reached, weights, share) for share in (chance, (1 - early) * clean, FEW)
    )
    return {
        "log2_radius": metrics.weighted_mean(reached, weights),
        "log2_radius_survived": some,
        "log2_radius_at_accuracy": left,
        "doublings_spared": metrics.combined(lambda two: 2 - (two[0] - two[1]), left, lost),
    }


def under_attack(
    sweep: SweepResult, weights: np.ndarray
) -> list[tuple[float | None, str, Estimate]]:
    """Radius, metric and estimate: the scores at every radius, and before the attack (None).

    AUC and sensitivity only where every image was attacked afresh (see ``SweepResult``);
    sensitivity of two classes, at 90 % specificity on clean images.
    """
    afresh = sweep.mode == "independent"
    two = afresh and sweep.labels.ndim == 1 and sweep.logits.shape[2] <= 2

    def sensitivity(logits: np.ndarray) -> Estimate:
        return metrics.sensitivity(sweep.clean, logits, sweep.labels, weights)

    rows = [(None, "accuracy_attacked", metrics.weighted_mean(sweep.clean_right, weights))]
    rows += [(None, "sensitivity_attacked", sensitivity(sweep.clean))] if two else []
    shares = retained(sweep, weights)
    for k, (radius, logits) in enumerate(zip(sweep.epsilons, sweep.logits, strict=True)):
        found = metrics.score(logits, sweep.labels, weights)
        rows.append((radius, "accuracy_attacked", metrics.weighted_mean(sweep.right[k], weights)))
        rows.append((radius, "retained_accuracy", shares[k]))
        rows.append((radius, "balanced_accuracy_attacked", found["balanced_accuracy"]))
        rows += [(radius, "auc_macro_attacked", found["auc_macro"])] if afresh else []
        rows += [(radius, "sensitivity_attacked", sensitivity(logits))] if two else []
    return rows


def cached_flags(
    path: Path,
    model: nn.Module,
    data: ImageSet,
    index: np.ndarray,
    radius: float,
    *,
    seed: int,
    dtype: torch.dtype,
) -> list[Flag]:
    """Red flags (see ``attacks.red_flags``) on the images of ``index``, or read back.

    Args:
        path: how the files begin that keep them.
    """

    def compute() -> dict[str, list]:
        device = env.pick_device()
        images = to_float(data.images[index]).to(device)
        labels = torch.from_numpy(data.targets[index])
        found = red_flags(model.to(device), images, labels, radius, seed=seed, dtype=dtype)
        return {name: [getattr(flag, name) for flag in found] for name in Flag.__annotations__}

    key = fingerprint(index.tolist(), radius, seed, str(dtype))
    kept = cached_arrays(path.with_name(f"{path.name}-{key}.npz"), compute)
    return list(map(Flag, *(array.tolist() for array in kept.values())))
