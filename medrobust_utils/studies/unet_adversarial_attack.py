"""Paper 4: what one U-Net scores clean and under every attack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from .. import segmentation
from ..core.storage import cached_arrays, fingerprint
from ..data import ImageSet, to_float
from ..data.imageset import rows_of
from ..models import digest
from ..scoring import metrics
from ..scoring import segmentation as scoring
from ..scoring.metrics import Estimate
from ..scoring.segmentation import Tally
from ..segmentation import Attack
from .common import precision
from .unet_adversarial import Arm, Trained


class Cell(NamedTuple):
    """One way of being tested.

    Attributes:
        attack: ``none``, one of ``attacks.segmenting.ATTACKS``, or ``worst`` (see ``INSIDE``).
        reading: of "an epsilon of 1 %": the ``total``, or each ``step`` with no bound on the sum.
        made_for: whose gradients were followed: the network's ``own``, or those of the ``clean``
            one of the same seed, as if one attacked test set had been shown to all four.
    """

    attack: str
    reading: str
    made_for: str


CLEAN = Cell("none", "none", "none")
BACKGROUND = Cell("background", "total", "own")
PER_STEP = Cell("background", "step", "own")
TRANSFERRED = Cell("background", "total", "clean")
# The worst of these, image by image, is what `robust` means here: all keep to the same ball.
INSIDE = (CLEAN, BACKGROUND, Cell("pgd", "total", "own"), Cell("segpgd", "total", "own"))
WORST = Cell("worst", "total", "own")


@dataclass(frozen=True)
class Robustness:
    """What one network scored.

    Attributes:
        tallies: a cell -> what was counted on the attacked test images.
        moved: a cell -> largest and mean change of a pixel, of each image (2, N).
        weights: (1 + draws, N); equal for all arms of a task.
        worst_by: place in ``INSIDE`` of the attack that left each image the lowest mean IoU, (N,).
    """

    arm: Arm
    tallies: dict[Cell, Tally]
    moved: dict[Cell, np.ndarray]
    weights: np.ndarray
    worst_by: np.ndarray

    @cached_property
    def scores(self) -> dict[Cell, dict[str, Estimate]]:
        """Every score of every cell (see ``segmentation_metrics``).

        Under ``WORST`` each score is that of the attacks that hurt it most, image by image.
        """
        classes = self.arm.task.data.classes
        found = {
            cell: scoring.score(counts, self.weights, classes)
            for cell, counts in self.tallies.items()
        }
        inside = [self.tallies[cell] for cell in INSIDE]
        found[WORST] = scoring.score_worst(inside, self.weights, classes)
        return found

    @cached_property
    def majority(self) -> dict[str, Estimate]:
        """The scores of answering "background" everywhere."""
        answer = scoring.constant(self.tallies[CLEAN])
        return scoring.score(answer, self.weights, self.arm.task.data.classes)

    @cached_property
    def gates(self) -> dict[str, bool]:
        """Whether the network learnt enough for a verdict on its robustness.

        ``beats_prior``: the interval of its clean mean IoU lies above that of "background"
        everywhere, paired; ``beats_majority``: that of its pixel accuracy does.
        """
        gain = {
            name: (self.scores[CLEAN][name] - self.majority[name]).low > 0
            for name in ("mean_iou", "pixel_accuracy")
        }
        return {
            "beats_prior": bool(gain["mean_iou"]),
            "beats_majority": bool(gain["pixel_accuracy"]),
        }


def attacks(settings: Mapping) -> dict[Cell, Attack]:
    """The attacks of a profile."""
    eps, steps = settings["attack"]["eps"], settings["attack"]["steps"]
    named = {cell: Attack(cell.attack, eps, steps) for cell in INSIDE if cell != CLEAN}
    return named | {PER_STEP: Attack("background", 1.0, steps, eps)}


def measure(trained: Trained, settings: Mapping, clean: Trained) -> Robustness:
    """Attack one network with everything; what was done before is read back.

    Args:
        clean: the clean network of the same seed, which may be ``trained`` itself.
    """
    task, own = trained.arm.task, trained.arm.scheme != "clean"
    tallies, moved = {}, {}
    wanted = {CLEAN: None, **attacks(settings)}
    if own:
        wanted[TRANSFERRED] = wanted[BACKGROUND]
    for cell, how in wanted.items():
        source = clean if cell is TRANSFERRED else trained
        tallies[cell], moved[cell] = _kept(trained, cell, how, settings, source)
    worst, by = scoring.worst([tallies[cell] for cell in INSIDE])
    weights = metrics.group_weights(task.data.groups[task.attacked])
    return Robustness(trained.arm, tallies | {WORST: worst}, moved, weights, by)


def _kept(
    trained: Trained, cell: Cell, how: Attack | None, settings: Mapping, source: Trained
) -> tuple[Tally, np.ndarray]:
    """Tally and movement of one cell, kept in the network's folder."""
    task, model = trained.arm.task, trained.model
    dtype = precision(settings, source.model)
    key = fingerprint(
        task.data.checksum,
        task.attacked.tolist(),
        repr(how),
        str(dtype),
        digest(model),
        digest(source.model),
    )

    def compute() -> dict[str, np.ndarray]:
        shown = rows_of(task.data, task.attacked)
        before = to_float(shown.images)
        if how is not None:
            shown = attacked(source, how, settings)
        change = (to_float(shown.images) - before).abs().flatten(1)
        counts = segmentation.tallied(model, shown, np.arange(len(shown)), desc="score")
        moved = torch.stack([change.amax(1), change.mean(1)])
        return counts.arrays() | {"moved": moved.numpy()}

    found = cached_arrays(trained.folder / f"tally-{'-'.join(cell)}-{key}.npz", compute)
    moved = found.pop("moved")
    return Tally(**found), moved


def attacked(source: Trained, how: Attack, settings: Mapping) -> ImageSet:
    """The test images under attack against ``source``; kept if figures will show them."""
    task, dtype = source.arm.task, precision(settings, source.model)
    folder: Path | None = source.folder if how == attacks(settings)[BACKGROUND] else None
    return segmentation.attack(
        source.model, task.data, task.attacked, how, dtype=dtype, folder=folder
    )


def precision_differs(
    trained: Trained, settings: Mapping, index: np.ndarray
) -> dict[str, np.ndarray]:
    """What gradients in the training's precision cost an attack, on the images of ``index``.

    A network can look robust because its gradients vanish in bfloat16.

    Returns:
        ``loss`` (nats) and ``foreground_accuracy`` (N,) of each image under SegPGD with float32
        gradients, less the same with the profile's; near 0 where the quick gradients are as good.
    """
    data, how = trained.arm.task.data, attacks(settings)[INSIDE[-1]]
    dtype = precision(settings, trained.model)
    key = fingerprint(digest(trained.model), data.checksum, index.tolist(), repr(how), str(dtype))

    def compute() -> dict[str, np.ndarray]:
        found = []
        for kind in (torch.float32, dtype):
            shown = segmentation.attack(trained.model, data, index, how, dtype=kind)
            counts = segmentation.tallied(trained.model, shown, np.arange(len(index)))
            found.append(scoring.per_image(counts))
        names = ("loss", "foreground_accuracy")
        return {name: found[0][name] - found[1][name] for name in names}

    return cached_arrays(trained.folder / f"precision-{key}.npz", compute)
