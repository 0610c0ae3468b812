"""Paper 1: Swin-T against ResNet-50, clean and under Gaussian noise.

An *arm* is one model trained on one data set under one labelling: the sound protocol
(multi-label where the data are) or the paper-style one (one label a file). ``train`` and
``sweep`` may be killed and called again; finished work is read back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..core import env
from ..core.errors import ProtocolError
from ..core.storage import fingerprint
from ..data import ImageSet, Split, load, split_by_group
from ..data.readers import official_split
from ..data.views import copy_per_label
from ..models import MedicalModel, build
from ..scoring import metrics
from ..scoring.metrics import Estimate
from ..scoring.predict import kept, noise_sweep, predict
from ..training import cards
from ..training.fit import fit
from .common import asked_for, cast, whole_images

ROLES = ("nih", "isic")  # the paper's two data sets; each is played by a set of the profile


@dataclass(frozen=True)
class Task:
    """A data set under one labelling, with its split and the images that get noise."""

    role: str
    protocol: str
    data: ImageSet
    split: Split
    noisy: np.ndarray  # validation images of the noise sweep
    asked: str = ""  # the DATASET that gives this task again, where that is not the role

    @property
    def ignore(self) -> tuple[int, ...]:
        """Classes without an AUC of their own: "No Finding" is the absence of the others."""
        none = self.data.multi_label and "No Finding" in self.data.classes
        return (self.data.classes.index("No Finding"),) if none else ()

    @property
    def copied(self) -> bool:
        """Whether this is the paper-style view of a multi-label set."""
        return self.protocol == "single_label" and "copies" in self.data.census

    @property
    def key(self) -> str:
        return f"{self.data.name}-{self.protocol}"


@dataclass(frozen=True)
class Arm:
    """One model on one task."""

    task: Task
    model: str
    start: str

    @property
    def key(self) -> str:
        return f"{self.task.key}-{self.model}-{self.start}"

    @property
    def title(self) -> str:
        """What a reader calls it."""
        return f"{self.model}, {self.start}"

    @property
    def tags(self) -> dict[str, str | bool]:
        """What every result row of this arm carries."""
        return {
            "role": self.task.role,
            "dataset": self.task.data.name,
            "protocol": self.task.protocol,
            "sound": not self.task.copied,
            "model": self.model,
            "start": self.start,
        }


def tasks(settings: Mapping, *, seed: int, role: str = "") -> list[Task]:
    """The tasks of a profile: each data set, and for multi-label sets its paper-style copy.

    Args:
        role: ``nih`` or ``isic``; empty for both; ``folder:PATH`` for images of one's own, which
            play the part of ``nih``.
    """
    settings, role = cast(settings, role, ROLES[0])
    if role and role not in ROLES:
        raise ProtocolError(f"DATASET={role!r}: choose {' or '.join(ROLES)}, or nothing for both.")
    if settings["nih_split"] not in ("patient", "official"):
        raise ProtocolError(f"nih_split={settings['nih_split']!r}: choose patient or official.")
    if seed < 0:
        raise ProtocolError(f"SEED={seed}: choose 0 or more.")
    found = []
    for part in [role] if role else ROLES:
        data = load(
            settings["datasets"][part],
            size=settings["size"],
            phantoms=settings["phantoms"],
            seed=seed,
        )
        whole_images(data)
        by_lists = settings["nih_split"] == "official" and data.name == "nih"
        split = (
            official_split(data, env.data_root()) if by_lists else split_by_group(data, seed=seed)
        )
        if data.multi_label:
            found.append(_task(part, "multi_label", data, split, settings, seed))
            data, split = copy_per_label(data, split)
        found.append(_task(part, "single_label", data, split, settings, seed))
    return found


def _task(
    role: str, protocol: str, data: ImageSet, split: Split, settings: Mapping, seed: int
) -> Task:
    limit = settings["noise_images"] or len(split.val)
    chosen = np.random.default_rng(seed).permutation(split.val)[:limit]
    return Task(role, protocol, data, split, np.sort(chosen), asked_for(settings, role))


def arms(settings: Mapping, tasks: list[Task], model: str = "") -> Iterator[Arm]:
    """Every model of the profile on every task; ``model`` picks one by name.

    An arm with ``copies: false`` is spared the paper-style copies of a multi-label set.
    """
    names = {arm["model"] for arm in settings["arms"]}
    if model and model not in names:
        raise ProtocolError(f"MODEL={model!r}: this profile has {', '.join(sorted(names))}.")
    for task in tasks:
        for arm in settings["arms"]:
            if model in ("", arm["model"]) and (arm["copies"] or not task.copied):
                yield Arm(task, arm["model"], arm["start"])


def build_arm(arm: Arm, settings: Mapping, *, seed: int) -> MedicalModel:
    """The untrained network of an arm."""
    env.seed_everything(seed)
    spec, classes = settings["models"][arm.model], len(arm.task.data.classes)
    return build(spec["backbone"], classes, start=arm.start, options=spec["options"])


def train(
    arm: Arm, settings: Mapping, checkpoints: Path, *, seed: int
) -> tuple[Arm, MedicalModel, list[dict], Path]:
    """Train an arm, or read back what was trained.

    Returns:
        The arm as it was really run (``start`` is ``scratch`` where no ImageNet weights were to
        be had), its model, its learning curve, and the folder that keeps its work.
    """
    task, spec, planned = arm.task, settings["models"][arm.model], arm.key
    model = build_arm(arm, settings, seed=seed)
    arm = replace(arm, start=model.start)
    recipe = dict(settings["training"])
    recipe |= {
        "epochs": recipe["epochs"][task.role],
        "lr": recipe["lr"][model.start],
        "flips": settings["flips"][task.role],
    }
    identity = fingerprint(
        spec,
        recipe,
        seed,
        model.source,
        task.data.checksum,
        task.data.images.shape[1:],
        task.split.train.tolist(),
        task.noisy.tolist(),
    )
    folder = checkpoints / f"{arm.key}-{identity}"
    history = fit(
        model,
        task.data,
        task.split,
        recipe,
        folder,
        seed=seed,
        validate=lambda model: curve_scores(model, task),
    )
    card = cards.Card(
        "1_swin_noise",
        task.key,
        planned,
        task.asked or task.role,
        seed,
        settings,
        model.source,
        task.data.checksum,
        cards.split_of(task.split.train),
    )
    cards.leave(folder, card)
    return arm, model, history, folder


def curve_scores(model: MedicalModel, task: Task) -> dict[str, float]:
    """What the learning curve shows after each epoch, on the images of the noise sweep."""
    logits = predict(model, task.data, task.noisy)
    scores = metrics.score(
        logits, task.data.targets[task.noisy], np.ones((1, len(task.noisy))), ignore=task.ignore
    )
    return {f"val_{name}": round(scores[name].value, 4) for name in ("loss", "top1", "auc_macro")}


def sweep(arm: Arm, model: MedicalModel, settings: Mapping, folder: Path, *, seed: int) -> Sweep:
    """Scores of an arm on all validation images, and under every noise on the chosen ones."""
    task, noise = arm.task, settings["noise"]
    val = task.split.val
    clean = kept(folder / "logits-clean.npz", model, task.data, val, desc=f"{arm.key}: clean")
    logits = noise_sweep(
        model,
        task.data,
        task.noisy,
        folder,
        levels=noise["levels"],
        seeds=noise["seeds"],
        first_seed=seed,
    )
    # The role in the seed keeps the draws of two data sets independent of each other.
    draw = [seed, ROLES.index(task.role)]
    weights = metrics.group_weights(task.data.groups[task.noisy], draw)
    targets = task.data.targets[task.noisy]
    cells: dict[tuple[str, float], list[dict[str, Estimate]]] = {}
    for (reading, level, _), values in logits.items():
        cells.setdefault((reading, level), []).append(
            metrics.score(values, targets, weights, ignore=task.ignore)
        )
    noisy = {
        cell: {name: metrics.mean([one[name] for one in scores]) for name in scores[0]}
        for cell, scores in cells.items()
    }
    weights = metrics.group_weights(task.data.groups[val], draw)
    targets, classes = task.data.targets[val], len(task.data.classes)
    scores = metrics.score(clean, targets, weights, ignore=task.ignore)
    prior = metrics.prior_logits(task.data.targets[task.split.train], len(val), classes)
    gates = metrics.gates(scores, metrics.score(prior, targets, weights, ignore=task.ignore))
    return Sweep(arm, scores, clean, noisy, gates)


@dataclass(frozen=True)
class Sweep:
    """What one arm scored.

    Attributes:
        clean: scores on every validation image; ``logits`` are the logits behind them.
        noisy: scores on the noise images by (reading, level); ("none", 0.0) is without noise.
        gates: whether the model learnt enough for a verdict on its robustness (``metrics.gates``).
    """

    arm: Arm
    clean: dict[str, Estimate]
    logits: np.ndarray
    noisy: dict[tuple[str, float], dict[str, Estimate]]
    gates: dict[str, bool]

    def drop(self, metric: str, reading: str, level: float) -> Estimate:
        """How far ``metric`` falls from no noise to ``level``, on the same images."""
        return self.noisy["none", 0.0][metric] - self.noisy[reading, level][metric]
