"""Paper 1: the thousand images that its author set aside, 800 to fit and 200 to attack.

The paper planned AutoAttack so and never ran it. It does not say what is fitted, nor from what.
Here a network either begins from ImageNet's weights, or from random ones and first learns other
images; then the 800 fine-tune it. The 200, which it has never seen, meet noise, PGD and
AutoAttack, and the frequencies at which it can be hurt are measured on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..attacks import attack_sweep, autoattack_sweep
from ..attacks.noise import signs
from ..core import env
from ..core.contracts import ask
from ..core.losses import correct
from ..core.storage import cached_arrays, fingerprint
from ..data import ImageSet, ThreeWay, load, split_by_group, to_float
from ..explain import spectrum
from ..models import MedicalModel
from ..scoring import metrics
from ..scoring.metrics import Estimate
from ..scoring.predict import kept
from . import experiment, swin_noise, tables
from .common import (
    asked_for,
    budget,
    cached_flags,
    cast,
    clean_scores,
    some,
    unscored,
    whole_images,
)
from .experiment import Trained
from .tables import PerImage

REST = "rest"  # as ``before``: the images of the same set that are not among the thousand
NO_ATTACK = {"attack": "none", "eps_255": 0.0}


@dataclass(frozen=True)
class Task(experiment.Task):
    """The 800 and the 200 of a data set; ``before`` is what random weights learn first, if any."""

    before: Task | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Arm(swin_noise.Arm):
    """One network; ``before`` names the data set that it learnt before the 800, or ``nothing``."""

    before: str = "nothing"


def own(settings: Mapping) -> dict:
    """The profile's settings, with those of the thousand in place of the noise study's."""
    return {**settings, **settings["thousand"]}


def arms(settings: Mapping, *, seed: int, role: str = "", model: str = "") -> Iterator[Arm]:
    """Every arm on the thousand images; ``role`` and ``model`` pick some (see ``grid``)."""
    settings, role = cast(own(settings), role, swin_noise.ROLES[0])
    task = cache(partial(_task, settings, seed=seed))  # arms of one task share it
    picked = {"seed": seed, "role": role, "model": model}
    for spec, number in experiment.grid(settings, ("model", "start"), **picked):
        yield Arm(task(spec["role"]), number, spec["model"], spec["start"])


def _task(settings: Mapping, role: str, *, seed: int) -> Task:
    how = {"size": settings["size"], "phantoms": settings["phantoms"], "seed": seed}
    data, asked = whole_images(load(settings["datasets"][role], **how)), asked_for(settings, role)
    train, val = split_by_group(data, seed=seed)
    fitted, attacked = some(train, settings["fit"], seed), some(val, settings["attacked"], seed)
    key, draw = f"{data.name}-{settings['size']}-thousand", (swin_noise.ROLES.index(role),)
    protocol = "multi_label" if data.multi_label else "single_label"
    tags = {"role": role, "dataset": data.name, "protocol": protocol, "sound": True}

    def task(key: str, data: ImageSet, train: np.ndarray, shown: np.ndarray, *before: Task) -> Task:
        split, told = ThreeWay(train, shown, shown), tags | {"thousand": True}
        return Task(key, told, data, data, split, shown, shown, draw, seed, asked, *before)

    other = REST if asked else settings["before"][role]
    learnt, first, shown = data, train[~np.isin(data.groups[train], data.groups[fitted])], fitted
    if other not in ("", REST):
        learnt = whole_images(load(other, **how))
        first, shown = split_by_group(learnt, seed=seed)
    elif not other or len(first) < settings["fit"]:  # of a thousand images hardly any is left
        return task(key, data, fitted, attacked)
    shown = some(shown, settings["attacked"], seed)
    return task(key, data, fitted, attacked, task(f"before-{key}", learnt, first, shown))


def facts(task: Task) -> pd.DataFrame:
    """Tidy rows: how many images are fitted, attacked, and learnt before."""
    sides = {"fit": task.split.train, "attacked": task.attacked}
    sides |= {"before": task.before.split.train} if task.before else {}
    rows = [{"metric": "images", "estimate": len(i), "side": side} for side, i in sides.items()]
    same = {name: task.tags[name] for name in ("role", "dataset", "thousand")}
    return pd.DataFrame(rows).assign(**same)


def train(arm: Arm, settings: Mapping, checkpoints: Path) -> Trained:
    """Fit an arm, or read back what was fitted (see ``experiment.train``).

    Returns:
        What was really run (``start`` and ``before`` say so). In its learning curve ``part`` is
        ``before`` or ``fit``.
    """
    model, before, known, curve = swin_noise.build_arm(arm, own(settings)), arm.task.before, "", []
    if model.start == "scratch" and before:
        first = replace(arm, task=before, start="scratch")
        untrained = swin_noise.build_arm(first, own(settings))
        learnt = _train(first, untrained, "before", settings, checkpoints)
        take_over(model, learnt.model)
        known, curve = learnt.folder.name, [row | {"part": "before"} for row in learnt.history]
        arm = replace(arm, before=before.data.name)
    fitted = _train(arm, model, "fit", settings, checkpoints, known)
    return fitted._replace(history=curve + [row | {"part": "fit"} for row in fitted.history])


def _train(
    arm: Arm, model: MedicalModel, part: str, settings: Mapping, checkpoints: Path, known: str = ""
) -> Trained:
    how, recipe = own(settings), dict(settings["training"])
    recipe |= {"epochs": how["epochs"][part], "flips": how["flips"][arm.task.role]}
    recipe["lr"] = how["lr"]["fit"] if part == "fit" else recipe["lr"]["scratch"]
    # The explorer plans the arms of the noise study alone, so these cards name another one.
    paper = f"{swin_noise.PAPER}, thousand"
    identity = (how["models"][arm.model], recipe, arm.task.size, known)
    return experiment.train(
        arm, model, recipe, settings, checkpoints, paper=paper, identity=identity
    )


def take_over(model: MedicalModel, first: MedicalModel) -> None:
    """The weights of ``first``; the head only where it names the same number of classes."""
    mine = model.state_dict()
    theirs = {k: v for k, v in first.state_dict().items() if v.shape == mine[k].shape}
    model.load_state_dict(mine | theirs)


def evaluate(
    trained: Trained, settings: Mapping, *, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tidy rows of one network on its 200 images, and its red flags; finished parts are read back.

    What comparisons are made of is ``PerImage`` (see ``settled``). ``beats_constant``: accuracy
    before the attacks lies above that of one constant answer.

    Args:
        seed: of random starts, noise and the bootstrap; the same for all networks, so that they
            are compared on the same draws.
    """
    arm, model, _, folder = trained
    task, how, index = arm.task, settings["thousand"]["attack"], arm.task.attacked
    sizes = [float(eps) for eps in how["eps_255"]]
    radii, draw = [eps / 255 for eps in sizes], [seed, *task.draw]
    weights = metrics.group_weights(task.data.groups[index], draw)
    # Float32 for all: the type that a network was trained in depends on the hour, and what is
    # compared has to meet the same attack.
    common = {"folder": folder, "seed": seed}
    images = (model, task.data, index)
    pgd = attack_sweep(*images, radii, steps=how["pgd_steps"], desc="PGD", **common)
    strong = {"batch": how["batch"], **budget(how), **common}
    auto = autoattack_sweep(*images, radii, fooled=~pgd.right, desc="AutoAttack", **strong)
    noise = [_under_signs(trained, radius, how["noise_seeds"], seed) for radius in radii]
    begin, constant = pgd.clean_right, always(task)
    clean, gates = clean_scores(task.data, task.split, pgd.clean, draw)
    ahead = metrics.weighted_mean(begin.astype(float) - constant, weights)
    gates["beats_constant"] = bool(ahead.low > 0)

    def row(metric: str, values: np.ndarray, **tags: object) -> dict:
        return tags | {"metric": metric, "estimate": PerImage(np.asarray(values, float), weights)}

    rows = [{"metric": name, "estimate": score, **NO_ATTACK} for name, score in clean.items()]
    rows.append({"metric": "accuracy_constant", "estimate": float(constant.mean())})
    rows.append(row("accuracy_attacked", begin, **NO_ATTACK))
    for attack, outcome in {"noise": noise, "pgd": pgd.right, "autoattack": auto.right}.items():
        for eps, right in zip(sizes, outcome, strict=True):
            cell = {"attack": attack, "eps_255": eps}
            rows.append(row("accuracy_attacked", right, **cell))
            rows.append(row("retained", np.where(begin, right, np.nan), **cell))
    for eps, shares, asked in zip(sizes, auto.shares(), auto.queries, strict=True):
        found = [("fooled_by", {"member": member}, share) for member, share in shares.items()]
        if asked.any():
            found.append(("autoattack_queries", {}, float(asked[asked > 0].mean())))
        rows += [{"metric": m, "eps_255": eps, "estimate": value, **t} for m, t, value in found]
    rows += [row(*one, **tags) for one, tags in _frequencies(trained, how, seed)]
    rows += _aucs(trained, how, pgd.clean, weights, strong)
    fooled = pgd.right.sum(1) <= begin.sum() / 2
    radius = radii[fooled.argmax() if fooled.any() else -1]
    few = (folder, "flags", model, task.data, index[: how["check"]], radius)
    raised = cached_flags(*few, seed=seed, dtype=torch.float32) + auto.flags()
    flags = [{"estimate": float(f.raised), "flag": f.name, "measured": f.measured} for f in raised]
    model.cpu()  # make room for the next
    scores = pd.DataFrame(rows).assign(n=len(index), **arm.tags, **gates, seed=arm.seed)
    return scores, pd.DataFrame(flags).assign(metric="red_flag", **arm.tags)


def always(task: Task) -> np.ndarray:
    """Where the commonest answer of the fitted images is right, bool (n,).

    With several labels an answer is the whole of them.
    """
    targets = task.data.targets.reshape(len(task.data), -1)
    answers, counts = np.unique(targets[task.split.train], axis=0, return_counts=True)
    return (targets[task.attacked] == answers[counts.argmax()]).all(1)


def _under_signs(trained: Trained, radius: float, draws: int, seed: int) -> np.ndarray:
    """Share of the draws (n,) right under plus or minus the radius in each pixel."""
    task, model, found = trained.arm.task, trained.model, []
    labels = torch.from_numpy(task.data.targets[task.attacked])
    for number in range(seed, seed + draws):

        def forward(images: torch.Tensor, rows: np.ndarray, number: int = number) -> torch.Tensor:
            noise = radius * signs(images.shape[1:], rows, number).to(images)
            return ask(model, (images + noise).clamp(0, 1))

        name = f"signs-{radius:g}-{number}-{fingerprint(task.attacked.tolist())}.npz"
        logits = kept(trained.folder / name, model, task.data, task.attacked, forward=forward)
        found.append(correct(torch.from_numpy(logits), labels).numpy())
    return np.mean(found, axis=0)


def _frequencies(trained: Trained, how: Mapping, seed: int) -> Iterator[tuple[tuple, dict]]:
    """Metric and values (n,) with tags: what the margin listens to, and noise of one band."""
    task, model, bands = trained.arm.task, trained.model, how["bands"]

    def compute() -> dict[str, np.ndarray]:
        device, images = env.pick_device(), to_float(task.data.images[task.attacked])
        labels = torch.from_numpy(task.data.targets[task.attacked])
        slopes = spectrum.sensitivity(model.to(device), images.to(device), labels)
        noise = {"bands": bands, "rms": how["band_rms"], "seed": seed}
        return {
            "sensitivity_centroid": spectrum.centroid(slopes),
            "sensitivity_density": spectrum.density(slopes, bands).T,
            "accuracy_band_noise": spectrum.under_band_noise(
                model, task.data, task.attacked, **noise
            ),
        }

    name = fingerprint(task.attacked.tolist(), bands, how["band_rms"], seed)
    found = cached_arrays(trained.folder / f"frequencies-{name}.npz", compute)
    yield ("sensitivity_centroid", found.pop("sensitivity_centroid")), {}
    for metric, values in found.items():
        for centre, one in zip(spectrum.centres(bands), values, strict=True):
            yield (metric, one), {"band": float(centre)}


def _aucs(
    trained: Trained, how: Mapping, clean: np.ndarray, weights: np.ndarray, strong: Mapping
) -> list[dict]:
    """AUC before and under attack of the ``how["findings"]`` commonest findings, rows."""
    data, index, rows = trained.arm.task.data, trained.arm.task.attacked, []
    targets = data.targets[index]
    if not data.multi_label:
        return rows
    hits = targets.sum(0)
    enough = np.minimum(hits, len(targets) - hits) >= metrics.MIN_POSITIVES
    order = [k for k in np.argsort(-hits) if enough[k] and k not in unscored(data)]
    for k in order[: how["findings"]]:
        aim = {"finding": int(k), "to_the_end": True, "desc": f"AUC of {data.classes[k]}"}
        radii = [how["auc_eps_255"] / 255]
        under = autoattack_sweep(trained.model, data, index, radii, **aim, **strong)
        for attack, logits in (("none", clean), ("autoattack", under.logits[0])):
            area = metrics.auc(logits[:, k], targets[:, k].astype(bool), weights)
            row = {"metric": "auc_attacked", "attack": attack, "finding": data.classes[k]}
            rows.append(row | {"estimate": Estimate(float(area[0]), area[1:])})
    return rows


def comparisons(scores: pd.DataFrame) -> pd.DataFrame:
    """Noise beside AutoAttack, and Swin-T beside ResNet-50 after the same start, image by image.

    ``retained`` is of the images that both networks had right before: else the better one would
    seem robust, or the worse one that had only the easy images right. Low-pass is a low mean
    frequency of what the answer listens to.
    """
    part, shares = dict(iter(scores.groupby("metric"))), ["ours", "theirs"]
    right, centroid = part["accuracy_attacked"], part["sensitivity_centroid"]
    gap = tables.compare(right, "attack", "noise", "autoattack", "accuracy_noise_minus_adversarial")
    kept = tables.compare(part["retained"], "model", "swin", "resnet", "{}_swin_minus_resnet")
    low = tables.compare(centroid, "model", "resnet", "swin", "lowpass_swin_minus_resnet")
    gap, low = gap.drop(columns=["attack", *shares]), low.drop(columns=["model", *shares])
    return pd.concat(map(settled, (gap, kept.drop(columns="model"), low)))


def settled(scores: pd.DataFrame) -> pd.DataFrame:
    """Rows for the record: the means of what is ``PerImage``, over the training seeds."""
    return swin_noise.over_seeds(tables.means(scores[scores["metric"].ne("retained")]))
