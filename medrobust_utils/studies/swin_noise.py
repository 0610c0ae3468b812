"""Paper 1: Swin-T against ResNet-50, clean, under Gaussian noise and under AutoAttack.

The paper adds noise to its validation images. It planned AutoAttack on a thousand images, 800 to
fit and 200 to attack, and never ran it. Here a network begins from ImageNet's weights, or from
random ones and first learns other images; then the 800 fine-tune it, and the 200 meet attacks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial, reduce
from itertools import pairwise
from operator import sub
from pathlib import Path

import numpy as np
import pandas as pd
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ..core import env
from ..data import ImageSet, ThreeWay, load, split_by_group
from ..data.own import own_folder, with_own_data
from ..data.splits import some
from ..data.views import copy_per_label, whole_images
from ..explain import spectrum
from ..models import MedicalModel, build
from ..scoring import metrics, robustness
from ..scoring.imagesets import clean_scores, unscored
from ..scoring.predict import kept, noise_sweep
from . import evaluation, experiment, tables
from .experiment import Trained
from .survival import Survival, survive

PAPER = "1_swin_noise"
ROLES = ("nih", "isic")  # the paper's two data sets; each is played by a set of the profile
THOUSAND, REST = "thousand", "rest"  # ``before`` is the rest: images that are not among it
NO_NOISE, NO_ATTACK = {"reading": "none", "noise": 0.0}, {"attack": "none", "eps_255": 0.0}
UNDER_NOISE = ("top1", "top5", "auc_micro", "auc_macro")
DROPS = {"auc_micro": "auc_drop", "auc_macro": "auc_macro_drop"}  # to a level of the noise
ATTACKED, NOISE_GAP = "accuracy_attacked", "accuracy_noise_minus_adversarial"
# What is compared: metric, column, its two values, name of the difference, where.
COMPARED = (
    ("top1", "model", "swin", "resnet", "top1_swin_minus_resnet", NO_NOISE),
    ("auc_macro", "model", "swin", "resnet", "auc_swin_minus_resnet", NO_NOISE),
    ("loss", "model", "resnet", "swin", "loss_resnet_minus_swin", NO_NOISE),
    ("auc_macro_drop", "model", "resnet", "swin", "auc_macro_drop_resnet_minus_swin", {}),
    ("top1", "start", "imagenet", "scratch", "top1_imagenet_minus_scratch", NO_NOISE),
    ("auc_drop", "role", "nih", "isic", "auc_drop_nih_minus_isic", {}),
    (ATTACKED, "attack", "noise", "autoattack", NOISE_GAP, {}),
    ("retained", "model", "swin", "resnet", "retained_swin_minus_resnet", {}),
    ("log2_radius", "model", "swin", "resnet", "log2_radius_gain", {}),
    ("centroid", "model", "resnet", "swin", "lowpass_swin_minus_resnet", {}),
    ("centroid_learnt", "model", "resnet", "swin", "lowpass_gain_by_learning", {}),
)
ASIDE = {metric for metric, *_, where in COMPARED if not where} - {ATTACKED}  # compared only


@dataclass(frozen=True)
class Task(experiment.Task):
    """A data set; of the thousand, ``before`` is what random weights learn first, if anything."""

    before: Task | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Arm(experiment.Arm):
    """One network, with one training seed, on one data set under one labelling.

    On the thousand, ``before`` names the data set that it learnt before the 800, or ``nothing``.
    """

    model: str
    start: str
    before: str = ""

    @property
    def own(self) -> dict[str, str]:
        return {name: value for name, value in super().own.items() if value}

    @property
    def title(self) -> str:
        """What a reader calls it."""
        return f"{self.model}, {self.start}"


def arms(settings: Mapping, *, seed: int, role: str = "", model: str = "") -> Iterator[Arm]:
    """Every arm of the noise study, or, of settings with those of ``thousand`` in place of its own,
    of the attacked images; ``role`` and ``model`` pick some (see ``grid``).

    Data with one label an image have no arms on copies. Raises ProtocolError as ``grid`` does.
    """
    settings, role = with_own_data(settings, role, ROLES[0])
    how = {"size": settings["size"], "phantoms": settings["phantoms"], "seed": seed}
    opened = cache(lambda name: whole_images(load(name, **how)))
    task = cache(partial(_task, settings, opened, seed=seed))  # arms of one task share it
    picked = {"seed": seed, "role": role, "model": model}
    for spec, number in experiment.grid(settings, ("model", "start"), **picked):
        labels = spec.get("labels", THOUSAND)
        before = "nothing" if labels == THOUSAND else ""
        if here := task(spec["role"], labels):
            yield Arm(here, number, spec["model"], spec["start"], before)


def _task(settings: Mapping, opened, role: str, labels: str, *, seed: int) -> Task | None:
    raw = opened(settings["datasets"][role])
    split = split_by_group(raw, seed=seed)
    if labels == "copies" and not raw.multi_label:
        return None
    data, (train, val) = copy_per_label(raw, split) if labels == "copies" else (raw, split)
    protocol = "multi_label" if data.multi_label else "single_label"
    tags = {"role": role, "dataset": data.name, "protocol": protocol, "sound": labels != "copies"}
    about = {"seed": seed, "draw": (ROLES.index(role),)}
    if labels != THOUSAND:
        noisy = some(val, settings["noise_images"], seed)
        ways = ThreeWay(train, noisy, val)
        return Task(f"{data.name}-{protocol}", tags, data, raw, ways, noisy, noisy, **about)

    def task(key: str, data: ImageSet, train: np.ndarray, held: np.ndarray, **before: Task) -> Task:
        held = some(held, settings["attacked"], seed)
        ways = ThreeWay(train, held, held)
        return Task(key, tags | {THOUSAND: True}, data, data, ways, held, held, **about, **before)

    fitted, key = some(train, settings["fit"], seed), f"{data.name}-{settings['size']}"
    first, held = train[~np.isin(data.groups[train], data.groups[fitted])], fitted
    other = REST if own_folder(settings, role) else settings["before"][role]
    if other not in ("", REST):
        raw = opened(other)
        first, held = split_by_group(raw, seed=seed)
    elif not other or len(first) < settings["fit"]:  # of a thousand images hardly any is left
        return task(f"{key}-thousand", data, fitted, val)
    before = task(f"before-{key}-thousand", raw, first, held)
    return task(f"{key}-thousand", data, fitted, val, before=before)


def build_arm(arm: Arm, settings: Mapping) -> MedicalModel:
    """The untrained network of an arm."""
    env.seed_everything(arm.seed)
    spec, classes = settings["models"][arm.model], len(arm.task.data.classes)
    return build(spec["backbone"], classes, start=arm.start, options=spec["options"])


def train(arm: Arm, settings: Mapping, checkpoints: Path) -> Trained:
    """Train an arm, or read back what was trained (see ``experiment.train``).

    Of the thousand, ``start`` and ``before`` of the result say what was really run.
    """
    recipe, model, before = settings["training"], build_arm(arm, settings), arm.task.before

    def fit(arm: Arm, model: MedicalModel, epochs: int, lr: float, *known: str) -> Trained:
        own = {"epochs": epochs, "lr": lr, "flips": settings["flips"][arm.task.role]}
        identity = settings["models"][arm.model], recipe | own, arm.task.size, *known
        about = {"paper": PAPER, "identity": identity}
        return experiment.train(arm, model, recipe | own, checkpoints, **about)

    if not arm.before:
        return fit(arm, model, recipe["epochs"][arm.task.role], recipe["lr"][model.start])
    known, epochs = "", settings["epochs"]
    if model.start == "scratch" and before:
        first = replace(arm, task=before, start="scratch")
        untrained, lr = build_arm(first, settings), recipe["lr"]["scratch"]
        learnt = fit(first, untrained, epochs["before"], lr, "")
        mine, theirs = model.state_dict(), learnt.model.state_dict()
        # the head only where it names the same number of classes
        theirs = {key: value for key, value in theirs.items() if value.shape == mine[key].shape}
        model.load_state_dict(mine | theirs)
        known, arm = learnt.folder.name, replace(arm, before=before.data.name)
    return fit(arm, model, epochs["fit"], settings["lr"]["fit"], known)


def facts(task: Task) -> pd.DataFrame:
    """Tidy rows: what label frequencies alone score, least and greatest normalised pixel."""
    val, images = task.split.test, task.data.images
    constant = {"n": len(val), "model": "majority", "start": "none", **NO_NOISE}
    alone = experiment.majority(task).items()
    rows = [{"metric": name, "estimate": one, **constant} for name, one in alone]
    for name, end in {"pixel_min": np.min, "pixel_max": np.max}.items():
        ends = np.array([end(images[image], (0, 1)) for image in val]) / 255
        normal = (ends - IMAGENET_DEFAULT_MEAN) / IMAGENET_DEFAULT_STD  # gray: in three channels
        rows.append({"metric": f"{name}_normalised", "estimate": float(end(normal))})
    return pd.DataFrame(rows).assign(**{k: v for k, v in task.tags.items() if k != "sound"})


def evaluate(trained: Trained, settings: Mapping, *, seed: int) -> pd.DataFrame:
    """Tidy rows of one network: clean on all validation images, and under every noise.

    The clean scores of the noise images begin the curve of each reading, at noise 0. The seed, of
    the first noise and of the bootstrap, is the same for all networks.
    """
    arm, model, _, folder = trained
    task, how, rows = arm.task, settings["noise"], []
    data, val, index, draw = task.data, task.split.test, task.attacked, [seed, *task.draw]
    logits = kept(folder / "logits-clean.npz", model, data, val, desc=f"{arm.key}: clean")
    found = noise_sweep(model, data, index, folder, first_seed=seed, **how)
    model.cpu()  # make room for the next
    clean = clean_scores(data, val, logits, draw)
    clean["accuracy_above_majority"] = clean["top1"] - experiment.majority(task, draw)["top1"]
    if data.multi_label:
        weights = metrics.group_weights(data.groups[val], draw)
        areas = metrics.class_aucs(logits, data.targets[val], weights)
        known = {k: one for k, one in areas.items() if k not in unscored(data)}
        sizes = [*data.class_counts(task.split.train).values()]
        clean["auc_size_spearman"] = metrics.size_rank(known, sizes)
    else:
        clean["val_accuracy_minus_top1"] = clean["val_accuracy"] - clean["top1"]
    rows = [{"metric": k, "estimate": v, "n": len(val), **NO_NOISE} for k, v in clean.items()]
    noisy = {key: clean_scores(data, index, one, draw) for key, one in found.items()}
    for reading in how["seeds"]:
        start = {}
        for level in sorted({0.0, *how["levels"]}):
            wanted = (reading if level else "none", level)
            drawn = [scores for (*cell, _), scores in noisy.items() if tuple(cell) == wanted]
            here = {name: metrics.mean([one[name] for one in drawn]) for name in UNDER_NOISE}
            start = start or here
            here |= {drop: start[name] - here[name] for name, drop in DROPS.items() if level}
            cell = {"reading": reading, "noise": level, "n": len(index)}
            rows += [{"metric": name, "estimate": one, **cell} for name, one in here.items()]
    return pd.DataFrame(rows).assign(**arm.tags, seed=arm.seed)


def along_levels(scores: pd.DataFrame, levels: Sequence[float]) -> pd.DataFrame:
    """The smallest fall of any metric from level to level, and the first fall less the others.

    Args:
        levels: those the paper tabulates, rising; nothing is said where one was not run.
    """
    few = scores[scores["metric"].isin(UNDER_NOISE[:3]) & scores["reading"].ne("none")]
    few = few[few["noise"].isin(levels)]
    before = few.assign(noise=few["noise"].map(dict(pairwise(levels))))
    steps = tables.paired(few, before, "{}", lambda after, before: before - after)
    if steps["noise"].nunique() < len(levels) - 1:
        return steps[:0]
    first = steps[steps["metric"].eq("top1")].sort_values("noise")
    least = tables.along(steps, "noise", "smallest_step_down", tables.smallest)
    later = tables.along(first, "noise", "first_minus_later_drop", partial(reduce, sub))
    return pd.concat([least, later])


def attack(trained: Trained, settings: Mapping, *, seed: int) -> tuple[pd.DataFrame, Survival]:
    """Tidy rows of one network on its 200 images, image by image, and what AutoAttack left of it.

    ``retained`` is of the images that were right before. Settings as for ``arms`` on the thousand;
    the seed, of random starts, noise and the bootstrap, is the same for all networks.
    """
    (arm, model, _, folder), how = trained, settings["attack"]
    data, index, sizes = arm.task.data, arm.task.attacked, [float(eps) for eps in how["eps_255"]]
    radii, draws = [eps / 255 for eps in sizes], range(seed, seed + how["noise_seeds"])
    many = evaluation.radii(radii, how.get("radii"))  # even in log2, where doublings are judged
    found = evaluation.evaluate(trained, settings, many, seed=seed)
    left, sweep = survive(trained, found, how["autoattack"], radii, seed=seed), found.sweep
    noise = {"levels": radii, "seeds": {"signs": len(draws)}, "first_seed": seed}
    noise = noise_sweep(model, data, index, folder, **noise)
    noisy = [np.stack([noise["signs", radius, draw] for radius in radii]) for draw in draws]
    noisy = np.mean([replace(sweep, logits=one).right for one in noisy], axis=0)
    untrained = build_arm(replace(arm, start="scratch"), settings).eval()
    bands = {"bands": how["bands"], "rms": how["band_rms"], "seed": seed}
    rows = spectrum.heard(model, untrained, data, index, folder, **bands)
    model.cpu()  # make room for the next
    rows += [(ATTACKED, sweep.clean_right, NO_ATTACK), ("log2_radius", found.log2_radius, {})]
    outcomes = {
        "noise": noisy,
        "pgd": robustness.robust(sweep, radii),
        "autoattack": left.result.right,
    }
    for name, outcome in outcomes.items():
        for eps, right in zip(sizes, outcome, strict=True):
            kept_right = np.where(sweep.clean_right, right, np.nan)
            cell = {"attack": name, "eps_255": eps}
            rows += [(ATTACKED, right, cell), ("retained", kept_right, cell)]
    per_image = partial(tables.PerImage, weights=found.weights, groups=data.groups[index])
    rows = [{"metric": k, "estimate": per_image(np.asarray(v, float)), **t} for k, v, t in rows]
    return pd.DataFrame(rows).assign(n=len(index), **found.tags), left


def recorded(scores: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``evaluate`` or ``attack`` for the record, and what is COMPARED, over the seeds.

    ``retained`` is of the images that both networks had right before: else the better one would
    seem robust, or the worse one that had only the easy images right.
    """
    found, names = [scores[~scores["metric"].isin(ASIDE)]], scores.groupby("role")["dataset"]
    for metric, column, ours, theirs, name, where in COMPARED:
        few = tables.chosen(scores, {"metric": metric, **where})
        if not len(few):
            continue
        few = few.drop(columns=["n", "sound"]) if column == "role" else few
        pair = tables.compare(few, column, ours, theirs, name, apart=["dataset"])
        if column == "model":
            pair = pair.assign(model="swin", against="resnet")
        if column == "role":
            pair["dataset"] = "+".join(names.first().get(role, "") for role in ROLES)
        found.append(pair if column == "model" else pair.drop(columns=[column, "against"]))
    return tables.over_seeds(tables.means(pd.concat(found)))
