"""AutoAttack (Croce and Hein 2020) for every head: a cascade over the images still standing.

Auto-PGD on the cross-entropy, targeted Auto-PGD, targeted FAB and Square, one after the other;
whoever is fooled is left alone. The libraries stop with an error below five classes, because
the targeted loss is not defined there, and know no head with several labels; here the plain margin
takes its place (see ``Goal``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
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
        images: float32 (N, C, H, W), in the ball exactly; an image that stands, or was wrong
            before, is returned as it was (unless ``to_the_end``).
        logits: float32 (N, K) of those.
        stands: bool (N,).
        won: object (N,): the member that fooled it, ``WRONG`` or ``STANDING``.
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
    probe = QueryCounter(model, labels, goal, dtype=plan.dtype, through=through)
    job = _Job(plan, probe, images, labels, eps, numbers, goal)
    with env.progress(plan.members, desc=desc, disable=not desc) as bar:
        for number, member in enumerate(bar):
            bar.set_postfix(attack=member, robust=int(job.up.sum()), refresh=False)
            job.run(member, number)
    return Attacked(job.moved, job.logits, job.up, job.won, job.probe.queries)


class _Job:
    """The images of one call, and how far each has come."""

    def __init__(
        self,
        plan: AutoAttackConfig,
        probe: QueryCounter,
        images: torch.Tensor,
        labels: torch.Tensor,
        eps: float,
        numbers: np.ndarray,
        goal: Goal,
    ) -> None:
        self.plan, self.images, self.labels, self.eps = plan, images, labels, eps
        self.numbers, self.goal, self.probe = numbers, goal, probe
        everyone = torch.arange(len(images), device=images.device)
        self.moved = images.clone()
        self.logits, self.up = self.probe.robust(images, everyone)
        check_logits(self.logits, labels.ndim == 2)
        self.won = np.where(self.up.cpu().numpy(), ROBUST, WRONG).astype(object)
        margins = goal.margins(self.logits, labels)
        if plan.to_the_end and margins.shape[1] > 1:
            raise ContractError(
                f"to_the_end asks how far one margin can be pushed, and there are "
                f"{margins.shape[1]} ways to fall. Name one finding, or leave it out."
            )
        self.margin = margins.amin(1)
        self.ways = margins.argsort(1)[:, : plan.targets]  # the closest first

    def run(self, member: str, number: int) -> None:
        """One member, over the images that it may still fool the network on."""
        # a number for each draw, so that members begin apart
        for attack in self._attacks(member, self.plan.seed * 1000 + number * 100):
            rows = torch.arange(len(self.images), device=self.images.device)
            rows = rows if self.plan.to_the_end else rows[self.up]
            if not len(rows):
                return
            self._take(member, rows, attack(rows))

    def _attacks(self, member: str, seed: int) -> Iterator[Callable]:
        """The attacks of one member: one, or one for each way to fall."""
        if member == "square":
            yield lambda rows: square(
                self.probe,
                self.images[rows],
                rows,
                self.eps,
                queries=self.plan.queries,
                numbers=self.numbers[rows.cpu().numpy()],
                seed=seed,
                to_the_end=self.plan.to_the_end,
            )
        elif member == "apgd-ce":
            yield lambda rows: self._apgd(rows, lambda place: self.goal.cross_entropy, seed)
        elif member == "apgd-t":
            for k in range(self.ways.shape[1]):
                yield lambda rows, k=k: self._apgd(rows, self._towards(rows, k), seed + k)
        else:
            for k in range(self.ways.shape[1]):
                yield lambda rows, k=k: fab(
                    self.probe,
                    self.images[rows],
                    rows,
                    self.eps,
                    self.ways[rows, k],
                    steps=self.plan.steps,
                )

    def _towards(self, rows: torch.Tensor, k: int) -> Callable[[torch.Tensor], Loss]:
        return lambda place: self.goal.towards(self.ways[rows[place], k])

    def _apgd(self, rows: torch.Tensor, loss_of: Callable, seed: int) -> torch.Tensor:
        noise = self._noise(rows, seed)
        noise = noise / noise.abs().amax((1, 2, 3), keepdim=True)
        return apgd(
            self.probe,
            self.images[rows],
            rows,
            self.eps,
            loss_of,
            steps=self.plan.steps,
            start=self.images[rows] + self.eps * noise,
            to_the_end=self.plan.to_the_end,
        )

    def _noise(self, rows: torch.Tensor, seed: int) -> torch.Tensor:
        """Uniform in [-1, 1], each image its own."""
        normal = gaussian(self.images.shape[1:], self.numbers[rows.cpu().numpy()], seed)
        return torch.erf(normal / math.sqrt(2)).to(self.images.device)

    def _take(self, member: str, rows: torch.Tensor, moved: torch.Tensor) -> None:
        """Believe an attack only what float32 confirms."""
        logits, up = self.probe.robust(moved, rows)
        margin = self.goal.margins(logits, self.labels[rows]).amin(1)
        better = ~up
        if self.plan.to_the_end:
            better = margin < self.margin[rows]
        fooled = rows[~up & self.up[rows]]
        self.won[fooled.cpu().numpy()] = member
        self.up[fooled] = False
        rows, moved, logits, margin = (part[better] for part in (rows, moved, logits, margin))
        self.moved[rows], self.logits[rows], self.margin[rows] = moved, logits, margin
