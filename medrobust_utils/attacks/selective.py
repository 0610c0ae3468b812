"""Method two of paper 4: single-step perturbations added, removed or left out, class by class.

Avramidis et al. (draft), section 2 and equations 3 to 5. a_k is the FGSM perturbation against the
map that shows class k everywhere. Of all x + sum_k s_k a_k with signs s_k in {-1, 0, 1} the one
with the least loss against the true label map is kept, so that the image *helps* the network.
Adding a_k makes class k less likely, subtracting it more. There are 3^K candidates.

The gradients are taken once for each class; the candidates need no gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor, nn

from ..core import env
from ..core.contracts import ask, check_finite, check_labels, check_logits
from ..core.errors import ContractError
from ..core.gate import admit, gate
from ..core.losses import per_image
from .engine import ball, check_eps, extremes, gradient
from .fold_batchnorm import quick_copy
from .layered import full_area

SEARCHES = ("exhaustive", "screened", "greedy")
BATCH = 16  # candidates evaluated at a time; larger ones fall out of a CPU's caches
TIE = 1e-5  # losses this close (relative, floor 1) may be rounding of the batch, not a difference
FINALISTS = 64  # of the screening, at most, scored again in float32
MOST = 10  # classes whose combinations are all tried: 59,049 forward passes an image

Score = Callable[[Tensor], Tensor]  # signs (M, K) to losses (M,)


@dataclass(frozen=True)
class Selective:
    """Method two of paper 4, called like an ``Attack`` with the true label maps.

    Beside ``images`` (N, C, H, W) it tells ``signs`` int8 (N, K), the s_k: 1 pushed away from class
    k, -1 pulled towards it, 0 left out; ``loss`` (N,) of these images in nats and ``before`` of
    those that came; and ``evaluations`` (N,), candidates scored.

    Attributes:
        step_size: length of each a_k, in [0, 1].
        bound: how far the sum may lead from the image; K * step_size is no bound.
        search: ``exhaustive`` evaluates all 3^K in float32 and chooses what trying them one by
            one chooses; ``screened`` evaluates them in the ``dtype`` of the call, with batch norm
            folded away, and scores the best, 64 at most, again in float32; ``greedy`` begins at
            zeros and gives one class after another its best sign, 2K + 1 evaluations. Of equal
            losses the one with more zeros wins, and among those the first.
    """

    step_size: float
    bound: float
    search: str = "exhaustive"

    def __post_init__(self) -> None:
        check_eps(self.step_size)
        check_eps(self.bound)
        if self.search not in SEARCHES:
            raise ContractError(f"search={self.search!r}: choose {', '.join(SEARCHES)}.")

    @gate()
    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, dtype: torch.dtype
    ) -> dict[str, Tensor]:
        labels = admit(model, images, labels)
        if not len(images):
            raise ContractError("no image to perturb: give at least one.")
        rough, found = {}, []
        if self.search == "screened":
            rough = {"model": quick_copy(model, images[:1]), "dtype": dtype}
        for image, label in zip(images, labels, strict=True):
            steps = _class_steps(model, image[None], label[None], self.step_size)
            trial = _Trial(model, image, label, steps, self.bound)
            if self.search == "greedy":
                signs, count = _greedy(trial.score, len(steps)), 2 * len(steps) + 1
            else:
                tried = combinations(len(steps))
                count, losses = len(tried), replace(trial, **rough).score(tried)
                if rough:
                    places, losses = _finalists(trial.score, tried, losses)
                    tried, count = tried[places], count + len(places)
                signs = _best(trial.score, tried, losses)
            before, after = (trial.score(row[None])[0] for row in (torch.zeros_like(signs), signs))
            found.append((trial.moved(signs[None])[0], signs, after, before, torch.tensor(count)))
        names = ("images", "signs", "loss", "before", "evaluations")
        return dict(zip(names, map(torch.stack, zip(*found, strict=True)), strict=True))


@dataclass(frozen=True)
class _Trial:
    """What sign vectors make of one image (C, H, W)."""

    model: nn.Module
    image: Tensor
    label: Tensor
    steps: Tensor
    bound: float
    dtype: torch.dtype = torch.float32

    def moved(self, signs: Tensor) -> Tensor:
        """Candidates (M, C, H, W) in [0, 1] and within the bound."""
        with env.full_float32():  # the image that is kept is the one that was scored
            moves = signs.to(self.steps.device, self.steps.dtype) @ self.steps.flatten(1)
        moved = self.image + moves.view(-1, *self.image.shape)
        return moved.clamp(*ball(self.image[None], self.bound))

    def score(self, signs: Tensor) -> Tensor:
        """Loss (M,) of each candidate against the true map, in nats, on the CPU."""
        losses = []
        for part in signs.split(BATCH):
            candidates = self.moved(part).to(memory_format=torch.channels_last)
            logits = ask(self.model, candidates, self.dtype)
            losses.append(per_image(logits, self.label.expand(len(part), -1, -1)))
        return torch.cat(losses).cpu()


def combinations(classes: int) -> Tensor:
    """All sign vectors, int8 (3^K, K), by rising number of non-zeros; K is 10 at most."""
    if classes > MOST:
        raise ContractError(
            f"3^{classes} combinations are too many to try: take search='greedy' beyond {MOST} "
            "classes."
        )
    every = torch.tensor(list(product((0, -1, 1), repeat=classes)), dtype=torch.int8)
    return every[every.abs().sum(1).argsort(stable=True)]


def _finalists(score: Score, signs: Tensor, rough: Tensor) -> tuple[Tensor, Tensor]:
    """Places and exact losses of the best of ``signs`` by their ``rough`` losses, in order.

    No more than FINALISTS, and fewer where twice the largest error seen so far could not bring
    the next one to the top.
    """
    order = rough.argsort(stable=True)[:FINALISTS]
    exact = torch.empty(0)
    for part in order.split(BATCH):
        exact = torch.cat([exact, score(signs[part])])
        slack = 2 * (exact - rough[order[: len(exact)]]).abs().max()
        if len(exact) < len(order) and rough[order[len(exact)]] - slack > exact.min():
            break
    places, way = order[: len(exact)].sort()
    return places, exact[way]


def _best(score: Score, signs: Tensor, losses: Tensor) -> Tensor:
    """The first of ``signs`` (M, K) with the least loss, as trying them one by one finds it.

    The last digits of a loss depend on the batch it was computed in. So those whose ``losses``
    come close to the least are tried again, each alone.
    """
    least = losses.min()
    close = (losses <= least + TIE * max(1.0, least.item())).nonzero()[:, 0]
    alone = torch.cat([score(signs[place][None]) for place in close])
    return signs[close[alone.argmin()]]


def _greedy(score: Score, classes: int) -> Tensor:
    """One pass over the classes, each given the sign with the least loss; 0 where none gains."""
    signs = torch.zeros(classes, dtype=torch.int8)
    least = score(signs[None])[0]
    for place in range(classes):
        tried = signs.repeat(2, 1)
        tried[:, place] = torch.tensor([-1, 1])
        losses = torch.cat([score(row[None]) for row in tried])
        if losses.min() < least:
            signs, least = tried[losses.argmin()], losses.min()
    return signs


def _class_steps(model: nn.Module, image: Tensor, label: Tensor, length: float) -> Tensor:
    """The a_k (K, C, H, W) of one image (1, C, H, W): equation 4 for every class."""
    logits = ask(model, image)
    check_logits(logits, multi_label=False)
    check_labels(label, logits, extremes(label))
    targets = torch.cat([full_area(image, kind) for kind in range(logits.shape[1])])
    copies = image.expand(len(targets), -1, -1, -1)
    uphill, _ = gradient(model, copies, targets, extremes(targets))
    check_finite(uphill.isfinite().all())
    return length * uphill.sign()
