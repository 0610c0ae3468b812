"""A study as an experiment: a grid of arms, each trained once and put through attacks.

A *task* is one question to one data set under one split; an *arm* is one network with one training
seed on a task. ``train`` and ``evaluate`` may be killed and called again; finished work is read
back. What was measured becomes one tidy table (see ``tables``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..core.storage import fingerprint
from ..data import ImageSet, ThreeWay
from ..data.splits import leaks
from ..models import MedicalModel
from ..reporting.arms import deviations, grid, pick  # noqa: F401  where the studies look
from ..reporting.results import Run
from ..scoring import metrics
from ..scoring.imagesets import clean_scores, curve_scores
from ..training import cards, recipes
from ..training.fit import fit
from .common import parameters, some

CLEAN = {"top1": "accuracy", "balanced_accuracy": "balanced_accuracy", "auc_macro": "auc_macro"}


@dataclass(frozen=True)
class Task:
    """A data set as one network sees it, with its split.

    Attributes:
        tags: what rows on it carry: role, dataset, split and what else tells it apart.
        raw: the images as the reader gave them; ``data`` as the networks see them.
        chosen: images that choose the epoch.
        attacked: test images under attack.
        draw: begins, after the seed, the bootstrap of this task.
        seed: of the split and of phantoms.
    """

    key: str
    tags: Mapping[str, str]
    data: ImageSet
    raw: ImageSet
    split: ThreeWay
    chosen: np.ndarray = field(default=None, repr=False)
    attacked: np.ndarray = field(default=None, repr=False)
    draw: tuple[int, ...] = ()
    seed: int = 0

    def of(self, settings: Mapping, *, draw: tuple[int, ...], seed: int) -> Task:
        """With as many images to choose the epoch and to attack as the profile says."""
        chosen = some(self.split.val, settings["validation_images"], seed)
        attacked = some(self.split.test, settings["attack"]["images"], seed)
        return replace(self, chosen=chosen, attacked=attacked, draw=draw, seed=seed)

    @property
    def role(self) -> str:
        return self.tags["role"]

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return self.data.images.shape[1]


@dataclass(frozen=True)
class Arm:
    """One network, with one training seed, on one task; a study adds the fields that tell it."""

    task: Task = field(repr=False)
    seed: int

    @property
    def own(self) -> dict[str, str]:
        """What tells this network from the others on its task: no ``field(compare=False)``."""
        return {one.name: getattr(self, one.name) for one in fields(self)[2:] if one.compare}

    @property
    def group(self) -> str:
        """What arms share that differ in their training seed only."""
        return "-".join([self.task.key, *map(str, self.own.values())])

    @property
    def key(self) -> str:
        return f"{self.group}-{self.seed}"

    @property
    def title(self) -> str:
        """What a reader calls it."""
        return ", ".join(map(str, self.own.values()))

    @property
    def tags(self) -> dict[str, str]:
        """What every row of this arm carries."""
        return {**self.task.tags, **self.own}


class Trained(NamedTuple):
    """A finished arm: as it was really run, with its learning curve and the folder of its work."""

    arm: Arm
    model: MedicalModel
    history: list[dict]
    folder: Path


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
    arm, model, history, _ = trained
    best = len(history) - 1
    if recipe.get("patience"):  # else the last epoch is taken
        monitor, delta = recipe.get("monitor", "val_top1"), recipe.get("min_delta", 0.0)
        best = recipes.best_epoch([row[monitor] for row in history], delta)
    about = {
        "source": model.source,
        "parameters": parameters(model),
        "epochs": len(history),
        "best_epoch": history[best]["epoch"],
        "training_seconds": round(sum(row["seconds"] for row in history)),
        "precision": sorted({row["precision"] for row in history}),
        "warnings": model.warnings,
    }
    run.model(arm.key, **arm.tags, **about)
    run.history(arm.key, history)
    for warning in model.warnings:
        run.warn(warning)


def describe_task(run: Run, task: Task, constant: Mapping[str, object]) -> pd.DataFrame:
    """Tidy rows on a data set and its split: leaks, classes, and what a constant answer scores.

    Args:
        constant: tags of the rows on the constant answer.
    """
    data, test = task.data, task.split.test
    run.dataset(task.raw)
    prior = metrics.prior_logits(data.targets[task.split.train], len(test), len(data.classes))
    scores = clean_scores(data, test, prior)
    tags = {"n": len(test), "attack": "none", **constant}
    rows = [{"metric": name, "estimate": scores[key], **tags} for key, name in CLEAN.items()]
    leaked = leaks(data, task.split)
    rows.append({"metric": "test_images_leaked", "estimate": leaked, "n": len(test)})
    rows.append({"metric": "classes", "estimate": len(data.classes)})
    return pd.DataFrame(rows).assign(**task.tags)
