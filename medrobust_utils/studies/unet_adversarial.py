"""Paper 4: four U-Nets, trained clean, on two kinds of perturbed images, and on all three; three
more tell what its methods add. Perturbed images are made against the clean network of the seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from .. import segmentation
from ..attacks import Layered, Selective
from ..core import env
from ..core.errors import DataError
from ..core.storage import fingerprint, write_atomic
from ..data import ImageSet, ThreeWay, load, split_official, split_three_ways, to_float
from ..data.imageset import rows_of, union
from ..data.masks import pixel_counts
from ..data.own import own_folder, with_own_data
from ..data.splits import leaks, some
from ..data.views import label_maps
from ..explain import perturbations
from ..models import MedicalModel, build_unet
from ..reporting import protocol
from ..reporting.results import Run
from ..scoring import metrics
from ..scoring import segmentation as scoring
from ..training import cards
from ..training.adversarial import AdversarialTraining, LayeredTraining
from . import experiment, segmented, survival, tables
from .evaluation import precision
from .experiment import Task, Trained, pick
from .segmented import CLEAN, SEEN, Cell

# Models 1 to 4 of the paper, and three it does not have: plain adversarial training, the union
# without method two, and method one against the network as it is in every step of its training.
SCHEMES = {
    "clean": "vanilla",
    "layered": "method one",
    "selective": "method two",
    "union": "both methods",
    "adversarial": "adversarial training",
    "clean_layered": "clean and method one",
    "on_the_fly": "method one on the fly",
}
# The sets of images that a scheme trains on, if not on clean ones alone.
SETS = {
    "layered": ["layered"],
    "selective": ["selective"],
    "union": ["clean", "layered", "selective"],
    "clean_layered": ["clean", "layered"],
}
METHOD_ONE = ("layered", "union", "clean_layered", "on_the_fly")  # schemes it has a part in
CLASSES = {"all": False, "present": True}  # whether it leaves out those that an image lacks
ON_THE_FLY = 1  # steps a class: six gradients an image, twice those of adversarial training
NONE, MAIN = ("none", "none"), ("stage", "all")  # ball and classes of models 1 and 3, and 2 and 4


@dataclass(frozen=True)
class Arm(experiment.Arm):
    """One network: its scheme, and ball and classes of method one where that has a part."""

    scheme: str
    ball: str = "none"
    classes: str = "none"

    @property
    def group(self) -> str:
        return super().group.removesuffix("-none-none")

    @property
    def variant(self) -> str:
        """``main``, or the reading of method one that this arm takes in its place."""
        how = self.ball, self.classes
        return "main" if how in (NONE, MAIN) else ", ".join(how)

    @property
    def tags(self) -> dict[str, str]:
        return super().tags | {"variant": self.variant}

    @property
    def title(self) -> str:
        """What a reader calls it."""
        reading = "" if self.variant == "main" else f"{self.variant}, "
        return f"{SCHEMES[self.scheme]} ({reading}seed {self.seed})"

    @property
    def clean(self) -> Arm:
        """The clean network of the same seed."""
        return Arm(self.task, self.seed, "clean")


def arms(settings: Mapping, *, seed: int, role: str = "", model: str = "") -> Iterator[Arm]:
    """Every arm of the profile; ``role`` and ``model`` pick some (see ``experiment.grid``).

    Raises ProtocolError as ``grid`` does, and for an unknown scheme or choice of classes.
    """
    settings, role = with_own_data(settings, role, settings["arms"][0]["role"])
    own = dict(zip(("scheme", "ball", "classes"), ("clean", *NONE), strict=True))
    named = {**settings, "arms": [own | spec for spec in settings["arms"]]}
    task = cache(partial(_task, settings, seed=seed))  # arms of one task share it
    found: dict[str, Arm] = {}  # an override may make two lines name one arm: no two seeds of it
    for spec, number in experiment.grid(named, tuple(own), seed=seed, role=role, model=model):
        pick(SCHEMES, "scheme", spec["scheme"])
        reading = NONE
        if spec["scheme"] in METHOD_ONE:
            pick(CLASSES, "classes", spec["classes"])
            reading = spec["ball"], spec["classes"]
        arm = Arm(task(spec["role"]), number, spec["scheme"], *reading)
        found.setdefault(arm.key, arm)
    yield from found.values()


def _task(settings: Mapping, role: str, *, seed: int) -> Task:
    """The data set of a role, split by its publisher's parts, or by group where it has none."""
    how = {"size": settings["size"], "phantoms": settings["phantoms"]}
    data = load(settings["datasets"][role], **how, seed=seed)
    asked = own_folder(settings, role)
    if asked and not data.segmentation:
        raise DataError(
            f"{data.name} has classes of whole images; this paper has one for every pixel. Bring "
            "label maps, or run notebook 01, 02 or 03."
        )
    published = data.segmentation and (not asked or set(data.parts or ()) == {"test", "train"})
    data = data if data.segmentation else label_maps(data)
    split = (split_official if published else split_three_ways)(data, seed=seed)
    attacked = some(split.test, settings["attack"]["images"], seed)
    how = {"chosen": split.val, "attacked": attacked, "seed": seed}
    tags = {"role": role, "dataset": data.name}
    return Task(f"{role}-{data.name}-{settings['size']}", tags, data, data, split, **how)


def build_arm(arm: Arm, settings: Mapping) -> MedicalModel:
    """The untrained network; the same seed begins alike in every scheme."""
    env.seed_everything(arm.seed)
    return build_unet(len(arm.task.data.classes), **settings["unet"], size=arm.task.size)


def methods(arm: Arm, settings: Mapping) -> dict[str, Layered | Selective]:
    """The perturbations an arm is trained on that are made before its training."""
    found, sets = {}, SETS.get(arm.scheme, ())
    if "layered" in sets:
        reading = {"ball": arm.ball, "present": CLASSES[arm.classes]}
        found["layered"] = Layered(**settings["method_one"], **reading)
    if "selective" in sets:
        found["selective"] = Selective(**settings["method_two"])
    return found


def hardened(arm: Arm, settings: Mapping, clean: Trained) -> dict[str, tuple[ImageSet, dict]]:
    """The training images as each of an arm's methods perturbs them against ``clean``, the clean
    network of its seed, and what else it tells (``signs`` of method two); made or read back."""
    given = clean.model, clean.arm.task.data, clean.arm.task.split.train
    dtype, found = precision(settings, clean.model), methods(arm, settings)
    return {
        name: segmentation.harden(*given, how, clean.folder, dtype=dtype)
        for name, how in found.items()
    }


def recipe_of(arm: Arm, settings: Mapping) -> dict:
    """How an arm is trained (see ``recipes.complete``): with equally many steps in every scheme."""
    recipe = dict(settings["training"])
    # "To accommodate for the growth of training data we reduce the epochs by two thirds."
    recipe["epochs"] = max(1, round(recipe["epochs"] / len(SETS.get(arm.scheme, ["clean"]))))
    if arm.scheme == "adversarial":  # `on_the_fly` is judged against `layered`, by one rule
        recipe["patience"] = 0  # the epoch of best clean scores is not the most robust one
    return recipe


def train(arm: Arm, settings: Mapping, checkpoints: Path) -> Trained:
    """Train an arm, or read back what was trained."""
    task, model, recipe = arm.task, build_arm(arm, settings), recipe_of(arm, settings)
    data, split, objective = task.data, task.split, None
    if arm.scheme == "adversarial":
        how = settings["adversarial"]
        objective = AdversarialTraining(how["eps"], how["steps"], how["rel_step"] * how["eps"])
    if arm.scheme == "on_the_fly":
        how = settings["method_one"]["eps"], ON_THE_FLY, arm.ball, CLASSES[arm.classes]
        objective = LayeredTraining(*how)
    if arm.scheme in SETS:
        made = hardened(arm, settings, train(arm.clean, settings, checkpoints))
        sets = {name: images for name, (images, _) in made.items()}
        sets["clean"] = rows_of(task.data, task.split.train)
        data, none = union(*(sets[name] for name in SETS[arm.scheme])), np.zeros(0, np.int64)
        split = ThreeWay(np.arange(len(data)), none, none)
    images = data.checksum, split.train.tolist(), task.chosen.tolist()
    own = objective.identity if objective else ""
    identity = fingerprint(recipe, own, settings["unet"], arm.seed, *images)
    folder = checkpoints / f"{arm.key}-{identity}"
    how = {"seed": arm.seed, "clean": (task.data, task.chosen), "objective": objective}
    history = segmentation.fit(model, data, split, recipe, folder, **how)
    cards.leave(folder, arm, model, "4_unet_adversarial_training")
    return Trained(arm, model, history, folder)


@dataclass
class Study:
    """The whole study in steps; each writes what it finds into the record ``run``."""

    run: Run
    settings: Mapping
    arms: Sequence[Arm]
    cleans: dict[int, Trained] = field(default_factory=dict)  # clean networks by seed
    trained: list[Trained] = field(default_factory=list)
    tallies: list[dict[Cell, scoring.Tally]] = field(default_factory=list)
    signs: dict[int, np.ndarray] = field(default_factory=dict)  # of method two, by seed

    @property
    def task(self) -> Task:
        return self.arms[0].task

    def train(self, checkpoints: str | Path = "") -> None:
        """Train every arm, or read it back from ``checkpoints`` (empty: of the cache)."""
        folder = Path(checkpoints) if checkpoints else env.home() / "checkpoints"
        data, split, tags = self.task.data, self.task.split, self.task.tags
        counts = pixel_counts(data.targets)[: len(data.classes)]
        shares = pd.DataFrame({"kind": data.classes, "estimate": counts / counts.sum()})
        self.run.dataset(data)
        tables.record(self.run, shares.assign(metric="pixel_share", side="all", **tags))
        self.run.add("test_images_leaked", leaks(data, split), n=len(split.test), **tags)
        for number, arm in enumerate(self.arms, 1):
            print(f"network {number} of {len(self.arms)}: {arm.key}")
            if arm.seed not in self.cleans:
                self.cleans[arm.seed] = train(arm.clean, self.settings, folder)
            self.trained.append(train(arm, self.settings, folder))
            experiment.note(self.run, self.trained[-1], recipe_of(arm, self.settings))

    def measure(self) -> None:
        """Scores of every network in every cell, what it gains, and those of a constant answer."""
        main, scores = [one for one in self.trained if one.arm.variant == "main"], []
        for one in self.trained:
            counts = segmented.evaluate(one, self.settings, self.cleans[one.arm.seed])
            scores.append(segmented.scores(one.arm, counts))
            self.tallies.append(counts)
        scores += [segmented.fluctuations(main), segmented.agreement(main)]
        tables.record(self.run, segmented.compared(pd.concat(scores)))
        weights = metrics.group_weights(self.task.data.groups[self.task.attacked])
        constant = scoring.constant(self.tallies[0][CLEAN])
        found = scoring.score(constant, weights, self.task.data.classes)
        rows = pd.DataFrame([{"metric": name, "estimate": found[name]} for name in SEEN])
        tags = {"n": len(self.task.attacked), "scheme": "majority", **self.task.tags}
        tables.record(self.run, rows.assign(**tags))
        registered = protocol.load(self.run.record["paper"]).settings("paper")
        unlike = experiment.deviations(self.settings, registered, list(self.arms))
        for line in (*unlike, "width, depth, recipe, split and step sizes: not in the draft."):
            self.run.deviation(line)

    def methods(self) -> None:
        """What both methods make of images: fragments, signs, and likeness to the originals."""
        shapes = [segmented.shapes(one, self.settings) for one in self.cleans.values()]
        tables.record(self.run, tables.over_seeds(pd.concat(shapes)))
        data, train, tags = self.task.data, self.task.split.train, self.task.tags
        main = [arm for arm in reversed(self.arms) if arm.variant == "main"]
        arms = {(name, arm.seed): arm for arm in main for name in methods(arm, self.settings)}
        for (name, seed), arm in arms.items():
            made, more = hardened(arm, self.settings, self.cleans[seed])[name]
            if name == "selective":
                self.signs[seed] = more["signs"]
            if seed == self.task.seed:
                pair = to_float(data.images[train]), to_float(made.images)
                rows = tables.image_means(perturbations.likeness(*pair), data.groups[train])
                tables.record(self.run, rows.assign(perturbed=f"{name} set", **tags))
        for seed, signs in self.signs.items():
            for sign, (place, kind) in product((-1, 0, 1), enumerate(data.classes)):
                share, n = float((signs[:, place] == sign).mean()), len(train)
                self.run.add("sign_share", share, sign=sign, kind=kind, n=n, seed=seed, **tags)

    def decide(self) -> None:
        """What the ensemble of attacks leaves, and beside gains what a verdict asks of it."""
        pairs = zip(self.trained, self.tallies, strict=True)
        left = pd.concat([segmented.under_ensemble(one, self.settings, t) for one, t in pairs])
        won, how = tables.over_seeds(segmented.gains(left)), self.settings["attack"]["ensemble"]
        tables.record(self.run, tables.over_seeds(left))
        tables.record(self.run, won)
        for attack in ("background", "worst"):
            of = (f"mean_iou_{attack}_gain", "mean_iou_ensemble_gain")
            where = {"attack": attack, "reading": "total", "made_for": "own"}
            few, keys = won[won["metric"].isin(of)], ["scheme", "variant", "against", *where]
            given = few.assign(**where), ["mean_iou_gain"], keys, how["steps"]
            survival.decide(self.run, *given, of=of)

    def save(self) -> Path:
        """Save the record, and ``per_image.csv`` and ``signs.csv`` beside it."""
        pairs = zip(self.trained, self.tallies, strict=True)
        files = {"per_image": [segmented.per_image(one.arm, counts) for one, counts in pairs]}
        if self.signs:
            ids = [self.task.data.ids[row] for row in self.task.split.train]
            about = {"index": pd.Index(ids, name="image"), "columns": self.task.data.classes}
            signs = {seed: pd.DataFrame(one, **about) for seed, one in self.signs.items()}
            files["signs"] = [pd.concat(signs, names=["seed"]).reset_index()]
        for name, table in files.items():
            text = pd.concat(table).to_csv(index=False)
            write_atomic(self.run.out / f"{name}.csv", text.encode())
        return self.run.save()
