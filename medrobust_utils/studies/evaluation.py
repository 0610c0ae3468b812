"""What one network scores clean and under attack: per-image outcomes, and their tidy rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
import pandas as pd
import torch

from ..attacks import Flag, SweepResult, attack_sweep, robust_curve
from ..core import env
from ..data import to_float
from ..data.splits import some
from ..explain import under_attack
from ..explain.under_attack import Explained
from ..models import MedicalModel
from ..scoring import metrics, robustness
from ..scoring.imagesets import clean_scores, weights
from ..scoring.metrics import Estimate
from ..scoring.predict import kept
from .experiment import CLEAN, Arm, Task, Trained, pick

ATTACKS = {
    "bisection": {"mode": "bisection"},
    "independent": {"mode": "independent"},
    "foolbox": {"mode": "independent", "engine": "foolbox"},
}


def precision(settings: Mapping, model: MedicalModel) -> torch.dtype:
    """Of an attack's gradients: float32, or, where the profile is ``fast``, that of the training.

    The probe that chose it may choose anew on a busy machine; what was attacked already stays
    valid only if the attack does not. A model that was not trained here asks the probe. Scores
    are float32 always.
    """
    if not settings["attack"]["fast"]:
        return torch.float32
    return getattr(model, "trained_in", None) or env.training_dtype(env.pick_device())


def budget(how: Mapping) -> dict[str, int]:
    """How hard AutoAttack tries by a profile (see ``attacks.AutoAttackConfig``)."""
    return {name: how[name] for name in ("steps", "targets", "queries") if name in how}


def in_gray_levels(eps: float) -> float:
    """A size in [0, 1] as rows have it, of 255."""
    return round(float(eps) * 255, 6)


def radii(asked: Iterable[float], grid: Mapping[str, float] | None) -> list[float]:
    """The radii of a sweep: those asked for, and a geometric ``grid`` (count, lowest, highest)."""
    fine = np.geomspace(grid["lowest"], grid["highest"], grid["count"]) if grid else ()
    return sorted({*asked, *map(float, fine)})


@dataclass(frozen=True)
class Evaluation:
    """What one network scored, image by image.

    Attributes:
        clean: scores on every test image.
        index: (n,) of the attacked images in the task's data.
        sweep: their logits at every radius.
        draw: seed of the bootstrap, the same for all arms of a task.
        attack: ``bisection``, ``independent`` or ``foolbox``.
        flags: what bisection itself showed of hidden gradients; where one is raised the sweep is
            the lowest of several attacks (see ``attacks.robust_curve``).
    """

    arm: Arm
    clean: dict[str, Estimate]
    index: np.ndarray
    sweep: SweepResult
    draw: list[int]
    attack: str
    flags: list[Flag] = field(default_factory=list)

    @cached_property
    def weights(self) -> np.ndarray:
        """(1 + draws, n) of the attacked images; equal for all arms of a task."""
        return weights(self.arm.task.data, self.index, self.draw)

    @property
    def tags(self) -> dict[str, object]:
        """What its rows in a table of single seeds carry."""
        return self.arm.tags | {"seed": self.arm.seed}

    def mean(self, index: np.ndarray) -> Callable[[np.ndarray], Estimate]:
        """What averages one number an image of ``index``, with an interval; NaN is left out."""
        drawn = weights(self.arm.task.data, index, self.draw)
        return partial(metrics.weighted_mean, weights=drawn)

    @property
    def log2_radius(self) -> np.ndarray:
        """(n,) of the attacked images (see ``robustness.log2_radius``)."""
        return robustness.log2_radius(self.sweep)

    @property
    def half(self) -> int | None:
        """Position of the smallest radius that fools half of what was right, if any does."""
        shares = robustness.retained(self.sweep, np.ones((1, len(self.index))))
        return next((k for k, share in enumerate(shares) if share.value <= 0.5), None)

    @property
    def half_radius(self) -> float:
        """That radius, or the largest."""
        return float(self.sweep.epsilons[-1 if self.half is None else self.half])

    def scores(self) -> pd.DataFrame:
        """Tidy rows: scores on clean test images, and on the attacked ones at every radius.

        See ``robustness.under_attack`` on the scores under attack.
        """
        test = self.arm.task.split.test
        rows = [("none", np.nan, test, CLEAN[name], one) for name, one in self.clean.items()]
        for radius, metric, one in robustness.under_attack(self.sweep, self.weights):
            cell = ("none", np.nan) if radius is None else (self.attack, radius * 255)
            rows.append((*cell, self.index, metric, one))
        return self.table(rows)

    def table(self, rows: Sequence[tuple]) -> pd.DataFrame:
        """Rows of attack, radius, images, metric and estimate; an estimate gets its groups."""
        groups = self.arm.task.data.groups
        filled = [
            (attack, radius, len(index), metric, replace(one, groups=groups[index]))
            for attack, radius, index, metric, one in rows
        ]
        columns = ["attack", "radius_255", "n", "metric", "estimate"]
        return pd.DataFrame(filled, columns=columns).assign(**self.tags)


def clean(trained: Trained, draw: Sequence[int]) -> dict[str, Estimate]:
    """Scores on all clean test images; the logits are kept in the network's folder.

    Args:
        draw: seed of the bootstrap.
    """
    task = trained.arm.task
    path = trained.folder / f"logits-{task.key}.npz"
    logits = kept(path, trained.model, task.data, task.split.test, desc=trained.arm.key)
    scores = clean_scores(task.data, task.split.test, logits, draw)
    return {name: scores[name] for name in CLEAN}


def evaluate(
    trained: Trained,
    settings: Mapping,
    radii: Iterable[float],
    *,
    seed: int,
    attack: str = "",
    images: int = 0,
) -> Evaluation:
    """Clean scores on all test images, and the attack at every radius.

    Args:
        radii: rising, for images in [0, 1].
        images: how many of the task's attacked images; 0 for all of them.
        seed: of the bootstrap and the random starts; the same for all arms, so that they are
            compared on the same draws.
        attack: ``bisection``, ``independent`` or ``foolbox``; the profile's own if empty.

    Raises:
        ProtocolError: for another attack.
    """
    task, how, model = trained.arm.task, settings["attack"], trained.model
    attack = attack or how["mode"]
    pick(ATTACKS, "ATTACK", attack)
    index, draw = some(task.attacked, images, seed), [seed, *task.draw]
    scores, raised = clean(trained, draw), []
    asked = (model, task.data, index, list(radii))
    plan = {"folder": trained.folder, "desc": f"{attack} PGD", "seed": seed}
    # Foolbox knows no mixed precision.
    plan["dtype"] = torch.float32 if attack == "foolbox" else precision(settings, model)
    # A profile's steps belong to its own attack; another takes the engine's usual number.
    plan["steps"] = how["steps"] if attack == how["mode"] else None
    if attack == "bisection":
        sweep, raised = robust_curve(*asked, autoattack=budget(how.get("autoattack", {})), **plan)
    else:
        sweep = attack_sweep(*asked, **ATTACKS[attack], **plan)
    model.cpu()  # make room for the next
    return Evaluation(trained.arm, scores, index, sweep, draw, attack, raised)


def flags(trained: Trained, found: Evaluation, settings: Mapping, *, seed: int) -> pd.DataFrame:
    """Red flags of the sweep, and where half of what was right is fooled: a row each.

    The estimate is 1 where a flag is raised, ``measured`` says why.
    """
    task, model, radius = trained.arm.task, trained.model, found.half_radius
    index = some(task.attacked, settings["attack"]["check"]["images"], seed)
    how = {"seed": seed, "dtype": precision(settings, model)}
    path = trained.folder / f"flags-{task.key}"
    seen = robustness.cached_flags(path, model, task.data, index, radius, **how)
    model.cpu()
    table = pd.DataFrame([*found.flags, *seen])
    table = table.rename(columns={"name": "flag", "raised": "estimate"}).astype({"estimate": float})
    return table.assign(metric="red_flag", radius_255=radius * 255, **found.tags)


def modes_differ(
    trained: Trained, found: Evaluation, settings: Mapping, *, seed: int
) -> pd.DataFrame:
    """How much higher accuracy under independent PGD than by bisection is, at some radii.

    On ``attack["check"]["images"]`` of the images and near ``attack["check"]["radii"]``. Below
    zero, bisection would praise a network that the paper's own attack breaks. No rows where the
    evaluation is not by bisection.
    """
    check, radii, rows = settings["attack"]["check"], found.sweep.epsilons, []
    near = np.unique([np.abs(radii - radius).argmin() for radius in check["radii"]])
    if found.attack == "bisection":
        how = {"attack": "independent", "images": min(check["images"], len(found.index))}
        other = evaluate(trained, settings, radii[near], seed=seed, **how)
        mean, here = found.mean(other.index), np.isin(found.index, other.index)
        pairs = zip(radii[near], other.sweep.right, found.sweep.right[near][:, here], strict=True)
        for radius, theirs, ours in pairs:
            cell = "", radius * 255, other.index, "accuracy_independent_minus_bisection"
            rows.append((*cell, mean(theirs) - mean(ours)))
    return found.table(rows).drop(columns="attack")


def explain(
    trained: Trained,
    found: Evaluation,
    settings: Mapping,
    masks: Callable[[Task, np.ndarray], np.ndarray | None],
    *,
    seed: int,
) -> Explained:
    """Perturbations and maps of ``settings["explained"]`` of the attacked images at every radius.

    The perturbation where half is fooled, or at the largest radius, is kept to be drawn.

    Args:
        masks: gives the regions of interest of some images, if they have any.
    """
    task, model, radii = trained.arm.task, trained.model, found.sweep.epsilons
    index = some(task.attacked, settings["explained"], seed)
    images, labels = to_float(task.data.images[index]), torch.from_numpy(task.data.targets[index])
    asked = model, images, labels, index, radii, masks(task, index), trained.folder
    how = {"seed": seed, "dtype": precision(settings, model)}
    how |= {"desc": f"{trained.arm.key}: explaining"}
    shown = len(radii) - 1 if found.half is None else found.half
    seen = under_attack.explain(*asked, shown=shown, **how)
    model.cpu()
    return seen
