"""Attacks on segmentations, as values that are called; method one of paper 4 among them.

Avramidis et al. (draft), section 2 and equation 2: for each class in turn, 100 steps push the
whole prediction to that class, each class starting from the last result. What earlier classes
wrote into the image stays below, and the prediction ends up in fragments, where plain PGD paints
the whole area in one class. The cost grows linearly with the number of classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.contracts import ask, check_labels
from ..core.errors import ContractError
from ..core.gate import admit, gate
from ..core.losses import BACKGROUND, IGNORED, labelled, per_pixel
from .engine import extremes, madry_step, pgd

# What a class's steps are projected on: the ball around where that class began, so that the
# classes may drift apart to K * eps together; or the ball around the image itself.
BALLS = ("stage", "image")
ATTACKS = ("background", "pgd", "segpgd", "masked", "divergence")
ENSEMBLE = ATTACKS[1:]  # four losses; what the worst of them leaves is what a network is worth


@gate()
def layered_pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: float,
    *,
    classes: Sequence[int],
    steps: int,
    step_size: float,
    ball: str = "stage",
    present: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Images after the last class; at most ``eps`` (``len(classes) * eps`` by stages) away.

    Args:
        model, images: see ``attacks.pgd``; logits are (N, K, H, W).
        labels: label maps (N, H, W); looked at with ``present`` only.
        eps: radius of each ball, in [0, 1].
        classes: in the order of attack.
        steps, step_size: of PGD, for each class; see ``pgd``.
        ball: one of BALLS. The paper names no bound; equation 2 clips only.
        present: leave out, image by image, the classes that its label map does not show
            ("as long as there are different classes" can be read so).
    """
    if ball not in BALLS:
        raise ContractError(f"ball={ball!r}: choose {' or '.join(BALLS)}.")
    labels = admit(model, images, labels if present else None)
    if present:
        check_labels(labels, ask(model, images), extremes(labels))
    moved, how = images.clone(), dict(steps=steps, step_size=step_size, dtype=dtype)
    for kind in classes:
        chosen = torch.ones(len(images), dtype=torch.bool, device=images.device)
        if present:
            chosen = (labels == kind).flatten(1).any(1)
        centre, start = (images if ball == "image" else moved)[chosen], moved[chosen]
        goal = full_area(centre, kind)
        moved[chosen] = pgd(model, centre, goal, eps, start=start, targeted=True, **how)
    return moved


def full_area(images: Tensor, kind: int) -> Tensor:
    """Label maps (N, H, W) that show the class ``kind`` everywhere."""
    n, _, height, width = images.shape
    return torch.full((n, height, width), kind, device=images.device)


def _still_right_first(logits: Tensor, labels: Tensor, *, done: float) -> Tensor:
    """Gu et al. 2022, "SegPGD", equations 4 and 5: at first only pixels that are still right count.

    The weight of the wrong ones rises with the steps to one half, so that no step is spent on
    making a wrong pixel more wrong.
    """
    weight = done / 2  # (t - 1) / 2T
    weights = torch.where(logits.argmax(1) == labels, 1 - weight, weight)
    return (weights * per_pixel(logits, labels)).sum((1, 2)) / labelled(labels)


def _right_alone(logits: Tensor, labels: Tensor, *, done: float) -> Tensor:
    right = logits.argmax(1) == labels
    return (right * per_pixel(logits, labels)).sum((1, 2)) / labelled(labels)


def _divergence(logits: Tensor, labels: Tensor, *, done: float) -> Tensor:
    """Mean over the pixels of log 2 minus what truth and answer have in common, in nats."""
    log_share = logits.log_softmax(1)
    truth = labels.long().where(labels != IGNORED, 0)[:, None]
    own = log_share.gather(1, truth)[:, 0]
    half = torch.logaddexp(own, torch.zeros_like(own)) - math.log(2)  # log of (p + 1) / 2
    # of the other classes the mixture has p / 2, which adds log 2 for each share of theirs
    others = (1 - own.exp()) * math.log(2) + own.exp() * (own - half)
    return ((others - half) / 2 * (labels != IGNORED)).sum((1, 2)) / labelled(labels)


LOSSES = {"segpgd": _still_right_first, "masked": _right_alone, "divergence": _divergence}


@dataclass(frozen=True)
class Attack:
    """An attack on a segmentation; called, it gives ``images`` (N, C, H, W), attacked.

    Attributes:
        kind: ``background`` pushes the whole prediction to the background (PGD; Avramidis et al.,
            section 3), ``pgd`` away from the truth, ``segpgd`` likewise, right pixels first,
            ``masked`` right pixels alone, ``divergence`` by the Jensen-Shannon divergence of
            answer and truth, which a pixel that is wrong already cannot raise much further.
        eps: radius, in units of the full range. 1 bounds nothing.
        steps: number of steps.
        step_size: in the units of ``eps``; ``attacks.madry_step`` unless given.
    """

    kind: str
    eps: float
    steps: int
    step_size: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in ATTACKS:
            raise ContractError(f"attack {self.kind!r}: choose {', '.join(ATTACKS)}.")

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, dtype: torch.dtype
    ) -> dict[str, Tensor]:
        length = madry_step(self.eps, self.steps) if self.step_size is None else self.step_size
        aimed = self.kind == "background"
        goal = full_area(images, BACKGROUND) if aimed else labels
        how = dict(random_start=False, targeted=aimed, loss=LOSSES.get(self.kind))
        how |= dict(steps=self.steps, step_size=length, dtype=dtype)
        return {"images": pgd(model, images, goal, self.eps, **how)}


@dataclass(frozen=True)
class Layered:
    """Method one of paper 4 (see ``layered_pgd``), called like an ``Attack``.

    Steps are ``attacks.madry_step`` long.
    """

    eps: float
    steps: int
    ball: str = "stage"
    present: bool = False

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, dtype: torch.dtype
    ) -> dict[str, Tensor]:
        classes = range(ask(model, images[:1]).shape[1])
        how = dict(ball=self.ball, present=self.present, dtype=dtype)
        how |= dict(steps=self.steps, step_size=madry_step(self.eps, self.steps))
        return {"images": layered_pgd(model, images, labels, self.eps, classes=classes, **how)}


@dataclass(frozen=True)
class Towards:
    """PGD towards the class ``kind`` everywhere, or towards what the
    network answers anyway; the truth is not used."""

    eps: float
    steps: int
    kind: int | None = None

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, dtype: torch.dtype
    ) -> dict[str, Tensor]:
        how = {"steps": self.steps, "step_size": madry_step(self.eps, self.steps), "dtype": dtype}
        own = self.kind is None
        goal = ask(model, images).argmax(1) if own else full_area(images, self.kind)
        how |= {"random_start": False, "targeted": True}
        return {"images": pgd(model, images, goal, self.eps, **how)}
