"""Accuracy at every eps: an attack over a data set, part by part, kept as it comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from ..core import env
from ..core.contracts import check_model
from ..core.errors import ContractError
from ..core.gate import gate
from ..core.losses import correct
from ..data import ImageSet
from .config import WARM, AttackConfig
from .fold_batchnorm import quick_copy
from .partial_results import PartialResults, by_batches, identify, on_device
from .radii import Job, check_radii

# Batches of a warm sweep that are attacked together, so that a network gets full ones from the
# images still to be fooled. A kill costs all four: less than one of 40 steps at each of 8 eps.
TOGETHER = 4
METHOD = {"nested": 2, "bisection": 1}  # counts changes, so that no part of an older one is read


@dataclass(frozen=True)
class SweepResult:
    """Scores of N images under attack at E sizes.

    Attributes:
        epsilons: (E,), rising.
        logits: float32 (E, N, K) of the attacked images. Accuracy and balanced accuracy may be
            computed from them in every mode. AUC only from an independent sweep: the others leave
            an image alone once it is judged wrong, nested and by bisection at the very first
            point that is, so that their AUC is an upper bound, and a loose one.
        clean: float32 (N, K), before the attack.
        labels: of the images, as the data set has them.
        mode: ``nested``, ``bisection``, ``skip_fooled`` or ``independent``.
        vanished: bool (N,): by bisection, images for which an attack met a gradient that was zero
            everywhere; None otherwise.
    """

    epsilons: np.ndarray
    logits: np.ndarray
    clean: np.ndarray
    labels: np.ndarray
    mode: str
    vanished: np.ndarray | None = field(default=None, kw_only=True)

    @property
    def right(self) -> np.ndarray:
        """Bool (E, N): judged right under attack."""
        return np.stack([_right(logits, self.labels) for logits in self.logits])

    @property
    def clean_right(self) -> np.ndarray:
        """Bool (N,): judged right before the attack."""
        return _right(self.clean, self.labels)

    @property
    def clean_wrong(self) -> int:
        """Images that were wrong before the attack: no success of it."""
        return int((~self.clean_right).sum())

    def accuracy(self) -> np.ndarray:
        """Share (E,) of all images judged right under attack."""
        return self.right.mean(1)

    def success(self) -> np.ndarray:
        """Share (E,) of the images right before that the attack fooled; NaN if there are none."""
        before = self.clean_right
        if not before.any():
            return np.full(len(self.epsilons), np.nan)
        return (~self.right[:, before]).mean(1)

    def min_adversarial_radius(self) -> np.ndarray:
        """Smallest eps (N,) at which each image was judged wrong.

        0 for an image wrong before the attack, infinity for one that never fell.
        """
        fooled = ~self.right
        first = np.where(fooled.any(0), self.epsilons[fooled.argmax(0)], np.inf)
        return np.where(self.clean_right, first, 0.0)


def _right(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return correct(torch.from_numpy(logits), torch.from_numpy(labels)).numpy()


@gate()
def attack_sweep(
    model: nn.Module,
    data: ImageSet,
    index: np.ndarray,
    epsilons: Sequence[float],
    *,
    batch: int = 32,
    folder: Path | None = None,
    desc: str = "",
    **how: Any,
) -> SweepResult:
    """Attack the images of ``index`` at every eps and score them in float32.

    A batch that does not fit into memory is halved, with a warning; neither that nor ``batch``
    changes the random starts, so results agree up to float32 rounding.

    Args:
        epsilons: rising, in [0, 1]; eps = 0 gives the clean scores.
        batch: images that go through a network together. Nested and by bisection, four batches
            are attacked together and filled up as images are fooled.
        folder: where finished parts are kept; a sweep that was killed goes on there. It must
            belong to one trained model. Each sweep (settings, weights, images) has a folder of
            its own inside.
        desc: label of the progress bar; no bar without one.
        how: what ``AttackConfig`` takes: ``mode="nested"`` or ``"bisection"`` for looking and for
            worst cases, ``mode="independent"`` for what the papers ran, with ``engine="foolbox"``
            by the very library, ``mode="skip_fooled"`` for that without luck; attack, steps,
            rel_step or step_size, seed, dtype.

    Raises:
        ContractError: for a breach of the contract, or an empty index.
        RunError: for a kept part that is damaged or of another sweep, or if not even one
            image fits into memory.
    """
    plan = AttackConfig(**how)
    check_radii(epsilons)
    check_model(model)
    if not len(index):
        raise ContractError("no image to attack: the index is empty.")
    epsilons = [float(eps) for eps in epsilons]
    model.to(env.pick_device(), memory_format=torch.channels_last)
    identity = identify(model, data, index, epsilons, _settings(plan))
    kept = PartialResults(folder, f"{plan.attack}-{identity}", identity, len(index), _Part)

    @cache  # not needed where every batch is kept already
    def through() -> nn.Module:
        native = plan.engine == "native"
        return quick_copy(model, on_device(data, index[:1])[0]) if native else model

    def compute(rows: np.ndarray, batch: int, done: Callable) -> _Part:
        return _scores(model, through(), data, rows, epsilons, plan, batch, done)

    count = sum(eps > 0 for eps in epsilons)
    parts = by_batches(
        kept,
        index,
        batch,
        compute,
        desc,
        # bisection halves what is open, and tries once more in the end
        rungs=count.bit_length() + 1 if plan.mode == "bisection" else count,
        together=TOGETHER if plan.mode in WARM else 1,
    )
    vanished = np.concatenate([part.vanished for part in parts])
    return SweepResult(
        np.array(epsilons),
        np.concatenate([part.logits for part in parts], axis=1),
        np.concatenate([part.clean for part in parts]),
        np.ascontiguousarray(data.targets[index]),
        plan.mode,
        vanished=vanished if len(vanished) else None,
    )


class _Part(NamedTuple):
    logits: np.ndarray  # (E, n, K)
    clean: np.ndarray  # (n, K)
    vanished: np.ndarray = np.zeros(0, bool)  # (n,) by bisection


def _scores(
    model: nn.Module,
    through: nn.Module,
    data: ImageSet,
    rows: np.ndarray,
    epsilons: list[float],
    plan: AttackConfig,
    batch: int,
    done: Callable[[int], object],
) -> _Part:
    """The scores of one part."""
    images, labels = on_device(data, rows)
    job = Job(model, images, labels, epsilons, rows, through, batch, plan)
    logits = job.clean.expand(len(job.radii), *job.clean.shape).clone()
    if plan.mode == "bisection":
        for attempt in job.bisect():
            attempt.put(logits, attempt.logits)
            done(len(rows))
    else:
        for place, found in enumerate(job.in_turn()):
            logits[place] = found.logits
            done(len(rows))
    clean, logits = job.clean.cpu().numpy(), logits.cpu().numpy()
    if epsilons[0] == 0:
        logits = np.concatenate([clean[None], logits])
    if plan.mode == "bisection":
        return _Part(logits, clean, job.vanished.cpu().numpy())
    return _Part(logits, clean)


def _settings(plan: AttackConfig) -> dict:
    """What of the plan changes the result."""
    settings = asdict(plan)
    # sweeps were kept before these two existed, and are still found where nobody sets them
    if plan.attack == "pgd":
        del settings["attack"]
    if plan.step_size is None:
        del settings["step_size"]
    if plan.mode in METHOD:
        settings["method"] = METHOD[plan.mode]
    return settings
