"""Paper 4: four U-Nets, trained clean, on two kinds of perturbed images, and on all three; and
three that the paper does not have, to tell what its methods add.

Perturbed images are made against the clean network of the same seed, which is therefore trained
first, whichever arm is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from .. import segmentation
from ..core import env
from ..core.errors import DataError
from ..core.losses import IGNORED
from ..core.storage import fingerprint
from ..data import ImageSet, ThreeWay, load, split_official, split_three_ways
from ..data.imageset import rows_of, union
from ..data.masks import pixel_counts
from ..data.splits import leaks
from ..data.views import label_maps
from ..models import MedicalModel, build_unet
from ..segmentation import Layered, Selective
from ..training import cards
from ..training.adversarial import AdversarialTraining, LayeredTraining
from . import experiment, tables
from .common import asked_for, cast, precision, some
from .experiment import Task, Trained, pick

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
CLASSES = ("all", "present")
METHOD_ONE = ("layered", "union", "clean_layered", "on_the_fly")  # schemes it has a part in
MIXED = {"union": 3, "clean_layered": 2}  # schemes that also see clean images: sets in all
ON_THE_FLY = 1  # steps a class: six gradients an image, twice those of adversarial training
ARM = {"scheme": "clean", "ball": "none", "classes": "none"}  # as it is where nothing is said
MAIN = ("stage", "all")  # ball and classes of the reading of method one that models 2 and 4 take
# What is compared; pixel accuracy, the paper's only score, can hardly see a nucleus.
COMPARED = ("loss", "pixel_accuracy", "foreground_accuracy", "mean_iou", "calibration_error")


@dataclass(frozen=True)
class Arm(experiment.Arm):
    """One network, with one training seed.

    Attributes:
        scheme: one of SCHEMES.
        ball, classes: of method one (see ``attacks.layered``), ``none`` where it has no part.
    """

    scheme: str
    ball: str
    classes: str

    @property
    def group(self) -> str:
        """What arms share that differ in their training seed only."""
        return super().group.removesuffix("-none-none")

    @property
    def variant(self) -> str:
        """``main``, or the reading of method one that this arm takes in its place."""
        how = self.ball, self.classes
        return "main" if how in (("none", "none"), MAIN) else ", ".join(how)

    @property
    def tags(self) -> dict[str, str]:
        """What every row of this arm carries."""
        return super().tags | {"variant": self.variant}

    @property
    def title(self) -> str:
        """What a reader calls it."""
        reading = "" if self.variant == "main" else f"{self.variant}, "
        return f"{SCHEMES[self.scheme]} ({reading}seed {self.seed})"

    @property
    def clean(self) -> Arm:
        """The clean network of the same seed."""
        return replace(self, **ARM)


def arms(settings: Mapping, *, seed: int, role: str = "", model: str = "") -> Iterator[Arm]:
    """Every arm of the profile; ``role`` and ``model`` pick some (see ``experiment.grid``).

    Raises ProtocolError as ``grid`` does, and for an unknown scheme or choice of classes.
    """
    settings, role = cast(settings, role, settings["arms"][0]["role"])
    named = {**settings, "arms": [ARM | spec for spec in settings["arms"]]}
    task = cache(partial(_task, settings, seed=seed))  # arms of one task share it
    found: dict[str, Arm] = {}  # an override may make two lines name one arm: no two seeds of it
    for spec, number in experiment.grid(named, tuple(ARM), seed=seed, role=role, model=model):
        own = {"scheme": spec["scheme"]}
        pick(SCHEMES, "scheme", spec["scheme"])
        if spec["scheme"] in METHOD_ONE:
            pick(dict.fromkeys(CLASSES), "classes", spec["classes"])
            own |= {name: spec[name] for name in ("ball", "classes")}
        arm = Arm(task(spec["role"]), number, **ARM | own)
        found.setdefault(arm.key, arm)
    yield from found.values()


def _task(settings: Mapping, role: str, *, seed: int) -> Task:
    """The data set of a role, split by its publisher's parts, or by group where it has none."""
    how = {"size": settings["size"], "phantoms": settings["phantoms"]}
    data = load(settings["datasets"][role], **how, seed=seed)
    asked = asked_for(settings, role)
    if asked and not data.segmentation:
        raise DataError(
            f"{data.name} has classes of whole images; this paper has one for every pixel. Bring "
            "label maps, or run notebook 01, 02 or 03."
        )
    own = asked and set(data.parts or ()) != {"test", "train"}
    published = data.segmentation and not own
    data = data if data.segmentation else label_maps(data)
    split = split_official(data, seed=seed) if published else split_three_ways(data, seed=seed)
    return Task(
        f"{role}-{data.name}-{settings['size']}",
        {"role": role, "dataset": data.name},
        data,
        data,
        split,
        chosen=split.val,
        attacked=some(split.test, settings["attack"]["images"], seed),
        seed=seed,
        asked=asked,
    )


def build_arm(arm: Arm, settings: Mapping) -> MedicalModel:
    """The untrained network; the same seed begins alike in every scheme."""
    env.seed_everything(arm.seed)
    return build_unet(len(arm.task.data.classes), **settings["unet"], size=arm.task.size)


def methods(arm: Arm, settings: Mapping) -> dict[str, Layered | Selective]:
    """The perturbations an arm is trained on that are made before its training."""
    found = {}
    if arm.scheme in METHOD_ONE and arm.scheme != "on_the_fly":
        reading = {"ball": arm.ball, "present": arm.classes == "present"}
        found["layered"] = Layered(**settings["method_one"], **reading)
    if arm.scheme in ("selective", "union"):
        found["selective"] = Selective(**settings["method_two"])
    return found


def hardened(
    arm: Arm, settings: Mapping, clean: Trained
) -> dict[str, tuple[ImageSet, dict[str, np.ndarray]]]:
    """The training images as each of an arm's methods perturbs them against ``clean``, the clean
    network of its seed, and what else it tells (``signs`` of method two); made or read back."""
    task, dtype = clean.arm.task, precision(settings, clean.model)
    return {
        name: segmentation.harden(
            clean.model, task.data, task.split.train, how, clean.folder, dtype=dtype
        )
        for name, how in methods(arm, settings).items()
    }


def recipe_of(arm: Arm, settings: Mapping) -> dict:
    """How an arm is trained (see ``recipes.complete``): with equally many steps in every scheme."""
    recipe = dict(settings["training"])
    # "To accommodate for the growth of training data we reduce the epochs by two thirds."
    recipe["epochs"] = max(1, round(recipe["epochs"] / MIXED.get(arm.scheme, 1)))
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
        eps, present = settings["method_one"]["eps"], arm.classes == "present"
        objective = LayeredTraining(eps, ON_THE_FLY, arm.ball, present)
    if methods(arm, settings):
        clean = train(arm.clean, settings, checkpoints)
        sets = [images for images, _ in hardened(arm, settings, clean).values()]
        if arm.scheme in MIXED:
            sets.insert(0, rows_of(task.data, task.split.train))
        data, none = union(*sets), np.zeros(0, np.int64)
        split = ThreeWay(np.arange(len(data)), none, none)
    identity = fingerprint(
        recipe,
        objective.identity if objective else "",
        settings["unet"],
        arm.seed,
        data.checksum,
        split.train.tolist(),
        task.chosen.tolist(),
    )
    folder = checkpoints / f"{arm.key}-{identity}"
    how = {"seed": arm.seed, "clean": (task.data, task.chosen), "objective": objective}
    history = segmentation.fit(model, data, split, recipe, folder, **how)
    cards.leave(folder, arm, model, "4_unet_adversarial_training")
    return Trained(arm, model, history, folder)


def probed(clean: Trained, settings: Mapping) -> np.ndarray:
    """The training images that the methods are measured on."""
    return some(clean.arm.task.split.train, settings["probe"], clean.arm.seed)


def task_rows(task: Task) -> pd.DataFrame:
    """Rows on the data: sizes of the sides, shares of the classes, unlabelled pixels, leaks."""
    data, rows = task.data, []
    sides = {**task.split._asdict(), "attacked": task.attacked, "all": np.arange(len(data))}
    for side, index in sides.items():
        counts = pixel_counts(data.targets[index])
        found = {"images": len(index), "groups": len(np.unique(data.groups[index]))}
        found["pixels_ignored"] = int(counts[IGNORED])
        rows += [{"metric": name, "estimate": one, "side": side} for name, one in found.items()]
        shares = dict(zip(data.classes, counts / counts[:IGNORED].sum(), strict=False))
        about = {"metric": "pixel_share", "side": side}
        rows += [{**about, "estimate": share, "kind": kind} for kind, share in shares.items()]
    leaked = {"metric": "test_images_leaked", "estimate": leaks(data, task.split)}
    rows.append(leaked | {"n": len(task.split.test)})
    return pd.DataFrame(rows, dtype=object).assign(**task.tags)


def fluctuations(trained: Iterable[Trained]) -> pd.DataFrame:
    """Rows on how much the validation loss fluctuates, from the lowest to the highest seed.

    ``val_loss_spread``: standard deviation over the last half of the epochs, as a share of their
    mean. ``val_loss_rises``: share of the epochs with a higher validation loss than the one before.
    ``best_epoch_share``: place of the lowest, as a share of all epochs.
    """
    rows = []
    for one in trained:
        loss = np.array([row["val_loss"] for row in one.history])
        half = loss[len(loss) // 2 :]
        found = {
            "val_loss_spread": half.std() / half.mean(),
            "val_loss_rises": (np.diff(loss) > 0).mean() if len(loss) > 1 else np.nan,
            "best_epoch_share": (loss.argmin() + 1) / len(loss),
        }
        tags = one.arm.task.tags | {"scheme": one.arm.scheme}
        rows += [{"metric": name, "estimate": value, **tags} for name, value in found.items()]
    groups = pd.DataFrame(rows).groupby(["metric", *tags], sort=False)["estimate"]
    return groups.agg(estimate="mean", low="min", high="max", seeds="size").reset_index()


def drops(scores: pd.DataFrame) -> pd.DataFrame:
    """What each attack takes from each network: the clean score minus the attacked one."""
    few, clean = scores["metric"].isin(COMPARED), scores["attack"].eq("none")
    under, before = scores[few & ~clean], scores[few & clean]
    apart = ("attack", "reading", "made_for")
    lost = tables.paired(under, before, "{}_drop", lambda after, before: before - after, apart)
    return tables.over_seeds(_by_foreground(lost))


def gains(scores: pd.DataFrame) -> pd.DataFrame:
    """The second network's scores minus the first's (``against``, ``against_variant``).

    Every network against the clean one, and models 2 to 4, as the paper has them, against each
    other, the one that comes first in the profile first.
    """
    few = scores[scores["metric"].isin(COMPARED)]
    # one attacked test set for all: the clean network meets it as its own
    own = {"scheme": "clean", "attack": "background", "reading": "total"}
    few = pd.concat([few, tables.chosen(few, own).assign(made_for="clean")])
    pairs = []
    for one, other in combinations(few.groupby(["scheme", "variant"], sort=False), 2):
        (scheme, variant), theirs = one
        (_, reading), ours = other
        if scheme == "clean" or variant == reading == "main":
            pair = tables.paired(ours, theirs, apart=[*ARM, "variant"])
            pairs.append(pair.assign(against=scheme, against_variant=variant))
    return tables.over_seeds(_by_foreground(pd.concat(pairs))) if pairs else few[:0]


def _by_foreground(pairs: pd.DataFrame) -> pd.DataFrame:
    """Pairs whose ``ours`` and ``theirs`` say what is left of the foreground.

    Where neither network has any left, a gain in another score says nothing.
    """
    left = pairs[pairs["metric"].str.startswith("foreground_accuracy")]
    left = left.drop(columns=["metric", "kind", "estimate"])
    return pairs.drop(columns=["ours", "theirs"]).merge(left)
