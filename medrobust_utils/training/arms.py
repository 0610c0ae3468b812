"""What is trained: one network with one seed on one question to a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import nn

from ..data import ImageSet, ThreeWay
from ..data.splits import some
from ..models import MedicalModel
from . import recipes


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

    def summary(self, recipe: Mapping) -> dict[str, object]:
        """What a record tells of it; ``recipe`` is that of its training."""
        best = len(self.history) - 1
        if recipe.get("patience"):  # else the last epoch is taken
            monitor, delta = recipe.get("monitor", "val_top1"), recipe.get("min_delta", 0.0)
            best = recipes.best_epoch([row[monitor] for row in self.history], delta)
        return {
            "source": self.model.source,
            "parameters": parameters(self.model),
            "epochs": len(self.history),
            "best_epoch": self.history[best]["epoch"],
            "training_seconds": round(sum(row["seconds"] for row in self.history)),
            "precision": sorted({row["precision"] for row in self.history}),
            "warnings": self.model.warnings,
        }


def parameters(model: nn.Module) -> int:
    """Trainable numbers of a network."""
    return sum(p.numel() for p in model.parameters())
