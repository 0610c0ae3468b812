"""Paper 2: the ladder of radii, and what one network scores on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..attacks import Flag, SweepResult, attack_sweep
from ..core.errors import ProtocolError
from ..data.contrast import ContrastFilter
from ..models import MedicalModel
from ..scoring import metrics
from ..scoring.metrics import Estimate
from ..scoring.predict import kept
from .attentive_cnn import ROLES, Arm
from .attentive_cnn_radii import Radii
from .common import clean_scores, kept_flags, precision, some

ATTACKS = {
    "nested": {"mode": "nested"},
    "independent": {"mode": "independent"},
    "foolbox": {"mode": "independent", "engine": "foolbox"},
}


@dataclass(frozen=True)
class Robustness:
    """What one network scored.

    Attributes:
        clean: scores on every test image.
        gates: whether the network learnt enough for a verdict (``metrics.gates``).
        sweep: its logits on the attacked images at every radius.
        weights: (1 + draws, n) of the attacked images; equal for all arms of a task.
        attack: ``nested``, ``independent`` or ``foolbox``.
    """

    arm: Arm
    clean: dict[str, Estimate]
    gates: dict[str, bool]
    sweep: SweepResult
    weights: np.ndarray
    attack: str

    @cached_property
    def start(self) -> Estimate:
        """Accuracy on the attacked images before the attack."""
        return metrics.weighted_mean(self.sweep.clean_right, self.weights)

    @cached_property
    def accuracy(self) -> list[Estimate]:
        """Unweighted accuracy at every radius, as the paper reports it."""
        return [metrics.weighted_mean(right, self.weights) for right in self.sweep.right]

    @cached_property
    def kept(self) -> list[Estimate]:
        """Share of the images right before the attack that are right after it."""
        before = self.sweep.clean_right
        if not before.any():
            nothing = np.full(len(self.weights) - 1, np.nan)
            return [Estimate(float("nan"), nothing) for _ in self.sweep.right]
        weights = self.weights[:, before]
        with np.errstate(invalid="ignore"):  # a draw may hold none of the images that were right
            return [metrics.weighted_mean(right[before], weights) for right in self.sweep.right]

    @property
    def half_fallen(self) -> int | None:
        """Position of the smallest radius that fells half of what was right, if any does."""
        fallen = [k for k, kept in enumerate(self.kept) if kept.value <= 0.5]
        return fallen[0] if fallen else None


def measure(
    arm: Arm,
    model: nn.Module,
    settings: Mapping,
    ladder: Radii,
    folder: Path,
    *,
    seed: int,
    attack: str = "",
    images: int = 0,
) -> Robustness:
    """Clean scores on all test images, and the sweep over the ladder.

    Args:
        images: how many of the task's attacked images; 0 for all of them.
        seed: of the bootstrap and the random starts; the same for all arms, so that they are
            compared on the same draws.
        attack: ``nested``, ``independent`` or ``foolbox``; the profile's own if empty.
    """
    attack = attack or settings["attack"]["mode"]
    if attack not in ATTACKS:
        raise ProtocolError(f"ATTACK={attack!r}: choose one of {', '.join(ATTACKS)}.")
    # A profile's steps belong to its own attack; another takes the engine's usual number.
    steps = settings["attack"]["steps"] if attack == settings["attack"]["mode"] else None
    # Foolbox knows no mixed precision.
    dtype = torch.float32 if attack == "foolbox" else precision(settings, model)
    task = arm.task
    index = some(task.attacked, images, seed)
    logits = kept(
        folder / f"logits-{task.filter}.npz", model, task.data, task.split.test, desc=arm.key
    )
    sweep = attack_sweep(
        model,
        task.data,
        index,
        ladder.values,
        folder=folder,
        desc=f"{attack} PGD",
        seed=seed,
        dtype=dtype,
        steps=steps,
        **ATTACKS[attack],
    )
    draw = [seed, ROLES.index(task.role)]
    clean, gates = clean_scores(task.data, task.split, logits, draw)
    weights = metrics.group_weights(task.data.groups[index], draw)
    return Robustness(arm, clean, gates, sweep, weights, attack)


def modes_differ(
    robust: Robustness,
    model: nn.Module,
    settings: Mapping,
    ladder: Radii,
    folder: Path,
    *,
    seed: int,
) -> dict[float, Estimate]:
    """How much higher the accuracy under independent than under nested PGD is, at some radii.

    On ``attack["check"]["images"]`` of the images and at ``attack["check"]["radii"]``. The sweep
    itself is one side; the other attack is run beside it. Below zero, a nested sweep would
    praise a network that the paper's own attack breaks.
    """
    check, task = settings["attack"]["check"], robust.arm.task
    index = some(task.attacked, check["images"], seed)
    here = np.flatnonzero(np.isin(task.attacked, index))
    places = [int(np.abs(np.array(ladder.values) - radius).argmin()) for radius in check["radii"]]
    nested = robust.attack == "nested"
    # a nested sweep depends on its whole ladder, an independent one does not
    other = Radii(tuple(ladder.values[k] for k in places) if nested else ladder.values, {})
    mode = "independent" if nested else "nested"
    result = measure(
        robust.arm, model, settings, other, folder, seed=seed, attack=mode, images=len(index)
    )
    found = {}
    for number, k in enumerate(places):
        theirs = result.sweep.right[number if nested else k].astype(float)
        gap = theirs - robust.sweep.right[k][here]
        gap = metrics.weighted_mean(gap if nested else -gap, result.weights)
        found[ladder.values[k]] = gap
    return found


def flags(
    robust: Robustness,
    model: nn.Module,
    settings: Mapping,
    ladder: Radii,
    folder: Path,
    *,
    seed: int,
) -> list[Flag]:
    """Red flags of one network at the radius that fells half of what was right, or the largest.

    Computed on ``attack["check"]["images"]`` images and kept in ``folder``.
    """
    task, place = robust.arm.task, robust.half_fallen
    radius = ladder.values[-1 if place is None else place]
    index = some(task.attacked, settings["attack"]["check"]["images"], seed)
    return kept_flags(
        folder,
        f"flags-{task.filter}",
        model,
        task.data,
        index,
        radius,
        seed=seed,
        dtype=precision(settings, model),
    )


def through_filter(arm: Arm, model: MedicalModel) -> tuple[Arm, nn.Module]:
    """The same network, attacked through the contrast filter: on the images before it.

    The filter multiplies fine changes by four and clips, so the same radius means another
    attack; the paper's text leaves open where its perturbations were added.
    """
    task = replace(arm.task, filter="through", data=arm.task.raw)
    behind = nn.Sequential(ContrastFilter(), model).eval()
    behind.trained_in = model.trained_in
    return replace(arm, task=task), behind
