"""Paper 3: does what a defence gains under the slides' attacks survive AutoAttack?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..models import MedicalModel
from ..reporting.results import Run
from ..scoring import metrics
from . import survival
from .common import add, gates, in_gray_levels, some
from .domain_assimilation import ROLES, SPLITS
from .domain_assimilation_attack import Robustness
from .survival import Survival

SIZE = "eps_255"


def survive(
    robust: Robustness, model: MedicalModel, settings: Mapping, folder: Path, *, seed: int
) -> Survival:
    """AutoAttack on some of the attacked images at a few eps.

    On ``settings["attack"]["autoattack"]["images"]`` of them (0: all), at its ``eps_255``. What
    PGD by eps / 4 or the strong climb has felled stays fallen.

    Args:
        seed: as for ``measure``.
    """
    task, how = robust.arm.task, settings["attack"]["autoattack"]
    index = some(task.attacked, how["images"], seed)
    epsilons = [eps / 255 for eps in how["eps_255"]]
    before = survival.standing(
        robust.epsilons, robust.right["worst", "pgd"], robust.strong.clean_right, epsilons
    )
    before = before[:, np.isin(task.attacked, index)]
    draw = [seed, ROLES.index(task.role), SPLITS.index(task.split_name)]
    return survival.attack_again(
        robust, model, how, index, epsilons, before, folder, seed=seed, draw=draw
    )


def add_network(run: Run, group: survival.Group) -> None:
    """Rows of one network (see ``survival.add_network``)."""
    survival.add_network(run, group, SIZE)


def add_pair(
    run: Run, plain: survival.Group, defended: survival.Group, levels: Sequence[float]
) -> None:
    """Rows of what a defence gains under AutoAttack; rows of its gains otherwise are marked.

    A gain at one eps by that at the same eps; a mean over all eps only if AutoAttack met them all.

    Args:
        levels: eps of the other attacks in gray levels, over which their mean is taken.
    """
    against = {"against": plain[0].arm.defence}
    tags = defended[0].arm.tags | against
    left = survival.add_gains(run, plain, defended, SIZE, **against)
    shortened = plain[0].shortened or defended[0].shortened
    met = [in_gray_levels(eps) for eps in defended[0].epsilons]
    for level, gain in zip(met, left, strict=True):
        cell = tags | {SIZE: level}
        survival.mark(run, ["accuracy_gain"], cell, survival.outcome(gain, shortened))
    mean = metrics.mean(left)
    says = survival.outcome(mean, shortened)
    if set(met) >= {float(level) for level in levels}:
        survival.mark(run, ["mean_gain"], tags, says)
    add(
        run,
        "autoattack_mean_gain",
        mean,
        n=len(defended[0].result.labels),
        attack="autoattack",
        autoattack=says,
        **tags,
        **gates(plain, defended),
    )
