"""What one network scores clean and under attack: per-image outcomes, and their tidy rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
import pandas as pd
import torch

from ..attacks import Flag, SweepResult, attack_sweep, robust_curve
from ..core.errors import ProtocolError
from ..data import to_float
from ..explain import under_attack
from ..explain.under_attack import Explained
from ..scoring import metrics
from ..scoring.metrics import Estimate
from ..scoring.predict import kept
from .common import budget, cached_flags, clean_scores, precision, some, weights
from .experiment import CLEAN, Arm, Task, Trained
from .tables import compare, known_mean

ATTACKS = {
    "bisection": {"mode": "bisection"},
    "independent": {"mode": "independent"},
    "foolbox": {"mode": "independent", "engine": "foolbox"},
}


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
        return partial(known_mean, weights=weights(self.arm.task.data, index, self.draw))

    @cached_property
    def retained(self) -> list[Estimate]:
        """Share of the images right before the attack that are right after it, at each radius."""
        before = self.sweep.clean_right
        return [
            known_mean(np.where(before, right, np.nan), self.weights) for right in self.sweep.right
        ]

    def on(self, index: np.ndarray) -> Evaluation:
        """The same on some of its images, of these positions in the task's data."""
        here, sweep = np.isin(self.index, index), self.sweep
        logits, clean, labels = sweep.logits[:, here], sweep.clean[here], sweep.labels[here]
        part = replace(sweep, logits=logits, clean=clean, labels=labels)
        return replace(self, index=self.index[here], sweep=part)

    @property
    def right(self) -> np.ndarray:
        """Bool (E, n): judged right at each radius under everything that was met there."""
        return self.sweep.right

    def robust(self, radii: Sequence[float]) -> np.ndarray:
        """Bool (R, n): right before the attack and at every radius of the sweep up to each one.

        What fools an image at one radius lies in every larger ball.

        Args:
            radii: (R,), of the sweep or between its radii.
        """
        ever = np.logical_and.accumulate([self.sweep.clean_right, *self.right])
        last = np.searchsorted(self.sweep.epsilons, np.array(radii) * (1 + 1e-9), side="right")
        return ever[last]

    @property
    def half(self) -> int | None:
        """Position of the smallest radius that fools half of what was right, if any does."""
        fooled = [k for k, share in enumerate(self.retained) if share.value <= 0.5]
        return fooled[0] if fooled else None

    @property
    def half_radius(self) -> float:
        """That radius, or the largest."""
        return float(self.sweep.epsilons[-1 if self.half is None else self.half])

    def scores(self) -> pd.DataFrame:
        """Tidy rows: scores on clean test images, and on the attacked ones at every radius.

        AUC and sensitivity under attack only where every image was attacked afresh (see
        ``SweepResult``); sensitivity of two classes, at 90 % specificity on clean images.
        """
        task, sweep = self.arm.task, self.sweep
        judged = (sweep.labels, self.weights)
        two = sweep.labels.ndim == 1 and sweep.logits.shape[2] <= 2
        rows = [("none", np.nan, task.split.test, CLEAN[k], one) for k, one in self.clean.items()]
        start = metrics.weighted_mean(sweep.clean_right, self.weights)
        rows.append(("none", np.nan, self.index, "accuracy_attacked", start))
        if two and sweep.mode == "independent":
            before = metrics.sensitivity(sweep.clean, sweep.clean, *judged)
            rows.append(("none", np.nan, self.index, "sensitivity_attacked", before))
        for k, radius in enumerate(sweep.epsilons):
            found = metrics.score(sweep.logits[k], *judged)
            values = {
                "accuracy_attacked": metrics.weighted_mean(sweep.right[k], self.weights),
                "retained_accuracy": self.retained[k],
                "balanced_accuracy_attacked": found["balanced_accuracy"],
            }
            if sweep.mode == "independent":
                values["auc_macro_attacked"] = found["auc_macro"]
                if two:
                    after = metrics.sensitivity(sweep.clean, sweep.logits[k], *judged)
                    values["sensitivity_attacked"] = after
            rows += [(self.attack, radius * 255, self.index, *one) for one in values.items()]
        return self.table(rows)

    @cached_property
    def log2_radius(self) -> np.ndarray:
        """log2 of the smallest radius (n,) that fools each image, of images in [0, 1].

        Censored at the ends of the radii; an image wrong when clean is at the lowest.
        """
        ends = self.sweep.epsilons[[0, -1]]
        return np.log2(np.clip(self.sweep.min_adversarial_radius(), *ends))

    def survived(self, share: float | np.ndarray) -> Estimate:
        """log2 of the radius that a ``share`` of the images survives, one or one a draw."""
        return metrics.exceeded(self.log2_radius, self.weights, share)

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
    if attack not in ATTACKS:
        raise ProtocolError(f"ATTACK={attack!r}: choose one of {', '.join(ATTACKS)}.")
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
    task, radius = trained.arm.task, found.half_radius
    seen = cached_flags(
        trained.folder,
        f"flags-{task.key}",
        trained.model,
        task.data,
        some(task.attacked, settings["attack"]["check"]["images"], seed),
        radius,
        seed=seed,
        dtype=precision(settings, trained.model),
    )
    trained.model.cpu()
    rows = [
        {"estimate": float(f.raised), "flag": f.name, "measured": f.measured}
        for f in [*found.flags, *seen]
    ]
    return pd.DataFrame(rows).assign(metric="red_flag", radius_255=radius * 255, **found.tags)


def modes_differ(
    trained: Trained, found: Evaluation, settings: Mapping, *, seed: int
) -> pd.DataFrame:
    """How much higher accuracy under independent PGD than by bisection is, at some radii.

    On ``attack["check"]["images"]`` of the images and near ``attack["check"]["radii"]``. The
    evaluation is one side; the other attack is run beside it. Below zero, bisection would
    praise a network that the paper's own attack breaks.
    """
    check, radii = settings["attack"]["check"], found.sweep.epsilons
    near = radii[[np.abs(radii - radius).argmin() for radius in check["radii"]]]
    halved = found.attack == "bisection"
    # bisection depends on all its radii, an independent sweep does not
    radii, attack = (np.unique(near), "independent") if halved else (radii, "bisection")
    images = min(check["images"], len(found.index))
    other = evaluate(trained, settings, radii, seed=seed, attack=attack, images=images)
    both = pd.concat([found.on(other.index).scores(), other.scores()])
    both = both.replace({"attack": {found.attack: "independent"}} if not halved else {})
    both = both[both["metric"].eq("accuracy_attacked") & both["radius_255"].isin(near * 255)]
    name = "accuracy_independent_minus_bisection"
    return compare(both, "attack", "independent", "bisection", name).drop(columns="attack")


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
    task, radii = trained.arm.task, found.sweep.epsilons
    index = some(task.attacked, settings["explained"], seed)
    seen = under_attack.explain(
        trained.model,
        to_float(task.data.images[index]),
        torch.from_numpy(task.data.targets[index]),
        index,
        radii,
        masks(task, index),
        trained.folder,
        shown=len(radii) - 1 if found.half is None else found.half,
        seed=seed,
        dtype=precision(settings, trained.model),
        desc=f"{trained.arm.key}: explaining",
    )
    trained.model.cpu()
    return seen
