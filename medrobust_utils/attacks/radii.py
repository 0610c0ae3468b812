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

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..core.contracts import ask, check_labels, check_logits
from ..core.errors import ContractError
from ..core.gate import admit, gate
from ..core.losses import correct, per_image
from .config import AttackConfig, AutoAttackConfig
from .engine import MIFGSM_DECAY, ascend, check_eps, extremes, gradient, shares
from .foolbox import foolbox_pgd
from .noise import uniform

EARLIER = 0.7  # share of the radius at which a linear loss would be fooled; bisection begins there


class AtRadius(NamedTuple):
    """One radius: the attacked images (N, C, H, W) and their logits (N, K), scored in float32."""

    eps: float
    images: Tensor
    logits: Tensor


@gate()
def at_radii(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilons: Sequence[float],
    *,
    rows: np.ndarray | None = None,
    **how: Any,
) -> list[AtRadius]:
    """Attacked images and their logits at each eps.

    Args:
        model, images, labels: see ``attacks.pgd``.
        epsilons: rising, in [0, 1]; eps = 0 gives the clean images.
        rows: numbers (N,) that tell the images apart: an image gets the same random start
            whatever the batch it comes in. 0 to N - 1 without them.
        how: what ``AttackConfig`` takes.
    """
    numbers = np.arange(len(images)) if rows is None else rows
    job = Job(model, model, images, labels, numbers, epsilons, None, AttackConfig(**how))
    moved = job.repeated(images)
    logits = job.run(lambda attempt: attempt.put(moved, attempt.images))
    return list(map(AtRadius, epsilons, moved, logits))


def score(model: nn.Module, images: Tensor, batch: int | None = None) -> Tensor:
    """Logits (N, K) in full float32, without a graph, of ``batch`` images at a time."""
    return torch.cat([ask(model, part) for part in shares(images, batch)])


class Attempt(NamedTuple):
    """One attack of the ``rows`` (n,) of a batch: ``images`` (n, C, H, W), ``logits`` (n, K).

    The radii from position ``first`` to before ``end``, of all or of each image (n,), have this
    outcome until a later attempt says otherwise.
    """

    rows: Tensor
    first: Tensor | int
    end: Tensor | int
    images: Tensor
    logits: Tensor

    def put(self, outcomes: Tensor, values: Tensor) -> None:
        """Write ``values`` (n, ...) into the ``outcomes`` (E, N, ...) of those radii."""
        places = torch.arange(len(outcomes), device=outcomes.device)[:, None]
        here = (places >= self.first) & (places < self.end)
        here = here.view(*here.shape, *[1] * (values.ndim - 1))
        outcomes[:, self.rows] = torch.where(here, values, outcomes[:, self.rows])


@dataclass
class Job:
    """One batch of images, and how it is attacked; see ``at_radii``.

    Gradients are taken ``through`` the model or a ``quick_copy`` of it, ``batch`` images at a time;
    as images are fooled, the others are put together anew. ``clean`` has the logits (N, K) before
    the attack; ``vanished``, bool (N,), tells where a gradient was zero in nearly all pixels.
    """

    model: nn.Module
    through: nn.Module
    images: Tensor
    labels: Tensor
    rows: np.ndarray
    epsilons: Sequence[float]
    batch: int | None
    config: AttackConfig | AutoAttackConfig

    def __post_init__(self) -> None:
        check_eps(*self.epsilons)
        self.labels = admit(self.model, self.images, self.labels)
        if not len(self.images):
            raise ContractError("no image to attack: the batch is empty.")
        self.clean = score(self.model, self.images, self.batch)
        check_labels(self.labels, self.clean, extremes(self.labels))
        if self.clean.ndim != 2:
            raise ContractError("here whole images are judged. Segmentations: attacks.Attack.")
        check_logits(self.clean, self.labels.ndim == 2)
        self.vanished = torch.zeros(len(self.images), dtype=torch.bool, device=self.images.device)

    def repeated(self, values: Tensor) -> Tensor:
        """``values`` (N, ...) at every eps (E, N, ...), to be attacked."""
        return values.expand(len(self.epsilons), *values.shape).clone()

    def run(self, note: Callable[[Attempt], object]) -> Tensor:
        """Logits (E, N, K) under attack; ``note`` is called with each attempt."""
        logits = self.repeated(self.clean)
        for attempt in self.attempts():
            attempt.put(logits, attempt.logits)
            note(attempt)
        return logits

    def attempts(self) -> Iterator[Attempt]:
        """Every attack on some of the images, in order: by bisection, or a radius after another."""
        skip, pgd = int(self.epsilons[0] == 0), self.config.attack == "pgd"
        noise = uniform(self.images, self.rows, self.config.seed) if pgd else None
        if self.config.halving:
            yield from self._bisect(noise, skip)
            return
        logits, every = self.clean, self.config.mode == "independent"
        for place, eps in enumerate(self.epsilons):
            rows = (correct(logits, self.labels) | every).nonzero()[:, 0]
            if eps and len(rows):
                start = self.images[rows] + eps * noise[rows] if pgd else None
                moved, scored = self._attack(rows, eps, self.config.lengths(eps), start)
                logits = logits.index_copy(0, rows, scored)
                yield Attempt(rows, place, len(self.epsilons), moved, scored)

    def _bisect(self, noise: Tensor, skip: int) -> Iterator[Attempt]:
        """Every attempt to find the smallest radius of each image, rightly judged before.

        It begins where the first gradient says, and goes on one radius up, or down one, two, four,
        until a success and a failure enclose the answer; from there by halves. Each attempt
        begins at the last perturbation, scaled. A failure that is older than the success above it
        is tried again in the end, from that success.
        """
        radii = torch.tensor(self.epsilons[skip:], dtype=torch.float32, device=noise.device)
        right = correct(self.clean, self.labels)
        rows, count = right.nonzero()[:, 0], len(radii)
        if not (len(rows) and count):
            return
        low = torch.full_like(right, -1, dtype=torch.long)  # the largest radius that failed
        high = torch.where(right, count, 0)  # the smallest that succeeded
        reach, last = torch.ones_like(low), torch.zeros_like(right)
        delta, best = noise.clone(), torch.zeros_like(noise)
        within = torch.ones_like(right, dtype=radii.dtype)  # the radius of ``delta``

        def attempt(delta: Tensor) -> tuple[Tensor, Attempt]:
            eps = radii[place]
            scale = (eps / within[rows])[:, None, None, None]
            # a step's length may be a share of eps, or the same for all
            lengths = torch.stack([0 * eps + step for step in self.config.lengths(eps)])
            start = self.images[rows] + delta[rows] * scale
            moved, logits = self._attack(rows, eps, lengths, start)
            fooled = ~correct(logits, self.labels[rows])
            # a success counts at every larger radius, a failure below the smallest success so far
            end = torch.where(fooled, count, high[rows]) + skip
            return fooled, Attempt(rows, place + skip, end, moved, logits)

        delta[rows], place = self._guess(rows, radii, noise[rows])
        while len(rows):
            fooled, tried = attempt(delta)
            yield tried
            within[rows], last[rows] = radii[place], fooled
            delta = delta.index_copy(0, rows, tried.images - self.images[rows])
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
            within[rows], place = radii[high[rows]], high[rows] - 1
            yield attempt(best)[1]

    def _guess(self, rows: Tensor, radii: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Which way to go at first (n, C, H, W), and at which radius, by position (n,).

        As if the loss were log(1 + exp(-m)) of a margin m that falls evenly: a step along the
        signs of its gradient then fools from radius m / |gradient|_1 on, and an attack of some
        steps a little before.
        """
        start = (self.images[rows] + radii[0] * noise).clamp(0, 1)
        labels, span = self.labels[rows], extremes(self.labels)
        asked = (start, labels, span, self.config.dtype)
        slope, logits = gradient(self.through, *asked, batch=self.batch)
        loss = per_image(logits, labels).double()
        margin, weight = -torch.expm1(loss).log(), -torch.expm1(-loss)
        linear = margin * weight / slope.double().abs().sum((1, 2, 3))
        linear = linear.nan_to_num(torch.inf).float()  # no gradient tells nothing
        place = (EARLIER * linear[:, None] > radii).sum(1).clamp(len(radii) // 4, len(radii) - 1)
        return torch.where(slope == 0, noise, slope.sign()), place

    def _attack(
        self, rows: Tensor, eps: float | Tensor, lengths: list[float] | Tensor, start: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The images of ``rows``, attacked, and their logits."""
        images, labels, config = self.images[rows], self.labels[rows], self.config
        how = dict(lengths=lengths, dtype=config.dtype)
        logits, known = torch.zeros_like(self.clean[rows]), torch.zeros_like(rows, dtype=torch.bool)

        def fooled(moved: Tensor, labels: Tensor, here: Tensor) -> Tensor:
            logits[here] = score(self.model, moved, self.batch)
            known[here] = ~correct(logits[here], labels)  # these stay where they are
            return known[here]

        if config.engine == "foolbox":
            parts = zip(*(shares(x, self.batch) for x in (images, labels, start)), strict=True)
            moved = torch.cat([foolbox_pgd(self.through, *part, eps, **how) for part in parts])
        else:
            how["decay"] = MIFGSM_DECAY if config.halving or config.attack == "mifgsm" else None
            how["vanished"] = vanished = torch.zeros_like(rows, dtype=torch.bool)
            how |= dict(start=start, batch=self.batch, fooled=fooled if config.halving else None)
            moved = ascend(self.through, images, labels, eps, **how)
            self.vanished[rows] |= vanished
        left = (~known).nonzero()[:, 0]
        if len(left):
            logits[left] = score(self.model, moved[left], self.batch)
        check_logits(logits, labels.ndim == 2)
        return moved, logits
