"""Paper 3: what a defence gains, what a leak is worth, and medical against natural images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import product

import numpy as np

from ..reporting.results import Run
from ..scoring import metrics
from ..scoring.metrics import Estimate
from .common import add, gates
from .domain_assimilation import Arm
from .domain_assimilation_attack import Robustness
from .domain_assimilation_reasons import MEASURES, Natural, Reasons
from .domain_assimilation_rows import FINE, NO_ATTACK, Group, at, fine, known_mean
from .tables import NOTHING_LEFT, pooled


def pairs(groups: Mapping[str, Group]) -> Iterator[tuple[str, str]]:
    """Keys of the groups to be held against each other, the plainer one first.

    Every defence against the vanilla network of its task, backbone and start; and the GLCM loss
    against T and C alone, with the same colour module.
    """
    for one, other in product(groups, repeat=2):
        before, after = groups[one][0].arm, groups[other][0].arm
        vanilla = before.defence == "none" != after.defence
        without = (before.defence, after.defence) == ("modules", "glcm")
        alike = before.task is after.task and _network(before) == _network(after)
        if alike and (vanilla or (without and before.colour == after.colour)):
            yield one, other


def leaky_pairs(groups: Mapping[str, Group]) -> Iterator[tuple[str, str]]:
    """Keys of groups that differ in their split only, the honest one first."""
    for one, other in product(groups, repeat=2):
        before, after = groups[one][0].arm, groups[other][0].arm
        same = [
            (arm.task.role, *_network(arm), arm.defence, arm.alpha, arm.colour, arm.rows)
            for arm in (before, after)
        ]
        if same[0] == same[1] and before.task.split_name == "honest" != after.task.split_name:
            yield one, other


def _network(arm: Arm) -> tuple[str, str]:
    return arm.backbone, arm.start


def add_pair(run: Run, plain: Group, defended: Group) -> None:
    """What a defence gains over the plain network of the same task, image by image.

    Rows ``accuracy_gain`` clean, at each eps of each attack, and ``mean_gain`` over all eps; they
    carry the tags of the defended network, and the other's defence as ``against``.
    """
    arm = defended[0].arm
    tags = arm.tags | gates(plain, defended) | {"against": plain[0].arm.defence}
    n, attacked = len(arm.task.split.test), len(arm.task.attacked)

    def paired(of: Callable[[Robustness, Robustness], Estimate]) -> Estimate:
        return pooled([of(p, d) for p, d in zip(plain, defended, strict=True)])

    clean = paired(lambda p, d: d.clean["top1"] - p.clean["top1"])
    add(run, "accuracy_gain", clean, n=n, **tags, **NO_ATTACK)
    for cell in defended[0].right:
        if cell not in plain[0].right:
            continue
        courses = [[m.accuracy(cell) for m in group] for group in (plain, defended)]
        gains, alive = [], False
        for k, eps in enumerate(defended[0].epsilons):
            both = [[course[k] for course in group] for group in courses]
            gains.append(pooled([d - p for p, d in zip(*both, strict=True)]))
            left = max(one.value for one in (*both[0], *both[1]))
            where = tags | at(cell, eps) | {"alive": left > NOTHING_LEFT}
            alive = alive or where["alive"]
            add(run, "accuracy_gain", gains[-1], n=attacked, **where)
        where = tags | {"attack": cell[0], "step": cell[1], "alive": alive}
        add(run, "mean_gain", metrics.mean(gains), n=attacked, **where)
    for k, eps in enumerate(defended[0].fine.epsilons):
        gain = paired(lambda p, d, k=k: fine(d, k) - fine(p, k))
        left = max(fine(m, k).value for m in (*plain, *defended))
        where = tags | at(FINE, eps) | {"alive": left > NOTHING_LEFT}
        add(run, "accuracy_gain", gain, n=attacked, **where)


def add_leak(run: Run, honest: Group, leaky: Group) -> None:
    """What a split by image is worth: clean accuracy there less that under the honest split.

    Unpaired: the test images differ.
    """
    tags = {k: v for k, v in leaky[0].arm.tags.items() if k != "split"} | gates(honest, leaky)
    for name in ("top1", "balanced_accuracy"):
        ours, theirs = (pooled([m.clean[name] for m in group]) for group in (leaky, honest))
        label = "accuracy" if name == "top1" else name
        add(run, f"{label}_gained_by_leak", ours - theirs, **tags)


def add_reason_pair(
    run: Run, robust: tuple[Robustness, Robustness], reasons: tuple[Reasons, Reasons]
) -> None:
    """What a defence changes in attention region and sharpness, on the same images."""
    plain, defended = reasons
    tags = robust[1].arm.tags | gates(robust) | {"against": robust[0].arm.defence}
    for name in MEASURES:
        change = defended.values[name] - plain.values[name]
        value = known_mean(change, plain.weights)
        add(run, f"{name}_change", value, n=int(np.isfinite(change).sum()), **tags)
    if plain.texture is not None and defended.texture is not None:
        change = metrics.weighted_mean(defended.texture - plain.texture, plain.weights)
        add(run, "texture_distance_change", change, n=len(plain.texture), **tags)


def add_natural(run: Run, photos: Natural, robust: Robustness, reasons: Reasons) -> None:
    """A medical network less the ImageNet network on photographs; unpaired, the images differ."""
    tags = robust.arm.tags | robust.gates | {"against": "natural"}
    tags["dataset"] = f"{tags['dataset']}+{photos.photos.name}"
    n = {"n": len(reasons.weights[0])}
    for name in MEASURES:
        ours = known_mean(reasons.values[name], reasons.weights)
        theirs = known_mean(photos.reasons.values[name], photos.reasons.weights)
        add(run, f"{name}_medical_minus_natural", ours - theirs, **n, **tags)
    before, least = robust.strong.clean_right, np.isclose(robust.epsilons, 1 / 255)
    if before.any() and least.any():  # the photographs met no other eps
        right = robust.right["pgd", "quarter"][least.argmax()][before]
        with np.errstate(invalid="ignore"):  # a draw may hold none of the images that were right
            ours = metrics.weighted_mean(right, robust.weights[:, before])
        theirs = metrics.weighted_mean(photos.stands, photos.reasons.weights)
        add(
            run,
            "kept_medical_minus_natural",
            ours - theirs,
            n=int(before.sum()),
            eps_255=1.0,
            alive=max(ours.value, theirs.value) > NOTHING_LEFT,
            **tags,
        )
