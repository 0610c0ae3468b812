"""AutoAttack (Croce and Hein 2020) for every head: a cascade over the images still robust.

Auto-PGD on the cross-entropy, targeted Auto-PGD, targeted FAB and Square, one after the other;
whoever is fooled is left alone. The libraries stop with an error below five classes, because
the targeted loss is not defined there, and know no head with several labels; here the plain margin
takes its place (see ``Goal``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ...core import env
from ...core.contracts import check_labels, check_logits
from ...core.errors import ContractError
from ...core.gate import admit, gate
from ..config import ROBUST, WRONG, AutoAttackConfig
from ..engine import check_eps, extremes
from ..noise import gaussian
from ..radii import score
from .apgd import apgd
from .fab import fab
from .margins import Goal, Loss
from .query_counter import QueryCounter
from .square import square


@dataclass(frozen=True)
class Attacked:
    """What AutoAttack made of N images.

    Attributes:
        images: float32 (N, C, H, W), in the ball exactly; an image that is robust, or was wrong
            before, is returned as it was (unless ``to_the_end``).
        logits: float32 (N, K) of those.
        robust: bool (N,).
        won: object (N,): the member that fooled it, ``WRONG`` or ``ROBUST``.
        queries: int64 (N,): how often the model was asked about each image.
    """

    images: torch.Tensor
    logits: torch.Tensor
    robust: torch.Tensor
    won: np.ndarray
    queries: torch.Tensor


def autoattack(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    eps: float,
    *,
    rows: np.ndarray | None = None,
    desc: str = "",
    **how: Any,
) -> Attacked:
    """Attack images within ``eps`` until each is fooled or every member has failed.

    Args:
        model: returns logits (N, K), in evaluation mode.
        images: float32 (N, C, H, W) in [0, 1], on the model's device.
        labels: what ``losses.per_image`` takes for the model's head.
        eps: radius of the L-infinity ball, in [0, 1].
        rows: numbers (N,) that tell the images apart; 0 to N - 1 without them.
        desc: label of the progress bar; no bar without one.
        how: what ``AutoAttackConfig`` takes.

    Raises:
        ContractError: for a breach of the contract, or a head that has no such goal.
    """
    plan = AutoAttackConfig(**how)
    return follow(plan, model, images, labels, eps, rows=rows, desc=desc)


@gate()
def follow(
    plan: AutoAttackConfig,
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    eps: float,
    *,
    rows: np.ndarray | None = None,
    desc: str = "",
    through: nn.Module | None = None,
) -> Attacked:
    """``autoattack`` by a plan; gradients are taken ``through`` a ``quick_copy``, if given."""
    check_eps(eps)
    labels = admit(model, images, labels)
    if not len(images):
        raise ContractError("no image to attack: the batch is empty.")
    goal = Goal(plan.finding)
    first = score(model, images[:1])
    check_labels(labels[:1], first, extremes(labels))
    goal.check(labels, first)
    numbers = np.arange(len(images)) if rows is None else np.asarray(rows)
    job = _Job(plan, QueryCounter(model, labels, goal, plan.dtype, through), images, eps, numbers)
    with env.progress(plan.members, desc=desc, disable=not desc) as bar:
        for number, member in enumerate(bar):
            bar.set_postfix(attack=member, robust=int(job.up.sum()), refresh=False)
            job.run(member, number)
    return Attacked(job.moved, job.logits, job.up, job.won, job.counter.queries)


class _Job:
    """The images of one call, and how far each has come."""

    def __init__(
        self,
        plan: AutoAttackConfig,
        counter: QueryCounter,
        images: torch.Tensor,
        eps: float,
        numbers: np.ndarray,
    ) -> None:
        self.plan, self.counter, self.goal = plan, counter, counter.goal
        self.images, self.eps, self.numbers = images, eps, numbers
        everyone = torch.arange(len(images), device=images.device)
        self.moved = images.clone()
        self.logits, self.up = counter.robust(images, everyone)
        check_logits(self.logits, counter.labels.ndim == 2)
        self.won = np.where(self.up.cpu().numpy(), ROBUST, WRONG).astype(object)
        margins = self.goal.margins(self.logits, counter.labels)
        if plan.to_the_end and margins.shape[1] > 1:
            raise ContractError(
                f"to_the_end asks how far one margin can be pushed, and there are "
                f"{margins.shape[1]} ways to be fooled. Name one finding, or leave it out."
            )
        self.margin = margins.amin(1)
        self.ways = margins.argsort(1)[:, : plan.targets]  # the closest first

    def run(self, member: str, number: int) -> None:
        """One member, over the images that it may still fool the network on."""
        # a number for each draw, so that members begin apart
        seed = self.plan.seed * 1000 + number * 100
        # apgd-t and fab-t go once for each way to be fooled
        for way in range(self.ways.shape[1] if member.endswith("-t") else 1):
            rows = torch.arange(len(self.images), device=self.images.device)
            rows = rows if self.plan.to_the_end else rows[self.up]
            if not len(rows):
                return
            self._take(member, rows, self._attack(member, rows, way, seed + way))

    def _attack(self, member: str, rows: torch.Tensor, way: int, seed: int) -> torch.Tensor:
        """The images of ``rows``, attacked."""
        plan, numbers = self.plan, self.numbers[rows.cpu().numpy()]
        asked = (self.counter, self.images[rows], rows, self.eps)
        how = dict(to_the_end=plan.to_the_end)
        if member == "square":
            return square(*asked, queries=plan.queries, numbers=numbers, seed=seed, **how)
        ways = self.ways[rows, way]
        if member == "fab-t":
            return fab(*asked, ways, steps=plan.steps)

        def loss_of(place: torch.Tensor) -> Loss:
            aimed = member == "apgd-t"
            return self.goal.towards(ways[place]) if aimed else self.goal.cross_entropy

        # the error function takes normal noise to uniform noise in [-1, 1], each image its own
        normal = gaussian(self.images.shape[1:], numbers, seed)
        noise = torch.erf(normal / math.sqrt(2)).to(self.images.device)
        noise = noise / noise.abs().amax((1, 2, 3), keepdim=True)
        start = self.images[rows] + self.eps * noise
        return apgd(*asked, loss_of, steps=plan.steps, start=start, **how)

    def _take(self, member: str, rows: torch.Tensor, moved: torch.Tensor) -> None:
        """Believe an attack only what float32 confirms."""
        logits, up = self.counter.robust(moved, rows)
        margin = self.goal.margins(logits, self.counter.labels[rows]).amin(1)
        better = margin < self.margin[rows] if self.plan.to_the_end else ~up
        fooled = rows[~up & self.up[rows]]
        self.won[fooled.cpu().numpy()] = member
        self.up[fooled] = False
        rows, moved, logits, margin = (part[better] for part in (rows, moved, logits, margin))
        self.moved[rows], self.logits[rows], self.margin[rows] = moved, logits, margin
