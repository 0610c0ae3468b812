"""Paper 4: four U-Nets, trained clean, on two kinds of perturbed images, and on all three; and
three that the paper does not have, to tell what its methods add.

An *arm* is one network. Perturbed images are made against the clean network of the same seed,
which is therefore trained first, whichever arm is asked for. ``train`` may be killed and called
again; finished work is read back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from .. import segmentation
from ..core import env
from ..core.errors import DataError, ProtocolError
from ..core.storage import fingerprint
from ..data import ImageSet, ThreeWay, load, split_official, split_three_ways
from ..data.imageset import rows_of, union
from ..data.views import label_maps
from ..models import MedicalModel, build_unet
from ..segmentation import Layered, Selective
from ..training import cards
from ..training.adversarial import AdversarialTraining, LayeredTraining
from .common import asked_for, cast, precision, select, some

# Models 1 to 4 of the paper, and three it does not have: plain adversarial training, the union
# without method two, and method one against the network as it is in every step of its training.
SCHEMES = (
    "clean",
    "layered",
    "selective",
    "union",
    "adversarial",
    "clean_layered",
    "on_the_fly",
)
TITLES = dict(
    zip(
        SCHEMES,
        (
            "vanilla",
            "method one",
            "method two",
            "both methods",
            "adversarial training",
            "clean and method one",
            "method one on the fly",
        ),
        strict=True,
    )
)
CLASSES = ("all", "present")
METHOD_ONE = ("layered", "union", "clean_layered", "on_the_fly")  # schemes it has a part in
MIXED = {"union": 3, "clean_layered": 2}  # schemes that also see clean images: sets in all
ON_THE_FLY = 1  # steps a class: six gradients an image, twice those of adversarial training
MAIN = ("stage", "all")  # ball and classes of the reading of method one that models 2 and 4 take


@dataclass(frozen=True)
class Task:
    """The label maps, their split, and the test images under attack.

    Attributes:
        seed: of the split and of phantoms.
        asked: the DATASET that gives this task again, where that is not the role.
    """

    role: str
    data: ImageSet
    split: ThreeWay
    attacked: np.ndarray
    seed: int = 0
    asked: str = ""

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return self.data.images.shape[1]

    @property
    def key(self) -> str:
        return f"{self.role}-{self.data.name}-{self.size}"


@dataclass(frozen=True)
class Arm:
    """One network, with one training seed.

    Attributes:
        scheme: one of SCHEMES.
        ball, classes: of method one (see ``attacks.layered``), ``none`` where it has no part.
    """

    task: Task = field(repr=False)
    scheme: str
    ball: str
    classes: str
    seed: int

    @property
    def key(self) -> str:
        parts = [self.task.key, self.scheme]
        if self.ball != "none":
            parts += [self.ball, self.classes]
        return "-".join([*parts, str(self.seed)])

    @property
    def title(self) -> str:
        """What a reader calls it."""
        reading = "" if self.variant == "main" else f"{self.variant}, "
        return f"{TITLES[self.scheme]} ({reading}seed {self.seed})"

    @property
    def group(self) -> str:
        """What arms share that differ in their training seed only."""
        return self.key.rpartition("-")[0]

    @property
    def tags(self) -> dict[str, str]:
        """What every result row of this arm carries."""
        return {
            "role": self.task.role,
            "dataset": self.task.data.name,
            "scheme": self.scheme,
            "ball": self.ball,
            "classes": self.classes,
            "variant": self.variant,
        }

    @property
    def variant(self) -> str:
        """``main``, or the reading of method one that this arm takes in its place."""
        how = self.ball, self.classes
        return "main" if how in (("none", "none"), MAIN) else ", ".join(how)


@dataclass(frozen=True)
class Trained:
    """A finished arm.

    Attributes:
        folder: keeps its work.
        sets: what it was trained on beside the clean images: ``layered``, ``selective``.
        signs: int8 (train, K) of method two, or None.
    """

    arm: Arm
    model: MedicalModel
    history: list[dict]
    folder: Path
    sets: Mapping[str, ImageSet]
    signs: np.ndarray | None


def arms(settings: Mapping, *, seed: int, role: str = "", model: str = "") -> Iterator[Arm]:
    """Every arm of the profile; ``role`` and ``model`` (a scheme) pick some by name.

    Raises:
        ProtocolError: for a name that is not known, or a negative seed.
    """
    settings, role = cast(settings, role, settings["arms"][0]["role"])
    groups = select(settings["arms"], seed=seed, role=role, model=model, key="scheme")
    task = make_task(settings, groups[0]["role"], seed=seed)
    known: set[str] = set()  # an override may make two groups name one arm; the first stands
    for group in groups:
        how = _method_one(group)
        for number in range(seed, seed + group.get("seeds", settings["seeds"])):
            arm = Arm(task, group["scheme"], *how, number)
            if arm.key not in known:
                known.add(arm.key)
                yield arm


def _method_one(group: Mapping) -> tuple[str, str]:
    """Ball and classes of a group's method one, or ``none``."""
    if group["scheme"] not in SCHEMES:
        raise ProtocolError(f"scheme {group['scheme']!r}: choose among {', '.join(SCHEMES)}.")
    if group["scheme"] not in METHOD_ONE:
        return "none", "none"
    if group["classes"] not in CLASSES:
        raise ProtocolError(f"classes {group['classes']!r}: choose {' or '.join(CLASSES)}.")
    return group["ball"], group["classes"]


def make_task(settings: Mapping, role: str, *, seed: int) -> Task:
    """The data set of a role, split by its publisher's parts, or by group where it has none."""
    data = load(
        settings["datasets"][role], size=settings["size"], phantoms=settings["phantoms"], seed=seed
    )
    asked = asked_for(settings, role)
    if asked and not data.segmentation:
        raise DataError(
            f"{data.name} has classes of whole images; this paper has one for every pixel. Bring "
            "label maps, or run notebook 01, 02 or 03."
        )
    if asked and set(data.parts or ()) != {"test", "train"}:
        split = split_three_ways(data, seed=seed)
    elif data.segmentation:
        split = split_official(data, seed=seed)
    else:
        data = label_maps(data)
        split = split_three_ways(data, seed=seed)
    return Task(
        role, data, split, some(split.test, settings["attack"]["images"], seed), seed, asked
    )


def build_arm(arm: Arm, settings: Mapping) -> MedicalModel:
    """The untrained network; the same seed begins alike in every scheme."""
    env.seed_everything(arm.seed)
    how = settings["unet"]
    classes = len(arm.task.data.classes)
    return build_unet(classes, width=how["width"], depth=how["depth"], size=arm.task.size)


def methods(arm: Arm, settings: Mapping) -> dict[str, Layered | Selective]:
    """The perturbations an arm is trained on that are made before its training."""
    one, two, found = settings["method_one"], settings["method_two"], {}
    if arm.scheme in METHOD_ONE and arm.scheme != "on_the_fly":
        present = arm.classes == "present"
        found["layered"] = Layered(one["eps"], one["steps"], arm.ball, present)
    if arm.scheme in ("selective", "union"):
        found["selective"] = Selective(two["step_size"], two["bound"], two["search"])
    return found


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
    task, model = arm.task, build_arm(arm, settings)
    recipe, objective = recipe_of(arm, settings), None
    sets, signs = {}, None
    data, split = task.data, task.split
    if arm.scheme == "adversarial":
        how = settings["adversarial"]
        objective = AdversarialTraining(how["eps"], how["steps"], how["rel_step"] * how["eps"])
    if arm.scheme == "on_the_fly":
        eps, present = settings["method_one"]["eps"], arm.classes == "present"
        objective = LayeredTraining(eps, ON_THE_FLY, arm.ball, present)
    if perturbing := methods(arm, settings):
        source = replace(arm, scheme="clean", ball="none", classes="none")
        clean = train(source, settings, checkpoints)
        dtype = precision(settings, clean.model)
        for name, method in perturbing.items():
            sets[name], told = segmentation.harden(
                clean.model, task.data, task.split.train, method, clean.folder, dtype=dtype
            )
            signs = told.get("signs", signs)
        data, split = _training_set(arm, sets)
    origin = objective.identity if objective else ""
    sides = split.train.tolist(), task.split.val.tolist()
    identity = fingerprint(recipe, origin, settings["unet"], arm.seed, data.checksum, *sides)
    folder = checkpoints / f"{arm.key}-{identity}"
    history = segmentation.fit(
        model,
        data,
        split,
        recipe,
        folder,
        seed=arm.seed,
        clean=(task.data, task.split.val),
        objective=objective,
    )
    card = cards.Card(
        "4_unet_adversarial_training",
        task.key,
        arm.key,
        task.asked or task.role,
        task.seed,
        settings,
        model.source,
        task.data.checksum,
        cards.split_of(task.split.train),
    )
    cards.leave(folder, card)
    return Trained(arm, model, history, folder, sets, signs)


def _training_set(arm: Arm, sets: Mapping[str, ImageSet]) -> tuple[ImageSet, ThreeWay]:
    """What an arm is trained on: perturbed images alone, or the clean ones too where they mix."""
    task = arm.task
    parts = list(sets.values())
    if arm.scheme in MIXED:
        parts.insert(0, rows_of(task.data, task.split.train))
    data = union(*parts)
    nobody = np.zeros(0, np.int64)
    return data, ThreeWay(np.arange(len(data)), nobody, nobody)
