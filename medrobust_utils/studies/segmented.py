"""What one network of paper 4 makes of its test images, clean, attacked, in noise, and fortified:
counts an image for each way of being tested (`Cell`), and their tidy rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.signal import detrend

from .. import segmentation
from ..attacks import Attack, Layered, layered
from ..core.storage import cached_arrays, fingerprint
from ..data import ImageSet, to_float
from ..data.imageset import rows_of, with_images
from ..data.splits import some
from ..explain.spectrum import band_noise
from ..models import MedicalModel, digest
from ..scoring import metrics
from ..scoring import segmentation as scoring
from ..scoring.metrics import DRAWS, Estimate
from . import tables
from .evaluation import precision
from .experiment import Arm, Trained


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
PROBES = ("noise", "fortified")  # no attacks, and judged by mean IoU alone
# What networks are compared by. Pixel accuracy, paper 4's only score, can hardly see a nucleus.
SEEN = ("pixel_accuracy", "foreground_accuracy", "mean_iou")
FLUCTUATES = 0.05  # standard deviation over mean of a validation loss that does
FOUR = ("clean", "layered", "selective", "union")  # the schemes of models 1 to 4
# Which networks are held against which, with the one that is to gain last.
RIVALS = {
    "clean": ["layered", "selective", "union", "adversarial", "clean_layered", "on_the_fly"],
    "layered": ["selective", "union", "clean_layered", "on_the_fly"],
    "selective": ["union"],
    "clean_layered": ["union"],
}


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


def evaluate(trained: Trained, settings: Mapping, clean: Trained) -> dict[Cell, scoring.Tally]:
    """What one network makes of every cell, or read back; ``clean`` is the one of its seed."""
    task, model, how, tallies = trained.arm.task, trained.model, settings["attack"], {}
    given = task.data.checksum, task.attacked.tolist(), how["eps"], how["steps"], how["noise"]
    for cell in CELLS:
        source = clean if cell == TRANSFERRED else trained
        if cell == TRANSFERRED and trained.folder == clean.folder:
            continue
        weights, dtype = (digest(model), digest(source.model)), precision(settings, source.model)
        key = fingerprint(*given, str(dtype), *weights)
        path = trained.folder / f"scored-{'-'.join(cell)}-{key}.npz"
        tallies[cell] = _tallied(path, model, partial(shown, source, cell, settings))
    return tallies


def _tallied(path: Path, model: MedicalModel, images: Callable[[], ImageSet]) -> scoring.Tally:
    """Counts of the images that a call makes, or read back from ``path``."""

    def compute() -> dict[str, np.ndarray]:
        made = images()
        return segmentation.tallied(model, made, range(len(made)), desc="score").arrays()

    return scoring.Tally(**cached_arrays(path, compute))


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
            aside = cell.attack in PROBES or "dice" in name
            if name == "mean_iou" or cell in (CLEAN, WORST) or not aside:
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
    few = scores[scores["metric"].isin(SEEN) & ~scores["attack"].isin(PROBES)]
    before, under = (few[few["attack"].eq("none") == clean] for clean in (True, False))
    drops = tables.paired(under, before, "{}_drop", lambda one, two: two - one, Cell._fields)
    iou = scores[scores["metric"].eq("mean_iou")].drop(columns=["metric", "kind"])
    iou = iou.set_index([*iou.columns.drop("estimate")])["estimate"].unstack([*Cell._fields])
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
    groups, eps = task.data.groups[task.attacked], settings["attack"]["eps"]
    few = [some(np.flatnonzero(groups == one), how["patches"], task.seed) for one in set(groups)]
    few = np.sort(np.concatenate(few))
    groups, index = groups[few], task.attacked[few]
    key = fingerprint(digest(model), task.data.checksum, index.tolist(), eps, dict(how))
    arrays = {cell: tallies[cell].arrays().items() for cell in INSIDE}
    inside = {cell: scoring.Tally(**{k: v[few] for k, v in one}) for cell, one in arrays.items()}
    stronger = [*inside.values()]
    for kind in layered.ENSEMBLE:
        attack = Attack(kind, eps, steps=how["steps"])
        images = partial(segmentation.attack, model, task.data, index, attack)
        stronger.append(_tallied(trained.folder / f"ensemble-{kind}-{key}.npz", model, images))
    rows, weights = [], metrics.group_weights(groups)
    sets = {"background": [inside[BACKGROUND]], "worst": [*inside.values()], "ensemble": stronger}
    for name, counts in sets.items():
        one = scoring.score(scoring.worst(counts)[0], weights, task.data.classes)["mean_iou"]
        rows.append({"metric": f"mean_iou_{name}", "estimate": replace(one, groups=groups)})
    tags = {"n": len(few), "attack": "ensemble", "seed": trained.arm.seed, **trained.arm.tags}
    return pd.DataFrame(rows).assign(**tags)


def shapes(clean: Trained, settings: Mapping) -> pd.DataFrame:
    """Rows on what is predicted after plain and layered PGD against a network.

    ``plain`` goes to one class, a mean over the classes; ``plain, K times`` to the last one, with
    the steps and the radius of all layers; ``_above_plain`` and ``_above_strong`` are regions after
    layered PGD minus those after these.
    """
    task, how, dtype = clean.arm.task, settings["method_one"], precision(settings, clean.model)
    index = some(task.split.train, settings["probe"], task.seed)
    kinds = range(len(task.data.classes))
    many = {name: len(kinds) * value for name, value in how.items()}
    ways = [("plain", Attack(kind, **how)) for kind in kinds]
    ways.append(("plain, K times", Attack(kinds[-1], **many)))
    for ball, which in product(layered.BALLS, ("all", "present")):
        way = Layered(**how, ball=ball, present=which == "present")
        ways.append((f"layered, {ball}, {which}", way))
    found = []
    for name, way in ways:
        given = clean.model, task.data, index, way
        moved = segmentation.attack(*given, dtype=dtype, folder=clean.folder)
        maps = segmentation.predict(clean.model, moved, range(len(moved)))
        found.append(pd.DataFrame(scoring.shape(maps)).assign(perturbed=name))
    parts = []
    for name, measures in pd.concat(found).groupby("perturbed", sort=False):
        values = measures.drop(columns="perturbed").groupby(level=0).mean().to_dict("series")
        rows = tables.image_means(values, task.data.groups[index])
        parts.append(rows.assign(perturbed=name, seed=clean.arm.seed, **task.tags))
    table = pd.concat(parts)
    regions = table[table["metric"].eq("regions")]
    ours = regions[regions["perturbed"].str.startswith("layered")]
    for rival, name in {"plain": "{}_above_plain", "plain, K times": "{}_above_strong"}.items():
        theirs = regions[regions["perturbed"].eq(rival)]
        parts.append(tables.paired(ours, theirs, name, apart=["perturbed"]))
    return pd.concat(parts)


def compared(scores: pd.DataFrame) -> pd.DataFrame:
    """Rows of single networks, with what they gain over one another, over the training seeds.

    A ``_gain`` is a network's score minus that of another (``against``, see RIVALS): of models as
    the paper has them, and over the clean one of other readings too.
    """
    scores = pd.concat([scores, within(scores)])
    few = scores[scores["metric"].isin([*SEEN, "band_noise"]) & ~scores["attack"].isin(PROBES)]
    # one attacked test set for all: the clean network meets it as its own
    own = tables.chosen(few, {"scheme": "clean", **BACKGROUND._asdict()})
    return tables.over_seeds(pd.concat([scores, gains(few, own.assign(made_for="clean"))]))


def gains(scores: pd.DataFrame, more: pd.DataFrame | None = None) -> pd.DataFrame:
    """Every network held against its RIVALS; ``more`` are rows of rivals alone."""
    main, parts = scores["variant"].eq("main"), []
    theirs = pd.concat([scores[main], more])
    for rival, schemes in RIVALS.items():
        ours = scores[scores["scheme"].isin(schemes) & (main | (rival == "clean"))]
        apart = ["scheme", "ball", "classes", "variant"]
        pairs = tables.paired(ours, theirs[theirs["scheme"].eq(rival)], apart=apart)
        parts.append(pairs.assign(against=rival))
    return pd.concat(parts)


def agreement(trained: Iterable[Trained]) -> pd.DataFrame:
    """Rows on whether models 2 and 3 of a seed answer alike: the share of the clean test pixels
    that they give one class, minus that of two seeds of model 2; none where there is one seed."""
    maps, parts = {}, [pd.DataFrame()]
    for arm, model in [one[:2] for one in trained if one.arm.scheme in ("layered", "selective")]:
        found = segmentation.predict(model, arm.task.data, arm.task.attacked)
        maps[arm.scheme, arm.seed] = arm, found
    seeds = [seed for scheme, seed in maps if scheme == "selective" and ("layered", seed) in maps]
    for seed, other in zip(seeds, seeds[1:] + seeds[:1], strict=True):
        if seed != other:
            (arm, three), (_, two) = maps["selective", seed], maps["layered", seed]
            rival = maps["layered", other][1]
            gain = (two == three).mean((1, 2)) - (two == rival).mean((1, 2))
            groups = arm.task.data.groups[arm.task.attacked]
            rows = tables.image_means({"agreement_gain": gain}, groups)
            tags = {"against": "layered", "attack": "none", "seed": seed}
            parts.append(rows.assign(**arm.tags, **tags))
    return pd.concat(parts)


def fluctuations(trained: Iterable[Trained]) -> pd.DataFrame:
    """Rows on the validation loss in the second half of the epochs: its standard deviation over
    its mean (``val_loss_spread``); about a straight line, of the least of the four models, minus
    FLUCTUATES (``val_loss_spread_above``)."""
    rows, least = [], defaultdict(list)
    for one in trained:
        arm, loss = one.arm, np.array([row["val_loss"] for row in one.history])
        half, about = loss[len(loss) // 2 :], {"n": len(arm.task.chosen), "seed": arm.seed}
        spread = {"metric": "val_loss_spread", "estimate": half.std() / half.mean()}
        rows.append(spread | about | arm.tags)
        if arm.scheme in FOUR:
            least[arm.seed].append(detrend(half).std() / half.mean() - FLUCTUATES)
    four = {"metric": "val_loss_spread_above", "schemes": "four", **about, **arm.task.tags}
    rows += [four | {"estimate": min(k), "seed": s} for s, k in least.items() if len(k) == 4]
    table = pd.DataFrame(rows)  # no images, hence no variance of theirs
    sure = [Estimate(value, np.full(DRAWS, value)) for value in table["estimate"]]
    return table.assign(estimate=sure)
