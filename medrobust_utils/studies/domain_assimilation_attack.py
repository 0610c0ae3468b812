"""Paper 3: what one network scores clean and under every attack of the slides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from ..attacks import SweepResult, attack_sweep
from ..models import MedicalModel
from ..scoring import metrics
from ..scoring.metrics import Estimate
from ..scoring.predict import kept
from . import survival
from .common import cached_flags, clean_scores, in_gray_levels, precision, some
from .domain_assimilation import ROLES, SPLITS, Arm
from .experiment import CLEAN
from .survival import Survival

ATTACKS = ("fgsm", "bim", "mifgsm", "pgd")  # slides, "Experiments"
# The slides give no step sizes. `quarter` steps by eps / 4; `torchattacks` has that library's
# defaults, steps of 2/255 whatever eps, which at 1/255 overshoot the ball. FGSM's only step is eps.
STEPS = ("quarter", "torchattacks")
CELLS = [("fgsm", "single"), *[(name, step) for step in STEPS for name in ATTACKS[1:]]]
RUN = {"all": CELLS, "quarter": CELLS[: len(ATTACKS)], "pgd": [("pgd", "quarter")]}


NO_ATTACK = {"step": "none", "eps_255": 0.0}  # tags of clean scores beside those under attack
FINE = ("bisection", "fine")  # attack and step of rows on the eps below the slides' smallest


@dataclass(frozen=True)
class Robustness:
    """What one network scored.

    Attributes:
        clean: scores on every test image.
        gates: whether the network learnt enough for a verdict (``metrics.gates``).
        sweeps: (attack, step) -> its logits on the attacked images at every eps.
        strong: the same by bisection, with float32 gradients (see ``measure``).
        weights: (1 + draws, n) of the attacked images; equal for all arms of a task.
        fine: bisection over ``settings["attack"]["fine_255"]``, eps below the slides'
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
        ``("worst", "pgd")``: right under PGD by eps / 4 and by bisection, which every arm met.
        Under the worst, an image lost at a smaller eps stays lost: what fooled it lies in every
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
    def tags(self) -> dict[str, object]:
        """What its rows in a table of single seeds carry."""
        return self.arm.tags | self.gates | {"seed": self.arm.seed}

    def scores(self) -> pd.DataFrame:
        """Tidy rows: clean scores, accuracy under every attack, and how odd the FGSM curve is."""
        n, clean = len(self.arm.task.split.test), ("none", *NO_ATTACK.values())
        rows = [(*clean, n, name, self.clean[key]) for key, name in CLEAN.items()]
        n = len(self.arm.task.attacked)
        rows.append((*clean, n, "accuracy_attacked", self.start))
        met = {cell: (self.epsilons, right) for cell, right in self.right.items()}
        met[FINE] = self.fine.epsilons, self.fine.right
        for cell, (epsilons, right) in met.items():
            for eps, here in zip(epsilons, right, strict=True):
                accuracy = metrics.weighted_mean(here, self.weights)
                rows.append((*cell, in_gray_levels(eps), n, "accuracy_attacked", accuracy))
        columns = ["attack", *NO_ATTACK, "n", "metric", "estimate"]
        odd = [(*[None] * 3, n, name, one) for name, one in self._fgsm().items()]
        return pd.DataFrame(rows + odd, columns=columns).assign(**self.tags)

    def _fgsm(self) -> dict[str, Estimate]:
        """How far the FGSM curve climbs back, and how far it ends above PGD's.

        PGD may spare images that a smaller eps has fooled, so for the second number an image lost
        at a smaller eps counts as lost under both.
        """
        if self.arm.attacks == "pgd":
            return {}
        single = self.accuracy(("fgsm", "single"))
        lowest = int(np.argmin([one.value for one in single]))
        ever = [self.right[cell].all(0) for cell in (("fgsm", "single"), ("pgd", "quarter"))]
        left = [metrics.weighted_mean(right, self.weights) for right in ever]
        return {"fgsm_rebound": single[-1] - single[lowest], "fgsm_above_pgd": left[0] - left[1]}

    @property
    def half_eps(self) -> float:
        """The smallest eps of all, the fine ones included, that fools half of what was right."""
        for sweep in (self.fine, self.strong):
            fooled = sweep.right.sum(1) <= sweep.clean_right.sum() / 2
            if fooled.any():
                return float(sweep.epsilons[fooled.argmax()])
        return float(self.epsilons[-1])


def measure(
    arm: Arm, model: MedicalModel, settings: Mapping, folder: Path, *, seed: int
) -> Robustness:
    """Clean scores on all test images, and every attack at every eps on the task's attacked ones.

    The iterative attacks run as ``settings["attack"]["mode"]`` says: ``independent`` as in the
    paper, ``skip_fooled`` to spare images that a smaller eps has fooled. FGSM is independent: its
    curve may rise. Beside the paper's attacks, PGD by bisection over the radii,
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
) -> pd.DataFrame:
    """Red flags at the eps that fools half of what was right, kept in ``folder``: a row each.

    Computed on ``attack["check"]`` of the attacked images.
    """
    task, radius = robust.arm.task, robust.half_eps
    index = some(task.attacked, settings["attack"]["check"], seed)
    dtype = precision(settings, model)
    seen = cached_flags(folder, "flags", model, task.data, index, radius, seed=seed, dtype=dtype)
    rows = [{"estimate": float(f.raised), "flag": f.name, "measured": f.measured} for f in seen]
    size = in_gray_levels(radius)
    return pd.DataFrame(rows).assign(metric="red_flag", eps_255=size, **robust.tags)


def survive(
    robust: Robustness, model: MedicalModel, settings: Mapping, folder: Path, *, seed: int
) -> Survival:
    """AutoAttack on some of the attacked images at a few eps.

    On ``settings["attack"]["autoattack"]["images"]`` of them (0: all), at its ``eps_255``. What
    PGD by eps / 4 or by bisection has fooled stays fooled.

    Args:
        seed: as for ``measure``.
    """
    task, how = robust.arm.task, settings["attack"]["autoattack"]
    index = some(task.attacked, how["images"], seed)
    epsilons, climbed = [eps / 255 for eps in how["eps_255"]], robust.right["worst", "pgd"]
    before = survival.robust(robust.epsilons, climbed, robust.strong.clean_right, epsilons)
    before = before[:, np.isin(task.attacked, index)]
    draw = [seed, ROLES.index(task.role), SPLITS.index(task.split_name)]
    how = (how, index, epsilons, before, folder)
    return survival.attack_again(robust, model, *how, seed=seed, draw=draw)
