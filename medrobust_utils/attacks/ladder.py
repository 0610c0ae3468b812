"""A gradient attack at one eps after the other, on one batch of images.

Three ways, the same report. *Independent* attacks every image afresh at every eps: what the
papers did. *Standing* does too, but an image lost at a small eps stays lost at every larger one,
for its adversarial image lies inside the larger balls as well: the worst over all eps so far,
which cannot rise. *Nested* climbs: only images still standing are attacked, as in standing, but
from where the last eps left them, so few steps of projected gradient descent suffice, and an image
leaves at the step that fools it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from ..core.contracts import ask, check_labels, check_logits
from ..core.errors import ContractError
from ..core.gate import admit
from ..core.losses import correct
from .config import AttackConfig
from .engine import ascend, check_eps, extremes, shares
from .foolbox import foolbox_steps
from .gradient import MIFGSM_DECAY
from .noise import gaussian


@dataclass(frozen=True)
class Rung:
    """One eps: the attacked images (N, C, H, W) and their logits (N, K), scored in float32."""

    eps: float
    images: torch.Tensor
    logits: torch.Tensor


@torch.inference_mode(False)  # of use with a generator too, unlike ``gate``
@torch.no_grad()
def climb(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    epsilons: Sequence[float],
    *,
    rows: np.ndarray | None = None,
    through: nn.Module | None = None,
    batch: int | None = None,
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
        batch: images that go through a network together; all without it, and with Foolbox. As
            images fall, those still standing are put together anew.
        how: what ``Plan`` takes: mode, attack, engine, steps, rel_step or step_size,
            seed, dtype.

    Raises:
        ContractError: for anything that breaks the contract, before the first attack.
    """
    plan = AttackConfig(**how)
    check_ladder(epsilons)
    labels = admit(model, images, labels)
    if not len(images):
        raise ContractError("no image to attack: the batch is empty.")
    clean = score(model, images, batch)
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
    rate = partial(_rated, model, batch)
    attack = partial(_attack, model if through is None else through, plan, batch, rate)
    yield from _rungs(attack, rate, images, labels, epsilons, plan, noise, clean)


def check_ladder(epsilons: Sequence[float]) -> None:
    """Raise ContractError unless ``epsilons`` rise, within [0, 1]."""
    if not len(epsilons):
        raise ContractError("no eps to attack with: give at least one.")
    for eps in epsilons:
        check_eps(eps)
    if any(b <= a for a, b in zip(epsilons, epsilons[1:], strict=False)):
        raise ContractError(f"epsilons {list(epsilons)} must rise. Sort them, each once.")


def score(model: nn.Module, images: torch.Tensor, batch: int | None = None) -> torch.Tensor:
    """Logits (N, K) in full float32, without a graph, of ``batch`` images at a time."""
    return torch.cat([ask(model, part) for part in shares(images, batch)])


def _rungs(
    attack: Callable,
    rate: Callable,
    images: torch.Tensor,
    labels: torch.Tensor,
    epsilons: Sequence[float],
    plan: AttackConfig,
    noise: torch.Tensor | None,
    clean: torch.Tensor,
) -> Iterator[Rung]:
    """Independent attacks all images, right or wrong before; else the lost keep what fooled them.

    Those keep the logits of that image too.
    """
    moved, logits, before = images, clean, 0.0
    for eps in epsilons:
        hit = torch.ones_like(labels[:, 0] if labels.ndim == 2 else labels, dtype=torch.bool)
        if plan.mode != "independent":
            hit = correct(logits, labels)
        rows = hit.nonzero()[:, 0]
        if len(rows):
            start = None
            if plan.mode == "nested" and before:
                start = images[rows] + (moved[rows] - images[rows]) * (eps / before)
            elif noise is not None:
                start = images[rows] + eps * noise[rows]
            lengths = plan.lengths(eps, first=not before)
            new = attack(images[rows], labels[rows], eps, lengths, start)
            moved = moved.index_copy(0, rows, new)
            logits = logits.index_copy(0, rows, rate(new, labels[rows]))
        before = eps
        yield Rung(eps, moved, logits)


def _attack(
    model: nn.Module,
    plan: AttackConfig,
    batch: int | None,
    rate: Callable,
    images: torch.Tensor,
    labels: torch.Tensor,
    eps: float,
    lengths: list[float],
    start: torch.Tensor | None,
) -> torch.Tensor:
    if plan.engine == "foolbox":
        how = (len(lengths), lengths[0], start, plan.dtype)
        return foolbox_steps(model, images, labels, eps, *how)

    def fooled(moved: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return ~correct(rate(moved, labels), labels)

    return ascend(
        model,
        images,
        labels,
        eps,
        lengths=lengths,
        start=start,
        dtype=plan.dtype,
        batch=batch,
        fooled=fooled if plan.mode == "nested" else None,
        decay=MIFGSM_DECAY if plan.attack == "mifgsm" else None,
    )


def _rated(
    model: nn.Module, batch: int | None, moved: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    logits = score(model, moved, batch)
    check_logits(logits, labels.ndim == 2)
    return logits
