"""AutoAttack (Croce and Hein 2020) for every head: a cascade over the images still robust.

Auto-PGD on the cross-entropy, targeted Auto-PGD, targeted FAB and Square, one after the other;
an image that is fooled is left alone. The libraries stop with an error below five classes, because
the targeted loss is not defined there, and know no head with several labels; here the plain margin
takes its place (see ``members.towards``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...core.errors import ContractError
from ...core.gate import gate
from ...core.losses import correct, per_image
from ..config import EARLIER, MEMBERS, ROBUST, WRONG, AutoAttackConfig
from ..engine import shares
from ..noise import uniform
from ..radii import Job
from .members import QueryCounter, apgd, fab, margins, square, towards

FULL = 32  # images and ways that are attacked together where there are fewer images


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
    config, through = AutoAttackConfig(**how), model if through is None else through
    rows = np.arange(len(images)) if rows is None else np.asarray(rows)
    job = Job(model, through, images, labels, rows, [eps], max(len(images), FULL), config)
    moved, fooled = images.clone(), np.zeros((1, len(images)), bool)
    found = attack_batch(job, fooled, lambda _: None, moved)
    won = found["won"][0].astype(object)
    logits, queries, robust = (
        torch.from_numpy(part).to(images.device)
        for part in (found["logits"][0], found["queries"][0] + 1, won == ROBUST)
    )
    return Attacked(moved, logits, robust, won, queries)


class Cascade:
    """The members in turn, and what they need of a job's images.

    Each of ``stages`` is a member and the ways to be fooled that it aims at, all at once; the
    closest way has a stage of its own, for most that can be fooled are fooled there. A batch of
    images and ways goes through a network together, all ways of an image at least.
    """

    def __init__(self, job: Job) -> None:
        if job.clean.ndim != 2:
            raise ContractError("AutoAttack judges whole images. Segmentations: attacks.Attack.")
        self.job, config = job, job.config
        self.counter = QueryCounter(job.model, job.through, job.labels, config.dtype)
        closest = margins(job.clean, job.labels).argsort(1)
        self.ways = closest[:, : config.targets]
        every = range(self.ways.shape[1])
        stages = (("apgd-ce", [0]), ("apgd-t", every[:1]), ("apgd-t", every[1:]))
        stages += (("fab-t", every), ("square", [0]))
        self.stages = [stage for stage in stages if stage[0] in MEMBERS and len(stage[1])]

    def meet(self, number: int, rows: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Attack the images ``rows`` (n,), each within its own ``eps`` (n,), by one stage.

        Returns what it made of them, its logits in float32, and which are robust, bool (n,).
        """
        most = max(1, self.job.batch // len(self.stages[number][1]))
        parts = zip(shares(rows, most), shares(eps, most), strict=True)
        found = [self._meet(*self.stages[number], *part) for part in parts]
        return tuple(map(torch.cat, zip(*found, strict=True)))

    def _meet(
        self, member: str, ways: Sequence[int], rows: Tensor, eps: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        config, drawn = self.job.config, self.job.rows[rows.cpu().numpy()]
        aimed = rows.repeat(len(ways))  # each image once for each way
        asked = (self.counter, self.job.images[aimed], aimed, eps.repeat(len(ways)))
        way = self.ways[rows][:, list(ways)].T.flatten()
        # a number for each draw, so that members begin apart
        seeds = [config.seed * 1000 + MEMBERS.index(member) * 100 + place for place in ways]
        if member == "square":
            found = square(*asked, queries=config.queries, numbers=drawn, seed=seeds[0])
        elif member == "fab-t":
            found = fab(*asked, way, steps=config.steps)
        else:
            noise = torch.cat([uniform(self.job.images[rows], drawn, seed) for seed in seeds])
            noise = noise / noise.abs().amax((1, 2, 3), keepdim=True)
            start = asked[1] + asked[3][:, None, None, None] * noise
            if member == "apgd-t":
                found = apgd(*asked, lambda here: towards(way[here]), config.steps, start)
            else:
                found = apgd(*asked, lambda here: per_image, config.steps, start)
        # an attack is believed only what float32 confirms
        logits, robust = self.counter.robust(found, aimed)
        first = (~robust).view(len(ways), -1).int().argmax(0)  # way that fools, or any
        best = first * len(rows) + torch.arange(len(rows), device=rows.device)
        return found[best], logits[best], robust[best]


def attack_batch(
    job: Job, fooled: np.ndarray, done: Callable[[int], object], moved: Tensor | None = None
) -> dict[str, np.ndarray]:
    """AutoAttack at several eps, each image only where monotony leaves its answer open.

    What fools an image lies in every larger ball. So an image that is robust at one eps is so at
    all smaller ones, and one that is fooled is so at all larger. Each begins at the largest eps
    that it is believed to survive, and goes on to the next smaller one where it is fooled: an
    attack that succeeds is quick, the one that fails costs all its queries, and each image meets
    but one of those. Images at the same stage are attacked together, each in its own ball, and
    those at the earliest stage first, so that the costly ones have full batches.

    Args:
        fooled: bool (E, n), by another attack.
        done: called with E for each image that is through, with the sum for several.
        moved: (n, C, H, W), takes what fools each image at its smallest eps.

    Returns:
        The arrays of an ``AutoResult`` of these images.
    """
    count, clean = len(job.epsilons), job.clean.cpu().numpy()
    radii = torch.tensor(job.epsilons, dtype=torch.float32, device=job.images.device)
    wrong = ~correct(job.clean, job.labels).cpu().numpy()
    # the smallest eps, by position, at which each image is known to be fooled
    smallest = np.where(fooled.any(0), fooled.argmax(0), count)
    won = np.where(np.arange(count)[:, None] >= smallest, EARLIER, ROBUST).astype("U16")
    won[:, wrong], smallest[wrong] = WRONG, 0
    logits, queries = clean[None].repeat(count, 0), np.zeros(won.shape, np.int64)
    cascade = Cascade(job)
    last, stage = len(cascade.stages), np.where(smallest, 0, len(cascade.stages))
    while (stage < last).any():
        number = stage.min()
        member, _ = cascade.stages[number]
        here = (stage == number).nonzero()[0]
        place = smallest[here] - 1
        rows, eps = (torch.from_numpy(part).to(radii.device) for part in (here, place))
        cascade.counter.queries.zero_()
        found, scored, up = cascade.meet(number, rows, radii[eps])
        queries[place, here] += cascade.counter.queries[rows].cpu().numpy()
        if moved is not None:
            moved[rows[~up]] = found[~up]
        scored, up = scored.cpu().numpy(), up.cpu().numpy()
        stage[here] = np.where(up, number + 1, np.where(place > 0, 0, last))
        done(count * int((stage[here] == last).sum()))
        for image, at, answer in zip(here[~up], place[~up], scored[~up], strict=True):
            logits[at:, image], won[at:, image], smallest[image] = answer, member, at
    return dict(logits=logits, clean=clean, won=won, queries=queries)
