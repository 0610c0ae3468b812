"""A gradient attack at several radii, on one batch of images.

Three ways, the same report. *Independent* attacks every image afresh at every radius: what the
papers did. *Skip fooled* does too, but an image that is fooled stays so at every larger radius, for
its adversarial image lies inside the larger balls as well: the worst over all radii so far, which
cannot rise. *Bisection* searches the smallest radius of each image: it begins where the first
gradient says, and goes on between the largest radius at which attacks failed and the smallest at
which one succeeded, taking an outcome for that of all radii below or above. So an image meets a few
short attacks, near its own radius, however many radii there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from ..core.contracts import ask, check_labels, check_logits
from ..core.errors import ContractError
from ..core.gate import admit
from ..core.losses import correct, per_image
from .config import AttackConfig
from .engine import ascend, check_eps, extremes, gradient, shares
from .foolbox import foolbox_steps
from .gradient import MIFGSM_DECAY
from .noise import gaussian

EARLIER = 0.7  # share of the radius at which a linear loss would be fooled; bisection begins there


@dataclass(frozen=True)
class AtRadius:
    """One radius: the attacked images (N, C, H, W) and their logits (N, K), scored in float32."""

    eps: float
    images: torch.Tensor
    logits: torch.Tensor


@torch.inference_mode(False)  # of use with a generator too, unlike ``gate``
@torch.no_grad()
def at_radii(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    epsilons: Sequence[float],
    *,
    rows: np.ndarray | None = None,
    through: nn.Module | None = None,
    batch: int | None = None,
    **how: Any,
) -> Iterator[AtRadius]:
    """Yield one AtRadius for each eps: as it is done, or by bisection once all are.

    Args:
        images: float32 (N, C, H, W) in [0, 1], on the model's device.
        labels: what ``losses.per_image`` takes for the model's head.
        epsilons: rising, in [0, 1]; eps = 0 gives the clean images.
        rows: numbers (N,) that tell the images apart: an image gets the same random start
            whatever the batch it comes in. 0 to N - 1 without them.
        through: a ``quick_copy`` of ``model`` to take the gradients of; ``model`` scores.
        batch: images that go through a network together; all without it, and with Foolbox. As
            images are fooled, the others are put together anew.
        how: what ``AttackConfig`` takes.

    Raises:
        ContractError: for anything that breaks the contract, before the first attack.
    """
    job = Job(model, images, labels, epsilons, rows, through, batch, AttackConfig(**how))
    if epsilons[0] == 0:
        yield AtRadius(0.0, images, job.clean)
    if job.config.mode != "bisection":
        yield from job.in_turn()
        return
    moved, logits = (x.expand(len(job.radii), *x.shape).clone() for x in (images, job.clean))
    for attempt in job.bisect():
        attempt.put(moved, attempt.images)
        attempt.put(logits, attempt.logits)
    yield from map(AtRadius, job.radii, moved, logits)


def check_radii(epsilons: Sequence[float]) -> None:
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


class Attempt(NamedTuple):
    """One attack of some images, each within its own radius.

    Attributes:
        rows: (n,) of the images in their batch.
        first, end: (n,): the radii from position ``first`` to before ``end`` have this outcome,
            until a later attempt says otherwise.
        images: (n, C, H, W), attacked.
        logits: (n, K) of those.
    """

    rows: torch.Tensor
    first: torch.Tensor
    end: torch.Tensor
    images: torch.Tensor
    logits: torch.Tensor

    def put(self, outcomes: torch.Tensor, values: torch.Tensor) -> None:
        """Write ``values`` (n, ...) into the ``outcomes`` (E, N, ...) of those radii."""
        places = torch.arange(len(outcomes), device=outcomes.device)[:, None]
        here = (places >= self.first) & (places < self.end)
        here = here.view(*here.shape, *[1] * (values.ndim - 1))
        outcomes[:, self.rows] = torch.where(here, values, outcomes[:, self.rows])


class Job:
    """One batch of images, and how it is attacked.

    Attributes:
        radii: those above 0.
        clean: logits (N, K) before the attack.
        vanished: bool (N,): an attack met a gradient that was zero in nearly all pixels.
    """

    def __init__(
        self,
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        epsilons: Sequence[float],
        rows: np.ndarray | None,
        through: nn.Module | None,
        batch: int | None,
        config: AttackConfig,
    ) -> None:
        check_radii(epsilons)
        self.labels = admit(model, images, labels)
        if not len(images):
            raise ContractError("no image to attack: the batch is empty.")
        self.model, self.through = model, model if through is None else through
        self.images, self.batch, self.config = images, batch, config
        self.radii = [eps for eps in epsilons if eps]
        self.clean = score(model, images, batch)
        check_labels(self.labels, self.clean, extremes(self.labels))
        check_logits(self.clean, self.labels.ndim == 2)
        self.vanished = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self.noise = None
        if config.attack == "pgd":
            numbers = np.arange(len(images)) if rows is None else rows
            # the error function takes normal noise to uniform noise in [-1, 1]
            noise = torch.erf(gaussian(images.shape[1:], numbers, config.seed) / math.sqrt(2))
            self.noise = noise.to(images.device)

    def in_turn(self) -> Iterator[AtRadius]:
        """One radius after the other. Unless all are attacked, the fooled keep that image."""
        moved, logits = self.images, self.clean
        for eps in self.radii:
            every = self.config.mode == "independent"
            rows = (correct(logits, self.labels) | every).nonzero()[:, 0]
            if len(rows):
                random = self.noise is not None
                start = self.images[rows] + eps * self.noise[rows] if random else None
                new, scored = self._attack(rows, eps, self.config.lengths(eps), start)
                moved = moved.index_copy(0, rows, new)
                logits = logits.index_copy(0, rows, scored)
            yield AtRadius(eps, moved, logits)

    def bisect(self) -> Iterator[Attempt]:
        """Every attempt to find the smallest radius of each image, rightly judged before.

        It begins where the first gradient says, and goes on one radius up, or down one, two, four,
        until a success and a failure enclose the answer; from there by halves. Each attempt
        begins at the last perturbation, scaled. A failure that is older than the success above it
        is tried again in the end, from that success.
        """
        radii = torch.tensor(self.radii, dtype=torch.float32, device=self.images.device)
        right = correct(self.clean, self.labels)
        rows, count = right.nonzero()[:, 0], len(radii)
        if not (len(rows) and count):
            return
        low = torch.full_like(right, -1, dtype=torch.long)  # the largest radius that failed
        high = torch.where(right, count, 0)  # the smallest that succeeded
        reach, last = torch.ones_like(low), torch.zeros_like(right)
        delta, best = self.noise.clone(), torch.zeros_like(self.noise)
        within = torch.ones_like(right, dtype=radii.dtype)
        delta[rows], place = self._guess(rows, radii)
        while len(rows):
            attempt, fooled = self._attempt(rows, place, high[rows], delta, within, radii)
            yield attempt
            within[rows], last[rows] = radii[place], fooled
            delta = delta.index_copy(0, rows, attempt.images - self.images[rows])
            best[rows[fooled]] = delta[rows[fooled]]
            high[rows[fooled]], low[rows[~fooled]] = place[fooled], place[~fooled]
            rows = (high - low > 1).nonzero()[:, 0]
            below, above = low[rows], high[rows]
            place = (below + above) // 2
            place = torch.where(below < 0, above - reach[rows], place).clamp(min=0)
            place = torch.where((above == count) & (reach[rows] == 1), below + 1, place)
            reach[rows] *= 2
        rows = ((high > 0) & last).nonzero()[:, 0]
        if len(rows):
            within[rows] = radii[high[rows]]
            yield self._attempt(rows, high[rows] - 1, high[rows], best, within, radii)[0]

    def _guess(self, rows: torch.Tensor, radii: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Which way to go at first (n, C, H, W), and at which radius, by position (n,).

        As if the loss were log(1 + exp(-m)) of a margin m that falls evenly: a step along the
        signs of its gradient then fools from radius m / |gradient|_1 on, and an attack of some
        steps a little before.
        """
        start = (self.images[rows] + radii[0] * self.noise[rows]).clamp(0, 1)
        labels, span = self.labels[rows], extremes(self.labels)
        slopes, losses = [], []
        for part in shares(torch.arange(len(rows), device=rows.device), self.batch):
            asked = (start[part], labels[part], span, self.config.dtype)
            slope, logits = gradient(self.through, *asked)
            slopes.append(slope)
            losses.append(per_image(logits, labels[part]).double())
        slope, loss = torch.cat(slopes), torch.cat(losses)
        margin, weight = -torch.expm1(loss).log(), -torch.expm1(-loss)
        linear = margin * weight / slope.double().abs().sum((1, 2, 3))
        linear = linear.nan_to_num(
            torch.inf
        ).float()  # no gradient tells nothing; a success is cheap
        place = (EARLIER * linear[:, None] > radii).sum(1).clamp(len(radii) // 4, len(radii) - 1)
        return torch.where(slope == 0, self.noise[rows], slope.sign()), place

    def _attempt(
        self,
        rows: torch.Tensor,
        place: torch.Tensor,
        high: torch.Tensor,
        delta: torch.Tensor,
        within: torch.Tensor,
        radii: torch.Tensor,
    ) -> tuple[Attempt, torch.Tensor]:
        """Attack each image of ``rows`` at the radius of its ``place``; who was fooled, bool (n,).

        It begins at ``delta``, of size ``within``. A success counts at every larger radius, a
        failure below ``high``, the smallest success so far.
        """
        eps = radii[place]
        scale = (eps / within[rows])[:, None, None, None]
        start = self.images[rows] + delta[rows] * scale
        # a step's length may be a share of eps, or the same for all
        lengths = torch.stack([0 * eps + step for step in self.config.lengths(eps)])
        moved, logits = self._attack(rows, eps, lengths, start)
        fooled = ~correct(logits, self.labels[rows])
        end = torch.where(fooled, len(radii), high)
        return Attempt(rows, place, end, moved, logits), fooled

    def _attack(
        self,
        rows: torch.Tensor,
        eps: float | torch.Tensor,
        lengths: list[float] | torch.Tensor,
        start: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The images of ``rows``, attacked, and their logits."""
        images, labels, config = self.images[rows], self.labels[rows], self.config
        if config.engine == "foolbox":
            how = (len(lengths), lengths[0], start, config.dtype)
            moved = foolbox_steps(self.through, images, labels, eps, *how)
            return moved, self._rate(moved, labels)

        halving = config.mode == "bisection"
        vanished = torch.zeros_like(rows, dtype=torch.bool)
        moved = ascend(
            self.through,
            images,
            labels,
            eps,
            lengths=lengths,
            start=start,
            dtype=config.dtype,
            batch=self.batch,
            fooled=(lambda x, y: ~correct(self._rate(x, y), y)) if halving else None,
            decay=MIFGSM_DECAY if config.attack == "mifgsm" or halving else None,
            vanished=vanished,
        )
        self.vanished[rows] |= vanished
        return moved, self._rate(moved, labels)

    def _rate(self, moved: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits = score(self.model, moved, self.batch)
        check_logits(logits, labels.ndim == 2)
        return logits
