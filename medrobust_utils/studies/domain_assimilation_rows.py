"""Paper 3: from what its networks scored to the rows that its claims are judged by.

Networks that differ in their training seed only are one *group*: their numbers are averaged, and
the bootstrap draws seeds as well as images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..attacks import Flag
from ..data.splits import leaks
from ..reporting.results import Run
from ..scoring import metrics
from ..scoring.metrics import Estimate
from .common import add, gates
from .domain_assimilation import Task
from .domain_assimilation_attack import Robustness
from .domain_assimilation_reasons import MEASURES, Natural, Reasons
from .tables import pooled

Group = Sequence[Robustness]  # one network, one member a training seed
NO_ATTACK = {"attack": "none", "step": "none", "eps_255": 0.0}
FINE = ("nested", "fine")  # attack and step of rows on the eps below the slides' smallest


def add_task(run: Run, task: Task) -> None:
    """Rows on a data set and its split: sizes, what was removed, leaks, the majority line."""
    data, test = task.data, task.split.test
    run.dataset(task.raw)
    tags = {"role": task.role, "dataset": data.name, "split": task.split_name}
    prior = metrics.prior_logits(data.targets[task.split.train], len(test), len(data.classes))
    weights = metrics.group_weights(data.groups[test])
    for name, value in metrics.score(prior, data.targets[test], weights).items():
        name = "accuracy" if name == "top1" else name
        add(run, name, value, defence="majority", n=len(test), **tags, **NO_ATTACK)
    run.add("test_images_leaked", leaks(data, task.split), n=len(test), **tags)
    run.add("class_size", min(data.class_counts().values()), **tags)
    run.add("class_size_listed", task.listed, **tags)
    for name in ("exact_duplicates_removed", "contradictory_labels_dropped"):
        run.add(name, task.raw.census.get(name, 0), **tags)
    run.add("near_duplicate_pairs", task.raw.census.get("near_duplicate_pairs", 0), **tags)


def add_arm(run: Run, group: Group) -> None:
    """Rows of one network: clean scores, and accuracy under every attack at every eps."""
    arm = group[0].arm
    tags = arm.tags | gates(group) | {"seeds": len(group)}
    n, attacked = len(arm.task.split.test), len(arm.task.attacked)
    for name in group[0].clean:
        value = pooled([member.clean[name] for member in group])
        add(run, "accuracy" if name == "top1" else name, value, n=n, **tags, **NO_ATTACK)
    start = pooled([member.start for member in group])
    add(run, "accuracy_attacked", start, n=attacked, **tags, **NO_ATTACK)
    for cell in group[0].right:
        courses = [member.accuracy(cell) for member in group]
        for k, eps in enumerate(group[0].epsilons):
            value = pooled([course[k] for course in courses])
            add(run, "accuracy_attacked", value, n=attacked, **tags, **at(cell, eps))
    for k, eps in enumerate(group[0].fine.epsilons):
        value = pooled([fine(member, k) for member in group])
        add(run, "accuracy_attacked", value, n=attacked, **tags, **at(FINE, eps))
    if arm.attacks != "pgd":
        _add_fgsm(run, group, tags | {"n": attacked})


def fine(member: Robustness, k: int) -> Estimate:
    """Accuracy under the nested climb at one of the eps below the slides' smallest."""
    return metrics.weighted_mean(member.fine.right[k], member.weights)


def at(cell: tuple[str, str], eps: float) -> dict[str, str | float]:
    return {"attack": cell[0], "step": cell[1], "eps_255": round(eps * 255, 6)}


def _add_fgsm(run: Run, group: Group, tags: dict) -> None:
    """How odd the FGSM curve is: how far it climbs back, and how far it ends above PGD's.

    PGD may spare images that a smaller eps has felled, so for the second number an image lost at
    a smaller eps counts as lost under both.
    """
    rebound, above = [], []
    for member in group:
        single = member.accuracy(("fgsm", "single"))
        lowest = int(np.argmin([one.value for one in single]))
        rebound.append(single[-1] - single[lowest])
        ever = [member.right[cell].all(0) for cell in (("fgsm", "single"), ("pgd", "quarter"))]
        left = [metrics.weighted_mean(right, member.weights) for right in ever]
        above.append(left[0] - left[1])
    add(run, "fgsm_rebound", pooled(rebound), **tags)
    add(run, "fgsm_above_pgd", pooled(above), **tags)


def add_flags(run: Run, robust: Robustness, flags: Sequence[Flag]) -> None:
    """A row a red flag, 1 where it is raised; raised ones are warnings of the run too."""
    tags = robust.arm.tags | robust.gates | {"eps_255": round(robust.half_eps * 255, 6)}
    for flag in flags:
        run.add("red_flag", float(flag.raised), flag=flag.name, measured=flag.measured, **tags)
        if flag.raised:
            run.warn(f"{robust.arm.key}: {flag.name}: {flag.measured}")


def add_reasons(run: Run, robust: Robustness, reasons: Reasons) -> None:
    """Rows of one network's attention region, sharpness and (with modules) texture."""
    tags = robust.arm.tags | robust.gates
    for name in MEASURES:
        value = known_mean(reasons.values[name], reasons.weights)
        add(run, name, value, n=int(np.isfinite(reasons.values[name]).sum()), **tags)
    if reasons.texture is not None:
        value = metrics.weighted_mean(reasons.texture, reasons.weights)
        add(run, "texture_distance", value, n=len(reasons.texture), **tags)


def add_photos(run: Run, photos: Natural, backbone: str, start: str) -> None:
    """Rows of the ImageNet network on photographs: attention region and sharpness."""
    run.dataset(photos.photos)
    tags = {"dataset": photos.photos.name, "defence": "natural", "backbone": backbone}
    for name in MEASURES:
        value = known_mean(photos.reasons.values[name], photos.reasons.weights)
        n = int(np.isfinite(photos.reasons.values[name]).sum())
        add(run, name, value, n=n, start=start, **tags)


def known_mean(values: np.ndarray, weights: np.ndarray) -> Estimate:
    """Mean of the values that are known (a Grad-CAM map may say nothing)."""
    known = np.isfinite(values)
    if not known.any():
        return Estimate(float("nan"), np.full(len(weights) - 1, np.nan))
    with np.errstate(invalid="ignore"):
        return metrics.weighted_mean(values[known], weights[:, known])
