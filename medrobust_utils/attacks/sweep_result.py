"""What an attack at several radii left of a network's answers, and signs not to believe it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import torch

from ..core.errors import ContractError
from ..core.losses import correct
from .config import EARLIER, ROBUST, WRONG
from .red_flags import MUCH, Flag

MISSED = 0.1  # share of the images by which a stronger attack may be ahead of bisection


@dataclass(frozen=True)
class SweepResult:
    """Scores of N images under attack at E sizes.

    Attributes:
        epsilons: (E,), rising.
        logits: float32 (E, N, K) of the attacked images. Accuracy and balanced accuracy may be
            computed from them in every mode, AUC and whatever else compares images in mode
            ``independent`` alone: the others leave an image alone once it is misclassified.
        clean: float32 (N, K), before the attack.
        labels: of the images, as the data set has them.
        mode: as in ``AttackConfig``; ``autoattack``; or ``lowest`` of several.
        vanished: bool (N,): by bisection, images for which an attack met a gradient of zero in
            nearly all pixels; None otherwise.
    """

    epsilons: np.ndarray
    logits: np.ndarray
    clean: np.ndarray
    labels: np.ndarray
    mode: str
    vanished: np.ndarray | None = field(default=None, kw_only=True)

    @property
    def right(self) -> np.ndarray:
        """Bool (E, N): judged right under attack."""
        return np.stack([_right(logits, self.labels) for logits in self.logits])

    @property
    def clean_right(self) -> np.ndarray:
        """Bool (N,): judged right before the attack."""
        return _right(self.clean, self.labels)

    def accuracy(self) -> np.ndarray:
        """Share (E,) of all images judged right under attack."""
        return self.right.mean(1)

    def min_adversarial_radius(self) -> np.ndarray:
        """Smallest eps (N,) that fooled each image; 0 if it was wrong before, else infinity."""
        fooled = ~self.right
        first = np.where(fooled.any(0), self.epsilons[fooled.argmax(0)], np.inf)
        return np.where(self.clean_right, first, 0.0)

    def flags(self) -> list[Flag]:
        """By bisection: sign that attacks had no gradient to follow.

        Then one fails at a large radius that would succeed at a small one, where none looks.
        """
        if self.vanished is None:
            return []
        right, lost = int(self.clean_right.sum()), int(self.vanished.sum())
        measured = f"the gradient of {lost} of {right} images was zero in nearly all pixels"
        return [Flag("gradients vanish under bisection", lost > max(1, MUCH * right), measured)]


@dataclass(frozen=True)
class AutoResult(SweepResult):
    """Scores of N images under AutoAttack at E sizes.

    Attributes:
        won: str (E, N): the member that fooled the image, ``wrong before``, ``earlier attack``, or
            nothing where it is robust; at a larger eps the same.
        queries: int64 (E, N): how often the model was asked about the image at this eps.
    """

    won: np.ndarray
    queries: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """Bool (E, N): not fooled."""
        return self.won == ROBUST

    def flags(self) -> list[Flag]:
        """Sign that gradients were hidden: Square, which asks for none, won.

        Each image counts once, and only if AutoAttack was the one to find an adversarial example.
        """
        last = self.won[-1]
        fooled = int((~np.isin(last, [ROBUST, WRONG, EARLIER])).sum())
        blind = int((last == "square").sum())
        measured = f"{blind} of the {fooled} images that AutoAttack fooled fell to random search"
        return [Flag("random search beats gradients", blind > max(1, MUCH * fooled), measured)]


def lowest(*results: SweepResult) -> SweepResult:
    """The worst of several attacks on the same images at the same radii, image by image.

    An image counts as right at a radius only where no attack fooled it there or at a smaller one;
    else it has the logits of the first success. So no curve lies below this one. Results of other
    images or radii are refused, and one whose logits do not show what it counts as fooled.
    """
    first, alike = results[0], ("epsilons", "labels", "clean_right")
    for other, name in product(results[1:], alike):
        if not np.array_equal(getattr(first, name), getattr(other, name)):
            raise ContractError("attacks can be put together on the same images and radii only.")
    logits = first.logits.copy()
    for place in range(len(logits)):
        logits[place] = logits[max(0, place - 1)]  # what is fooled already stays so
        for result in results:
            still = _right(logits[place], first.labels)
            logits[place, still] = result.logits[place, still]
    worst = SweepResult(first.epsilons, logits, first.clean, first.labels, "lowest")
    if (worst.right & ~np.logical_and.reduce([result.right for result in results])).any():
        raise ContractError(
            "an image counts as fooled whose logits are right. Give the result of the earlier "
            "attack too."
        )
    return worst


def overtaken(bisection: SweepResult, others: Sequence[SweepResult]) -> Flag:
    """Whether attacks fool many images, at some radius, that bisection calls robust there."""
    lost = (bisection.right & ~lowest(bisection, *others).right).sum(1)
    right, at = int(bisection.clean_right.sum()), int(lost.argmax())
    measured = f"{lost[at]} of {right} images at eps {bisection.epsilons[at]:g}"
    name = "another attack fools what bisection calls robust"
    return Flag(name, lost[at] > max(1, MISSED * right), measured)


def _right(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return correct(torch.from_numpy(logits), torch.from_numpy(labels)).numpy()
