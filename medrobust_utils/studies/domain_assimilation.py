"""Paper 3: domain assimilation; tasks, arms and training.

A *task* is one data set, made binary and balanced, under one split; an *arm* is one network
trained for it with one defence. ``train`` may be killed and called again; finished work is read
back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from ..core import env
from ..core.errors import ProtocolError
from ..core.storage import fingerprint
from ..data import ImageSet, ThreeWay, load, split_by_image, split_three_ways, to_float
from ..data.views import binary, gray, undersample
from ..models import AssimilatedModel, MedicalModel, build, build_assimilated
from ..training import cards
from ..training.adversarial import AdversarialTraining
from ..training.fit import fit
from ..training.objectives import Assimilation
from .common import asked_for, cast, curve_scores, question, select, some

ROLES = ("ct", "mri", "xray", "ultrasound")  # each played by a data set of the profile
# What stands between the attacker and the vanilla network: nothing, the modules alone, the
# modules and the GLCM loss (domain assimilation proper), or adversarial training.
DEFENCES = ("none", "modules", "glcm", "adversarial")
TITLES = dict(
    zip(
        DEFENCES,
        ("vanilla", "modules alone", "domain assimilation", "adversarial training"),
        strict=True,
    )
)
SPLITS = ("honest", "by image")
# What an arm is attacked with: everything; all attacks, stepping by eps / 4 only; PGD so alone.
REGIMES = ("all", "quarter", "pgd")
LOGGED = 32  # images on which the gradients of the two terms are compared after each epoch


@dataclass(frozen=True)
class Task:
    """A data set as the networks see it, with its split.

    Attributes:
        split_name: ``honest``, or ``by image`` with every duplicate kept, the paper's probable one.
        data: binary, balanced.
        raw: all images the reader gave, in the publisher's classes.
        listed: images a class with every duplicate kept, as the slides count them.
        attacked: test images under attack, ``settings["attack"]["images"]`` of ``split.test``.
        seed: of the split and of phantoms.
        asked: the DATASET that gives this task again, where that is not the role.
    """

    role: str
    split_name: str
    data: ImageSet
    raw: ImageSet
    split: ThreeWay
    listed: int
    attacked: np.ndarray
    seed: int = 0
    asked: str = ""

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return self.data.images.shape[1]

    @property
    def key(self) -> str:
        return f"{self.role}-{self.data.name}-{self.size}-{self.split_name.replace(' ', '-')}"

    @property
    def tags(self) -> dict[str, str]:
        """What rows on it carry."""
        return {"role": self.role, "dataset": self.data.name, "split": self.split_name}


@dataclass(frozen=True)
class Arm:
    """One network, with one training seed, on one task.

    Attributes:
        alpha: weight of the cross-entropy; 1 where there is no GLCM loss.
        colour: the colour module, or ``none``.
        rows: reading of the GLCM loss (see ``glcm.texture_distance``), or ``none``.
        attacks: one of REGIMES.
    """

    task: Task = field(repr=False)
    backbone: str
    start: str
    defence: str
    alpha: float
    colour: str
    rows: str
    seed: int
    attacks: str = "all"

    @property
    def key(self) -> str:
        parts = [self.task.key, self.backbone, self.start, self.defence]
        if self.colour != "none":
            parts.append(self.colour)
        if self.defence == "glcm":
            parts += [f"{self.alpha:g}", self.rows]
        return "-".join([*parts, str(self.seed)])

    @property
    def title(self) -> str:
        """What a reader calls it."""
        kind, details = TITLES[self.defence], [self.backbone, self.start]
        if self.defence == "glcm":
            details += [f"alpha {self.alpha:g}", self.rows]
        if self.colour not in ("none", "conv"):
            details.append(self.colour)
        return f"{kind} ({', '.join(details)}, seed {self.seed})"

    @property
    def group(self) -> str:
        """What arms share that differ in their training seed only."""
        return self.key.rpartition("-")[0]

    @property
    def tags(self) -> dict[str, str | float | int]:
        """What every result row of this arm carries."""
        return {
            **self.task.tags,
            "backbone": self.backbone,
            "start": self.start,
            "defence": self.defence,
            "alpha": self.alpha,
            "colour": self.colour,
            "rows": self.rows,
        }


def arms(settings: Mapping, *, seed: int, role: str = "", model: str = "") -> Iterator[Arm]:
    """Every arm of the profile, task by task; ``role`` and ``model`` pick some by name.

    Raises:
        ProtocolError: for a role, backbone or defence that is not known, or a negative seed.
    """
    tasks: dict[tuple, Task] = {}
    settings, role = cast(settings, role, settings["arms"][0]["role"])
    known: set[str] = set()  # an override may make two groups name one arm; the first stands
    for group in select(settings["arms"], seed=seed, role=role, model=model, key="backbone"):
        key = (group["role"], group["split"])
        if key not in tasks:
            tasks[key] = _task(settings, *key, seed=seed)
        for number in range(seed, seed + settings["seeds"]):
            for how in variants(group, settings):
                arm = Arm(tasks[key], group["backbone"], group["start"], **how, seed=number)
                if arm.key not in known:
                    known.add(arm.key)
                    yield arm


def variants(group: Mapping, settings: Mapping) -> Iterator[dict]:
    """Defence, alpha, colour module and reading of the loss of every arm of one group."""
    attacks = group.get("attacks", REGIMES[0])
    if attacks not in REGIMES:
        raise ProtocolError(f"attacks {attacks!r}: choose among {', '.join(REGIMES)}.")
    for defence in group["defence"]:
        if defence not in DEFENCES:
            raise ProtocolError(f"defence {defence!r}: choose among {', '.join(DEFENCES)}.")
        plain = defence in ("none", "adversarial")
        colour = "none" if plain else group.get("colour", "conv")
        glcm = defence == "glcm"
        rows = group.get("rows", settings["glcm"]["rows"]) if glcm else "none"
        for alpha in group.get("alpha", [settings["alpha"]]) if glcm else [1.0]:
            yield {
                "defence": defence,
                "alpha": alpha,
                "colour": colour,
                "rows": rows,
                "attacks": attacks,
            }


def _task(settings: Mapping, role: str, split_name: str, *, seed: int) -> Task:
    if split_name not in SPLITS:
        raise ProtocolError(f"split {split_name!r}: choose among {', '.join(SPLITS)}.")
    sets, asked = {}, asked_for(settings, role)
    for honest in (True, False):
        raw = load(
            settings["datasets"][role],
            size=settings["size"],
            phantoms=settings["phantoms"],
            seed=seed,
            duplicates=not honest,
        )
        if not honest:  # another set of images than the honest split's, so under another name
            raw = replace(raw, name=f"{raw.name}-with-duplicates")
        positive = settings["positive"][role]
        if asked:
            raw = gray(raw)  # its textures and its modules are made for gray images
            positive = question(raw, positive, role, two=True)
        data = binary(raw, positive, ("negative", "positive"))
        sets[honest] = raw, undersample(data, settings["class_size"][role], seed=seed)
    honest = split_name == "honest"
    raw, data = sets[honest]
    if honest:
        split = split_three_ways(data, seed=seed, val_folds=8)
    else:
        split = split_by_image(data, seed=seed)
    listed = min(sets[False][1].class_counts().values())
    attacked = some(split.test, settings["attack"]["images"][role], seed)
    return Task(role, split_name, data, raw, split, listed, attacked, seed, asked)


def build_arm(arm: Arm, settings: Mapping) -> MedicalModel:
    """The untrained network of an arm; the same seed gives the same head with every defence."""
    env.seed_everything(arm.seed)
    classes = len(arm.task.data.classes)
    if arm.colour == "none":
        return build(arm.backbone, classes, start=arm.start)
    return build_assimilated(arm.backbone, classes, colour=arm.colour, start=arm.start)


def epochs(arm: Arm, settings: Mapping) -> int:
    """The most epochs an arm is trained for; from scratch the backbone decides, else the task."""
    known = settings["training"]["epochs"]
    return known[arm.task.role] if arm.start == "imagenet" else known[arm.backbone]


def train(
    arm: Arm, settings: Mapping, checkpoints: Path
) -> tuple[Arm, MedicalModel, list[dict], Path]:
    """Train an arm, or read back what was trained.

    Returns:
        The arm as it was really run (``start`` is ``scratch`` where no ImageNet weights were to
        be had), its model, its learning curve, and the folder that keeps its work.
    """
    task, model, planned = arm.task, build_arm(arm, settings), arm.key
    arm = replace(arm, start=model.start)
    recipe = {**settings["training"], "epochs": epochs(arm, settings)}
    objective = None
    if arm.defence == "adversarial":
        recipe["patience"] = 0  # the epoch of best clean accuracy is not the most robust one
        how = settings["adversarial"]
        eps = how["eps_255"] / 255
        objective = AdversarialTraining(eps, how["steps"], how["rel_step"] * eps)
    elif arm.defence != "none":
        if arm.defence == "glcm" and recipe["flips"] != "none":
            raise ProtocolError(
                f"training.flips={recipe['flips']}: the texture that the GLCM loss holds an image "
                "against is computed once, unflipped. Choose none."
            )
        how = {**settings["glcm"], "rows": arm.rows if arm.defence == "glcm" else "areas"}
        objective = Assimilation.of(task.data, arm.alpha, **how)
    sides = task.split.train.tolist(), task.split.val.tolist()
    aim = objective.identity if objective else ""
    identity = fingerprint(recipe, aim, arm.seed, model.source, task.data.checksum, *sides)
    folder = checkpoints / f"{arm.key}-{identity}"
    history = fit(
        model,
        task.data,
        task.split,
        recipe,
        folder,
        seed=arm.seed,
        objective=objective,
        validate=lambda model: _validate(model, task, objective),
    )
    card = cards.Card(
        "3_domain_assimilation",
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


def _validate(model: MedicalModel, task: Task, objective: object) -> dict[str, float]:
    """The epoch's scores; with modules, also how strongly each term of the loss pulls at them."""
    scores = curve_scores(model, task.data, task.split.val)
    if isinstance(model, AssimilatedModel) and isinstance(objective, Assimilation):
        device = env.pick_device()
        rows = task.split.train[:: max(1, len(task.split.train) // LOGGED)][:LOGGED]
        images = to_float(task.data.images[rows]).to(device)
        targets = torch.from_numpy(task.data.targets[rows]).to(device)
        pull = objective.pull(model, images, targets, rows)
        scores |= {name: round(value, 6) for name, value in pull.items()}
    return scores
