"""AutoAttack (Croce and Hein 2020) for every head: a cascade over the images still robust.

Auto-PGD on the cross-entropy, targeted Auto-PGD, targeted FAB and Square, one after the other;
an image that is fooled is left alone. The libraries stop with an error below five classes, because
the targeted loss is not defined there, and know no head with several labels; here the plain margin
takes its place (see ``members.towards``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...core.contracts import check_labels, check_logits
from ...core.errors import ContractError
from ...core.gate import admit, gate
from ...core.losses import correct, per_image
from ..config import EARLIER, MEMBERS, ROBUST, WRONG, AutoAttackConfig
from ..engine import check_eps, extremes, shares
from ..noise import uniform
from ..radii import Job, score
from .members import QueryCounter, apgd, fab, margins, square, towards


@dataclass(frozen=True)
class Attacked:
    """What AutoAttack made of N images.

    Attributes:
        images: float32 (N, C, H, W), in the ball exactly; an image that is robust, or was wrong
            before, is returned as it was.
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
    **how: Any,
) -> Attacked:
    """Attack images within ``eps`` until each is fooled or every member has failed.

    Args:
        model, images, labels, eps: see ``attacks.pgd``; logits are (N, K).
        rows: numbers (N,) that tell the images apart; 0 to N - 1 without them.
        through: a ``quick_copy`` of ``model`` to take the gradients of.
        how: what ``AutoAttackConfig`` takes.

    Raises:
        ContractError: for a breach of the contract, or a model that segments.
    """
    config = AutoAttackConfig(**how)
    check_eps(eps)
    labels = admit(model, images, labels)
    if not len(images):
        raise ContractError("no image to attack: the batch is empty.")
    one = score(model, images[:1])
    check_labels(labels[:1], one, extremes(labels))
    if one.ndim != 2:
        raise ContractError("AutoAttack judges whole images. Segmentations: attacks.Attack.")
    counter = QueryCounter(model, model if through is None else through, labels, config.dtype)
    numbers = np.arange(len(images)) if rows is None else np.asarray(rows)
    every, moved = torch.arange(len(images), device=images.device), images.clone()
    logits, robust = counter.robust(images, every)
    check_logits(logits, labels.ndim == 2)
    won = np.where(robust.cpu().numpy(), ROBUST, WRONG).astype(object)
    ways = margins(logits, labels).argsort(1)[:, : config.targets]  # the closest first

    def run(member: str, rows: Tensor, way: Tensor, seed: int) -> Tensor:
        asked, drawn = (counter, images[rows], rows, eps), numbers[rows.cpu().numpy()]
        if member == "square":
            return square(*asked, queries=config.queries, numbers=drawn, seed=seed)
        if member == "fab-t":
            return fab(*asked, way, steps=config.steps)
        noise = uniform(images[rows], drawn, seed)
        start = images[rows] + eps * (noise / noise.abs().amax((1, 2, 3), keepdim=True))
        targeted = member == "apgd-t"
        loss_of = (lambda place: towards(way[place])) if targeted else (lambda place: per_image)
        return apgd(*asked, loss_of, steps=config.steps, start=start)

    for number, member in enumerate(MEMBERS):
        # apgd-t and fab-t go once for each way to be fooled
        for way in range(ways.shape[1] if member.endswith("-t") else 1):
            rows = every[robust]
            if not len(rows):
                break
            # a number for each draw, so that members begin apart
            seed = config.seed * 1000 + number * 100 + way
            found = run(member, rows, ways[rows, way], seed)
            # an attack is believed only what float32 confirms
            scored, up = counter.robust(found, rows)
            fooled = rows[~up]
            won[fooled.cpu().numpy()], robust[fooled] = member, False
            moved[fooled], logits[fooled] = found[~up], scored[~up]
    return Attacked(moved, logits, robust, won, counter.queries)


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
    count, clean = len(job.epsilons), job.clean.cpu().numpy()
    wrong = ~correct(job.clean, job.labels).cpu().numpy()
    # the smallest eps, by position, at which each image is known to be fooled
    smallest = np.where(fooled.any(0), fooled.argmax(0), count)
    won = np.where(np.arange(count)[:, None] >= smallest, EARLIER, ROBUST).astype("U16")
    won[:, wrong], smallest[wrong] = WRONG, 0
    logits, queries = clean[None].repeat(count, 0), np.zeros(won.shape, np.int64)
    undecided = ~wrong
    for place in reversed(range(count)):
        still = torch.from_numpy(undecided & (place < smallest)).nonzero()[:, 0]
        for here in map(Tensor.numpy, shares(still, job.batch)):
            if not len(here):
                break
            asked = (job.model, job.images[here], job.labels[here], job.epsilons[place])
            how = dict(rows=job.rows[here], through=job.through, **vars(job.config))
            found = autoattack(*asked, **how)
            queries[place, here] = found.queries.cpu().numpy()
            robust = found.robust.cpu().numpy()
            lost, undecided[here[robust]] = here[~robust], False
            logits[place:, lost] = found.logits.cpu().numpy()[~robust]
            won[place:, lost], smallest[lost] = found.won[~robust].astype("U16"), place
        done(len(clean))
    return dict(logits=logits, clean=clean, won=won, queries=queries)
