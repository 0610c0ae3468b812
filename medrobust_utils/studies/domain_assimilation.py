"""Paper 3: domain assimilation, what it gains, and the slides' reasons for fragile networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..attacks import SweepResult, attack_sweep
from ..attacks.sweep_result import lowest
from ..core import env
from ..core.errors import ProtocolError
from ..core.storage import cached_arrays, fingerprint
from ..data import ImageSet, load, split_by_image, split_three_ways, to_float
from ..data.own import own_folder, with_own_data
from ..data.splits import some
from ..data.views import binary, gray, question, undersample
from ..explain import measures, sharpness
from ..explain.cams import grad_cam
from ..models import AssimilatedModel, MedicalModel, build, build_assimilated
from ..scoring import metrics
from ..scoring.predict import predict
from ..training import glcm
from ..training.adversarial import AdversarialTraining
from ..training.objectives import Assimilation, Objective
from . import evaluation, experiment, tables
from .experiment import CLEAN, Task, Trained, pick

ROLES = ("ct", "mri", "xray", "ultrasound")  # each played by a data set of the profile
# ``by image`` keeps every duplicate, wherever it falls: the slides' probable split.
SPLITS = {"honest": partial(split_three_ways, val_folds=8), "by image": split_by_image}
NAMES = {  # what stands between the attacker and the backbone; the slides do not have the last
    "none": "vanilla",
    "modules": "T and C alone",
    "glcm": "domain assimilation",
    "adversarial": "adversarial training",
}
ARM = ("backbone", "start", "defence", "alpha", "colour", "rows")
PLAIN = {"alpha": 1.0, "colour": "none", "rows": "none"}
LACKS = {"none": PLAIN, "adversarial": PLAIN, "modules": {"alpha": 1.0, "rows": "none"}}
AGAINST = {"none": PLAIN, "modules": LACKS["modules"]}  # old defence -> what else may differ
NO_ATTACK, ATTACKED = {"step": "none", "eps_255": 0.0}, "accuracy_attacked"

# Steps are a `quarter` of eps, or 2/255 as in `torchattacks`. STRONG is PGD and bisection,
# WORST all that a network met besides; `fine` are eps below the slides' smallest.
FGSM, PGD, FINE = ("fgsm", "single"), ("pgd", "quarter"), ("bisection", "fine")
QUARTER = [FGSM, ("bim", "quarter"), ("mifgsm", "quarter"), PGD]
LIBRARY = [(attack, "torchattacks") for attack in ("bim", "mifgsm", "pgd")]
RUN = {"all": QUARTER + LIBRARY, "quarter": QUARTER, "pgd": [PGD]}
WORST, STRONG = ("worst", "all"), ("worst", "pgd")


@dataclass(frozen=True)
class Arm(experiment.Arm):
    """One network, with one training seed, on one task.

    ``alpha`` weighs the cross-entropy, ``colour`` names the colour module, ``rows`` the reading of
    the GLCM loss (see ``glcm.texture_distance``), ``attacks`` what it meets, a key of RUN.
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
        known = {k: v for k, v in self.own.items() if k != "defence" and v != PLAIN.get(k)}
        return f"{NAMES[self.defence]} ({', '.join(map(str, known.values()))}, seed {self.seed})"


def usual(settings: Mapping) -> dict[str, list]:
    """Tags of the networks with the profile's own alpha, colour module and reading of the loss."""
    own = {"alpha": settings["alpha"], "colour": "conv", "rows": settings["glcm"]["rows"]}
    return {name: [PLAIN[name], value] for name, value in own.items()}


def arms(settings: Mapping, *, seed: int, role: str = "", model: str = "") -> Iterator[Arm]:
    """Every arm of the profile; ``role`` and ``model`` pick some, as ``grid`` does, or raise."""
    settings, role = with_own_data(settings, role, settings["arms"][0]["role"])
    own = {name: values[1] for name, values in usual(settings).items()} | {"attacks": "all"}
    specs = {**settings, "arms": [{**own, **spec} for spec in settings["arms"]]}
    task = cache(partial(_task, settings, seed=seed))  # arms of one task share it
    known = {}  # an override may make two specs name one arm; the first counts
    for spec, number in experiment.grid(specs, ARM, seed=seed, role=role, model=model):
        pick(NAMES, "defence", spec["defence"])
        pick(RUN, "attacks", spec["attacks"])
        own = {name: spec[name] for name in ARM} | LACKS.get(spec["defence"], {})
        arm = Arm(task(spec["role"], spec["split"]), number, **own, attacks=spec["attacks"])
        if known.setdefault(arm.key, arm) is arm:
            yield arm


def _task(settings: Mapping, role: str, split_name: str, *, seed: int) -> Task:
    cut, asked = pick(SPLITS, "split", split_name), own_folder(settings, role)
    how, sets = {"size": settings["size"], "phantoms": settings["phantoms"], "seed": seed}, {}
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
    return Task(key, tags, data, raw, split, split.val, attacked, draw, seed)


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
    return {**training, "epochs": epochs} | last


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
        raise ProtocolError(f"training.flips={flips}: the GLCM loss knows images unflipped only.")
    rows = arm.rows if arm.defence == "glcm" else "areas"
    return Assimilation.of(arm.task.data, arm.alpha, **{**settings["glcm"], "rows": rows})


def train(arm: Arm, settings: Mapping, checkpoints: Path) -> Trained:
    """Train an arm, or read back what was trained (see ``experiment.train``)."""
    model, aim = build_arm(arm, settings), objective(arm, settings)
    how = recipe(replace(arm, start=model.start), settings)
    about = {"paper": "3_domain_assimilation", "identity": (how, aim.identity if aim else "")}
    return experiment.train(arm, model, how, checkpoints, objective=aim, **about)


@dataclass(frozen=True)
class Robustness(evaluation.Evaluation):
    """What one network scored; its ``sweep`` is PGD and bisection, with the fine eps below.

    ``sweeps`` has its logits by (attack, step); of the worst of several what is lost stays lost.
    """

    sweeps: Mapping[tuple[str, str], SweepResult] = field(default_factory=dict)

    def scores(self) -> pd.DataFrame:
        """Tidy rows: clean scores, accuracy at every eps, mean log2 radius, FGSM's odd curve."""
        mean, test, index = self.mean(self.index), self.arm.task.split.test, self.index
        clean, whole = (("none", "none"), 0.0), ((None, None), np.nan)
        rows = [(*clean, test, CLEAN[key], one) for key, one in self.clean.items()]
        rows.append((*clean, index, ATTACKED, mean(self.sweep.clean_right)))
        rows.append((*whole, index, "log2_radius", mean(self.log2_radius)))
        for cell, sweep in self.sweeps.items():
            for eps, right in zip(sweep.epsilons, sweep.right, strict=True):
                rows.append((cell, evaluation.in_gray_levels(eps), index, ATTACKED, mean(right)))
        if FGSM in self.sweeps:
            single, many = self.sweeps[FGSM].right, self.sweeps[PGD].right
            low = min(map(mean, single), key=lambda one: one.value)
            rows.append((*whole, index, "fgsm_rebound", mean(single[-1]) - low))
            above = mean(single.all(0)) - mean(many.all(0))
            rows.append((*whole, index, "fgsm_above_pgd", above))
        table = self.table(rows).rename(columns={"radius_255": "eps_255"})
        table[["attack", "step"]] = table["attack"].tolist()
        return table


def measure(trained: Trained, settings: Mapping, *, seed: int) -> Robustness:
    """Clean scores on all test images, and every attack at every eps on the task's attacked ones.

    FGSM is independent: its curve may rise. The seed is the same for all arms.
    """
    (arm, model, _, folder), how, sweeps = trained, settings["attack"], {}
    task, dtype, draw = arm.task, evaluation.precision(settings, model), [seed, *arm.task.draw]

    def sweep(desc: str, name: str = "eps_255", **plan: object) -> SweepResult:
        plan |= {"folder": folder, "seed": seed, "desc": desc}
        return attack_sweep(model, task.data, task.attacked, [e / 255 for e in how[name]], **plan)

    scores = evaluation.clean(trained, draw)
    for attack, step in RUN[arm.attacks]:
        plan = dict(how[step], mode=how["mode"]) if step in how else {"mode": "independent"}
        if "step_255" in plan:
            plan["step_size"] = plan.pop("step_255") / 255
        sweeps[attack, step] = sweep(f"{attack}, {step}", attack=attack, dtype=dtype, **plan)
    halved = sweep("strong", steps=how["strong_steps"])
    fine = sweep("fine", "fine_255", steps=how["strong_steps"], dtype=dtype)
    model.cpu()  # make room for the next
    return put_together(arm, scores, draw, sweeps, halved, fine)


def put_together(arm, scores, draw, sweeps, halved: SweepResult, fine: SweepResult) -> Robustness:
    """The sweeps of one network, with the worst of several and one over all eps."""
    strong, worst = lowest(halved, sweeps[PGD]), lowest(halved, *sweeps.values())
    every = sweeps | {FINE: fine, STRONG: strong} | ({WORST: worst} if arm.attacks != "pgd" else {})
    epsilons = np.concatenate([fine.epsilons, strong.epsilons])
    whole = replace(strong, epsilons=epsilons, logits=np.concatenate([fine.logits, strong.logits]))
    return Robustness(arm, scores, arm.task.attacked, whole, draw, "bisection", sweeps=every)


def pairs(scores: pd.DataFrame, name: str = "{}_gain") -> pd.DataFrame:
    """Every defence against what it is held against, image by image (see ``tables.compare``)."""
    held = partial(tables.compare, scores, "defence", None, name=name)
    return pd.concat([held(old, apart=apart) for old, apart in AGAINST.items()])


def starts(scores: pd.DataFrame, name: str = "{}_gain") -> pd.DataFrame:
    """Undefended networks from random weights against those from ImageNet's, image by image."""
    plain = scores[scores["defence"].eq("none")]
    return tables.compare(plain, "start", "scratch", "imagenet", name)


def gains(scores: pd.DataFrame) -> pd.DataFrame:
    """What defences gain in accuracy and in doublings; in the latter also random weights."""
    reached = scores["metric"].eq("log2_radius")
    under = scores["metric"].eq(ATTACKED) & scores["attack"].ne("none")
    few = scores[scores["metric"].eq("accuracy") | under].assign(metric="accuracy")
    both = [pairs(few), pairs(scores[reached]), starts(scores[reached])]
    gained = tables.over_seeds(pd.concat(both))
    slides = ~gained["attack"].isin(["none", FINE[0]]) & gained["metric"].eq("accuracy_gain")
    return pd.concat([gained, tables.along(gained[slides], "eps_255", "mean_gain", metrics.mean)])


def changes(reasons: pd.DataFrame) -> pd.DataFrame:
    """What defences change of their ``reasons``, and the share of the texture distance saved."""
    few = tables.means(reasons[reasons["metric"].eq("texture_distance")])
    share = partial(metrics.combined, lambda two: 1 - two[0] / two[1])
    pair = few, "defence", None, "modules"
    saved = tables.compare(*pair, "{}_saved", share, AGAINST["modules"])
    return tables.over_seeds(pd.concat([tables.means(pairs(reasons, "{}_change")), saved]))


def reasons(
    model: MedicalModel, data: ImageSet, index: np.ndarray, how: Mapping, folder: Path, draw
) -> pd.DataFrame:
    """Attention region, sharpness and, with modules, the counted GLCM loss, image by image.

    Kept in the network's folder; ``how`` is the profile's ``glcm``, ``draw`` the bootstrap's seed.
    """

    def compute() -> dict[str, np.ndarray]:
        said = torch.from_numpy(predict(model, data, index).argmax(1))
        images = to_float(data.images[index]).to(env.pick_device())  # where the network is now
        found = {"attention_area": measures.area(grad_cam(model, images, said).maps)}
        found["loss_rise"] = sharpness.rise(model, images, said)
        if isinstance(model, AssimilatedModel):
            with torch.no_grad(), env.full_float32():
                both = glcm.grayscale(model.adapt(images)), images
            pair = [glcm.texture(part, levels=how["levels"], softness=0.0) for part in both]
            found["texture_distance"] = glcm.texture_distance(*pair, how["rows"]).cpu().numpy()
        return found

    name = f"reasons-{fingerprint(index.tolist(), dict(how))}.npz"
    values, groups = cached_arrays(folder / name, compute), data.groups[index]
    model.cpu()
    weights = metrics.group_weights(groups, draw)
    rows = [(name, tables.PerImage(one, weights, groups)) for name, one in values.items()]
    return pd.DataFrame(rows, columns=["metric", "estimate"])


def against_natural(seen: pd.DataFrame, photos: pd.DataFrame) -> pd.DataFrame:
    """A medical network minus the ImageNet network on photographs; unpaired, the images differ."""
    ours, theirs = (tables.means(one) for one in (seen.drop(columns="seed"), photos))
    name = "{}_medical_minus_natural"
    table = tables.paired(ours, theirs, name, apart=("dataset", "defence", "n"))
    own = table["dataset"] + "+" + photos["dataset"].iloc[0]
    return table.assign(against="natural", dataset=own)
