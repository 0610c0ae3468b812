"""Paper 1: the thousand images that its author set aside, 800 to fit and 200 to attack.

The paper planned AutoAttack so and never ran it. It does not say what is fitted, nor from what.
Here a network either begins from ImageNet's weights, or from random ones and is first trained on
other images; then the 800 fine-tune it, and the 200, which it has never seen, are attacked.
``train`` may be killed and called again; finished work is read back.
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
from ..models import MedicalModel, build
from ..scoring import metrics
from ..scoring.predict import predict
from ..training.fit import fit
from .common import asked_for, cast, some, whole_images
from .swin_noise import ROLES

REST = "rest"  # as ``before``: the images of the same set that are not among the thousand


@dataclass(frozen=True)
class Thousand:
    """One data set: what fits, what is attacked, and what random weights learn from before.

    Attributes:
        fit: the 800; no patient or lesion of theirs is among ``attacked`` or ``before``.
        attacked: the 200.
        before: the set that networks from random weights are trained on first, or None.
        before_split: its images to train on and to follow the training by.
    """

    role: str
    data: ImageSet
    fit: np.ndarray
    attacked: np.ndarray
    before: ImageSet | None
    before_split: Split | None

    @property
    def ignore(self) -> tuple[int, ...]:
        """Classes without an AUC of their own: "No Finding" is the absence of the others."""
        none = self.data.multi_label and "No Finding" in self.data.classes
        return (self.data.classes.index("No Finding"),) if none else ()

    @property
    def key(self) -> str:
        return f"{self.data.name}-{self.data.images.shape[1]}-thousand"


@dataclass(frozen=True)
class Arm:
    """One network on one thousand.

    Attributes:
        start: ``imagenet`` or ``scratch``.
        before: the data set that was trained on before the 800, or ``nothing``.
    """

    task: Thousand
    model: str
    start: str
    before: str

    @property
    def key(self) -> str:
        return f"{self.task.key}-{self.model}-{self.start}"

    @property
    def title(self) -> str:
        """What a reader calls it."""
        name = {"swin": "Swin-T", "resnet": "ResNet-50"}[self.model]
        weights = {"imagenet": "ImageNet", "scratch": "random weights"}[self.start]
        return f"{name} from {weights}" + (f", {self.before}" if self.before != "nothing" else "")

    @property
    def tags(self) -> dict[str, str | bool]:
        """What every result row of this arm carries."""
        return {
            "role": self.task.role,
            "dataset": self.task.data.name,
            "protocol": "multi_label" if self.task.data.multi_label else "single_label",
            "sound": True,
            "thousand": True,
            "model": self.model,
            "start": self.start,
            "before": self.before,
        }


def parts(name: str) -> tuple[bool, bool]:
    """Whether PART asks for the study of noise, and for the attacks on the thousand."""
    if name not in ("", "noise", "attack"):
        raise ProtocolError(f"PART={name!r}: choose noise or attack, or nothing for both.")
    return name != "attack", name != "noise"


def thousands(settings: Mapping, *, seed: int, role: str = "") -> list[Thousand]:
    """The thousand images of each data set of the profile.

    Args:
        role: ``nih`` or ``isic``; empty for both; ``folder:PATH`` for images of one's own, which
            play the part of ``nih``.
    """
    settings, role = cast(settings, role, ROLES[0])
    if role and role not in ROLES:
        raise ProtocolError(f"DATASET={role!r}: choose {' or '.join(ROLES)}, or nothing for both.")
    return [_thousand(settings, part, seed) for part in ([role] if role else ROLES)]


def _thousand(settings: Mapping, role: str, seed: int) -> Thousand:
    how = settings["thousand"]

    def opened(name: str) -> ImageSet:
        return whole_images(load(name, size=how["size"], phantoms=how["phantoms"], seed=seed))

    data = opened(settings["datasets"][role])
    train, val = split_by_group(data, seed=seed)
    fitted, attacked = some(train, how["fit"], seed), some(val, how["attacked"], seed)
    before, split = None, None
    other = REST if asked_for(settings, role) else how["before"][role]
    if other == REST:
        rest = train[~np.isin(data.groups[train], data.groups[fitted])]
        if len(rest) >= how["fit"]:  # in a set of a thousand images hardly any is left
            before, split = data, Split(rest, fitted)
    elif other:
        before = opened(other)
        split = split_by_group(before, seed=seed)
    return Thousand(role, data, fitted, attacked, before, split)


def arms(settings: Mapping, tasks: list[Thousand], model: str = "") -> Iterator[Arm]:
    """Every network of the profile on every thousand; ``model`` picks one by name."""
    names = {arm["model"] for arm in settings["thousand"]["arms"]}
    if model and model not in names:
        raise ProtocolError(f"MODEL={model!r}: this profile has {', '.join(sorted(names))}.")
    for task in tasks:
        for arm in settings["thousand"]["arms"]:
            if model in ("", arm["model"]):
                yield Arm(task, arm["model"], arm["start"], "nothing")


def train(
    arm: Arm, settings: Mapping, checkpoints: Path, *, seed: int
) -> tuple[Arm, MedicalModel, list[dict], Path]:
    """Fit an arm, or read back what was fitted.

    Returns:
        The arm as it was really run (``start`` is ``scratch`` where no ImageNet weights were to
        be had), its model, its learning curve (``part`` is ``before`` or ``fit``), and the
        folder that keeps its work.
    """
    task = arm.task
    model = _build(arm, settings, task.data, seed)
    arm, curve, known = replace(arm, start=model.start), [], ""
    if model.start == "scratch" and task.before is not None:
        first, curve, known = _train_before(arm, settings, checkpoints, seed)
        arm = replace(arm, before=task.before.name)
        _take_over(model, first)
    recipe = _recipe(settings, task.role, model.start, "fit")
    identity = fingerprint(
        settings["thousand"]["models"][arm.model],
        recipe,
        seed,
        model.source,
        known,
        task.data.checksum,
        task.fit.tolist(),
        task.attacked.tolist(),
    )
    folder = checkpoints / f"{arm.key}-{identity}"
    split = Split(task.fit, task.attacked)
    history = fit(
        model,
        task.data,
        split,
        recipe,
        folder,
        seed=seed,
        validate=lambda model: _curve(model, task.data, task.attacked, task.ignore),
    )
    curve = [dict(row, part="before") for row in curve]
    return arm, model, curve + [dict(row, part="fit") for row in history], folder


def _train_before(
    arm: Arm, settings: Mapping, checkpoints: Path, seed: int
) -> tuple[MedicalModel, list[dict], str]:
    """The network that has seen the other images, its learning curve and its identity."""
    task, data = arm.task, arm.task.before
    split = task.before_split
    model = _build(arm, settings, data, seed)
    recipe = _recipe(settings, task.role, "scratch", "before")
    identity = fingerprint(
        settings["thousand"]["models"][arm.model],
        recipe,
        seed,
        data.checksum,
        split.train.tolist(),
    )
    folder = checkpoints / f"before-{task.key}-{arm.model}-{identity}"
    shown = some(split.val, settings["thousand"]["attacked"], seed)
    history = fit(
        model,
        data,
        split,
        recipe,
        folder,
        seed=seed,
        validate=lambda model: _curve(model, data, shown, ()),
    )
    return model, history, identity


def _build(arm: Arm, settings: Mapping, data: ImageSet, seed: int) -> MedicalModel:
    env.seed_everything(seed)
    spec = settings["thousand"]["models"][arm.model]
    return build(spec["backbone"], len(data.classes), start=arm.start, options=spec["options"])


def _recipe(settings: Mapping, role: str, start: str, part: str) -> dict:
    how = settings["thousand"]
    lr = how["lr"]["fit"] if part == "fit" else settings["training"]["lr"][start]
    return dict(settings["training"]) | {
        "epochs": how["epochs"][part],
        "lr": lr,
        "flips": settings["flips"][role],
    }


def _take_over(model: MedicalModel, first: MedicalModel) -> None:
    """The weights of ``first``; the head only where it names the same number of classes."""
    mine = model.state_dict()
    theirs = {k: v for k, v in first.state_dict().items() if v.shape == mine[k].shape}
    model.load_state_dict(mine | theirs)


def _curve(
    model: MedicalModel, data: ImageSet, shown: np.ndarray, ignore: tuple[int, ...]
) -> dict[str, float]:
    """What the learning curve shows after each epoch; it chooses nothing."""
    logits = predict(model, data, shown)
    scores = metrics.score(logits, data.targets[shown], np.ones((1, len(shown))), ignore=ignore)
    names = ("loss", "top1", "balanced_accuracy", "auc_macro")
    return {f"val_{name}": round(scores[name].value, 4) for name in names}
