"""Paper 1: from the sweeps of its arms to the rows that its claims are judged by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ..data import to_float
from ..models import MedicalModel
from ..reporting.results import Run
from ..scoring import metrics
from ..scoring.metrics import Estimate
from .swin_noise import Arm, Sweep, Task

NO_NOISE = {"reading": "none", "noise": 0.0}


def add(run: Run, metric: str, estimate: Estimate, **tags: object) -> None:
    """Append an estimate with its interval as a row."""
    run.add(metric, estimate.value, estimate.low, estimate.high, **tags)


def add_task(run: Run, task: Task) -> None:
    """Rows on a data set itself: its size, its classes, its majority line, its pixel range."""
    data, val = task.data, task.split.val
    if not task.copied:  # copies are not images: the record speaks of the set they come from
        run.dataset(data)
    tags = {"role": task.role, "dataset": data.name, "protocol": task.protocol}
    prior = metrics.prior_logits(data.targets[task.split.train], len(val), len(data.classes))
    weights = metrics.group_weights(data.groups[val])
    for name, value in metrics.score(prior, data.targets[val], weights, ignore=task.ignore).items():
        add(run, name, value, model="majority", start="none", n=len(val), **tags, **NO_NOISE)
    sizes = [size for size in data.class_counts().values()]
    low, high = pixel_range(task)
    for metric, value in {
        "n_classes": len(data.classes),
        "class_size_max": max(sizes),
        "class_size_min": min(sizes),
        "pixel_min_normalised": low,
        "pixel_max_normalised": high,
    }.items():
        run.add(metric, value, **tags)
    # Copies of the paper-style protocol are not images: the publisher's listing is what counts.
    listed = data.census.get("images_listed", data.census.get("images", len(data)))
    run.add("n_images", listed, **tags)


def pixel_range(task: Task) -> tuple[float, float]:
    """Least and greatest pixel of the validation images after ImageNet normalisation."""
    mean, std = np.array(IMAGENET_DEFAULT_MEAN), np.array(IMAGENET_DEFAULT_STD)
    low, high = np.ones(3), np.zeros(3)
    for start in range(0, len(task.split.val), 256):
        images = to_float(task.data.images[task.split.val[start : start + 256]])
        low = np.minimum(low, images.amin((0, 2, 3)).numpy())
        high = np.maximum(high, images.amax((0, 2, 3)).numpy())
    return float(((low - mean) / std).min()), float(((high - mean) / std).max())


def add_sweep(run: Run, sweep: Sweep, ladder: Sequence[float]) -> None:
    """Rows of one arm: clean scores, scores and drops under every noise, and how they fall.

    Args:
        ladder: the noise levels the paper tabulates, 0 included, rising. What the claims say of
            the whole ladder is left out where a level was not run.
    """
    task, tags = sweep.arm.task, sweep.arm.tags | sweep.gates
    for name, value in sweep.clean.items():
        add(run, name, value, n=len(task.split.val), **tags, **NO_NOISE)
    _add_identity(run, sweep.clean, **tags, **NO_NOISE)
    readings = sorted({reading for reading, _ in sweep.noisy} - {"none"})
    for (reading, level), scores in sweep.noisy.items():
        # The clean scores of the noise images begin the curve of each reading.
        for name in [reading] if reading != "none" else readings:
            cell = tags | {"reading": name, "noise": level, "n": len(task.noisy)}
            for metric, value in scores.items():
                add(run, metric, value, **cell)
            _add_identity(run, scores, **cell)
            if level:
                add(run, "top1_drop", sweep.drop("top1", reading, level), **cell)
                add(run, "auc_drop", sweep.drop("auc_micro", reading, level), **cell)
    for reading in readings:
        if all(not level or (reading, level) in sweep.noisy for level in ladder):
            cell = tags | {"reading": reading, "n": len(task.noisy)}
            add(run, "smallest_step_down", smallest_step_down(sweep, reading, ladder), **cell)
            first = sweep.drop("top1", reading, ladder[1])
            rest = sweep.drop("top1", reading, ladder[-1]) - first
            add(run, "first_minus_later_drop", first - rest, **cell)
    if task.data.multi_label:
        for name, size, area in class_table(sweep):
            add(run, "auc_class", area, **tags, **NO_NOISE, finding=name, images=size)
        add(run, "auc_size_spearman", auc_size_correlation(sweep), **tags, **NO_NOISE)


def _add_identity(run: Run, scores: dict[str, Estimate], **tags: object) -> None:
    if tags["protocol"] == "single_label":
        add(run, "val_accuracy_minus_top1", scores["val_accuracy"] - scores["top1"], **tags)


def smallest_step_down(sweep: Sweep, reading: str, ladder: Sequence[float]) -> Estimate:
    """Smallest fall of top-1, top-5 or micro AUC from one level of ``ladder`` to the next.

    Above zero only if every metric falls at every step; the minimum is taken within each
    bootstrap replicate.
    """
    cells = [sweep.noisy[(reading, level) if level else ("none", 0.0)] for level in ladder]
    steps = [
        before[metric] - after[metric]
        for metric in ("top1", "top5", "auc_micro")
        for before, after in zip(cells, cells[1:], strict=False)
    ]
    return Estimate(
        min(step.value for step in steps), np.min([step.replicates for step in steps], axis=0)
    )


def class_table(sweep: Sweep) -> list[tuple[str, int, Estimate]]:
    """Of each scored finding: name, images in training, AUC on all validation images."""
    task = sweep.arm.task
    val, counts = task.split.val, task.data.class_counts(task.split.train)
    weights = metrics.group_weights(task.data.groups[val])
    areas = metrics.class_aucs(sweep.logits, task.data.targets[val], weights)
    names = task.data.classes
    return [
        (names[k], counts[names[k]], Estimate(float(area[0]), area[1:]))
        for k, area in areas.items()
        if k not in task.ignore
    ]


def auc_size_correlation(sweep: Sweep) -> Estimate:
    """Rank correlation between the size of a finding and its AUC, with its interval."""
    table = class_table(sweep)
    if len(table) < 3:
        return Estimate(math.nan, np.full(metrics.DRAWS, math.nan))
    sizes = [size for _, size, _ in table]
    value = spearmanr(sizes, [area.value for _, _, area in table]).statistic
    draws = np.array([area.replicates for _, _, area in table])
    return Estimate(float(value), np.array([spearmanr(sizes, draw).statistic for draw in draws.T]))


def describe(arm: Arm, model: MedicalModel, history: Sequence[Mapping], settings: Mapping) -> dict:
    """What the record says about a model; it may have been trained in an earlier run."""
    return {
        "backbone": settings["models"][arm.model]["backbone"],
        "start": model.start,
        "source": model.source,
        "parameters": sum(p.numel() for p in model.parameters()),
        "training_seconds": round(sum(row["seconds"] for row in history)),
        "precision": sorted({row["precision"] for row in history}),
        "warnings": model.warnings,
        "mean": model.mean.flatten().tolist(),
        "std": model.std.flatten().tolist(),
    }


def deviations(
    settings: Mapping,
    original: Mapping,
    tasks: Sequence[Task],
    trained: Sequence[tuple[Arm, MedicalModel, Path]],
) -> list[str]:
    """Where this run departs from the paper's protocol, in words, from what was really run."""
    found = []
    for task in {task.role: task for task in tasks}.values():
        data, role = task.data, task.role
        if data.synthetic:
            size = settings["size"]
            found.append(f"{role}: {len(data)} phantoms of {size} pixels, not real images.")
        elif data.name != role:
            found.append(f"{role}: {data.name} ({len(data.classes)} classes) stands in for it.")
        elif not data.complete:
            found.append(f"{role}: a subset of {data.census['images_listed']} images.")
        epochs, paper = (s["training"]["epochs"][role] for s in (settings, original))
        if epochs != paper:
            found.append(f"{role}: trained for {epochs} of the paper's {paper} epochs.")
        found.append(f"{role}: no patient or lesion on both sides of the split (paper: unstated).")
    for task in tasks:
        if len(task.noisy) < len(task.split.val):
            kind = "copies of validation images" if task.copied else "validation images"
            share = f"{len(task.noisy)} of {len(task.split.val)}"
            found.append(f"{task.role}, {task.protocol}: noise on {share} {kind}.")
    copied = {(arm.model, arm.start) for arm, _, _ in trained if arm.task.copied}
    sound = {(arm.model, arm.start) for arm, _, _ in trained if arm.task.data.multi_label}
    for model, start in sorted(sound - copied):
        found.append(f"nih: {model} ({start}) was not run under the paper-style labelling.")
    found += _model_deviations(settings, original, trained)
    return found


def _model_deviations(
    settings: Mapping, original: Mapping, trained: Sequence[tuple[Arm, MedicalModel, Path]]
) -> list[str]:
    found = []
    for name in sorted({arm.model for arm, _, _ in trained}):
        used, paper = (s["models"][name]["backbone"] for s in (settings, original))
        if used != paper:
            found.append(f"{name}: {used} instead of {paper}.")
        sources = {model.source for arm, model, _ in trained if arm.model == name}
        found.append(f"{name}: started from {' and from '.join(sorted(sources))}.")
    found.append(
        "training: AdamW, warm-up, cosine schedule, clipped gradients and flips; the paper states "
        "none of it."
    )
    return found
