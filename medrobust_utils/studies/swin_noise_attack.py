"""Paper 1: the thousand images under noise, PGD and AutoAttack, and the frequencies that hurt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from ..attacks import AutoResult, Flag, SweepResult, attack_sweep, autoattack_sweep
from ..core import env
from ..core.contracts import ask
from ..core.losses import correct
from ..core.storage import cached_arrays, fingerprint
from ..data import to_float
from ..explain import spectrum
from ..models import MedicalModel
from ..scoring import metrics
from ..scoring.metrics import Estimate
from ..scoring.predict import kept
from .common import budget, cached_flags
from .swin_noise import ROLES
from .swin_noise_thousand import Arm, Thousand

MIN_POSITIVE = 5  # an AUC over fewer images with a finding, or without it, says nothing


@dataclass(frozen=True)
class Attack:
    """What one network scored on its attacked images.

    Attributes:
        clean: scores before any attack, and the ``gates`` they pass (``metrics.gates``);
            ``beats_constant`` says the same of ``start``, which the attacks take away: its interval
            lies above what one constant answer has right.
        noise: bool (E, S, n): right under random signs of size eps, for S draws.
        pgd, auto: the sweeps; ``auto`` was given what ``pgd`` had fooled already.
        aucs: finding -> AUC before and under an attack on that finding, at ``auc_eps``.
        density: (n, bands), power of the margin's gradient a coefficient, white noise being 1.
        centroid: (n,), its mean frequency in cycles per pixel.
        in_bands: bool (bands, n): right under noise of one band.
        weights: (1 + draws, n); equal for all networks of a task.
        constant: accuracy of the commonest answer among the fitted images, given to every image.
    """

    arm: Arm
    clean: dict[str, Estimate]
    gates: dict[str, bool]
    noise: np.ndarray
    pgd: SweepResult
    auto: AutoResult
    aucs: dict[str, tuple[Estimate, Estimate]]
    density: np.ndarray
    centroid: np.ndarray
    in_bands: np.ndarray
    weights: np.ndarray
    constant: float

    @property
    def epsilons(self) -> np.ndarray:
        """(E,), for images in [0, 1]."""
        return self.pgd.epsilons

    @cached_property
    def start(self) -> Estimate:
        """Accuracy on the attacked images before any attack."""
        return self.mean(self.pgd.clean_right)

    @cached_property
    def curves(self) -> dict[str, list[Estimate]]:
        """Accuracy at every eps under ``noise``, ``pgd`` and ``autoattack``."""
        return {
            "noise": [self.mean(right.mean(0)) for right in self.noise],
            "pgd": [self.mean(right) for right in self.pgd.right],
            "autoattack": [self.mean(right) for right in self.auto.right],
        }

    def mean(self, per_image: np.ndarray) -> Estimate:
        """Mean over the attacked images, with its interval."""
        return metrics.weighted_mean(np.asarray(per_image, float), self.weights)


def measure(arm: Arm, model: MedicalModel, settings: Mapping, folder: Path, *, seed: int) -> Attack:
    """Everything that is asked of one network of the thousand; finished parts are read back.

    Args:
        seed: of random starts, noise and the bootstrap; the same for all networks, so that they
            are compared on the same draws.
    """
    task, how = arm.task, settings["thousand"]["attack"]
    epsilons = [eps / 255 for eps in how["eps_255"]]
    # Float32 for all: the type that a network was trained in depends on the hour, and what is
    # compared has to meet the same attack.
    common = dict(folder=folder, seed=seed)
    pgd = attack_sweep(
        model, task.data, task.attacked, epsilons, steps=how["pgd_steps"], desc="PGD", **common
    )
    auto = autoattack_sweep(
        model,
        task.data,
        task.attacked,
        epsilons,
        fooled=~pgd.right,
        desc="AutoAttack",
        batch=how["batch"],
        **budget(how),
        **common,
    )
    draw = [seed, ROLES.index(task.role)]
    weights = metrics.group_weights(task.data.groups[task.attacked], draw)
    targets = task.data.targets[task.attacked]
    clean = metrics.score(pgd.clean, targets, weights, ignore=task.ignore)
    prior = metrics.prior_logits(task.data.targets[task.fit], len(targets), pgd.clean.shape[1])
    gates = metrics.gates(clean, metrics.score(prior, targets, weights, ignore=task.ignore))
    constant = _constant(task)
    ahead = metrics.weighted_mean(pgd.clean_right.astype(float) - constant, weights)
    gates["beats_constant"] = bool(ahead.low > 0)
    noise = np.stack([_under_signs(arm, model, eps, how, folder, seed) for eps in epsilons])
    density, centroid = _spectra(arm, model, how["bands"], folder)
    in_bands = _in_bands(arm, model, how, folder, seed)
    aucs = _aucs(arm, model, how, pgd.clean, weights, common)
    return Attack(
        arm,
        clean,
        gates,
        noise,
        pgd,
        auto,
        aucs,
        density,
        centroid,
        in_bands,
        weights,
        float(constant.mean()),
    )


def flags(
    attack: Attack, model: MedicalModel, settings: Mapping, folder: Path, *, seed: int
) -> list[Flag]:
    """Red flags of PGD at the eps that fools half of what was right, and those of AutoAttack."""
    how, task = settings["thousand"]["attack"], attack.arm.task
    before = attack.pgd.clean_right.sum()
    fooled = attack.pgd.right.sum(1) <= before / 2
    eps = float(attack.epsilons[fooled.argmax() if fooled.any() else -1])
    some = cached_flags(
        folder,
        "flags",
        model,
        task.data,
        task.attacked[: how["check"]],
        eps,
        seed=seed,
        dtype=torch.float32,
    )
    return some + attack.auto.flags()


def _constant(task: Thousand) -> np.ndarray:
    """Where the commonest answer of the fitted images is right, bool (n,).

    With several labels an answer is the whole of them.
    """
    targets = task.data.targets.reshape(len(task.data), -1)
    answers, counts = np.unique(targets[task.fit], axis=0, return_counts=True)
    return (targets[task.attacked] == answers[counts.argmax()]).all(1)


def _under_signs(
    arm: Arm, model: MedicalModel, eps: float, how: Mapping, folder: Path, seed: int
) -> np.ndarray:
    """Right (S, n) under plus or minus eps in each pixel: noise of the attack's own size."""
    task, found = arm.task, []
    labels = torch.from_numpy(task.data.targets[task.attacked])
    for number in range(seed, seed + how["noise_seeds"]):

        def forward(images: torch.Tensor, rows: np.ndarray, number: int = number) -> torch.Tensor:
            draws = [np.random.default_rng([number, int(row)]) for row in rows]
            signs = np.stack([2 * draw.integers(0, 2, images.shape[1:]) - 1 for draw in draws])
            return ask(model, (images + eps * torch.from_numpy(signs).to(images)).clamp(0, 1))

        name = f"signs-{eps:g}-{number}-{fingerprint(task.attacked.tolist())}.npz"
        logits = kept(folder / name, model, task.data, task.attacked, forward=forward)
        found.append(correct(torch.from_numpy(logits), labels).numpy())
    return np.stack(found)


def _spectra(
    arm: Arm, model: MedicalModel, bands: int, folder: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Density (n, bands) and centroid (n,) of the gradient of each image's margin."""
    task = arm.task

    def compute() -> dict[str, np.ndarray]:
        device = env.pick_device()
        images = to_float(task.data.images[task.attacked]).to(device)
        labels = torch.from_numpy(task.data.targets[task.attacked])
        slopes = spectrum.sensitivity(model.to(device), images, labels)
        return {
            "density": spectrum.density(slopes, bands),
            "centroid": spectrum.centroid(slopes),
        }

    name = f"spectrum-{fingerprint(task.attacked.tolist(), bands)}.npz"
    found = cached_arrays(folder / name, compute)
    return found["density"], found["centroid"]


def _in_bands(arm: Arm, model: MedicalModel, how: Mapping, folder: Path, seed: int) -> np.ndarray:
    """Right (bands, n) under noise of one band of ``how["band_rms"]``."""
    task, bands, rms = arm.task, how["bands"], how["band_rms"]

    def compute() -> dict[str, np.ndarray]:
        right = spectrum.under_band_noise(
            model, task.data, task.attacked, bands=bands, rms=rms, seed=seed
        )
        return {"right": right}

    name = f"bands-{fingerprint(task.attacked.tolist(), bands, rms, seed)}.npz"
    return cached_arrays(folder / name, compute)["right"]


def _aucs(
    arm: Arm,
    model: MedicalModel,
    how: Mapping,
    clean: np.ndarray,
    weights: np.ndarray,
    common: Mapping,
) -> dict[str, tuple[Estimate, Estimate]]:
    """AUC before and under attack of the ``how["findings"]`` commonest findings."""
    task = arm.task
    if not task.data.multi_label:
        return {}
    targets = task.data.targets[task.attacked]
    positive = targets.sum(0)
    enough = np.minimum(positive, len(targets) - positive) >= MIN_POSITIVE
    order = [k for k in np.argsort(-positive) if enough[k] and k not in task.ignore]
    found = {}
    for k in order[: how["findings"]]:
        result = autoattack_sweep(
            model,
            task.data,
            task.attacked,
            [how["auc_eps_255"] / 255],
            finding=int(k),
            to_the_end=True,
            desc=f"AUC of {task.data.classes[k]}",
            batch=how["batch"],
            **budget(how),
            **common,
        )
        both = [
            metrics.auc(logits[:, k], targets[:, k].astype(bool), weights)
            for logits in (clean, result.logits[0])
        ]
        found[task.data.classes[k]] = tuple(Estimate(float(a[0]), a[1:]) for a in both)
    return found
