"""Paper 2: soft attention in ResNet-50 and Inception-ResNet-v2; tasks, arms and training.

A *task* is one question to one data set under one split; an *arm* is one network trained for it.
``train`` may be killed and called again; finished work is read back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import numpy as np

from ..core import env
from ..core.errors import ProtocolError
from ..core.storage import fingerprint
from ..data import ImageSet, ThreeWay, load, split_like_datta, split_three_ways
from ..data.views import binary, enhanced
from ..models import MedicalModel, build_attentive
from ..training import cards
from ..training.fit import fit
from .common import asked_for, cast, curve_scores, question, select, some

ROLES = ("skin", "fundus", "chest")  # the paper's three tasks, each played by a set of the profile
SPLITS = ("honest", "datta")
FILTERS = ("none", "contrast")


@dataclass(frozen=True)
class Task:
    """A data set as one network sees it, with its split.

    Attributes:
        raw: the images before the contrast filter (``data`` itself where there is none).
        chosen: images that choose the epoch, ``settings["validation_images"]`` of ``split.val``.
        attacked: test images under attack, ``settings["attack"]["images"]`` of ``split.test``.
        finding: what makes an image positive; empty for the skin, which has seven classes.
        seed: of the split and of phantoms.
        asked: the DATASET that gives this task again, where that is not the role.
    """

    role: str
    split_name: str
    filter: str
    data: ImageSet
    raw: ImageSet
    split: ThreeWay
    chosen: np.ndarray
    attacked: np.ndarray
    finding: str = ""
    seed: int = 0
    asked: str = ""

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return self.data.images.shape[1]

    @property
    def key(self) -> str:
        name = f"{self.role}-{self.data.name}-{self.size}-{self.split_name}"
        return name if self.filter == "none" else f"{name}-{self.filter}"


@dataclass(frozen=True)
class Arm:
    """One network, with one training seed, on one task."""

    task: Task = field(repr=False)
    model: str
    attention: str
    start: str
    seed: int

    @property
    def key(self) -> str:
        return f"{self.task.key}-{self.model}-{self.attention}-{self.start}-{self.seed}"

    @property
    def title(self) -> str:
        """What a reader calls it."""
        kind = "vanilla" if self.attention == "none" else f"soft attention, {self.attention}"
        return f"{kind} ({self.model}, {self.start}, seed {self.seed})"

    @property
    def tags(self) -> dict[str, str | bool | int]:
        """What every result row of this arm carries."""
        return {
            "role": self.task.role,
            "dataset": self.task.data.name,
            "split": self.task.split_name,
            "filter": self.task.filter,
            "finding": self.task.finding,
            "model": self.model,
            "attention": self.attention,
            "start": self.start,
        }


def arms(settings: Mapping, *, seed: int, role: str = "", model: str = "") -> Iterator[Arm]:
    """Every arm of the profile, task by task; ``role`` and ``model`` pick some by name.

    Raises:
        ProtocolError: for a role or model that the profile does not have, or a negative seed.
    """
    tasks: dict[tuple, Task] = {}
    settings, role = cast(settings, role, settings["arms"][0]["role"])
    for spec in select(settings["arms"], seed=seed, role=role, model=model, key="model"):
        size = settings["models"][spec["model"]]["size"]
        key = (spec["role"], spec["split"], spec["filter"], size)
        if key not in tasks:
            tasks[key] = _task(settings, *key, seed=seed)
        seeds = range(seed, seed + settings["seeds"])
        for attention, number in product(spec["attention"], seeds):
            yield Arm(tasks[key], spec["model"], attention, spec["start"], number)


def _task(
    settings: Mapping, role: str, split_name: str, filter: str, size: int, *, seed: int
) -> Task:
    if split_name not in SPLITS or filter not in FILTERS:
        raise ProtocolError(
            f"split {split_name!r}, filter {filter!r}: choose among {SPLITS} and {FILTERS}."
        )
    raw = load(settings["datasets"][role], size=size, phantoms=settings["phantoms"], seed=seed)
    positive = settings["positive"].get(role, [])
    if asked := asked_for(settings, role):
        positive = question(raw, positive, role, two=False)
    if positive:
        raw = binary(raw, positive, ("negative", "positive"))
    cut = split_like_datta if split_name == "datta" else split_three_ways
    split = cut(raw, seed=seed)
    attacked = some(split.test, settings["attack"]["images"], seed)
    chosen = some(split.val, settings["validation_images"], seed)
    data = enhanced(raw) if filter == "contrast" else raw
    finding = " or ".join(positive)
    return Task(role, split_name, filter, data, raw, split, chosen, attacked, finding, seed, asked)


def build_arm(arm: Arm, settings: Mapping) -> MedicalModel:
    """The untrained network of an arm."""
    env.seed_everything(arm.seed)
    task, spec = arm.task, settings["models"][arm.model]
    return build_attentive(
        spec["backbone"],
        len(task.data.classes),
        attention=arm.attention,
        start=arm.start,
        size=task.size,
        gamma=settings["gamma"],
        options=spec["options"],
    )


def train(
    arm: Arm, settings: Mapping, checkpoints: Path
) -> tuple[Arm, MedicalModel, list[dict], Path]:
    """Train an arm, or read back what was trained.

    Returns:
        The arm as it was really run (``start`` is ``scratch`` where no ImageNet weights were to
        be had), its model, its learning curve, and the folder that keeps its work.
    """
    task, spec, planned = arm.task, settings["models"][arm.model], arm.key
    model = build_arm(arm, settings)
    arm = replace(arm, start=model.start)
    recipe = {**settings["training"]}
    for name in ("epochs", "share", "flips"):
        recipe[name] = recipe[name][task.role]
    identity = fingerprint(
        spec,
        recipe,
        settings["gamma"],
        arm.seed,
        model.source,
        task.data.checksum,
        task.split.train.tolist(),
        task.chosen.tolist(),
    )
    folder = checkpoints / f"{arm.key}-{identity}"
    history = fit(
        model,
        task.data,
        task.split,
        recipe,
        folder,
        seed=arm.seed,
        validate=lambda model: curve_scores(model, task.data, task.chosen),
    )
    card = cards.Card(
        "2_attentive_cnn",
        task.key,
        planned,
        task.asked or task.role,
        task.seed,
        settings,
        model.source,
        task.data.checksum,
        cards.split_of(task.split.train),
    )
    cards.leave(folder, card)
    return arm, model, history, folder
