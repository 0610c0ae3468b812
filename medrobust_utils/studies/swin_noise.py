"""Paper 1: Swin-T against ResNet-50, clean and under Gaussian noise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial, reduce
from itertools import pairwise
from operator import sub
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ..core import env
from ..data import ImageSet, Split, ThreeWay, load, split_by_group, to_float
from ..data.readers import official_split
from ..data.views import copy_per_label
from ..models import MedicalModel, build, complexity
from ..scoring import metrics
from ..scoring.metrics import Estimate
from ..scoring.predict import kept, noise_sweep
from . import experiment, tables
from .common import asked_for, cast, clean_scores, some, unscored, whole_images
from .experiment import Task, Trained, pick

PAPER = "1_swin_noise"
ROLES = ("nih", "isic")  # the paper's two data sets; each is played by a set of the profile
NIH_SPLITS = ("patient", "official")
NO_NOISE = {"reading": "none", "noise": 0.0}
DROPS = {"top1": "top1_drop", "auc_micro": "auc_drop", "auc_macro": "auc_macro_drop"}
FALLING = ("top1", "top5", "auc_micro")  # what the paper saw degrade
COMPARED = (  # what is held against each other: column, its two values, metrics
    ("model", "swin", "resnet", ("top1", "auc_macro")),
    ("model", "resnet", "swin", ("loss", *DROPS.values())),
    ("start", "imagenet", "scratch", ("top1",)),
    ("role", "isic", "nih", ("top1", "top5", "top1_drop")),
    ("role", "nih", "isic", ("auc_drop",)),
)
CLEAN_AUC = {"auc_macro_swin_minus_resnet": "auc_swin_minus_resnet"}  # as the headline calls it


@dataclass(frozen=True)
class Arm(experiment.Arm):
    """One network, with one training seed, on one data set under one labelling."""

    model: str
    start: str

    @property
    def title(self) -> str:
        """What a reader calls it."""
        return f"{self.model}, {self.start}"


def arms(settings: Mapping, *, seed: int, role: str = "", model: str = "") -> Iterator[Arm]:
    """Every arm of the profile, task by task; ``role`` and ``model`` pick some (see ``grid``).

    Data with one label an image have no arms on copies. Raises ProtocolError as ``grid`` does.
    """
    settings, role = cast(settings, role, ROLES[0])
    pick(dict.fromkeys(NIH_SPLITS), "nih_split", settings["nih_split"])
    opened = cache(partial(_opened, settings, seed=seed))
    task = cache(partial(_task, settings, opened, seed=seed))  # arms of one task share it
    picked = {"seed": seed, "role": role, "model": model}
    for spec, number in experiment.grid(settings, ("model", "start"), **picked):
        if here := task(spec["role"], spec["labels"]):
            yield Arm(here, number, spec["model"], spec["start"])


def _opened(settings: Mapping, role: str, *, seed: int) -> tuple[ImageSet, Split]:
    how = {"size": settings["size"], "phantoms": settings["phantoms"], "seed": seed}
    data = whole_images(load(settings["datasets"][role], **how))
    if settings["nih_split"] == "official" and data.name == "nih":
        return data, official_split(data, env.data_root())
    return data, split_by_group(data, seed=seed)


def _task(settings: Mapping, opened, role: str, labels: str, *, seed: int) -> Task | None:
    raw, split = opened(role)
    if labels == "copies" and not raw.multi_label:
        return None
    data, (train, val) = copy_per_label(raw, split) if labels == "copies" else (raw, split)
    protocol = "multi_label" if data.multi_label else "single_label"
    tags = {"role": role, "dataset": data.name, "protocol": protocol, "sound": labels == "sound"}
    noisy = some(val, settings["noise_images"], seed)
    return Task(
        f"{data.name}-{protocol}",
        tags,
        data,
        raw,
        ThreeWay(train, noisy, val),
        chosen=noisy,
        attacked=noisy,
        draw=(ROLES.index(role),),  # keeps the draws of two data sets independent
        seed=seed,
        asked=asked_for(settings, role),
    )


def build_arm(arm: Arm, settings: Mapping) -> MedicalModel:
    """The untrained network of an arm."""
    env.seed_everything(arm.seed)
    spec, classes = settings["models"][arm.model], len(arm.task.data.classes)
    return build(spec["backbone"], classes, start=arm.start, options=spec["options"])


def train(arm: Arm, settings: Mapping, checkpoints: Path) -> Trained:
    """Train an arm, or read back what was trained (see ``experiment.train``)."""
    model, recipe = build_arm(arm, settings), settings["training"]
    recipe = recipe | {
        "epochs": recipe["epochs"][arm.task.role],
        "lr": recipe["lr"][model.start],
        "flips": settings["flips"][arm.task.role],
    }
    identity = (settings["models"][arm.model], recipe, arm.task.size)
    return experiment.train(
        arm, model, recipe, settings, checkpoints, paper=PAPER, identity=identity
    )


def facts(task: Task) -> pd.DataFrame:
    """Tidy rows on a data set: sizes, pixels, and what the label frequencies alone score."""
    data, val, counts = task.data, task.split.test, task.data.class_counts().values()
    prior = metrics.prior_logits(data.targets[task.split.train], len(val), len(data.classes))
    weights = metrics.group_weights(data.groups[val])
    scores = metrics.score(prior, data.targets[val], weights, ignore=unscored(data))
    constant = {"n": len(val), "model": "majority", "start": "none", **NO_NOISE}
    rows = [{"metric": name, "estimate": score, **constant} for name, score in scores.items()]
    low, high = pixel_range(task)
    exact = {
        "n_classes": len(data.classes),
        # the publisher's listing, not copies
        "n_images": data.census.get("images_listed", data.census.get("images", len(data))),
        "class_size_max": max(counts),
        "class_size_min": min(counts),
        "pixel_min_normalised": low,
        "pixel_max_normalised": high,
    }
    rows += [{"metric": name, "estimate": value} for name, value in exact.items()]
    return pd.DataFrame(rows).assign(**{k: v for k, v in task.tags.items() if k != "sound"})


def pixel_range(task: Task) -> tuple[float, float]:
    """Least and greatest pixel of the validation images after ImageNet's normalisation."""
    ends = []
    for rows in np.array_split(task.split.test, math.ceil(len(task.split.test) / 256)):
        images = to_float(task.data.images[rows])
        ends += [images.amin((0, 2, 3)).numpy(), images.amax((0, 2, 3)).numpy()]
    normal = (np.broadcast_to(ends, (len(ends), 3)) - IMAGENET_DEFAULT_MEAN) / IMAGENET_DEFAULT_STD
    return float(normal.min()), float(normal.max())


def imbalance(tasks: Iterable[Task]) -> pd.DataFrame:
    """How much more unbalanced NIH is: log10 of largest over smallest class, less ISIC's."""
    names, spread = {}, {}
    for task in tasks:
        counts = [count for count in task.data.class_counts().values() if count]
        names[task.role] = task.data.name
        spread[task.role] = math.log10(max(counts) / min(counts))
    if len(names) < 2:
        return pd.DataFrame()
    row = {"metric": "imbalance_nih_minus_isic", "estimate": spread["nih"] - spread["isic"]}
    return pd.DataFrame([row | {"dataset": "+".join(names[role] for role in ROLES)}])


def evaluate(trained: Trained, settings: Mapping, *, seed: int) -> pd.DataFrame:
    """Tidy rows of one network: clean on all validation images, and under every noise.

    The clean scores of the noise images begin the curve of each reading, at noise 0.

    Args:
        seed: of the first noise and of the bootstrap; the same for all arms, so that they are
            compared on the same noise and the same draws.
    """
    arm, model, _, folder = trained
    task, draw, val = arm.task, [seed, *arm.task.draw], arm.task.split.test
    logits = kept(folder / "logits-clean.npz", model, task.data, val, desc=f"{arm.key}: clean")
    how = {"first_seed": seed, **settings["noise"]}
    noisy = noise_sweep(model, task.data, task.attacked, folder, **how)
    model.cpu()  # make room for the next
    scores, gates = clean_scores(task.data, task.split, logits, draw)
    clean = [{"metric": k, "estimate": v, "n": len(val), **NO_NOISE} for k, v in scores.items()]
    weights = metrics.group_weights(task.data.groups[task.attacked], draw)
    targets = task.data.targets[task.attacked]
    cells = [
        (reading, level, name, estimate)
        for (reading, level, _), found in noisy.items()
        for name, estimate in metrics.score(
            found, targets, weights, ignore=unscored(task.data)
        ).items()
    ]
    table = pd.DataFrame(cells, columns=["reading", "noise", "metric", "estimate"])
    means = table.groupby(["reading", "noise", "metric"], sort=False)["estimate"]
    table = means.agg(lambda seeds: metrics.mean([*seeds])).reset_index()
    start, under = (table[table["reading"].eq("none") == plain] for plain in (True, False))
    starts = [start.assign(reading=reading) for reading in under["reading"].unique()]
    rows = pd.concat([pd.DataFrame(clean), pd.concat([*starts, under]).assign(n=len(targets))])
    if task.data.multi_label:
        rows = pd.concat([rows, by_finding(task, logits).assign(**NO_NOISE)])
    return rows.assign(**arm.tags, **gates, seed=arm.seed)


def by_finding(task: Task, logits: np.ndarray) -> pd.DataFrame:
    """Rows on each finding's AUC, and on its rank correlation with the finding's images."""
    val, names = task.split.test, task.data.classes
    counts = task.data.class_counts(task.split.train)
    weights = metrics.group_weights(task.data.groups[val])
    areas = metrics.class_aucs(logits, task.data.targets[val], weights)
    areas = {names[k]: area for k, area in areas.items() if k not in unscored(task.data)}
    sizes = [counts[name] for name in areas]
    ranks = np.full(1 + metrics.DRAWS, math.nan)
    if len(areas) > 2:
        ranks = np.array(
            [spearmanr(sizes, draw).statistic for draw in np.transpose([*areas.values()])]
        )
    found = pd.DataFrame({"finding": [*areas], "images": sizes, "metric": "auc_class"})
    found["estimate"] = [Estimate(float(area[0]), area[1:]) for area in areas.values()]
    rank = {"metric": "auc_size_spearman", "estimate": Estimate(float(ranks[0]), ranks[1:])}
    return pd.concat([found, pd.DataFrame([rank])])


def drops(scores: pd.DataFrame) -> pd.DataFrame:
    """How far accuracy and AUC fall from no noise to each level, on the same images."""
    few = scores[scores["metric"].isin(DROPS) & scores["reading"].ne("none")]
    start, under = (few[few["noise"].eq(0) == plain] for plain in (True, False))
    fallen = tables.paired(under, start, "{}", lambda under, start: start - under, ["noise"])
    return fallen.assign(metric=fallen["metric"].map(DROPS)).drop(columns=["ours", "theirs"])


def along_levels(scores: pd.DataFrame, levels: Sequence[float]) -> pd.DataFrame:
    """The smallest fall of any metric from level to level, and the first fall less the others.

    Args:
        levels: those the paper tabulates, rising; nothing is said where one was not run.
    """
    few = scores[scores["metric"].isin(FALLING) & scores["reading"].ne("none")]
    few = few[few["noise"].isin(levels)]
    before = few.assign(noise=few["noise"].map(dict(pairwise(levels))))
    steps = tables.paired(few, before, "{}", lambda after, before: before - after)
    if steps["noise"].nunique() < len(levels) - 1:
        return steps[:0]
    steps = steps.drop(columns=["ours", "theirs"]).sort_values("noise")
    first = steps[steps["metric"].eq("top1")]
    return pd.concat(
        [
            tables.along(steps, "noise", "smallest_step_down", tables.smallest),
            tables.along(first, "noise", "first_minus_later_drop", partial(reduce, sub)),
        ]
    )


def comparisons(scores: pd.DataFrame) -> pd.DataFrame:
    """Differences between networks, starts and data sets, and of accuracy from top-1.

    Two data sets have different images: their draws are independent.
    """
    clean, names = scores[scores["reading"].eq("none")], scores.groupby("role")["dataset"].first()
    both, pairs = pd.concat([clean, drops(scores)]), []
    for column, ours, theirs, wanted in COMPARED:
        few = both[both["metric"].isin(wanted)]
        name, apart = f"{{}}_{ours}_minus_{theirs}", []
        if column == "role":
            few, apart = few.drop(columns=["n", "sound"]), ["dataset"]
        pair = tables.compare(few, column, ours, theirs, name, apart=apart).drop(columns=column)
        if column == "role":
            pair = pair.assign(dataset="+".join(names.get(role, "") for role in ROLES))
        pairs.append(pair)
    single = clean[clean["protocol"].eq("single_label")].drop(columns="n")
    pairs.append(tables.compare(single, "metric", "val_accuracy", "top1", "{}_minus_top1"))
    return pd.concat(pairs).drop(columns=["ours", "theirs"]).replace({"metric": CLEAN_AUC})


def over_seeds(scores: pd.DataFrame) -> pd.DataFrame:
    """Means over training seeds; a row says how many only where there were several."""
    table = tables.over_seeds(scores)
    return table.assign(seeds=table["seeds"].where(table["seeds"] > 1))


def attention_costs(sides: Iterable[int], channels: int, window: int) -> pd.DataFrame:
    """Multiply-adds of global and windowed attention for growing images, counted and by formula.

    Returns:
        Columns kind, equation (1 or 2), patches, counted, formula.
    """
    kinds = {
        "global": (1, complexity.counted_global, complexity.equation_1, (channels,)),
        "window": (2, complexity.counted_window, complexity.equation_2, (channels, window)),
    }
    rows = [
        (kind, number, side**2, counted(side, *args), formula(side, *args))
        for kind, (number, counted, formula, args) in kinds.items()
        for side in sides
    ]
    return pd.DataFrame(rows, columns=["kind", "equation", "patches", "counted", "formula"])
