"""A gradient attack at one eps after the other, on one batch of images.

Three ways, the same report. *Independent* attacks every image afresh at every eps: what the
papers did. *Standing* does too, but an image lost at a small eps stays lost at every larger one,
for its adversarial image lies inside the larger balls as well: the worst over all eps so far,
which cannot rise. *Nested* climbs: only images still standing are attacked, as in standing, but
from where the last eps left them, so few steps of projected gradient descent suffice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from .. import env
from ..contracts import check_eval, check_images, check_labels, check_logits
from ..errors import ContractError
from ..losses import correct
from .engine import ascend, check_eps, extremes
from .gradient import BIM_STEP, BIM_STEPS, MIFGSM_DECAY, PGD_STEP, PGD_STEPS
from .noise import gaussian
from .reference import foolbox_pgd

MODES = ("nested", "standing", "independent")
ENGINES = ("native", "foolbox")
ATTACKS = ("pgd", "fgsm", "bim", "mifgsm")


@dataclass(frozen=True)
class Plan:
    """How a ladder is climbed.

    Attributes:
        mode: ``nested`` (PGD only), ``standing`` or ``independent``.
        engine: ``native``, or ``foolbox`` (PGD only).
        steps: steps at each eps: 5 nested, else those of the function ``attack`` names, unless
            given. The first eps of a nested ladder, which has nothing to begin from, gets twice
            as many. FGSM has one step of length eps, and refuses another.
        rel_step: length of a step as a share of eps: 1/4 nested, else that of the function
            ``attack`` names, unless given; None with ``step_size``.
        seed: of PGD's random starts, one an image (see ``gaussian``), the same at every eps. The
            other attacks start at the image.
        dtype: bfloat16 computes gradients in mixed precision; scores are float32 always.
        attack: ``pgd``, ``fgsm``, ``bim`` or ``mifgsm``.
        step_size: length of a step at every eps, in [0, 1], instead of ``rel_step``. A step may
            be larger than the ball, as 2/255 is at eps 1/255: it ends at the ball's border.
    """

    mode: str = "nested"
    engine: str = "native"
    steps: int | None = None
    rel_step: float | None = None
    seed: int = 0
    dtype: torch.dtype = torch.float32
    attack: str = "pgd"
    step_size: float | None = None

    def __post_init__(self) -> None:
        for name, known in (("mode", MODES), ("engine", ENGINES), ("attack", ATTACKS)):
            if getattr(self, name) not in known:
                value = f"{name}={getattr(self, name)!r}"
                raise ContractError(f"{value}: choose one of {', '.join(known)}.")
        if self.attack != "pgd" and self.mode == "nested":
            raise ContractError(
                f"{self.attack} starts at the image and cannot climb nested. Choose "
                "mode='standing', or 'independent' for what the papers did."
            )
        if self.attack != "pgd" and self.engine == "foolbox":
            raise ContractError(f"engine='foolbox' sweeps pgd only. {self.attack}: use 'native'.")
        self._fill()
        if self.attack == "fgsm" and (self.steps, self.rel_step) != (1, 1.0):
            raise ContractError(
                "fgsm is one step of length eps: give it no steps, rel_step or step_size. For "
                "more steps choose attack='bim'."
            )

    def _fill(self) -> None:
        """Give ``steps`` and the length of a step their usual values, where none were given."""
        usual = {
            "pgd": (5, 0.25) if self.mode == "nested" else (PGD_STEPS, PGD_STEP),
            "fgsm": (1, 1.0),
            "bim": (BIM_STEPS, BIM_STEP),
            "mifgsm": (BIM_STEPS, 1 / max(1, BIM_STEPS if self.steps is None else self.steps)),
        }
        steps, rel_step = usual[self.attack]
        # this is the way to fill in a frozen dataclass
        if self.steps is None:
            object.__setattr__(self, "steps", steps)
        if self.step_size is None:
            object.__setattr__(
                self, "rel_step", rel_step if self.rel_step is None else self.rel_step
            )
        elif self.rel_step is not None:
            raise ContractError("rel_step and step_size both tell the length of a step: give one.")
        elif not 0 <= self.step_size <= 1:
            raise ContractError(
                f"step_size={self.step_size} lies outside [0, 1]. Two gray levels are 2/255, not 2."
            )

    def length(self, eps: float) -> float:
        """Length of a step at ``eps``."""
        return self.rel_step * eps if self.step_size is None else self.step_size


@dataclass(frozen=True)
class Rung:
    """One eps: the attacked images (N, C, H, W) and their logits (N, K), scored in float32."""

    eps: float
    images: torch.Tensor
    logits: torch.Tensor


def climb(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    epsilons: Sequence[float],
    *,
    rows: np.ndarray | None = None,
    through: nn.Module | None = None,
    **how: Any,
) -> Iterator[Rung]:
    """Yield one Rung for each eps, as it is done.

    Args:
        images: float32 (N, C, H, W) in [0, 1], on the model's device.
        labels: what ``losses.per_image`` takes for the model's head.
        epsilons: rising, in [0, 1]; eps = 0 gives the clean images.
        rows: numbers (N,) that tell the images apart: an image gets the same random start
            whatever the batch it comes in. 0 to N - 1 without them.
        through: a ``quick_copy`` of ``model`` to take the gradients of; ``model`` scores.
        how: what ``Plan`` takes: mode, attack, engine, steps, rel_step or step_size,
            seed, dtype.

    Raises:
        ContractError: for anything that breaks the contract, before the first attack.
    """
    plan = Plan(**how)
    check_ladder(epsilons)
    check_eval(model)
    check_images(images)
    if not len(images):
        raise ContractError("no image to attack: the batch is empty.")
    labels = labels.to(images.device)
    clean = score(model, images)
    check_labels(labels, clean, extremes(labels))
    check_logits(clean, labels.ndim == 2)
    if epsilons[0] == 0:
        yield Rung(0.0, images, clean)
        epsilons = epsilons[1:]
    noise = None
    if plan.attack == "pgd":
        numbers = np.arange(len(images)) if rows is None else rows
        # the error function takes normal noise to uniform noise in [-1, 1]
        noise = torch.erf(gaussian(images.shape[1:], numbers, plan.seed) / math.sqrt(2))
        noise = noise.to(images.device)
    yield from _rungs(
        model, model if through is None else through, images, labels, epsilons, plan, noise, clean
    )


def check_ladder(epsilons: Sequence[float]) -> None:
    """Raise ContractError unless ``epsilons`` rise, within [0, 1]."""
    if not len(epsilons):
        raise ContractError("no eps to attack with: give at least one.")
    for eps in epsilons:
        check_eps(eps)
    if any(b <= a for a, b in zip(epsilons, epsilons[1:], strict=False)):
        raise ContractError(f"epsilons {list(epsilons)} must rise. Sort them, each once.")


def score(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Logits (N, K) in full float32, without a graph."""
    with torch.no_grad(), env.full_float32():
        return model(images).float()


def _rungs(
    model: nn.Module,
    through: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    epsilons: Sequence[float],
    plan: Plan,
    noise: torch.Tensor | None,
    clean: torch.Tensor,
) -> Iterator[Rung]:
    """Independent attacks all images, right or wrong before; else the lost keep what felled them.

    Those keep the logits of that image too.
    """
    moved, logits, before = images, clean, 0.0
    for eps in epsilons:
        hit = torch.ones_like(labels[:, 0] if labels.ndim == 2 else labels, dtype=torch.bool)
        if plan.mode != "independent":
            hit = correct(logits, labels)
        rows = hit.nonzero()[:, 0]
        if len(rows):
            steps, start = plan.steps, None
            if plan.mode == "nested" and before:
                start = images[rows] + (moved[rows] - images[rows]) * (eps / before)
            elif noise is not None:
                start = images[rows] + eps * noise[rows]
                steps *= 2 if plan.mode == "nested" else 1
            new = _attack(through, images[rows], labels[rows], eps, plan, steps, start)
            moved = moved.index_copy(0, rows, new)
            logits = logits.index_copy(0, rows, _scored(model, new, labels[rows]))
        before = eps
        yield Rung(eps, moved, logits)


def _attack(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    eps: float,
    plan: Plan,
    steps: int,
    start: torch.Tensor | None,
) -> torch.Tensor:
    how = dict(steps=steps, step_size=plan.length(eps), start=start, dtype=plan.dtype)
    if plan.engine == "foolbox":
        return foolbox_pgd(model, images, labels, eps, **how)
    decay = MIFGSM_DECAY if plan.attack == "mifgsm" else None
    return ascend(model, images, labels, eps, decay=decay, **how)


def _scored(model: nn.Module, moved: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    logits = score(model, moved)
    check_logits(logits, labels.ndim == 2)
    return logits
