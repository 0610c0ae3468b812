"""AutoAttack (Croce and Hein 2020) for every head: a cascade over the images still robust.

Auto-PGD on the cross-entropy, targeted Auto-PGD, targeted FAB and Square, one after the other;
whoever is fooled is left alone. The libraries stop with an error below five classes, because
the targeted loss is not defined there, and know no head with several labels; here the plain margin
takes its place (see ``Goal``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ...core import env
from ...core.contracts import check_labels, check_logits
from ...core.errors import ContractError
from ...core.gate import admit, gate
from ..config import EARLIER, ROBUST, WRONG, AutoAttackConfig
from ..engine import check_eps, extremes
from ..noise import uniform
from ..radii import score
from .apgd import apgd
from .fab import fab
from .margins import Goal, Loss, QueryCounter
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


@gate()
def autoattack(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    eps: float,
    *,
    rows: np.ndarray | None = None,
    through: nn.Module | None = None,
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
        through: a ``quick_copy`` of ``model`` to take the gradients of.
        desc: label of the progress bar; no bar without one.
        how: what ``AutoAttackConfig`` takes.

    Raises:
        ContractError: for a breach of the contract, or a head that has no such goal.
    """
    config = AutoAttackConfig(**how)
    check_eps(eps)
    labels = admit(model, images, labels)
    if not len(images):
        raise ContractError("no image to attack: the batch is empty.")
    goal = Goal(config.finding)
    first = score(model, images[:1])
    check_labels(labels[:1], first, extremes(labels))
    goal.check(labels, first)
    through = model if through is None else through
    counter = QueryCounter(model, through, labels, goal, config.dtype)
    numbers = np.arange(len(images)) if rows is None else np.asarray(rows)
    job = _Job(config, counter, images, eps, numbers)
    with env.progress(config.members, desc=desc, disable=not desc) as bar:
        for number, member in enumerate(bar):
            bar.set_postfix(attack=member, robust=int(job.up.sum()), refresh=False)
            job.run(member, number)
    return Attacked(job.moved, job.logits, job.up, job.won, counter.queries)


class _Job:
    """The images of one call, and how far each has come."""

    def __init__(
        self,
        config: AutoAttackConfig,
        counter: QueryCounter,
        images: torch.Tensor,
        eps: float,
        numbers: np.ndarray,
    ) -> None:
        self.config, self.counter, self.goal = config, counter, counter.goal
        self.images, self.eps, self.numbers = images, eps, numbers
        self.all = torch.arange(len(images), device=images.device)
        self.moved = images.clone()
        self.logits, self.up = counter.robust(images, self.all)
        check_logits(self.logits, counter.labels.ndim == 2)
        self.won = np.where(self.up.cpu().numpy(), ROBUST, WRONG).astype(object)
        margins = self.goal.margins(self.logits, counter.labels)
        if config.to_the_end and margins.shape[1] > 1:
            raise ContractError(
                f"to_the_end asks how far one margin can be pushed, and there are "
                f"{margins.shape[1]} ways to be fooled. Name one finding, or leave it out."
            )
        self.margin = margins.amin(1)
        self.ways = margins.argsort(1)[:, : config.targets]  # the closest first

    def run(self, member: str, number: int) -> None:
        """One member, over the images that it may still fool the network on."""
        # a number for each draw, so that members begin apart
        seed = self.config.seed * 1000 + number * 100
        # apgd-t and fab-t go once for each way to be fooled
        for way in range(self.ways.shape[1] if member.endswith("-t") else 1):
            rows = self.all if self.config.to_the_end else self.all[self.up]
            if not len(rows):
                return
            self._take(member, rows, self._attack(member, rows, self.ways[rows, way], seed + way))

    def _attack(
        self, member: str, rows: torch.Tensor, ways: torch.Tensor, seed: int
    ) -> torch.Tensor:
        """The images of ``rows``, attacked."""
        config, numbers = self.config, self.numbers[rows.cpu().numpy()]
        asked = (self.counter, self.images[rows], rows, self.eps)
        how = dict(to_the_end=config.to_the_end)
        if member == "square":
            return square(*asked, queries=config.queries, numbers=numbers, seed=seed, **how)
        if member == "fab-t":
            return fab(*asked, ways, steps=config.steps)

        def loss_of(place: torch.Tensor) -> Loss:
            aimed = member == "apgd-t"
            return self.goal.towards(ways[place]) if aimed else self.goal.cross_entropy

        noise = uniform(self.images, numbers, seed)
        noise = noise / noise.abs().amax((1, 2, 3), keepdim=True)
        start = self.images[rows] + self.eps * noise
        return apgd(*asked, loss_of, steps=config.steps, start=start, **how)

    def _take(self, member: str, rows: torch.Tensor, moved: torch.Tensor) -> None:
        """Believe an attack only what float32 confirms."""
        logits, up = self.counter.robust(moved, rows)
        margin = self.goal.margins(logits, self.counter.labels[rows]).amin(1)
        better = margin < self.margin[rows] if self.config.to_the_end else ~up
        fooled = rows[~up & self.up[rows]]
        self.won[fooled.cpu().numpy()] = member
        self.up[fooled] = False
        rows, moved, logits, margin = (part[better] for part in (rows, moved, logits, margin))
        self.moved[rows], self.logits[rows], self.margin[rows] = moved, logits, margin


def attack_batch(
    model: nn.Module,
    through: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    epsilons: Sequence[float],
    config: AutoAttackConfig,
    rows: np.ndarray,
    fooled: np.ndarray,
    done: Callable[[int], object],
) -> dict[str, np.ndarray]:
    """AutoAttack at several eps, from the largest downwards, each image only where that is open.

    What fools an image lies in every larger ball. So an image that is robust at one eps is so at
    all smaller ones, and one that is fooled is so at all larger. An attack that succeeds is quick;
    the one that fails costs all its queries, and each image meets but one of those.

    Args:
        rows: numbers (n,) that tell the images apart.
        fooled: bool (E, n), by another attack.
        done: called with n after each eps.

    Returns:
        The arrays of an ``AutoResult`` of these images.
    """
    labels = admit(model, images, labels)
    clean = score(model, images)
    check_logits(clean, labels.ndim == 2)
    right = Goal(config.finding).robust(clean, labels).cpu().numpy()
    clean, places = clean.cpu().numpy(), np.arange(len(epsilons))[:, None]
    # the smallest eps, by position, at which each image is known to be fooled
    smallest = np.where(fooled.any(0), fooled.argmax(0), len(epsilons))
    won = np.where(places >= smallest, EARLIER, ROBUST).astype("U16")
    won[:, ~right], smallest[~right] = WRONG, 0
    logits, queries = clean[None].repeat(len(epsilons), 0), np.zeros(won.shape, np.int64)
    undecided = np.ones(len(rows), bool)
    for place in reversed(range(len(epsilons))):
        here = np.flatnonzero(config.to_the_end | (undecided & (place < smallest)))
        if len(here):
            how = dict(rows=rows[here], through=through, **vars(config))
            found = autoattack(model, images[here], labels[here], epsilons[place], **how)
            robust = found.robust.cpu().numpy()
            queries[place, here] = found.queries.cpu().numpy()
            changed = ~robust | config.to_the_end
            logits[place:, here[changed]] = found.logits.cpu().numpy()[changed]
            beaten = ~robust & (place < smallest[here])
            lost = here[beaten]
            won[place:, lost], smallest[lost] = found.won[beaten].astype("U16"), place
            undecided[here[robust]] = False
        done(len(rows))
    robust = places < smallest
    return dict(logits=logits, clean=clean, robust=robust, won=won, queries=queries)
