"""Paper 3: what one network scores clean and under every attack of the slides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..attacks import Flag, SweepResult, attack_sweep
from ..models import MedicalModel
from ..scoring import metrics
from ..scoring.metrics import Estimate
from ..scoring.predict import kept
from .common import clean_scores, kept_flags, precision, some
from .domain_assimilation import ROLES, SPLITS, Arm

ATTACKS = ("fgsm", "bim", "mifgsm", "pgd")  # slides, "Experiments"
# The slides give no step sizes. `quarter` steps by eps / 4; `torchattacks` has that library's
# defaults, steps of 2/255 whatever eps, which at 1/255 overshoot the ball. FGSM's only step is eps.
STEPS = ("quarter", "torchattacks")
CELLS = [("fgsm", "single"), *[(name, step) for step in STEPS for name in ATTACKS[1:]]]
RUN = {"all": CELLS, "quarter": CELLS[: len(ATTACKS)], "pgd": [("pgd", "quarter")]}


@dataclass(frozen=True)
class Robustness:
    """What one network scored.

    Attributes:
        clean: scores on every test image.
        gates: whether the network learnt enough for a verdict (``metrics.gates``).
        sweeps: (attack, step) -> its logits on the attacked images at every eps.
        strong: the same from a nested climb, with float32 gradients (see ``measure``).
        weights: (1 + draws, n) of the attacked images; equal for all arms of a task.
        fine: the nested climb over ``settings["attack"]["fine_255"]``, eps below the slides'
            smallest, where networks that all fall there can still be told apart.
    """

    arm: Arm
    clean: dict[str, Estimate]
    gates: dict[str, bool]
    sweeps: dict[tuple[str, str], SweepResult]
    strong: SweepResult
    weights: np.ndarray
    fine: SweepResult

    @property
    def epsilons(self) -> np.ndarray:
        """(E,), for images in [0, 1]."""
        return self.strong.epsilons

    @cached_property
    def start(self) -> Estimate:
        """Accuracy on the attacked images before any attack."""
        return metrics.weighted_mean(self.strong.clean_right, self.weights)

    @cached_property
    def right(self) -> dict[tuple[str, str], np.ndarray]:
        """(attack, step) -> bool (E, n): judged right.

        ``("worst", "all")``: right under every attack that was run; only of an arm that met more
        than PGD.
        ``("worst", "pgd")``: right under PGD by eps / 4 and the strong climb, which every arm met.
        Under the worst, an image lost at a smaller eps stays lost: what felled it lies in every
        larger ball.
        """
        found = {cell: sweep.right for cell, sweep in self.sweeps.items()}
        worst = {("worst", "pgd"): [found["pgd", "quarter"]]}
        if self.arm.attacks != "pgd":
            worst["worst", "all"] = list(found.values())
        return found | {
            cell: np.logical_and.accumulate(np.logical_and.reduce([*met, self.strong.right]))
            for cell, met in worst.items()
        }

    def accuracy(self, cell: tuple[str, str]) -> list[Estimate]:
        """Accuracy at every eps under one attack."""
        return [metrics.weighted_mean(right, self.weights) for right in self.right[cell]]

    @property
    def half_eps(self) -> float:
        """The smallest eps of all, the fine ones included, that fells half of what was right."""
        for sweep in (self.fine, self.strong):
            fallen = sweep.right.sum(1) <= sweep.clean_right.sum() / 2
            if fallen.any():
                return float(sweep.epsilons[fallen.argmax()])
        return float(self.epsilons[-1])


def measure(
    arm: Arm, model: MedicalModel, settings: Mapping, folder: Path, *, seed: int
) -> Robustness:
    """Clean scores on all test images, and every attack at every eps on the task's attacked ones.

    The iterative attacks run as ``settings["attack"]["mode"]`` says: ``independent`` as in the
    paper, ``standing`` to spare images that a smaller eps has felled. FGSM is always independent:
    its curve may rise. Beside the paper's attacks, nested PGD climbs from each eps to the next,
    with ``settings["attack"]["strong_steps"]`` steps: whoever survives a few cold steps only falls
    there. It follows the same loss; a network that hides its gradients needs other attacks.

    Args:
        seed: of the bootstrap and of random starts; the same for all arms, so that they are
            compared on the same draws.
    """
    task, how = arm.task, settings["attack"]
    epsilons = [eps / 255 for eps in how["eps_255"]]
    logits = kept(folder / "logits.npz", model, task.data, task.split.test, desc=arm.key)
    common = {"folder": folder, "seed": seed, "dtype": precision(settings, model)}
    sweeps = {}
    for name, step in RUN[arm.attacks]:
        plan = (
            dict(attack=name, mode="independent")
            if name == "fgsm"
            else dict(attack=name, mode=how["mode"], **_steps(how, step))
        )
        sweeps[name, step] = attack_sweep(
            model, task.data, task.attacked, epsilons, desc=f"{name}, {step}", **plan, **common
        )
    strong = attack_sweep(
        model,
        task.data,
        task.attacked,
        epsilons,
        desc="strong",
        folder=folder,
        seed=seed,
        steps=how["strong_steps"],
    )
    fine = attack_sweep(
        model,
        task.data,
        task.attacked,
        [eps / 255 for eps in how["fine_255"]],
        desc="fine",
        steps=how["strong_steps"],
        **common,
    )
    draw = [seed, ROLES.index(task.role), SPLITS.index(task.split_name)]
    clean, gates = clean_scores(task.data, task.split, logits, draw)
    weights = metrics.group_weights(task.data.groups[task.attacked], draw)
    return Robustness(arm, clean, gates, sweeps, strong, weights, fine)


def _steps(how: Mapping, step: str) -> dict[str, float]:
    """The steps of one reading, as ``attack_sweep`` takes them."""
    plan = how[step]
    if "step_255" in plan:
        return {"steps": plan["steps"], "step_size": plan["step_255"] / 255}
    return {"steps": plan["steps"], "rel_step": plan["rel_step"]}


def flags(
    robust: Robustness, model: MedicalModel, settings: Mapping, folder: Path, *, seed: int
) -> list[Flag]:
    """Red flags of one network at the eps that fells half of what was right, kept in ``folder``.

    Computed on ``attack["check"]`` of the attacked images.
    """
    task, radius = robust.arm.task, robust.half_eps
    index = some(task.attacked, settings["attack"]["check"], seed)
    return kept_flags(
        folder,
        "flags",
        model,
        task.data,
        index,
        radius,
        seed=seed,
        dtype=precision(settings, model),
    )
