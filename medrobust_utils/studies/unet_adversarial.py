"""Paper 4: four U-Nets, trained clean, on two kinds of perturbed images, and on all three; and
three that the paper does not have, to tell what its methods add.

Perturbed images are made against the clean network of the same seed, which is trained first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.signal import detrend

from .. import segmentation
from ..attacks import Layered, Selective
from ..core import env
from ..core.errors import DataError
from ..core.storage import fingerprint
from ..data import ImageSet, ThreeWay, load, split_official, split_three_ways
from ..data.imageset import rows_of, union
from ..data.masks import pixel_counts
from ..data.splits import leaks
from ..data.views import label_maps
from ..models import MedicalModel, build_unet
from ..reporting.results import Run
from ..scoring.metrics import DRAWS, Estimate
from ..training import cards
from ..training.adversarial import AdversarialTraining, LayeredTraining
from . import experiment, survival, tables
from .common import own_folder, precision, some, with_own_data
from .experiment import Task, Trained, pick
from .segmented import BACKGROUND, PROBES, SEEN, answers, within

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
FLUCTUATES = 0.05  # standard deviation over mean of a validation loss that does
# Which networks are held against which, with the one that is to gain last.
RIVALS = {
    "clean": [*SCHEMES][1:],
    "layered": ["selective", "union", "clean_layered", "on_the_fly"],
    "selective": ["union"],
    "clean_layered": ["union"],
}


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


def task_rows(task: Task) -> pd.DataFrame:
    """Rows on the data: images and groups of each side, shares of the classes, leaks."""
    data = task.data
    leaked = {"metric": "test_images_leaked", "estimate": leaks(data, task.split)}
    rows = [leaked | {"n": len(task.split.test)}]
    sides = {**task.split._asdict(), "attacked": task.attacked, "all": np.arange(len(data))}
    for side, index in sides.items():
        found = {"images": len(index), "groups": len(np.unique(data.groups[index]))}
        rows += [{"metric": name, "estimate": one, "side": side} for name, one in found.items()]
        counts = pixel_counts(data.targets[index])[: len(data.classes)]
        shares = dict(zip(data.classes, (counts / counts.sum()).tolist(), strict=True))
        about = {"metric": "pixel_share", "side": side}
        rows += [{**about, "estimate": share, "kind": kind} for kind, share in shares.items()]
    return pd.DataFrame(rows, dtype=object).assign(**task.tags)


def compared(scores: pd.DataFrame) -> pd.DataFrame:
    """Rows of single networks, with what they gain over one another, over the training seeds.

    A ``_gain`` is a network's score minus that of another (``against``, see RIVALS): of models as
    the paper has them, and over the clean one of other readings too.
    """
    scores = pd.concat([scores, within(scores)])
    few = scores["metric"].isin([*SEEN, "band_noise"]) & ~scores["attack"].isin(PROBES)
    main = scores["variant"].eq("main")
    # one attacked test set for all: the clean network meets it as its own
    own = {"scheme": "clean", **BACKGROUND._asdict()}
    theirs = scores[few & main]
    theirs = pd.concat([theirs, tables.chosen(theirs, own).assign(made_for="clean")])
    return tables.over_seeds(pd.concat([scores, *_rivalries(scores[few], theirs)]))


def _rivalries(scores: pd.DataFrame, theirs: pd.DataFrame) -> Iterator[pd.DataFrame]:
    for rival, schemes in RIVALS.items():
        ours = scores[scores["scheme"].isin(schemes)]
        ours = ours[ours["variant"].eq("main") | (rival == "clean")]
        old = theirs[theirs["scheme"].eq(rival)]
        pairs = tables.paired(ours, old, apart=["scheme", "ball", "classes", "variant"])
        yield pairs.assign(against=rival)


def decided(run: Run, left: pd.DataFrame, settings: Mapping) -> None:
    """Write what networks gain under the ensemble, and beside gains what a verdict asks of it.

    Args:
        left: rows of every network (see ``segmented.under_ensemble``).
    """
    steps = settings["attack"]["ensemble"]["steps"]
    gains = tables.over_seeds(pd.concat(_rivalries(left, left[left["variant"].eq("main")])))
    tables.record(run, gains)
    for attack in ("background", "worst"):
        of = (f"mean_iou_{attack}_gain", "mean_iou_ensemble_gain")
        where = {"attack": attack, "reading": "total", "made_for": "own"}
        told = gains[gains["metric"].isin(of)].assign(**where)
        keys = ["scheme", "variant", "against", *where]
        survival.decide(run, told, ["mean_iou_gain"], keys, steps, of=of)


def agreement(trained: Iterable[Trained]) -> pd.DataFrame:
    """Rows on whether models 2 and 3 of a seed answer alike: the share of the clean test pixels
    that they give one class, minus that of two seeds of model 2; none where there is one seed."""
    main = {(one.arm.scheme, one.arm.seed): one for one in trained if one.arm.variant == "main"}
    seeds = [seed for scheme, seed in main if scheme == "selective" and ("layered", seed) in main]
    parts = [pd.DataFrame()]
    for seed, other in zip(seeds, seeds[1:] + seeds[:1], strict=True):
        if seed != other:
            three, task = main["selective", seed], main["selective", seed].arm.task
            two, rival = (answers(main["layered", number]) for number in (seed, other))
            gain = (two == answers(three)).mean((1, 2)) - (two == rival).mean((1, 2))
            rows = tables.image_means({"agreement_gain": gain}, task.data.groups[task.attacked])
            tags = {"against": "layered", "attack": "none", "seed": seed}
            parts.append(rows.assign(**three.arm.tags, **tags))
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
        if arm.scheme in [*SCHEMES][:4] and arm.variant == "main":
            least[arm.seed].append(detrend(half).std() / half.mean() - FLUCTUATES)
    four = {"metric": "val_loss_spread_above", "schemes": "four", **about, **arm.task.tags}
    rows += [four | {"estimate": min(k), "seed": s} for s, k in least.items() if len(k) == 4]
    table = pd.DataFrame(rows)  # no images, hence no variance of theirs
    sure = [Estimate(value, np.full(DRAWS, value)) for value in table["estimate"]]
    return table.assign(estimate=sure)
