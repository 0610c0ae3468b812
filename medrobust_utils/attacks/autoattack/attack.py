"""AutoAttack (Croce and Hein 2020) for every head: a cascade over the images still robust.

Auto-PGD on the cross-entropy, targeted Auto-PGD, targeted FAB and Square, one after the other;
an image that is fooled is left alone. The libraries stop with an error below five classes, because
the targeted loss is not defined there, and know no head with several labels; here the plain margin
takes its place (see ``Goal``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...core import env
from ...core.contracts import check_labels, check_logits
from ...core.errors import ContractError
from ...core.gate import admit, gate
from ..config import EARLIER, ROBUST, WRONG, AutoAttackConfig
from ..engine import check_eps, extremes
from ..noise import uniform
from ..radii import Job, score
from .margins import Goal, QueryCounter
from .members import apgd, fab, square


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

    images: Tensor
    logits: Tensor
    robust: Tensor
    won: np.ndarray
    queries: Tensor


@gate()
def autoattack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
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
    goal, one = Goal(config.finding), score(model, images[:1])
    check_labels(labels[:1], one, extremes(labels))
    goal.check(labels, one)
    through = model if through is None else through
    counter = QueryCounter(model, through, labels, goal, config.dtype)
    numbers = np.arange(len(images)) if rows is None else np.asarray(rows)
    every, moved = torch.arange(len(images), device=images.device), images.clone()
    logits, robust = counter.robust(images, every)
    check_logits(logits, labels.ndim == 2)
    won = np.where(robust.cpu().numpy(), ROBUST, WRONG).astype(object)
    margins = goal.margins(logits, labels)
    margin, ways = margins.amin(1), margins.argsort(1)[:, : config.targets]  # the closest first
    if config.to_the_end and margins.shape[1] > 1:
        raise ContractError(
            f"to_the_end asks how far one margin can be pushed, and there are {margins.shape[1]} "
            "ways to be fooled. Name one finding, or leave it out."
        )
    with env.progress(config.members, desc=desc, disable=not desc) as bar:
        for number, member in enumerate(bar):
            bar.set_postfix(attack=member, robust=int(robust.sum()), refresh=False)
            # apgd-t and fab-t go once for each way to be fooled
            for way in range(ways.shape[1] if member.endswith("-t") else 1):
                rows = every if config.to_the_end else every[robust]
                if not len(rows):
                    break
                # a number for each draw, so that members begin apart
                draw = numbers[rows.cpu().numpy()], config.seed * 1000 + number * 100 + way
                asked = (counter, images[rows], rows, eps, ways[rows, way], config)
                found = _run(member, *asked, *draw)
                # an attack is believed only what float32 confirms
                scored, up = counter.robust(found, rows)
                least = goal.margins(scored, labels[rows]).amin(1)
                fooled = rows[~up & robust[rows]]
                won[fooled.cpu().numpy()], robust[fooled] = member, False
                better = least < margin[rows] if config.to_the_end else ~up
                rows = rows[better]
                moved[rows], logits[rows], margin[rows] = (
                    x[better] for x in (found, scored, least)
                )
    return Attacked(moved, logits, robust, won, counter.queries)


def _run(
    member: str,
    counter: QueryCounter,
    images: Tensor,
    rows: Tensor,
    eps: float,
    ways: Tensor,
    config: AutoAttackConfig,
    numbers: np.ndarray,
    seed: int,
) -> Tensor:
    """What one member makes of some of the images."""
    asked, how = (counter, images, rows, eps), dict(to_the_end=config.to_the_end)
    if member == "square":
        return square(*asked, queries=config.queries, numbers=numbers, seed=seed, **how)
    if member == "fab-t":
        return fab(*asked, ways, steps=config.steps)
    goal = counter.goal
    noise = uniform(images, numbers, seed)
    noise = noise / noise.abs().amax((1, 2, 3), keepdim=True)
    how |= dict(steps=config.steps, start=images + eps * noise)
    if member == "apgd-t":
        return apgd(*asked, lambda place: goal.towards(ways[place]), **how)
    return apgd(*asked, lambda place: goal.cross_entropy, **how)


def attack_batch(
    job: Job, fooled: np.ndarray, done: Callable[[int], object]
) -> dict[str, np.ndarray]:
    """AutoAttack at several eps, from the largest downwards, each image only where that is open.

    What fools an image lies in every larger ball. So an image that is robust at one eps is so at
    all smaller ones, and one that is fooled is so at all larger. An attack that succeeds is quick;
    the one that fails costs all its queries, and each image meets but one of those.

    Args:
        fooled: bool (E, n), by another attack.
        done: called with n after each eps.

    Returns:
        The arrays of an ``AutoResult`` of these images.
    """
    config, count, clean = job.config, len(job.epsilons), job.clean.cpu().numpy()
    right = Goal(config.finding).robust(job.clean, job.labels).cpu().numpy()
    places = np.arange(count)[:, None]
    # the smallest eps, by position, at which each image is known to be fooled
    smallest = np.where(fooled.any(0), fooled.argmax(0), count)
    won = np.where(places >= smallest, EARLIER, ROBUST).astype("U16")
    won[:, ~right], smallest[~right] = WRONG, 0
    logits, queries = clean[None].repeat(count, 0), np.zeros(won.shape, np.int64)
    undecided = np.ones(len(right), bool)
    for place in reversed(range(count)):
        here = np.flatnonzero(config.to_the_end | (undecided & (place < smallest)))
        if len(here):
            how = dict(rows=job.rows[here], through=job.through, **vars(config))
            asked = (job.model, job.images[here], job.labels[here], job.epsilons[place])
            found = autoattack(*asked, **how)
            robust = found.robust.cpu().numpy()
            queries[place, here] = found.queries.cpu().numpy()
            changed = ~robust | config.to_the_end
            logits[place:, here[changed]] = found.logits.cpu().numpy()[changed]
            beaten = ~robust & (place < smallest[here])
            lost = here[beaten]
            won[place:, lost], smallest[lost] = found.won[beaten].astype("U16"), place
            undecided[here[robust]] = False
        done(len(right))
    robust = places < smallest
    return dict(logits=logits, clean=clean, robust=robust, won=won, queries=queries)
