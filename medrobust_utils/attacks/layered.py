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
    return _still_right_first(logits, labels, done=0.0)


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
        kind: ``pgd`` away from the truth; ``segpgd`` likewise, right pixels first; ``masked`` right
            pixels alone; ``divergence`` by the Jensen-Shannon divergence of answer and truth, which
            a pixel that is wrong already cannot raise much further. Three look at no truth:
            ``background`` pushes the whole prediction there (PGD; Avramidis et al., section 3), a
            number to the class of that number, ``answer`` to what the network answers anyway.
        eps: radius, in units of the full range. 1 bounds nothing.
        steps: number of steps.
        step_size: in the units of ``eps``; ``attacks.madry_step`` unless given.
    """

    kind: str | int
    eps: float
    steps: int
    step_size: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.kind, int) and self.kind not in (*ATTACKS, "answer"):
            known = ", ".join(ATTACKS)
            raise ContractError(f"attack {self.kind!r}: choose {known}, answer or a class number.")

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, dtype: torch.dtype
    ) -> dict[str, Tensor]:
        length = madry_step(self.eps, self.steps) if self.step_size is None else self.step_size
        how = dict(random_start=False, loss=LOSSES.get(self.kind), dtype=dtype)
        how |= dict(steps=self.steps, step_size=length, targeted=self.kind not in ENSEMBLE)
        return {"images": pgd(model, images, self._goal(model, images, labels), self.eps, **how)}

    def _goal(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        if self.kind in ENSEMBLE:
            return labels
        if self.kind == "answer":
            return ask(model, images).argmax(1)
        return full_area(images, BACKGROUND if self.kind == "background" else self.kind)


@dataclass(frozen=True)
class Layered:
    """Method one of paper 4, called like an ``Attack``; label maps are looked at if ``present``.

    Attributes:
        eps: radius of each ball, in [0, 1]; by stages the images end K * eps away at most.
        steps: of PGD, for each class; they are ``attacks.madry_step`` long.
        ball: one of BALLS. The paper names no bound; equation 2 clips only.
        present: leave out, image by image, the classes that its label map does not show
            ("as long as there are different classes" can be read so).
    """

    eps: float
    steps: int
    ball: str = "stage"
    present: bool = False

    def __post_init__(self) -> None:
        if self.ball not in BALLS:
            raise ContractError(f"ball={self.ball!r}: choose {' or '.join(BALLS)}.")

    @gate()
    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        dtype: torch.dtype,
        classes: Sequence[int] | None = None,
    ) -> dict[str, Tensor]:
        """``images`` after the last of ``classes``, all in their order unless named."""
        labels = admit(model, images, labels if self.present else None)
        logits = ask(model, images)
        if self.present:
            check_labels(labels, logits, extremes(labels))
        how = dict(steps=self.steps, step_size=madry_step(self.eps, self.steps), dtype=dtype)
        moved = images.clone()
        for kind in range(logits.shape[1]) if classes is None else classes:
            chosen = torch.ones(len(images), dtype=torch.bool, device=images.device)
            if self.present:
                chosen = (labels == kind).flatten(1).any(1)
            centre, start = (images if self.ball == "image" else moved)[chosen], moved[chosen]
            goal = full_area(centre, kind)
            moved[chosen] = pgd(model, centre, goal, self.eps, start=start, targeted=True, **how)
        return {"images": moved}
