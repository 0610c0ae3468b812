"""Paper 3: from what its networks scored to tidy rows, and what is held against what.

A defence is held against the vanilla network of its task, backbone and start, and the GLCM loss
against T and C alone with the same colour module.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd

from ..reporting.results import Run
from ..scoring import metrics
from . import experiment, survival, tables
from .domain_assimilation import DEFENCES, Task
from .domain_assimilation_attack import NO_ATTACK, Robustness
from .domain_assimilation_reasons import MEASURES, Natural, Reasons
from .tables import NOTHING_LEFT, PerImage, known_mean

PLACE = ["role", "dataset", "split", "backbone", "start"]
OWN = ["defence", "alpha", "colour", "rows"]  # what tells an arm from the others of its place
AGAINST = {"none": OWN[1:], "modules": ["alpha", "rows"]}  # and what of it may differ in a pair
ATTACKED = "accuracy_attacked"
CENSUS = ("exact_duplicates_removed", "contradictory_labels_dropped", "near_duplicate_pairs")


def task_rows(run: Run, task: Task) -> pd.DataFrame:
    """Rows on a data set and its split: sizes, what was removed, leaks, the majority line."""
    table = experiment.describe_task(run, task, {"defence": "majority", **NO_ATTACK})
    counts = {name: task.raw.census.get(name, 0) for name in CENSUS}
    counts["class_size"] = min(task.data.class_counts().values())
    counts["class_size_listed"] = task.listed
    more = pd.DataFrame(counts.items(), columns=["metric", "estimate"]).assign(**task.tags)
    return pd.concat([table[table["metric"].ne("classes")], more])


def pairs(scores: pd.DataFrame, name: str) -> pd.DataFrame:
    """Every defence against what it is held against, image by image (see ``tables.compare``)."""
    found = [
        tables.compare(scores, "defence", new, old, name, apart=apart).assign(against=old)
        for old, apart in AGAINST.items()
        for new in DEFENCES
        if new not in ("none", old)
    ]
    return pd.concat(found)


def gains(scores: pd.DataFrame) -> pd.DataFrame:
    """What defences gain in accuracy: clean, at each eps of each attack, and over all eps."""
    clean = scores["attack"].eq("none")
    few = scores[scores["metric"].eq("accuracy") | (scores["metric"].eq(ATTACKED) & ~clean)]
    gained = tables.over_seeds(pairs(few, "accuracy_gain")).drop(columns="seeds")
    clean = gained["attack"].eq("none")
    slides = gained[~clean & gained["attack"].ne("bisection")]
    mean = tables.along(slides, "eps_255", "mean_gain", metrics.mean)
    return pd.concat([gained[clean].drop(columns="alive"), gained[~clean], mean])


def leaks(scores: pd.DataFrame) -> pd.DataFrame:
    """What a split by image is worth: clean scores there minus those under the honest split.

    Unpaired: the test images differ.
    """
    few = scores[scores["metric"].isin(["accuracy", "balanced_accuracy"])]
    how = {"name": "{}_gained_by_leak", "apart": ("dataset", "n")}
    table = tables.over_seeds(tables.compare(few, "split", "by image", "honest", **how))
    return table.drop(columns=["split", "n", "attack", *NO_ATTACK, "seeds", "alive"])


def reason_rows(robust: Robustness, reasons: Reasons) -> pd.DataFrame:
    """One network's attention region, sharpness and (with modules) texture, image by image."""
    values = {name: reasons.values[name] for name in MEASURES}
    if reasons.texture is not None:
        values["texture_distance"] = reasons.texture
    rows = [(name, PerImage(one, reasons.weights)) for name, one in values.items()]
    return pd.DataFrame(rows, columns=["metric", "estimate"]).assign(**robust.tags)


def averaged(table: pd.DataFrame) -> pd.DataFrame:
    """Means over the images where a measure is known, and over how many."""
    counts = [int(np.isfinite(one.values).sum()) for one in table["estimate"]]
    return table.assign(estimate=[one.mean() for one in table["estimate"]], n=counts)


def photo_rows(run: Run, photos: Natural, backbone: str, start: str) -> pd.DataFrame:
    """Rows of the ImageNet network on photographs: attention region and sharpness."""
    run.dataset(photos.photos)
    tags = {"dataset": photos.photos.name, "defence": "natural", "backbone": backbone}
    values, weights = photos.reasons.values, photos.reasons.weights
    rows = [(name, PerImage(values[name], weights)) for name in MEASURES]
    table = pd.DataFrame(rows, columns=["metric", "estimate"]).assign(**tags, start=start)
    return averaged(table)


def natural_rows(photos: Natural, robust: Robustness, reasons: Reasons) -> pd.DataFrame:
    """A medical network minus the ImageNet network on photographs; unpaired, the images differ."""
    ours, theirs = reasons, photos.reasons
    n, rows = len(ours.weights[0]), []
    for name in MEASURES:
        sides = (known_mean(one.values[name], one.weights) for one in (ours, theirs))
        gap = next(sides) - next(sides)
        rows.append({"metric": f"{name}_medical_minus_natural", "estimate": gap, "n": n})
    before, least = robust.strong.clean_right, np.isclose(robust.epsilons, 1 / 255)
    if before.any() and least.any():  # the photographs met no other eps
        right = robust.right["pgd", "quarter"][least.argmax()]
        left = known_mean(np.where(before, right, np.nan), robust.weights)
        natural = metrics.weighted_mean(photos.robust, theirs.weights)
        row = {
            "metric": "retained_medical_minus_natural",
            "estimate": left - natural,
            "eps_255": 1.0,
        }
        alive = max(left.value, natural.value) > NOTHING_LEFT
        rows.append(row | {"n": int(before.sum()), "alive": alive})
    tags = robust.arm.tags | robust.gates | {"against": "natural"}
    tags["dataset"] = f"{tags['dataset']}+{photos.photos.name}"
    return pd.DataFrame(rows).assign(**tags)


def add_autoattack(
    run: Run, scores: pd.DataFrame, shortened: str, levels: Collection[float]
) -> None:
    """Rows of what defences gain under AutoAttack; rows of their gains otherwise are marked.

    A gain at one eps by that at the same eps; a mean over all eps only if AutoAttack met them all.

    Args:
        scores: tidy rows of every ``Survival``.
        levels: eps of the other attacks in gray levels, over which their mean is taken.
    """
    both = [
        survival.gained(scores, "defence", old, shortened, apart=apart)
        for old, apart in AGAINST.items()
    ]
    gained, keys = pd.concat(both).drop(columns=["seeds", "alive"]), [*PLACE, *OWN, "against"]
    tables.record(run, gained)
    survival.mark_gains(run, gained, ["accuracy_gain"], keys, "eps_255")
    left = gained[gained["autoattack"].notna()].drop(columns="autoattack")
    mean = tables.along(left, "eps_255", "autoattack_mean_gain", metrics.mean)
    mean["autoattack"] = [survival.outcome(one, shortened) for one in mean["estimate"]]
    tables.record(run, mean)
    if {*left["eps_255"]} >= {float(level) for level in levels}:
        survival.mark_gains(run, mean, ["mean_gain"], keys)
