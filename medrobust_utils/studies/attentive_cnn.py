"""Paper 2: soft attention in ResNet-50 and Inception-ResNet-v2, under PGD and AutoAttack."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from ..core import env
from ..core.errors import ProtocolError
from ..data import load, split_like_datta, split_three_ways, to_float
from ..data.contrast import ContrastFilter
from ..data.views import binary, enhanced
from ..explain.perturbations import eye_masks
from ..explain.under_attack import Explained, across_seeds, between
from ..models import MedicalModel, build_attentive, soft_attention
from . import experiment, tables
from .common import own_folder, question, with_own_data
from .evaluation import Evaluation
from .experiment import Task, Trained, pick

ROLES = ("skin", "fundus", "chest")  # the paper's three tasks, each played by a set of the profile
USUAL = {"skin": "none", "fundus": "none", "chest": "contrast"}  # the paper's own filters
SPLITS = {"honest": split_three_ways, "datta": split_like_datta}
FILTERS = {"none": lambda data: data, "contrast": enhanced}
ARM = ("model", "attention", "start")
FORMS = (*soft_attention.FORMS, soft_attention.UNIFORM)  # the last is a control
PAIRS = (*((form, "none") for form in FORMS), ("released", soft_attention.UNIFORM))
NAMES = {"none": "no attention"} | {form: f"{form} attention" for form in FORMS}
SCALES = {"0-1": "0 to 1", "signed": "-1 to 1", "0-255": "0 to 255"}
NO_ATTACK = {"scale": "none", "eps": 0.0}  # tags of clean scores beside those of the paper's radii
TWINS = ["role", "split", "filter", "model", "start"]  # shared by a plain and attentive networks
DOUBLINGS = ("log2_radius_gain", "log2_radius_survived_gain", "log2_radius_at_accuracy_gain")
SEVENTH, EARLY = 0.142857, 0.24  # skin: accuracy by chance, and what the first radius takes


@dataclass(frozen=True)
class Arm(experiment.Arm):
    """One network, with one training seed, on one task."""

    model: str
    attention: str
    start: str

    @property
    def title(self) -> str:
        """What a reader calls it."""
        kind = "vanilla" if self.attention == "none" else f"soft attention, {self.attention}"
        return f"{kind} ({self.model}, {self.start}, seed {self.seed})"


def arms(settings: Mapping, *, seed: int, role: str = "", model: str = "") -> Iterator[Arm]:
    """Every arm of the profile, task by task; ``role`` and ``model`` pick some (see ``grid``).

    Raises ProtocolError as ``grid`` does, and for epochs that are yet to be chosen.
    """
    if not settings.get("epochs_from", {"chosen": True})["chosen"]:
        command = "python tools/evidence.py queue --paper 2 --out DIR"
        raise ProtocolError(f"This profile's epochs are not chosen yet: `{command}` does.")
    settings, role = with_own_data(settings, role, settings["arms"][0]["role"])
    task = cache(partial(_task, settings, seed=seed))  # arms of one task share it
    for spec, number in experiment.grid(settings, ARM, seed=seed, role=role, model=model):
        size = settings["models"][spec["model"]]["size"]
        own = {name: spec[name] for name in ARM}
        yield Arm(task(spec["role"], spec["split"], spec["filter"], size), number, **own)


def _task(
    settings: Mapping, role: str, split_name: str, filter: str, size: int, *, seed: int
) -> Task:
    cut, seen = pick(SPLITS, "split", split_name), pick(FILTERS, "filter", filter)
    raw = load(settings["datasets"][role], size=size, phantoms=settings["phantoms"], seed=seed)
    positive = settings["positive"].get(role, [])
    if own_folder(settings, role):
        positive = question(raw, positive, role, two=False)
    if positive:
        raw = binary(raw, positive, ("negative", "positive"))
    tags = {"role": role, "dataset": raw.name, "split": split_name, "filter": filter}
    key = "-".join([role, raw.name, str(size), split_name] + [filter] * (filter != "none"))
    task = Task(key, tags | {"finding": " or ".join(positive)}, seen(raw), raw, cut(raw, seed=seed))
    return task.of(settings, draw=(ROLES.index(role),), seed=seed)


def build_arm(arm: Arm, settings: Mapping) -> MedicalModel:
    """The untrained network of an arm."""
    env.seed_everything(arm.seed)
    spec, classes = settings["models"][arm.model], len(arm.task.data.classes)
    own = {"attention": arm.attention, "start": arm.start, "size": arm.task.size}
    how = {"gamma": settings["gamma"], "options": spec["options"]}
    return build_attentive(spec["backbone"], classes, **own, **how)


def train(arm: Arm, settings: Mapping, checkpoints: Path) -> Trained:
    """Train an arm, or read back what was trained (see ``experiment.train``)."""
    recipe = {**settings["training"]}
    recipe |= {name: recipe[name][arm.task.role] for name in ("epochs", "share", "flips")}
    return experiment.train(
        arm,
        build_arm(arm, settings),
        recipe,
        checkpoints,
        paper="2_attentive_cnn",
        identity=(settings["models"][arm.model], recipe, settings["gamma"]),
    )


def readings(attack: Mapping) -> pd.DataFrame:
    """The paper's radii under every reading of their unit: scale, eps, radius, radius_255.

    Radii below ``attack["smallest"]`` are left out. The paper's radii double, and 255 is nearly a
    power of two, so those that differ by less than a percent are attacked once, at the larger.
    """
    cells = pd.DataFrame(
        [(s, eps, eps / width) for s, width in attack["scales"].items() for eps in attack["eps"]],
        columns=["scale", "eps", "radius"],
    )
    cells = cells[cells["radius"] >= attack["smallest"]].sort_values("radius", ascending=False)
    apart = cells["radius"] < 0.99 * cells["radius"].shift(fill_value=np.inf)
    cells["radius"] = cells.groupby(apart.cumsum())["radius"].transform("first")
    return cells.assign(radius_255=cells["radius"] * 255).sort_index()


def by_reading(scores: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Accuracy and what is lost of it at the paper's eps, a row a reading, over the seeds."""
    attacked = scores[scores["metric"].eq("accuracy_attacked")]
    start, under = (attacked[attacked["attack"].eq("none") == clean] for clean in (True, False))
    apart = ("attack", "radius_255")
    lost = tables.paired(under, start, "accuracy_lost", lambda a, b: b - a, apart)
    both = tables.over_seeds(pd.concat([under.assign(metric="accuracy"), lost]))
    return both.merge(cells[["scale", "eps", "radius_255"]], on="radius_255")


def gains(scores: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """What attention gains, over the seeds: in clean scores, and in accuracy at the paper's eps.

    Each form over its plain twin, and the released one over the uniform map.
    """
    found = []
    for new, old in PAIRS:
        pairs = tables.compare(scores, "attention", new, old).assign(against=old)
        found.append(tables.over_seeds(pairs))
    table = pd.concat(found)
    attacked, clean = table["metric"].eq("accuracy_attacked_gain"), table["attack"].eq("none")
    under = table[attacked & ~clean].assign(metric="accuracy_gain")
    under = under.merge(cells[["scale", "eps", "radius_255"]], on="radius_255")
    return pd.concat([table[~attacked & clean].assign(**NO_ATTACK), under])


def half_radii(evaluated: Iterable[Evaluation]) -> dict[tuple, float]:
    """Where AutoAttack meets a network: twins (see TWINS) and seed -> a radius in [0, 1].

    That at which the plain network of the seed before keeps half of its right answers (for the
    first seed the last one's), so that no network chooses the radius that it is judged at; of a
    single seed it is its own, and what it shows a pilot. A plain network without an attentive twin
    is not asked again.
    """
    plain: dict[tuple, list[Evaluation]] = {}
    paired = set()
    for one in evaluated:
        if one.arm.attention == "none":
            plain.setdefault(twins(one.arm), []).append(one)
        else:
            paired.add(twins(one.arm))
    return {
        (*key, ours.arm.seed): before.half_radius
        for key, family in plain.items()
        if key in paired
        for before, ours in zip([family[-1], *family], family, strict=False)
    }


def twins(arm: Arm) -> tuple:
    """What a network shares with those it is held against."""
    return tuple(arm.tags[name] for name in TWINS)


def through_filter(trained: Trained) -> Trained:
    """The same network behind the contrast filter, attacked on the images before it."""
    arm, model = trained.arm, trained.model
    key = arm.task.key.replace("-contrast", "-through")
    tags = {**arm.task.tags, "filter": "through"}
    whole = nn.Sequential(ContrastFilter(), model).eval()
    whole.trained_in = model.trained_in
    task = replace(arm.task, key=key, tags=tags, data=arm.task.raw)
    return trained._replace(arm=replace(arm, task=task), model=whole)


def masks(task: Task, index: np.ndarray) -> np.ndarray | None:
    """Lesions where they were outlined, the eye in fundus images, else None."""
    if task.role == "fundus":
        return eye_masks(to_float(task.raw.images[index]))
    return None if task.data.masks is None else np.asarray(task.data.masks[index]) > 0


def map_rows(found: Evaluation, seen: Explained, others: Iterable[Explained] = ()) -> pd.DataFrame:
    """Rows on the perturbations and maps of one network, with baselines from other seeds.

    Args:
        others: of networks that differ in their training seed alone.
    """
    mean, outlines = found.mean(seen.index), masks(found.arm.task, seen.index)
    rows = [seen.rows(mean, found.sweep.epsilons * 255, found.half)]
    rows += [across_seeds(seen, other, outlines, mean) for other in others]
    return _tagged(pd.concat(rows, ignore_index=True), found)


def map_pair_rows(
    plain: Explained, attentive: Evaluation, seen: Explained, against: str = "none"
) -> pd.DataFrame:
    """How alike the clean maps of two networks are."""
    table = between(plain, seen, attentive.mean(seen.index))
    return _tagged(table.assign(against=against), attentive)


def _tagged(table: pd.DataFrame, found: Evaluation) -> pd.DataFrame:
    return tables.tagged(table.assign(**found.tags), {"attack": "none"}, NO_ATTACK)
