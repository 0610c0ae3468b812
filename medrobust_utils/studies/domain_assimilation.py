"""Paper 3: domain assimilation; networks, attacks, and what is held against what.

A *task* is one data set, made binary and balanced, under one split; an *arm* is one network
trained for it with one defence.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..attacks import SweepResult, attack_sweep
from ..core import env
from ..core.errors import ProtocolError
from ..data import load, split_by_image, split_three_ways, to_float
from ..data.views import binary, gray, undersample
from ..models import AssimilatedModel, MedicalModel, build, build_assimilated
from ..training.adversarial import AdversarialTraining
from ..training.objectives import Assimilation, Objective
from . import evaluation, experiment
from .common import asked_for, cast, curve_scores, in_gray_levels, precision, question, some
from .evaluation import Evaluation
from .experiment import CLEAN, Task, Trained, pick

ROLES = ("ct", "mri", "xray", "ultrasound")  # each played by a data set of the profile
# ``by image`` keeps every duplicate, wherever it falls: the slides' probable split.
SPLITS = {"honest": partial(split_three_ways, val_folds=8), "by image": split_by_image}
# What stands between the attacker and the backbone: nothing, the modules alone, the modules and
# the GLCM loss, or (which the slides do not have) adversarial training.
NAMES = {
    "none": "vanilla",
    "modules": "T and C alone",
    "glcm": "domain assimilation",
    "adversarial": "adversarial training",
}
ARM = ("backbone", "start", "defence", "alpha", "colour", "rows")
PLAIN = {"alpha": 1.0, "colour": "none", "rows": "none"}
LACKS = {"none": PLAIN, "adversarial": PLAIN, "modules": {"alpha": 1.0, "rows": "none"}}
NO_ATTACK = {"step": "none", "eps_255": 0.0}  # tags of clean scores beside those under attack
ATTACKED = "accuracy_attacked"
LOGGED = 32  # images on which the gradients of the two terms are compared after each epoch

# The slides give no step sizes. `quarter` steps by eps / 4; `torchattacks` has that library's
# defaults, steps of 2/255 whatever eps, which at 1/255 overshoot the ball. FGSM's only step is eps.
# Beside the slides' attacks, PGD by bisection over the eps: images that survive a few cold steps
# are fooled there. `fine` are eps below the slides' smallest.
FGSM, PGD, FINE = ("fgsm", "single"), ("pgd", "quarter"), ("bisection", "fine")
QUARTER = [FGSM, ("bim", "quarter"), ("mifgsm", "quarter"), PGD]
LIBRARY = [(attack, "torchattacks") for attack in ("bim", "mifgsm", "pgd")]
RUN = {"all": QUARTER + LIBRARY, "quarter": QUARTER, "pgd": [PGD]}
WORST, STRONG = ("worst", "all"), ("worst", "pgd")


@dataclass(frozen=True)
class Arm(experiment.Arm):
    """One network, with one training seed, on one task.

    Attributes:
        alpha: weight of the cross-entropy; 1 where there is no GLCM loss.
        colour: the colour module, or ``none``.
        rows: reading of the GLCM loss (see ``glcm.texture_distance``), or ``none``.
        attacks: which of them it meets, a key of RUN.
    """

    backbone: str
    start: str
    defence: str
    alpha: float = 1.0
    colour: str = "none"
    rows: str = "none"
    attacks: str = field(default="all", compare=False)

    @property
    def title(self) -> str:
        """What a reader calls it."""
        told = {k: v for k, v in self.own.items() if k != "defence" and v != PLAIN.get(k)}
        return f"{NAMES[self.defence]} ({', '.join(map(str, told.values()))}, seed {self.seed})"


def place(tags: Mapping[str, str]) -> str:
    """A data set, split, backbone and start: only networks of one place are compared."""
    split = "" if tags["split"] == "honest" else f", {tags['split']}"
    return f"{tags['role']}, {tags['backbone']} from {tags['start']}{split}"


def usual(settings: Mapping) -> dict[str, list]:
    """Tags of the networks with the profile's own alpha, colour module and reading of the loss."""
    own = {"alpha": settings["alpha"], "colour": "conv", "rows": settings["glcm"]["rows"]}
    return {name: [PLAIN[name], value] for name, value in own.items()}


def arms(settings: Mapping, *, seed: int, role: str = "", model: str = "") -> Iterator[Arm]:
    """Every arm of the profile, task by task; ``role`` and ``model`` pick some (see ``grid``).

    Raises ProtocolError as ``grid`` does.
    """
    settings, role = cast(settings, role, settings["arms"][0]["role"])
    own = {name: values[1] for name, values in usual(settings).items()} | {"attacks": "all"}
    specs = {**settings, "arms": [{**own, **spec} for spec in settings["arms"]]}
    task = cache(partial(_task, settings, seed=seed))  # arms of one task share it
    known: set[str] = set()  # an override may make two specs name one arm; the first counts
    for spec, number in experiment.grid(specs, ARM, seed=seed, role=role, model=model):
        pick(NAMES, "defence", spec["defence"])
        pick(RUN, "attacks", spec["attacks"])
        own = {name: spec[name] for name in ARM} | LACKS.get(spec["defence"], {})
        arm = Arm(task(spec["role"], spec["split"]), number, **own, attacks=spec["attacks"])
        if arm.key not in known:
            known.add(arm.key)
            yield arm


def _task(settings: Mapping, role: str, split_name: str, *, seed: int) -> Task:
    cut, asked, sets = pick(SPLITS, "split", split_name), asked_for(settings, role), {}
    how = {"size": settings["size"], "phantoms": settings["phantoms"], "seed": seed}
    for name in SPLITS:
        copies = name == "by image"
        raw = load(settings["datasets"][role], duplicates=copies, **how)
        if copies:  # another set of images, so under another name
            raw = replace(raw, name=f"{raw.name}-with-duplicates")
        positive = settings["positive"][role]
        if asked:
            raw = gray(raw)  # its textures and its modules are made for gray images
            positive = question(raw, positive, role, two=True)
        data = binary(raw, positive, ("negative", "positive"))
        sets[name] = raw, undersample(data, settings["class_size"][role], seed=seed)
    raw, data = sets[split_name]
    listed = min(sets["by image"][1].class_counts().values())  # as the slides count
    raw = replace(raw, census={**raw.census, "class_size_listed": listed})
    split = cut(data, seed=seed)
    attacked = some(split.test, settings["attack"]["images"][role], seed)
    tags = {"role": role, "dataset": data.name, "split": split_name}
    key = f"{role}-{data.name}-{settings['size']}-{split_name.replace(' ', '-')}"
    draw = (ROLES.index(role), list(SPLITS).index(split_name))
    return Task(key, tags, data, raw, split, split.val, attacked, draw, seed, asked)


def build_arm(arm: Arm, settings: Mapping) -> MedicalModel:
    """The untrained network of an arm; the same seed gives the same head with every defence."""
    env.seed_everything(arm.seed)
    classes = len(arm.task.data.classes)
    if arm.colour == "none":
        return build(arm.backbone, classes, start=arm.start)
    return build_assimilated(arm.backbone, classes, colour=arm.colour, start=arm.start)


def recipe(arm: Arm, settings: Mapping) -> dict:
    """How an arm is trained; from scratch its backbone names the most epochs, else its task."""
    training = settings["training"]
    epochs = training["epochs"][arm.task.role if arm.start == "imagenet" else arm.backbone]
    # The epoch of best clean accuracy is not the most robust one.
    last = {"patience": 0} if arm.defence == "adversarial" else {}
    return {**training, "epochs": epochs, **last}


def objective(arm: Arm, settings: Mapping) -> Objective | None:
    """What an arm minimises; None: cross-entropy."""
    if arm.defence == "none":
        return None
    if arm.defence == "adversarial":
        how = settings["adversarial"]
        eps = how["eps_255"] / 255
        return AdversarialTraining(eps, how["steps"], how["rel_step"] * eps)
    flips = settings["training"]["flips"]
    if arm.defence == "glcm" and flips != "none":
        raise ProtocolError(
            f"training.flips={flips}: the texture that the GLCM loss holds an image against is "
            "computed once, unflipped. Choose none."
        )
    rows = arm.rows if arm.defence == "glcm" else "areas"
    return Assimilation.of(arm.task.data, arm.alpha, **{**settings["glcm"], "rows": rows})


def train(arm: Arm, settings: Mapping, checkpoints: Path) -> Trained:
    """Train an arm, or read back what was trained (see ``experiment.train``).

    The learning curve of a network with modules says how strongly each term of its loss pulls.
    """
    model, aim = build_arm(arm, settings), objective(arm, settings)
    how = recipe(replace(arm, start=model.start), settings)

    def validate(model: MedicalModel) -> dict[str, float]:
        scores = curve_scores(model, arm.task.data, arm.task.chosen)
        return scores | (_pull(model, arm.task, aim) if isinstance(model, AssimilatedModel) else {})

    return experiment.train(
        arm,
        model,
        how,
        settings,
        checkpoints,
        paper="3_domain_assimilation",
        identity=(how, aim.identity if aim else ""),
        objective=aim,
        validate=validate,
    )


def _pull(model: AssimilatedModel, task: Task, aim: Assimilation) -> dict[str, float]:
    rows = task.split.train[:: max(1, len(task.split.train) // LOGGED)][:LOGGED]
    device = env.pick_device()
    images = to_float(task.data.images[rows]).to(device)
    targets = torch.from_numpy(task.data.targets[rows]).to(device)
    pull = aim.pull(model, images, targets, rows)
    return {name: round(value, 6) for name, value in pull.items()}


@dataclass(frozen=True)
class Robustness(Evaluation):
    """What one network scored; its ``sweep`` is by bisection.

    Attributes:
        sweeps: (attack, step) -> its logits under each of RUN, and by bisection at FINE eps.
    """

    sweeps: Mapping[tuple[str, str], SweepResult]

    @cached_property
    def right(self) -> np.ndarray:
        """Bool (E, n): judged right under PGD by eps / 4 and by bisection, which every arm met."""
        return self.sweep.right & self.sweeps[PGD].right

    @cached_property
    def cells(self) -> dict[tuple[str, str], np.ndarray]:
        """(attack, step) -> bool (E, n): judged right.

        WORST is under every attack that was run, only of an arm that met more than PGD; STRONG is
        ``right``. There an image lost at a smaller eps stays lost: what fooled it lies in every
        larger ball.
        """
        found = {cell: sweep.right for cell, sweep in self.sweeps.items()}
        worst = {STRONG: self.right}
        if self.arm.attacks != "pgd":
            met = [found[cell] for cell in RUN[self.arm.attacks]]
            worst[WORST] = np.logical_and.reduce([self.right, *met])
        return found | {cell: np.logical_and.accumulate(right) for cell, right in worst.items()}

    def scores(self) -> pd.DataFrame:
        """Tidy rows: clean scores, and accuracy at every eps of every attack."""
        test, mean, clean = self.arm.task.split.test, self.mean(self.index), ("none", "none")
        rows = [(clean, 0.0, test, CLEAN[key], one) for key, one in self.clean.items()]
        rows.append((clean, 0.0, self.index, ATTACKED, mean(self.sweep.clean_right)))
        for cell, right in self.cells.items():
            for eps, here in zip(self.sweeps.get(cell, self.sweep).epsilons, right, strict=True):
                rows.append((cell, in_gray_levels(eps), self.index, ATTACKED, mean(here)))
        table = self.table(rows).rename(columns={"radius_255": "eps_255"})
        attacks, steps = zip(*table["attack"], strict=True)
        return table.assign(attack=attacks, step=steps)

    @property
    def half_radius(self) -> float:
        """The smallest eps of all, the fine ones included, that fools half of what was right."""
        for sweep in (self.sweeps[FINE], self.sweep):
            fooled = sweep.right.sum(1) <= sweep.clean_right.sum() / 2
            if fooled.any():
                return float(sweep.epsilons[fooled.argmax()])
        return float(self.sweep.epsilons[-1])


def measure(trained: Trained, settings: Mapping, *, seed: int) -> Robustness:
    """Clean scores on all test images, and every attack at every eps on the task's attacked ones.

    The iterative attacks run as ``settings["attack"]["mode"]`` says: ``independent`` as in the
    paper, ``skip_fooled`` to spare images that a smaller eps has fooled. FGSM is independent: its
    curve may rise. PGD by bisection follows the same loss with float32 gradients; a network that
    hides them needs other attacks.

    Args:
        seed: of the bootstrap and of random starts; the same for all arms, so that they are
            compared on the same draws.
    """
    arm, model, _, folder = trained
    task, how, dtype = arm.task, settings["attack"], precision(settings, model)

    def sweep(desc: str, levels: Collection[float] = how["eps_255"], **plan: object) -> SweepResult:
        plan = {"folder": folder, "seed": seed, "desc": desc, **plan}
        epsilons = [level / 255 for level in levels]
        return attack_sweep(model, task.data, task.attacked, epsilons, **plan)

    draw, sweeps = [seed, *task.draw], {}
    scores, gates = evaluation.clean(trained, draw)
    for attack, step in RUN[arm.attacks]:
        plan = dict(how[step], mode=how["mode"]) if step in how else {"mode": "independent"}
        if "step_255" in plan:
            plan["step_size"] = plan.pop("step_255") / 255
        sweeps[attack, step] = sweep(f"{attack}, {step}", attack=attack, dtype=dtype, **plan)
    halved = sweep("strong", steps=how["strong_steps"])
    sweeps[FINE] = sweep("fine", how["fine_255"], steps=how["strong_steps"], dtype=dtype)
    model.cpu()  # make room for the next
    return Robustness(arm, scores, gates, task.attacked, halved, draw, "bisection", sweeps)
