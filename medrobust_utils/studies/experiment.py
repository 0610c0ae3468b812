"""A study as an experiment: a grid of arms, each trained once and put through attacks.

A *task* is one question to one data set under one split; an *arm* is one network with one training
seed on a task. ``train`` and ``evaluate`` may be killed and called again; finished work is read
back. What was measured becomes one tidy table (see ``tables``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ..core.storage import fingerprint
from ..data.splits import leaks
from ..models import MedicalModel
from ..reporting.results import Run
from ..reporting.settings import deviations, grid, pick  # noqa: F401  where the studies look
from ..scoring import metrics
from ..scoring.imagesets import clean_scores, curve_scores
from ..training import cards
from ..training.arms import Arm, Task, Trained
from ..training.fit import fit

CLEAN = {"top1": "accuracy", "balanced_accuracy": "balanced_accuracy", "auc_macro": "auc_macro"}


def train(
    planned: Arm,
    model: MedicalModel,
    recipe: Mapping,
    checkpoints: Path,
    *,
    paper: str,
    identity: Sequence[object],
    objective: object = None,
) -> Trained:
    """Train an arm, or read back what was trained.

    Args:
        model: untrained; the arm's ``start`` is ``scratch`` where it got no ImageNet weights.
        identity: what else than seed, weights, images and split changes the result.
    """
    task, arm = planned.task, replace(planned, start=model.start)
    images = task.data.checksum, task.split.train.tolist(), task.chosen.tolist()
    identity = fingerprint(*identity, arm.seed, model.source, *images)
    folder = checkpoints / f"{arm.key}-{identity}"
    history = fit(
        model,
        task.data,
        task.split,
        recipe,
        folder,
        seed=arm.seed,
        objective=objective,
        validate=lambda model: curve_scores(model, task.data, task.chosen),
    )
    cards.leave(folder, arm, model, paper)
    return Trained(arm, model, history, folder)


def note(run: Run, trained: Trained, recipe: Mapping) -> None:
    """Write what a network is into the record; it may have been trained in an earlier run."""
    arm = trained.arm
    run.model(arm.key, **arm.tags, **trained.summary(recipe))
    run.history(arm.key, trained.history)
    for warning in trained.model.warnings:
        run.warn(warning)


def majority(task: Task, draw: int | Sequence[int] = 0) -> dict[str, metrics.Estimate]:
    """What the label frequencies alone score on the test images."""
    data, test = task.data, task.split.test
    prior = metrics.prior_logits(data.targets[task.split.train], len(test), len(data.classes))
    return clean_scores(data, test, prior, draw)


def describe_task(run: Run, task: Task, constant: Mapping[str, object]) -> pd.DataFrame:
    """Tidy rows on a data set and its split: leaks, classes, and what a constant answer scores.

    Args:
        constant: tags of the rows on the constant answer.
    """
    data, test, scores = task.data, task.split.test, majority(task)
    run.dataset(task.raw)
    tags = {"n": len(test), "attack": "none", **constant}
    rows = [{"metric": name, "estimate": scores[key], **tags} for key, name in CLEAN.items()]
    leaked = leaks(data, task.split)
    rows.append({"metric": "test_images_leaked", "estimate": leaked, "n": len(test)})
    rows.append({"metric": "classes", "estimate": len(data.classes)})
    return pd.DataFrame(rows).assign(**task.tags)
