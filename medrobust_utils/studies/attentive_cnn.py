"""Paper 2: soft attention in ResNet-50 and Inception-ResNet-v2, under PGD and AutoAttack."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
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
from ..explain.under_attack import Explained, between
from ..models import MedicalModel, build_attentive, soft_attention
from ..scoring import metrics
from . import experiment, tables
from .common import asked_for, cast, question
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
BEGIN = 0.02  # where, says the paper, both retinopathy networks begin to fall
SMALLEST, LARGEST = 0.00125, 0.01  # its radii on skin images, "most visible" at the first of them
SEVENTH, EARLY = 0.142857, 0.24  # skin: accuracy by chance, and what the first radius takes
TIMES = 20  # "over 20 times higher" (section 4.1)
GAINS = ("accuracy_gain", "gain_typical", "gain_extreme")  # which AutoAttack may undo
DECISIVE = {"skin": (0.00125, 0.0025, 0.005, 0.01), "fundus": (0.32,)}  # where attention is to lead
MOST = 4  # radii of one network under AutoAttack, which is dear


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
    settings, role = cast(settings, role, settings["arms"][0]["role"])
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
    if asked := asked_for(settings, role):
        positive = question(raw, positive, role, two=False)
    if positive:
        raw = binary(raw, positive, ("negative", "positive"))
    tags = {"role": role, "dataset": raw.name, "split": split_name, "filter": filter}
    key = "-".join([role, raw.name, str(size), split_name] + [filter] * (filter != "none"))
    task = Task(key, tags | {"finding": " or ".join(positive)}, seen(raw), raw, cut(raw, seed=seed))
    return task.of(settings, draw=(ROLES.index(role),), seed=seed, asked=asked)


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
        settings,
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
    lost = lost.drop(columns=["ours", "theirs"])
    both = tables.over_seeds(pd.concat([under.assign(metric="accuracy"), lost]))
    return both.merge(cells[["scale", "eps", "radius_255"]], on="radius_255")


def gains(scores: pd.DataFrame) -> pd.DataFrame:
    """What each form of attention gains in accuracy over its plain twin, over the seeds.

    Columns beside those of ``compare``: ``begin``, the plain network's accuracy before the attack,
    and other ways to tell the gain: ``gap`` without its sign, ``relative`` to the plain accuracy,
    and ``excess`` over TIMES the plain accuracy.
    """
    attacked, clean = scores["metric"].eq("accuracy_attacked"), scores["attack"].eq("none")
    few = scores[scores["metric"].eq("accuracy") | (attacked & ~clean)]
    pairs = [tables.compare(few, "attention", form, "none", "accuracy_gain") for form in FORMS]
    pairs = [pair.assign(against="none") for pair in pairs]
    plain = tables.over_seeds(scores[attacked & scores["attention"].eq("none")])
    plain = plain.rename(columns={"estimate": "plain"})[[*TWINS, "attack", "radius_255", "plain"]]
    begin = plain[plain["attack"].eq("none")].set_index(TWINS)["plain"]
    table = tables.over_seeds(pd.concat(pairs)).merge(plain, "left")
    table = table.join(begin.map(lambda one: one.value).rename("begin"), on=TWINS)
    both = list(zip(table["estimate"], table.pop("plain"), strict=True))
    return table.assign(
        gap=[tables.absolute(gain) for gain, _ in both],
        relative=[tables.ratio(gain, against) for gain, against in both],
        excess=[tables.excess(TIMES - 1)(gain, against) for gain, against in both],
    )


def extremes(pair: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Gains where the plain network keeps half of its accuracy, and where it has at most 5 %.

    The last of the former is the *typical* radius, the first of the latter the *extreme* one.
    """
    pair = pair.sort_values("radius_255")
    typical, extreme = pair["theirs"] >= pair["begin"] / 2, pair["theirs"] <= tables.NOTHING_LEFT
    return pair[typical], pair[extreme]


def gain_rows(gained: pd.DataFrame, cells: pd.DataFrame, eps: Collection[float]) -> pd.DataFrame:
    """Rows on gains: clean, under every reading, at the typical and extreme radius, over all.

    Args:
        eps: the paper's; a mean is over all of them, or there is none.
    """

    def told(table: pd.DataFrame, name: str, way: str = "estimate") -> pd.DataFrame:
        return table.assign(metric=name, estimate=table[way])

    clean = gained["attack"].eq("none")
    under = gained[~clean].merge(cells.drop(columns="radius"), on="radius_255")
    both = pd.concat([gained[clean].assign(**NO_ATTACK, alive=np.nan), under])
    rows = [both, told(both, "accuracy_gap", "gap"), told(under, "excess_over_twenty", "excess")]
    for _, pair in gained[~clean].groupby([*TWINS, "attention"], sort=False):
        pair = pair.sort_values("radius_255").drop(columns="alive")
        for name, part, end in zip(("typical", "extreme"), extremes(pair), (-1, 0), strict=True):
            sizes = part["relative"].map(lambda one: one.value).dropna().astype(float)
            best = part.loc[sizes.nlargest(1).index]
            rows += [told(part.iloc[end:][:1], f"gain_{name}")]
            rows += [told(best, f"gain_{name}_relative", "relative")]
        for scale, here in cells.groupby("scale", sort=False):
            rows += [_over_radii(pair, here, eps).assign(scale=scale)]
    return pd.concat(rows).drop(columns=["begin", "gap", "relative", "excess"])


def _over_radii(pair: pd.DataFrame, cells: pd.DataFrame, eps: Collection[float]) -> pd.DataFrame:
    """Rows of one pair on all the paper's radii under one reading, and on what lies beyond."""
    here = pair.merge(cells[["eps", "radius_255"]], on="radius_255").set_index("eps").sort_index()
    gain, last, found = here["estimate"], here.iloc[-1], {}
    if len(here) == len(eps):
        found |= {"mean_gain": metrics.mean([*gain]), "largest_gap": tables.largest([*gain])}
    if len(beyond := pair[pair["radius_255"] > last["radius_255"]]):
        found["gain_beyond"] = metrics.mean([*beyond["estimate"]])
    same = pair.iloc[:1].drop(columns=["metric", "estimate", "radius_255"])
    rows = [same.assign(metric=name, estimate=[one]) for name, one in found.items()]
    if BEGIN in gain:
        saved = same.assign(metric="later_loss_saved", estimate=[last["estimate"] - gain[BEGIN]])
        left = here.loc[BEGIN, ["ours", "theirs"]].mean()
        rows.append(saved.assign(alive=left > tables.NOTHING_LEFT))
    return pd.concat(rows) if rows else same[:0]


def between_tasks(scores: pd.DataFrame) -> pd.DataFrame:
    """Share of right answers that one task's network keeps minus another's; unpaired images."""
    usual = scores["filter"].eq(scores["role"].map(USUAL)) & scores["model"].eq("resnet")
    kept = scores[scores["metric"].eq("retained_accuracy") & scores["split"].eq("honest") & usual]
    kept = tables.along(kept.drop(columns="n"), "radius_255", "retained_accuracy", metrics.mean)
    kept = tables.over_seeds(kept)
    names, rows = dict(zip(kept["role"], kept["dataset"], strict=True)), []
    for fragile, robust in pairwise(ROLES):
        apart = ("dataset", "filter", "finding", "seeds")
        pair = tables.compare(kept, "role", robust, fragile, "retained_difference", apart=apart)
        dataset = f"{names.get(robust)}+{names.get(fragile)}"
        rows.append(pair.assign(pair=f"{robust}-{fragile}", dataset=dataset))
    return pd.concat(rows)


def through_filter(trained: Trained) -> Trained:
    """The same network behind the contrast filter, attacked on the images before it."""
    arm, model = trained.arm, trained.model
    key = arm.task.key.replace("-contrast", "-through")
    tags = {**arm.task.tags, "filter": "through"}
    whole = nn.Sequential(ContrastFilter(), model).eval()
    whole.trained_in = model.trained_in
    task = replace(arm.task, key=key, tags=tags, data=arm.task.raw)
    return trained._replace(arm=replace(arm, task=task), model=whole)


def decisive(gained: pd.DataFrame, cells: pd.DataFrame) -> dict[tuple, list[float]]:
    """Radii, of 255, that AutoAttack meets: twins (see TWINS) -> at most MOST of them.

    The typical and the extreme one, then those of DECISIVE at which PGD finds a sure gain.
    """
    found = {}
    for key, family in gained[gained["attack"].ne("none")].groupby(TWINS, sort=False):
        role, _, filter, model, _ = key
        typical, extreme = extremes(family[family["attention"].eq(family["attention"].iloc[0])])
        radii = [*typical["radius_255"][-1:], *extreme["radius_255"][:1]]
        if (filter, model) == (USUAL[role], "resnet"):
            sure = family[family["alive"] & family["estimate"].map(lambda one: one.low > 0)]
            wanted = cells["eps"].isin(DECISIVE.get(role, ()))
            radii += sorted({*cells["radius_255"][wanted]} & {*sure["radius_255"]})
        found[key] = sorted([*dict.fromkeys(radii)][:MOST])
    return found


def masks(task: Task, index: np.ndarray) -> np.ndarray | None:
    """Lesions where they were outlined, the eye in fundus images, else None."""
    if task.role == "fundus":
        return eye_masks(to_float(task.raw.images[index]))
    return None if task.data.masks is None else np.asarray(task.data.masks[index]) > 0


def map_rows(found: Evaluation, seen: Explained, cells: pd.DataFrame) -> pd.DataFrame:
    """Rows on the perturbations and maps of one network at every radius."""
    radii, mean = found.sweep.epsilons * 255, found.mean(seen.index)
    rows = [seen.rows(mean, radii, found.half)]
    for scale, here in cells.groupby("scale", sort=False) if "mask_share" in seen.names else ():
        at = here.set_index("eps")["radius_255"]
        places = {eps: int(np.abs(radii - size).argmin()) for eps, size in at.items()}
        if {SMALLEST, LARGEST} <= places.keys():
            near, far = (seen.measure("ring_over_centre", places[e]) for e in (SMALLEST, LARGEST))
            line = {"metric": "ring_fall", "estimate": mean(near - far), "scale": scale}
            rows.append(pd.DataFrame([line | {"n": len(seen.index)}]))
    table = pd.concat(rows, ignore_index=True).assign(**found.arm.tags, **found.gates)
    return tables.tagged(table, {"attack": "none"}, NO_ATTACK)


def map_pair_rows(
    plain: Evaluation, attentive: Evaluation, seen: tuple[Explained, Explained]
) -> pd.DataFrame:
    """How alike the clean maps of two networks are, and what attention changes in them."""
    half = plain.half
    radius = None if half is None else plain.sweep.epsilons[half] * 255
    table = between(*seen, attentive.mean(seen[0].index), half, radius)
    gates = {name: plain.gates[name] and attentive.gates[name] for name in plain.gates}
    table = table.assign(**attentive.arm.tags, **gates)
    return tables.tagged(table, {"attack": "none"}, NO_ATTACK)
