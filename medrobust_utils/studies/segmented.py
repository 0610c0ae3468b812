"""What one segmentation makes of its test images, clean, attacked, in noise, and fortified: counts
an image for each way of being tested (`Cell`), and their tidy rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd

from .. import segmentation
from ..attacks import Attack, Layered, layered
from ..core.storage import cached_arrays, fingerprint
from ..data import ImageSet, to_float
from ..data.imageset import rows_of, with_images
from ..explain.spectrum import band_noise
from ..models import digest
from ..scoring import metrics
from ..scoring import segmentation as scoring
from . import tables
from .common import precision, some
from .experiment import Arm, Task, Trained


class Cell(NamedTuple):
    """One way of being tested: an attack; a reading of "an epsilon of 1 %", the ``total`` or each
    ``step`` with no bound on the sum; and whose gradients it follows, those of the network's
    ``own`` or of the ``clean`` one of its seed, as if one attacked test set were shown to all."""

    attack: str
    reading: str = "total"
    made_for: str = "own"


CLEAN, WORST = Cell("none", "none", "none"), Cell("worst")
BACKGROUND, PGD, SEGPGD = Cell("background"), Cell("pgd"), Cell("segpgd")
PER_STEP, TRANSFERRED = Cell("background", "step"), Cell("background", made_for="clean")
# The worst of these, image by image, is what `robust` means here: all keep to the same ball.
INSIDE = (CLEAN, BACKGROUND, PGD, SEGPGD)
# Noise in half of the spectrum, and one step down the loss of the network's own answer.
LOWER, UPPER = (Cell("noise", f"{half} half", "none") for half in ("lower", "upper"))
FORTIFIED = Cell("fortified")
CELLS = (*INSIDE, PER_STEP, TRANSFERRED, LOWER, UPPER, FORTIFIED)
PROBES = ("noise", "fortified")  # no attacks, and told by mean IoU alone
# What networks are compared by. Pixel accuracy, paper 4's only score, can hardly see a nucleus.
SEEN = ("pixel_accuracy", "foreground_accuracy", "mean_iou")


def shown(source: Trained, cell: Cell, settings: Mapping) -> ImageSet:
    """The test images of a cell, attacked against ``source``; kept if figures will show them."""
    data, index, how = source.arm.task.data, source.arm.task.attacked, settings["attack"]
    if cell == CLEAN:
        return rows_of(data, index)
    if cell in (LOWER, UPPER):
        images = to_float(data.images[index])
        images += how["noise"] * band_noise(images.shape[1:], index, int(cell == UPPER), 2, seed=0)
        return with_images(data, index, images.clamp(0, 1), *cell)
    attack = Attack("answer", how["eps"], steps=1)  # the step is as long as the radius
    if cell != FORTIFIED:
        bounds = {"eps": 1.0, "step_size": how["eps"]} if cell == PER_STEP else {"eps": how["eps"]}
        attack = Attack(cell.attack, steps=how["steps"], **bounds)
    dtype, folder = precision(settings, source.model), source.folder
    folder = folder if cell in (BACKGROUND, TRANSFERRED) else None
    return segmentation.attack(source.model, data, index, attack, dtype=dtype, folder=folder)


def answers(trained: Trained) -> np.ndarray:
    """Label maps uint8 (n, H, W) that a network gives the clean test images, or read back."""
    model, data, index = trained.model, trained.arm.task.data, trained.arm.task.attacked
    key = fingerprint(digest(model), data.checksum, index.tolist())
    path = trained.folder / f"answers-{key}.npz"
    return cached_arrays(path, lambda: {"maps": segmentation.predict(model, data, index)})["maps"]


def evaluate(trained: Trained, settings: Mapping, clean: Trained) -> dict[Cell, scoring.Tally]:
    """What one network makes of every cell, or read back; ``clean`` is the one of its seed."""
    task, model, how, tallies = trained.arm.task, trained.model, settings["attack"], {}
    given = task.data.checksum, task.attacked.tolist(), how["eps"], how["steps"], how["noise"]
    for cell in CELLS:
        source = clean if cell == TRANSFERRED else trained
        if cell == TRANSFERRED and trained.folder == clean.folder:
            continue
        weights, dtype = (digest(model), digest(source.model)), precision(settings, source.model)

        def compute(cell: Cell = cell, source: Trained = source) -> dict[str, np.ndarray]:
            images = shown(source, cell, settings)
            return segmentation.tallied(model, images, range(len(images)), desc="score").arrays()

        key = fingerprint(*given, str(dtype), *weights)
        path = trained.folder / f"scored-{'-'.join(cell)}-{key}.npz"
        tallies[cell] = scoring.Tally(**cached_arrays(path, compute))
    return tallies


def scores(arm: Arm, tallies: Mapping[Cell, scoring.Tally]) -> pd.DataFrame:
    """Tidy rows: the scores of every cell, and how often each attack was the worst.

    Under ``WORST`` each score is that of the attacks that hurt it most, image by image; ``dice`` is
    that of the class ``kind``. Of PROBES mean IoU alone, and no Dice of single attacks.
    """
    groups, classes = arm.task.data.groups[arm.task.attacked], arm.task.data.classes
    weights, inside = metrics.group_weights(groups), [tallies[cell] for cell in INSIDE]
    found = {cell: scoring.score(counts, weights, classes) for cell, counts in tallies.items()}
    found[WORST] = scoring.score_worst(inside, weights, classes)
    by, lines = scoring.worst(inside)[1], []
    for cell, values in found.items():
        for name, one in values.items():
            told = cell in (CLEAN, WORST) or not (cell.attack in PROBES or "dice" in name)
            if told or name == "mean_iou":
                one = replace(one, groups=groups)
                lines.append({"metric": name, "estimate": one, **cell._asdict()})
        if cell in INSIDE:
            share = float((by == INSIDE.index(cell)).mean())
            lines.append({"metric": "worst_of_all", "estimate": share, **cell._asdict()})
    table = pd.DataFrame(lines).assign(n=len(by), seed=arm.seed, **arm.tags)
    dice = table["metric"].str.startswith("dice_")
    kind = table["metric"].str.removeprefix("dice_").where(dice)
    return table.assign(metric=table["metric"].mask(dice, "dice"), kind=kind)


def per_image(arm: Arm, tallies: Mapping[Cell, scoring.Tally]) -> pd.DataFrame:
    """A row for each cell and test image: its scores, and the attack that was the worst."""
    worst, by = scoring.worst([tallies[cell] for cell in INSIDE])
    about = {**arm.own, "seed": arm.seed}
    about["image"] = [arm.task.data.ids[row] for row in arm.task.attacked]
    about["worst_by"] = [INSIDE[place].attack for place in by]
    parts = [
        pd.DataFrame({**about, **cell._asdict(), **scoring.per_image(counts)})
        for cell, counts in {**tallies, WORST: worst}.items()
    ]
    return pd.concat(parts, ignore_index=True).round(4)


def within(scores: pd.DataFrame) -> pd.DataFrame:
    """What each network scores in one cell minus another.

    ``_drop``, clean minus attacked. By mean IoU alone: ``mean_iou_change``, under BACKGROUND minus
    clean; ``mean_iou_below_rivals``, under the lower of PGD and SegPGD minus under BACKGROUND;
    ``fortified_gain``, FORTIFIED minus clean; ``band_noise``, noise of high minus of low frequency.
    """
    attack, metric = scores["attack"], scores["metric"]
    few = metric.isin(SEEN) & ~attack.isin(PROBES)
    under, before = scores[few & attack.ne("none")], scores[few & attack.eq("none")]
    drops = tables.paired(under, before, "{}_drop", lambda one, two: two - one, Cell._fields)
    iou = scores[metric.eq("mean_iou")].drop(columns=["metric", "kind"])
    names = [name for name in iou if name not in ("estimate", *Cell._fields)]
    iou = iou.set_index([*names, *Cell._fields])["estimate"].unstack(list(Cell._fields))
    found = {
        "mean_iou_change": iou[BACKGROUND] - iou[CLEAN],
        "mean_iou_below_rivals": iou[[PGD, SEGPGD]].apply(tables.smallest, axis=1)
        - iou[BACKGROUND],
        "fortified_gain": iou[FORTIFIED] - iou[CLEAN],
        "band_noise": iou[UPPER] - iou[LOWER],
    }
    rows = [one.rename("estimate").reset_index().assign(metric=k) for k, one in found.items()]
    attacked = pd.concat(rows[:2]).assign(**BACKGROUND._asdict())
    return pd.concat([drops, attacked, *rows[2:]])


def under_ensemble(
    trained: Trained, settings: Mapping, tallies: Mapping[Cell, scoring.Tally]
) -> pd.DataFrame:
    """Rows of mean IoU on a few images of every group, as ``settings["attack"]["ensemble"]`` says.

    Under BACKGROUND and WORST, and under what four losses and all of these leave, image by image.
    Gradients are float32: nothing is to survive by rounding.
    """
    task, model, how = trained.arm.task, trained.model, settings["attack"]["ensemble"]
    groups = task.data.groups[task.attacked]
    few = [some(np.flatnonzero(groups == one), how["patches"], task.seed) for one in set(groups)]
    few = np.sort(np.concatenate(few))
    eps, rows = settings["attack"]["eps"], task.attacked[few]
    key = fingerprint(digest(model), task.data.checksum, rows.tolist(), eps, dict(how))

    def compute(kind: str) -> dict[str, np.ndarray]:
        attack = Attack(kind, eps, steps=how["steps"])
        images = segmentation.attack(model, task.data, rows, attack)
        return segmentation.tallied(model, images, range(len(images)), desc=kind).arrays()

    inside = [scoring.Tally(**{k: v[few] for k, v in tallies[c].arrays().items()}) for c in INSIDE]
    found = []
    for kind in layered.ENSEMBLE:
        path = trained.folder / f"ensemble-{kind}-{key}.npz"
        found.append(scoring.Tally(**cached_arrays(path, partial(compute, kind))))
    weights, classes = metrics.group_weights(groups[few]), task.data.classes
    scored = {
        "mean_iou_background": scoring.score(inside[INSIDE.index(BACKGROUND)], weights, classes),
        "mean_iou_worst": scoring.score_worst(inside, weights, classes),
        "mean_iou_ensemble": scoring.score_worst([*inside, *found], weights, classes),
    }
    rows = [(name, replace(one["mean_iou"], groups=groups[few])) for name, one in scored.items()]
    table = pd.DataFrame(rows, columns=["metric", "estimate"])
    return table.assign(n=len(few), attack="ensemble", seed=trained.arm.seed, **trained.arm.tags)


def probed(task: Task, settings: Mapping) -> np.ndarray:
    """The training images that the methods are measured on."""
    return some(task.split.train, settings["probe"], task.seed)


def shapes(clean: Trained, settings: Mapping) -> pd.DataFrame:
    """Rows on what is predicted after plain and layered PGD against a network.

    ``plain`` goes to one class, a mean over the classes; ``plain, K times`` to the last one, with
    the steps and the radius of all layers; ``_above_plain`` and ``_above_strong`` are regions after
    layered PGD minus those after these.
    """
    task, how, dtype = clean.arm.task, settings["method_one"], precision(settings, clean.model)
    index, kinds = probed(task, settings), range(len(task.data.classes))
    many = {name: len(kinds) * value for name, value in how.items()}
    ways = {"plain": [Attack(kind, **how) for kind in kinds]}
    ways["plain, K times"] = [Attack(kinds[-1], **many)]
    for ball, which in product(layered.BALLS, ("all", "present")):
        way = Layered(**how, ball=ball, present=which == "present")
        ways[f"layered, {ball}, {which}"] = [way]

    parts = []
    for name, several in ways.items():
        seen = []
        for way in several:
            given = clean.model, task.data, index, way
            moved = segmentation.attack(*given, dtype=dtype, folder=clean.folder)
            maps = segmentation.predict(clean.model, moved, range(len(moved)))
            seen.append(scoring.shape(maps))
        values = {measure: np.mean([one[measure] for one in seen], axis=0) for measure in seen[0]}
        rows = tables.image_means(values, task.data.groups[index])
        parts.append(rows.assign(perturbed=name, seed=clean.arm.seed, **task.tags))
    table = pd.concat(parts)
    regions = table[table["metric"].eq("regions")]
    ours = regions[regions["perturbed"].str.startswith("layered")]
    for rival, name in {"plain": "{}_above_plain", "plain, K times": "{}_above_strong"}.items():
        theirs = regions[regions["perturbed"].eq(rival)]
        parts.append(tables.paired(ours, theirs, name, apart=["perturbed"]))
    return pd.concat(parts)
