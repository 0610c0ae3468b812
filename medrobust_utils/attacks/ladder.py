"""Projected gradient descent at one eps after the other, on one batch of images.

Two ways, the same report. *Independent* attacks every image afresh at every eps: what the
papers did. *Nested* climbs: an image lost at a small eps stays lost at every larger one, for
its adversarial image lies inside the larger balls too, so only images still standing are
attacked, from where the last eps left them, and few steps suffice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from .. import env
from ..contracts import check_eval, check_images, check_labels, check_logits
from ..errors import ContractError
from ..losses import correct
from .engine import check_eps, extremes
from .gradient import PGD_STEP, PGD_STEPS, pgd
from .noise import gaussian
from .reference import foolbox_pgd

ENGINES: dict[str, Callable[..., torch.Tensor]] = {"native": pgd, "foolbox": foolbox_pgd}


@dataclass(frozen=True)
class Plan:
    """How a ladder is climbed.

    Attributes:
        mode: ``nested`` or ``independent``.
        engine: ``native`` or ``foolbox``.
        steps: steps at each eps: 5 nested, Foolbox's 40 independent, unless given. The first
            eps of a nested ladder, which has nothing to begin from, gets twice as many.
        rel_step: length of a step as a share of eps: 1/4 nested, Foolbox's 0.01 / 0.3
            independent, unless given.
        seed: of the random starts, one an image (see ``gaussian``), the same at every eps.
        dtype: bfloat16 computes gradients in mixed precision; scores are float32 always.
    """

    mode: str = "nested"
    engine: str = "native"
    steps: int | None = None
    rel_step: float | None = None
    seed: int = 0
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        usual = {"nested": (5, 0.25), "independent": (PGD_STEPS, PGD_STEP)}
        if self.mode not in usual:
            raise ContractError(f"mode={self.mode!r}: choose one of {', '.join(usual)}.")
        if self.engine not in ENGINES:
            raise ContractError(f"engine={self.engine!r}: choose one of {', '.join(ENGINES)}.")
        for name, value in zip(("steps", "rel_step"), usual[self.mode], strict=True):
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)  # the way to fill in a frozen dataclass


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
    **how: Any,
) -> Iterator[Rung]:
    """Yield one Rung for each eps, as it is done.

    Args:
        images: float32 (N, C, H, W) in [0, 1], on the model's device.
        labels: what ``losses.per_image`` takes for the model's head.
        epsilons: rising, in [0, 1]; eps = 0 gives the clean images.
        rows: numbers (N,) that tell the images apart: an image gets the same random start
            whatever the batch it comes in. 0 to N - 1 without them.
        how: what ``Plan`` takes: mode, engine, steps, rel_step, seed, dtype.

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
    numbers = np.arange(len(images)) if rows is None else rows
    # the error function takes normal noise to uniform noise in [-1, 1]
    noise = torch.erf(gaussian(images.shape[1:], numbers, plan.seed) / math.sqrt(2))
    way = _nested if plan.mode == "nested" else _independent
    if epsilons[0] == 0:
        yield Rung(0.0, images, clean)
        epsilons = epsilons[1:]
    yield from way(model, images, labels, epsilons, plan, noise.to(images.device), clean)


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


def _independent(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    epsilons: Sequence[float],
    plan: Plan,
    noise: torch.Tensor,
    clean: torch.Tensor,
) -> Iterator[Rung]:
    """Every image, right or wrong before, afresh at every eps, as Foolbox does."""
    for eps in epsilons:
        moved = _attack(model, images, labels, eps, plan, plan.steps, images + eps * noise)
        yield Rung(eps, moved, _scored(model, moved, labels))


def _nested(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    epsilons: Sequence[float],
    plan: Plan,
    noise: torch.Tensor,
    clean: torch.Tensor,
) -> Iterator[Rung]:
    """Only images still standing; the others keep what felled them, and its logits."""
    moved, logits, before = images, clean, 0.0
    for eps in epsilons:
        up = correct(logits, labels).nonzero()[:, 0]
        if len(up):
            away = noise[up] * eps if not before else (moved[up] - images[up]) * (eps / before)
            start = images[up] + away
            steps = plan.steps if before else 2 * plan.steps
            new = _attack(model, images[up], labels[up], eps, plan, steps, start)
            moved = moved.index_copy(0, up, new)
            logits = logits.index_copy(0, up, _scored(model, new, labels))
        before = eps
        yield Rung(eps, moved, logits)


def _attack(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    eps: float,
    plan: Plan,
    steps: int,
    start: torch.Tensor,
) -> torch.Tensor:
    how = dict(steps=steps, step_size=plan.rel_step * eps, start=start, dtype=plan.dtype)
    return ENGINES[plan.engine](model, images, labels, eps, **how)


def _scored(model: nn.Module, moved: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    logits = score(model, moved)
    check_logits(logits, labels.ndim == 2)
    return logits
