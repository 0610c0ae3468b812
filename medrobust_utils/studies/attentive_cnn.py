"""Paper 2: soft attention in ResNet-50 and Inception-ResNet-v2, under PGD and AutoAttack."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd

from ..core import env
from ..core.errors import ProtocolError
from ..data import load, split_like_datta, split_three_ways, to_float
from ..data.own import own_folder, with_own_data
from ..data.views import binary, enhanced, question
from ..explain.perturbations import eye_masks
from ..explain.under_attack import Explained, across_seeds, between
from ..models import MedicalModel, build_attentive, soft_attention
from ..reporting.results import Run
from ..scoring import robustness
from . import evaluation, experiment, survival, tables
from .evaluation import Evaluation
from .experiment import Task, Trained, pick

ROLES = ("skin", "fundus", "chest")  # the paper's three tasks, each played by a set of the profile
USUAL = {"skin": "none", "fundus": "none", "chest": "contrast"}  # the paper's own filters
SPLITS = {"honest": split_three_ways, "datta": split_like_datta}
FILTERS = {"none": lambda data: data, "contrast": enhanced}
ARM = ("model", "attention", "start")
FORMS = (*soft_attention.FORMS, soft_attention.UNIFORM)  # the last is a control
PAIRS = (*((form, "none") for form in FORMS), ("released", soft_attention.UNIFORM))
NO_ATTACK = {"scale": "none", "eps": 0.0}  # tags of clean scores beside those of the paper's radii
TWINS = ["role", "split", "filter", "model", "start"]  # shared by plain and attentive networks
DOUBLINGS = ("log2_radius", "log2_radius_survived", "log2_radius_at_accuracy")
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

    @property
    def plain(self) -> Arm:
        """The network without attention that it is held against."""
        return replace(self, attention="none")


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
    identity = settings["models"][arm.model], recipe, settings["gamma"]
    about = {"paper": "2_attentive_cnn", "identity": identity}
    return experiment.train(arm, build_arm(arm, settings), recipe, checkpoints, **about)


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


def with_scale(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the tags of clean scores where there was no attack."""
    clean = table["attack"].eq("none")
    return pd.concat([table[clean].assign(**NO_ATTACK), table[~clean]])


def by_reading(scores: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Accuracy and what is lost of it at the paper's eps, a row a reading, over the seeds."""
    attacked = scores[scores["metric"].eq("accuracy_attacked")]
    start, under = (attacked[attacked["attack"].eq("none") == clean] for clean in (True, False))
    apart = ("attack", "radius_255")
    lost = tables.paired(under, start, "accuracy_lost", lambda a, b: b - a, apart)
    both = tables.over_seeds(pd.concat([under.assign(metric="accuracy"), lost]))
    return both.merge(cells[["scale", "eps", "radius_255"]], on="radius_255")


def pairs(scores: pd.DataFrame, name: str = "{}_gain") -> pd.DataFrame:
    """Each form of attention held against its plain twin, and the released one against the map
    that is the same everywhere, image by image (see ``tables.compare``)."""
    return pd.concat([tables.compare(scores, "attention", *pair, name) for pair in PAIRS])


def gains(scores: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """What attention gains, over the seeds: in clean scores, and in accuracy at the paper's eps."""
    table = tables.over_seeds(pairs(scores))
    attacked, clean = table["metric"].eq("accuracy_attacked_gain"), table["attack"].eq("none")
    under = table[attacked & ~clean].assign(metric="accuracy_gain")
    under = under.merge(cells[["scale", "eps", "radius_255"]], on="radius_255")
    return pd.concat([table[~attacked & clean].assign(**NO_ATTACK), under])


def doublings(evaluated: Iterable[Evaluation]) -> pd.DataFrame:
    """How far networks hold (see ``robustness.doublings``), and what attention gains in that."""
    rows = []
    for one in evaluated:
        held = robustness.doublings(one.sweep, one.weights, SEVENTH, EARLY)
        rows.append(one.table([(one.attack, np.nan, one.index, *cell) for cell in held.items()]))
    table = pd.concat(rows).drop(columns="radius_255")
    of = {"share": {DOUBLINGS[1]: robustness.FEW}, "accuracy": {DOUBLINGS[2]: SEVENTH}}
    table = table.assign(**{tag: table["metric"].map(values) for tag, values in of.items()})
    return pd.concat([table, pairs(table[table["metric"].isin(DOUBLINGS)])])


def half_radii(evaluated: Iterable[Evaluation]) -> dict[str, float]:
    """Where AutoAttack meets a network: key of its plain twin -> a radius in [0, 1].

    That at which the plain network of the seed before keeps half of its right answers (for the
    first seed the last one's), so that no network chooses the radius that it is judged at; of a
    single seed it is its own, and what it shows a pilot.
    """
    plain: dict[str, list[Evaluation]] = {}
    for one in evaluated:
        if one.arm.attention == "none":
            plain.setdefault(one.arm.group, []).append(one)
    return {
        one.arm.key: before.half_radius
        for family in plain.values()
        for before, one in zip([*family[-1:], *family], family, strict=False)
    }


def masks(task: Task, index: np.ndarray) -> np.ndarray | None:
    """Lesions where they were outlined, the eye in fundus images, else None."""
    if task.role == "fundus":
        return eye_masks(to_float(task.raw.images[index]))
    return None if task.data.masks is None else np.asarray(task.data.masks[index]) > 0


def map_rows(
    found: Evaluation,
    seen: Explained,
    others: Iterable[Explained] = (),
    plain: Explained | None = None,
) -> pd.DataFrame:
    """Rows on the perturbations and maps of one network, with what others show by chance.

    Args:
        others: of networks that differ in their training seed alone.
        plain: of the plain twin, whose clean maps are held against these.
    """
    mean, outlines = found.mean(seen.index), masks(found.arm.task, seen.index)
    rows = [seen.rows(mean, found.sweep.epsilons * 255, found.half)]
    rows += [across_seeds(seen, other, outlines, mean) for other in others]
    rows += [] if plain is None else [between(plain, seen, mean).assign(against="none")]
    return with_scale(pd.concat(rows, ignore_index=True).assign(**found.tags))


@dataclass
class Study:
    """The whole study in steps; each writes what it finds into the record ``run``."""

    run: Run
    settings: Mapping
    seed: int
    attack: str = ""  # in place of the profile's own (see ``evaluation.evaluate``)
    trained: list[Trained] = field(default_factory=list)
    measured: list[tuple[Trained, Evaluation]] = field(default_factory=list)

    def train(self, arms: Iterable[Arm], checkpoints: str | Path = "") -> None:
        """Train every arm, or read it back from ``checkpoints`` (empty: of the cache)."""
        folder = Path(checkpoints) if checkpoints else env.home() / "checkpoints"
        for number, arm in enumerate(arms, 1):
            print(f"network {number}: {arm.key}")
            if arm.task.key not in [one.arm.task.key for one in self.trained]:
                constant = {"model": "majority", **NO_ATTACK}
                tables.record(self.run, experiment.describe_task(self.run, arm.task, constant))
            self.trained.append(train(arm, self.settings, folder))
            experiment.note(self.run, self.trained[-1], self.settings["training"])
            self.trained[-1].model.cpu()

    def measure(self) -> None:
        """Clean scores, the attack at every radius, and what attention gains in both."""
        attack, how = self.settings["attack"], {"seed": self.seed, "attack": self.attack}
        cells = readings(attack)
        radii = evaluation.radii(cells["radius"], attack.get("radii"))
        found = [evaluation.evaluate(one, self.settings, radii, **how) for one in self.trained]
        self.measured = [*zip(self.trained, found, strict=True)]
        scores = pd.concat([one.scores() for one in found])
        own, held = tables.over_seeds(scores), tables.over_seeds(doublings(found))
        for table in (with_scale(own), by_reading(scores, cells), gains(scores, cells), held):
            tables.record(self.run, table)

    def check(self) -> pd.DataFrame:
        """Red flags, a row each; PGD afresh beside bisection, one network a data set."""
        one_each = {pair[0].arm.task.role: pair for pair in reversed(self.measured)}
        how = {"settings": self.settings, "seed": self.seed}
        gaps = [evaluation.modes_differ(*pair, **how) for pair in one_each.values()]
        tables.record(self.run, pd.concat(gaps))
        first = [pair for pair in self.measured if pair[0].arm.seed == self.trained[0].arm.seed]
        flags = pd.concat([evaluation.flags(*pair, **how) for pair in first])
        tables.record(self.run, flags)
        for row in flags[flags["estimate"].eq(1)].itertuples():
            self.run.warn(f"{row.role}, {row.model}, {row.attention}: {row.flag}: {row.measured}")
        return flags

    def survive(self) -> None:
        """AutoAttack on networks with a twin, and what it leaves of the gains in doublings."""
        half, again = half_radii([found for _, found in self.measured]), []
        how = self.settings["attack"]["autoattack"]
        paired = {one.arm.plain.group for one in self.trained if one.arm.attention != "none"}
        for one, found in self.measured:
            radius = half.get(one.arm.plain.key)
            if radius and one.arm.plain.group in paired:
                again.append(survival.survive(one, found, how, [radius], seed=self.seed))
                again[-1].note(self.run)
        if not again:
            return
        left = pd.concat([one.scores() for one in again])
        tables.record(self.run, tables.over_seeds(left))
        outcome = survival.gained(pairs(left.drop(columns="radius_255"), "{}"))
        tables.record(self.run, outcome)
        keys, of = [*TWINS, "attention", "against"], [f"{name}_gain" for name in DOUBLINGS]
        survival.decide(self.run, outcome, of, keys, again[0].how.steps)

    def explain(self) -> list[tuple[Trained, Evaluation, Explained]]:
        """Perturbations and maps under an honest split and the paper's usual filter.

        Returns the networks of the first training seed, with what was seen of them.
        """
        families: dict[str, dict[int, tuple]] = {}
        for one, found in self.measured:
            arm, tags = found.arm, found.arm.tags
            if (tags["split"], tags["filter"]) == ("honest", USUAL[tags["role"]]):
                seen = evaluation.explain(one, found, self.settings, masks, seed=self.seed)
                families.setdefault(arm.group, {})[arm.seed] = one, found, seen
        rows = []
        for family in families.values():
            after = [*family.values()][1:] + [*family.values()][:1]
            for (_, found, seen), (*_, other) in zip(family.values(), after, strict=True):
                twin = families.get(found.arm.plain.group, {}).get(found.arm.seed)
                plain = twin[-1] if twin and found.arm.attention != "none" else None
                rows.append(map_rows(found, seen, [other] if len(family) > 1 else [], plain))
        maps = tables.means(pd.concat(rows, ignore_index=True))
        tables.record(self.run, tables.over_seeds(maps))
        return [next(iter(family.values())) for family in families.values()]
