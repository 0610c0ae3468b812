"""Paper 3: what defences gain, and whether the slides' reasons for fragile networks are reasons.

A defence is held against the vanilla network of its place, and the GLCM loss against T and C alone
with the same colour module. The reasons: "medical images typically have monotonic biological
texture, which tends to mislead DNNs to pay attention to areas irrelevant to diagnosis", and
training on them creates a "sharp loss landscape".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..attacks import attack_sweep
from ..core import env
from ..core.storage import cached_arrays, fingerprint
from ..data import ImageSet, to_float
from ..data.photographs import natural_photos
from ..explain import measures, sharpness
from ..explain.cams import grad_cam
from ..models import AssimilatedModel, MedicalModel, build_assimilated
from ..models.complexity import operations
from ..models.medical import wrap_pretrained
from ..reporting.results import Run
from ..scoring import metrics
from ..scoring.predict import predict
from ..training import glcm
from . import experiment, survival, tables
from .common import parameters, precision, some
from .domain_assimilation import (
    ATTACKED,
    FGSM,
    LACKS,
    LIBRARY,
    NAMES,
    NO_ATTACK,
    PGD,
    PLAIN,
    QUARTER,
    RUN,
    WORST,
    Arm,
    Robustness,
    place,
)
from .experiment import Task, Trained
from .tables import NOTHING_LEFT, PerImage

AGAINST = {"none": PLAIN, "modules": LACKS["modules"]}  # old defence -> what else may differ
CENSUS = ("exact_duplicates_removed", "contradictory_labels_dropped", "near_duplicate_pairs")
BACKBONES = ("resnet18", "resnet50", "densenet121")  # slides, "Experiments"
SIDE = 224  # pixels, likewise
MEASURES = {  # of the reasons, and what a figure calls them
    "attention_area": "attention region (share of the image)",
    "loss_rise": "rise of the loss within 1/255 (nats)",
    "gradient_norm": "sum of the gradient's magnitudes",
}
TITLES = {"fgsm": "FGSM", "bim": "BIM", "mifgsm": "MI-FGSM", "pgd": "PGD"}
CELLS = {cell: TITLES[cell[0]] for cell in QUARTER} | {WORST: "worst of all"}
CELLS |= {cell: f"{TITLES[cell[0]]}, torchattacks' steps" for cell in LIBRARY}


def task_rows(run: Run, task: Task) -> pd.DataFrame:
    """Rows on a data set and its split: sizes, what was removed, leaks, the majority line."""
    table = experiment.describe_task(run, task, {"defence": "majority", **NO_ATTACK})
    counts = {name: task.raw.census.get(name, 0) for name in (*CENSUS, "class_size_listed")}
    counts["class_size"] = min(task.data.class_counts().values())
    more = pd.DataFrame(counts.items(), columns=["metric", "estimate"]).assign(**task.tags)
    return pd.concat([table[table["metric"].ne("classes")], more])


def deviations(settings: Mapping, paper: Mapping, arms: Iterable[Arm]) -> list[str]:
    """Where this run departs from the profile ``paper``, from what was really run."""
    arms = list(arms)
    found = experiment.deviations(settings, paper, arms)
    for arm in arms:
        size, slides = min(arm.task.data.class_counts().values()), paper["class_size"]
        if size != slides[arm.task.role]:
            found.append(f"{arm.task.key}: {size} images a class.")
        if arm.start == "scratch":
            found.append(f"{arm.backbone}: trained from scratch, where the slides fine-tune.")
        if arm.attacks != "all":
            met = ", ".join(CELLS[cell] for cell in RUN[arm.attacks])
            found.append(f"{place(arm.tags)}, {NAMES[arm.defence]}: met {met} alone.")
    return list(dict.fromkeys(found))


def module_rows() -> pd.DataFrame:
    """Rows on "lightweight": parameters and multiply-adds of T and C, and over each backbone's."""
    count = {
        "parameters": lambda part, shape: parameters(part),
        "operations": lambda part, shape: operations(part, *shape),
    }
    rows = []
    for colour, name in product(("conv", "deconv"), BACKBONES):
        model = build_assimilated(name, 2, colour=colour, start="scratch")
        gray, coloured = (1, 1, SIDE, SIDE), (1, 3, SIDE, SIDE)
        for of, counted in count.items():
            texture, shade = counted(model.texture, gray), counted(model.colour, gray)
            share = (texture + shade) / counted(model.backbone, coloured)
            rows.append((colour, name, of, "module_share", None, share))
            rows.append((colour, name, of, "module_cost", "T", texture))
            rows.append((colour, name, of, "module_cost", "C", shade))
    columns = ["colour", "backbone", "of", "metric", "part", "estimate"]
    table = pd.DataFrame(rows, columns=columns, dtype=object)  # counts stay whole numbers
    return table.assign(layers="ours")


def pairs(scores: pd.DataFrame, name: str = "{}_gain") -> pd.DataFrame:
    """Every defence against what it is held against, image by image (see ``tables.against``)."""
    both = [
        tables.against(scores, "defence", old, name, apart=apart) for old, apart in AGAINST.items()
    ]
    return pd.concat(both)


def gains(scores: pd.DataFrame) -> pd.DataFrame:
    """What defences gain in accuracy: clean, at each eps of each attack, and over all eps."""
    clean = scores["attack"].eq("none")
    few = scores[scores["metric"].eq("accuracy") | (scores["metric"].eq(ATTACKED) & ~clean)]
    gained = tables.over_seeds(pairs(few, "accuracy_gain")).drop(columns="seeds")
    clean = gained["attack"].eq("none")
    slides = gained[~clean & gained["attack"].ne("bisection")]
    mean = tables.along(slides, "eps_255", "mean_gain", metrics.mean)
    return pd.concat([gained[clean].drop(columns="alive"), gained[~clean], mean])


def after_autoattack(scores: pd.DataFrame, shortened: str) -> pd.DataFrame:
    """What defences gain before and under AutoAttack at each eps, and over all of its eps.

    Args:
        scores: tidy rows of every ``Survival``.
    """
    gained = survival.gained(pairs(scores, "{}"), shortened)
    left = gained[gained["autoattack"].notna()].drop(columns="autoattack")
    mean = tables.along(left, "eps_255", "autoattack_mean_gain", metrics.mean)
    says = [survival.outcome(one, shortened) for one in mean["estimate"]]
    return pd.concat([gained, mean.assign(autoattack=says)])


def fgsm_rows(found: Robustness) -> pd.DataFrame:
    """How far the FGSM curve climbs back, and how far it ends above PGD's; no row without FGSM.

    PGD may spare images that a smaller eps has fooled, so for the second number an image lost at a
    smaller eps counts as lost under both.
    """
    if FGSM not in found.sweeps:
        return pd.DataFrame()
    mean, single = found.mean(found.index), found.sweeps[FGSM].right
    curve = [mean(right) for right in single]
    lowest = min(curve, key=lambda one: one.value)
    above = mean(single.all(0)) - mean(found.sweeps[PGD].right.all(0))
    values = {"fgsm_rebound": curve[-1] - lowest, "fgsm_above_pgd": above}
    rows = [("", 0.0, found.index, *one) for one in values.items()]
    return found.table(rows).drop(columns=["attack", "radius_255"])


def explain(trained: Trained, found: Robustness, settings: Mapping, *, seed: int) -> pd.DataFrame:
    """One network's attention region, sharpness and (with modules) texture, image by image.

    On ``settings["explained"]`` of the attacked images, for the network's own answers; kept in its
    folder. ``texture_distance``: counted GLCM loss of what the modules made of an image.
    """
    data, index = trained.arm.task.data, some(found.index, settings["explained"], seed)
    name = f"measures-{fingerprint(index.tolist(), dict(settings['glcm']))}.npz"
    measure = (trained.model, data, index, settings["glcm"])
    values = cached_arrays(trained.folder / name, lambda: _measured(*measure))
    trained.model.cpu()
    return _per_image(values, metrics.group_weights(data.groups[index], seed)).assign(**found.tags)


def natural(
    settings: Mapping, backbone: str, start: str, folder: Path, *, seed: int
) -> tuple[ImageSet, pd.DataFrame]:
    """``backbone`` with its ImageNet head on photographs: what medical networks are held against.

    The photographs are gray, so that an attacker moves as many numbers as on a medical image, and
    as large; their targets are the network's own answers. ``retained``: which of these PGD at
    1/255 leaves as they were.
    """
    photos = natural_photos(settings["size"])
    shade = (glcm.grayscale(to_float(photos.images)) * 255).round().to(torch.uint8)
    photos = replace(photos, images=shade.permute(0, 2, 3, 1).numpy())
    env.seed_everything(seed)
    model, every = wrap_pretrained(backbone, start).eval(), np.arange(len(photos))
    photos = replace(photos, targets=predict(model, photos, every).argmax(1).astype(np.int64))
    answers = photos.targets.tolist()
    key = (photos.checksum, backbone, model.source, settings["size"], answers)
    drawn = seed if model.start == "scratch" else ""
    folder = folder / f"natural-{backbone}-{fingerprint(*key, drawn)}"
    values = cached_arrays(folder / "measures.npz", lambda: _measured(model, photos, every, {}))
    how = {**settings["attack"]["quarter"], "dtype": precision(settings, model), "folder": folder}
    sweep = attack_sweep(model, photos, every, [1 / 255], mode="independent", seed=seed, **how)
    weights = metrics.group_weights(photos.groups, [seed, len(photos)])  # draws of their own
    table = _per_image(values | {"retained": sweep.right[0]}, weights)
    tags = {"dataset": photos.name, "defence": "natural", "backbone": backbone, "start": start}
    return photos, tables.means(table).assign(**tags)


def against_natural(found: Robustness, seen: pd.DataFrame, photos: pd.DataFrame) -> pd.DataFrame:
    """A medical network minus the ImageNet network on photographs; unpaired, the images differ.

    Args:
        seen, photos: see ``explain`` and ``natural``.
    """
    least = np.flatnonzero(np.isclose(found.sweep.epsilons, 1 / 255))  # photographs met no other
    right = found.sweeps[PGD].right.astype(float)
    kept = [("retained", np.where(found.sweep.clean_right, right[k], np.nan)) for k in least]
    ours = [seen, _per_image(dict(kept), found.weights).assign(eps_255=1.0, **found.tags)]
    ours = tables.means(pd.concat(ours)).drop(columns="seed")
    name, apart = "{}_medical_minus_natural", ("dataset", "defence", "n")
    table = tables.paired(ours, photos, name, apart=apart).assign(against="natural")
    table["dataset"] += f"+{photos['dataset'].iloc[0]}"
    alive = table[["ours", "theirs"]].max(axis=1) > NOTHING_LEFT
    return table.assign(alive=alive.where(table["eps_255"].notna()))


def _per_image(values: Mapping[str, np.ndarray], weights: np.ndarray) -> pd.DataFrame:
    rows = [(name, PerImage(one, weights)) for name, one in values.items()]
    return pd.DataFrame(rows, columns=["metric", "estimate"])


def _measured(
    model: MedicalModel, data: ImageSet, index: np.ndarray, how: Mapping
) -> dict[str, np.ndarray]:
    """Every measure, for the network's own answers (see ``sharpness``)."""
    device = env.pick_device()
    model = model.to(device)
    said = torch.from_numpy(predict(model, data, index).argmax(1))
    images = to_float(data.images[index]).to(device)
    found = {
        "attention_area": measures.area(grad_cam(model, images, said).maps),
        "loss_rise": sharpness.rise(model, images, said),
        "gradient_norm": sharpness.gradient_norm(model, images, said),
    }
    if isinstance(model, AssimilatedModel):
        with torch.no_grad(), env.full_float32():
            adapted = glcm.grayscale(model.adapt(images))
        hard = {"levels": how["levels"], "softness": 0.0}  # counts, whatever it was trained with
        pair = [glcm.texture(part, **hard) for part in (adapted, images)]
        found["texture_distance"] = glcm.texture_distance(*pair, how["rows"]).cpu().numpy()
    return found
