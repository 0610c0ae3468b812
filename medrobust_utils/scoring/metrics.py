"""Scores with intervals: every number is an Estimate that carries its bootstrap replicates.

Images of one patient or lesion are not independent, so whole groups are resampled. Estimates
made with the same weights (the same images, in the same order) are resampled together: the
difference of two of them is a paired difference, with a paired interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy.special import expit, softmax
from scipy.stats import rankdata

from ..core.losses import as_classes, per_image
from .estimates import Estimate, combined, mean, pooled  # noqa: F401  where users look

DRAWS = 1000  # bootstrap replicates behind each 95 % interval
AUC_CELLS = 20_000_000  # weights handled at a time: bounds memory on large sets
SPECIFICITY = 0.9  # on clean images, where sensitivity is told
MIN_POSITIVES = 5  # a finding with fewer positives (or negatives) has no AUC worth averaging


def group_weights(
    groups: np.ndarray,
    seed: int | Sequence[int] = 0,
    draws: int = DRAWS,
    *,
    classes: np.ndarray | None = None,
) -> np.ndarray:
    """Weights (1 + draws, N): a row of ones, then how often each image's group was drawn.

    Args:
        groups: (N,) the patient, lesion or tile of each image.
        classes: (N,) of the images. Groups are then drawn within strata, that of the rarest class
            they hold, so that no draw lacks a class.
    """
    _, which = np.unique(groups, return_inverse=True)
    stratum = np.zeros(which.max() + 1, int)
    if classes is not None:
        _, kind, sizes = np.unique(classes, return_inverse=True, return_counts=True)
        for label in np.argsort(-sizes, kind="stable"):  # rarer classes overwrite common ones
            stratum[which[kind == label]] = label
    random, drawn = np.random.default_rng(seed), np.zeros((draws, len(stratum)))
    for label in np.unique(stratum):
        members = np.flatnonzero(stratum == label)
        even = np.full(len(members), 1 / len(members))
        drawn[:, members] = random.multinomial(len(members), even, size=draws)
    return np.concatenate([np.ones((1, len(groups))), drawn[:, which]])


def _estimate(values: np.ndarray) -> Estimate:
    return Estimate(float(values[0]), values[1:])


def weighted_mean(per_image: np.ndarray, weights: np.ndarray) -> Estimate:
    """Mean of one number an image (N,) under ``weights`` (1 + draws, N); NaN is left out."""
    values = np.asarray(per_image, float)
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):  # a draw may hold none of the known images
        found = _estimate(weights[:, known] @ values[known] / weights[:, known].sum(1))
    return replace(found, outcomes=values[None])


def exceeded(values: np.ndarray, weights: np.ndarray, share: float | np.ndarray) -> Estimate:
    """The value that a ``share`` of the images (N,) lies above, one or one a row of ``weights``."""
    order = np.argsort(values)
    below = weights[:, order].cumsum(1)
    least = (1 - np.asarray(share)) * below[:, -1] - 1e-9
    return _estimate(values[order][(below >= least[:, None]).argmax(1)])


def sensitivity(
    clean: np.ndarray, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray
) -> Estimate:
    """Share of the positives found at the threshold that clears SPECIFICITY of clean negatives.

    What a reader loses under attack when the threshold was set before it.

    Args:
        clean: logits (N, 1 or 2) before the attack, which set the threshold; ``logits`` after it.
        targets: (N,) of zeros and ones.
    """
    before, after = (as_classes(torch.from_numpy(one)).numpy() for one in (clean, logits))
    margins, sick = (before[:, 1] - before[:, 0], after[:, 1] - after[:, 0]), targets == 1
    threshold = np.quantile(margins[0][~sick], SPECIFICITY) if not sick.all() else np.nan
    found = _estimate(_share(margins[1] > threshold, sick, weights))
    return replace(found, outcomes=np.where(sick, margins[1] > threshold, np.nan)[None])


def auc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve for every row of ``weights`` (R, N); NaN where a side is empty.

    ``scores`` and ``positive`` may hold K entries an image, (N * K,), for a micro average.

    The probability that a positive outranks a negative, ties counted half. Equal to
    scikit-learn's ``roc_auc_score`` with ``sample_weight``, for a thousand weightings at once.
    """
    order = np.argsort(scores, kind="stable")
    image = order // (len(scores) // weights.shape[1])
    ranked = scores[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    hit = positive[order].astype(bool)
    rows = max(1, AUC_CELLS // len(scores))
    areas = []
    for part in range(0, len(weights), rows):
        drawn = weights[part : part + rows, image]
        above = np.add.reduceat(drawn * hit, starts, axis=1)
        below = np.add.reduceat(drawn * ~hit, starts, axis=1)
        won = (above * (below.cumsum(1) - below / 2)).sum(1)
        pairs = above.sum(1) * below.sum(1)
        areas.append(np.divide(won, pairs, out=np.full(len(won), np.nan), where=pairs > 0))
    return np.concatenate(areas)


def class_aucs(
    logits: np.ndarray, targets: np.ndarray, weights: np.ndarray
) -> dict[int, np.ndarray]:
    """One-against-rest AUC (1 + draws,) of each class with MIN_POSITIVES on both sides."""
    hot = one_hot(targets, logits.shape[1])
    probabilities = _probabilities(logits, targets)
    enough = np.minimum(hot.sum(0), len(hot) - hot.sum(0)) >= MIN_POSITIVES
    return {k: auc(probabilities[:, k], hot[:, k], weights) for k in np.flatnonzero(enough)}


def size_rank(areas: Mapping[int, np.ndarray], sizes: Sequence[int]) -> Estimate:
    """Rank correlation of AUCs (1 + draws,) by class with the images of each class (K,)."""
    if len(areas) < 3:
        return _estimate(np.full(DRAWS + 1, np.nan))
    ranked = rankdata([sizes[k] for k in areas])
    drawn = rankdata([*areas.values()], axis=0).T
    return _estimate(np.array([np.corrcoef(one, ranked)[0, 1] for one in drawn]))


def one_hot(targets: np.ndarray, classes: int) -> np.ndarray:
    """Targets as bool (N, K), whether they were indices or multi-hot."""
    return targets.astype(bool) if targets.ndim == 2 else np.eye(classes, dtype=bool)[targets]


def _probabilities(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return expit(logits) if targets.ndim == 2 else softmax(logits, axis=1)


def score(
    logits: np.ndarray, targets: np.ndarray, weights: np.ndarray, *, ignore: Sequence[int] = ()
) -> dict[str, Estimate]:
    """All scores of one set of logits (N, K).

    ``loss``, ``val_accuracy``, ``top1``, ``top5``, ``balanced_accuracy``, ``auc_macro`` and
    ``auc_micro``.
    For multi-label targets ``val_accuracy`` is the share of right yes-or-no decisions, and
    ``top1``/``top5`` ask whether a true label is among the best ranked. A single logit (N, 1)
    with targets (N,) of zeros and ones is scored as the two classes it stands for.

    Args:
        ignore: classes left out of macro AUC and balanced accuracy ("No Finding" is the
            absence of the others).
    """
    if targets.ndim == 1:
        logits, targets = as_classes(torch.from_numpy(logits)).numpy(), targets.astype(np.int64)
    hot = one_hot(targets, logits.shape[1])
    columns = [k for k in range(hot.shape[1]) if k not in ignore]
    areas = class_aucs(logits, targets, weights)
    averaged = [areas[k] for k in columns if k in areas]
    undefined = np.full(len(weights), np.nan)
    return {
        "loss": weighted_mean(per_image_loss(logits, targets), weights),
        "val_accuracy": weighted_mean(_accuracy(logits, targets), weights),
        "top1": weighted_mean(top_k(logits, hot, 1), weights),
        "top5": weighted_mean(top_k(logits, hot, 5), weights),
        "balanced_accuracy": _estimate(_balanced(logits, targets, hot, columns, weights)),
        "auc_macro": _estimate(known_mean(averaged) if averaged else undefined),
        "auc_micro": _estimate(auc(_probabilities(logits, targets).ravel(), hot.ravel(), weights)),
    }


def per_image_loss(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The loss (N,) of each image in nats (see ``losses.per_image``), in float64."""
    return per_image(torch.from_numpy(logits).double(), torch.from_numpy(targets)).numpy()


def _accuracy(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    if targets.ndim == 2:
        return ((logits > 0) == targets.astype(bool)).mean(1)
    return logits.argmax(1) == targets


def top_k(logits: np.ndarray, hot: np.ndarray, k: int) -> np.ndarray:
    """Whether a true label is among the ``k`` largest logits, as Swin's ``accuracy()`` counts."""
    best = torch.from_numpy(logits).topk(min(k, logits.shape[1]), dim=1).indices.numpy()
    return np.take_along_axis(hot, best, axis=1).any(1)


def _balanced(
    logits: np.ndarray,
    targets: np.ndarray,
    hot: np.ndarray,
    columns: list[int],
    weights: np.ndarray,
) -> np.ndarray:
    """Mean recall of the classes, or, multi-label, of (sensitivity + specificity) / 2."""
    if targets.ndim == 2:
        guess = logits > 0
        recalls = [
            (_share(guess[:, k], hot[:, k], weights) + _share(~guess[:, k], ~hot[:, k], weights))
            / 2
            for k in columns
            if MIN_POSITIVES <= hot[:, k].sum() <= len(hot) - MIN_POSITIVES
        ]
    else:
        guess = logits.argmax(1)
        recalls = [_share(guess == k, hot[:, k], weights) for k in columns if hot[:, k].any()]
    return known_mean(recalls) if recalls else np.full(len(weights), np.nan)


def known_mean(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over the rows, NaN left out; NaN where nothing is known."""
    known = np.isfinite(rows)
    total, count = np.where(known, rows, 0).sum(0), known.sum(0)
    return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)


def _share(hit: np.ndarray, among: np.ndarray, weights: np.ndarray) -> np.ndarray:
    total = weights @ among.astype(float)
    return np.divide(
        weights @ (hit & among).astype(float),
        total,
        out=np.full(len(total), np.nan),
        where=total > 0,
    )


def prior_logits(train_targets: np.ndarray, n: int, classes: int) -> np.ndarray:
    """Logits (n, K) of a predictor that knows the label frequencies of training and nothing else.

    Scored like a model, this is the majority line that every accuracy has to beat.
    """
    # One imagined image a label keeps the logit of an unseen class finite.
    frequency = (one_hot(train_targets, classes).sum(0) + 1) / (len(train_targets) + classes)
    row = np.log(frequency) if train_targets.ndim == 1 else np.log(frequency / (1 - frequency))
    return np.tile(row.astype(np.float32), (n, 1))
