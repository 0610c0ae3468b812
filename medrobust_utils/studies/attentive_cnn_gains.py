"""Paper 2: what attention gains and what the contrast filter costs, compared image by image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ..reporting.results import Run
from ..scoring import metrics
from ..scoring.metrics import Estimate
from .attentive_cnn_attack import Robustness
from .attentive_cnn_radii import Radii
from .attentive_cnn_rows import NO_ATTACK, Group
from .common import LOW, add, gates, pooled

BEGIN = 0.02  # where, says the paper, both retinopathy networks begin to fall
TIMES = 20  # "over 20 times higher" (section 4.1)


def add_pair(run: Run, plain: Group, attentive: Group, ladder: Radii) -> None:
    """What attention gains over the plain network of the same task, image by image."""
    arm = attentive[0].arm
    tags = arm.tags | gates(plain, attentive) | {"seeds": min(len(plain), len(attentive))}

    def paired(of: Callable[[Robustness, Robustness], Estimate]) -> Estimate:
        return pooled([of(p, a) for p, a in zip(plain, attentive, strict=False)])

    clean = paired(lambda p, a: a.clean["top1"] - p.clean["top1"])
    n, attacked = len(arm.task.split.test), {"n": len(arm.task.attacked)}
    add(run, "accuracy_gain", clean, n=n, **tags, **NO_ATTACK)
    add(run, "accuracy_gap", absolute(clean), n=n, **tags, **NO_ATTACK)
    tags |= {"attack": arm_attack(plain, attentive)} | attacked
    gains = [
        paired(lambda p, a, k=k: a.accuracy[k] - p.accuracy[k]) for k in range(len(ladder.values))
    ]
    radius = [{"radius_255": value * 255} for value in ladder.values]
    for (scale, eps), k in ladder.cells.items():
        left = [pooled([one.accuracy[k] for one in group]).value for group in (plain, attentive)]
        cell = tags | radius[k] | {"scale": scale, "eps": eps, "alive": max(left) > LOW}
        add(run, "accuracy_gain", gains[k], **cell)
        add(run, "accuracy_gap", absolute(gains[k]), **cell)
        of = paired(lambda p, a, k=k: ratio(a.accuracy[k], p.accuracy[k]))
        add(run, "accuracy_ratio", of, **cell)
        over = paired(lambda p, a, k=k: excess(a.accuracy[k], p.accuracy[k], TIMES))
        add(run, "excess_over_twenty", over, **cell)
    _add_extremes(run, plain, attentive, gains, [tags | where for where in radius])
    for scale in ladder.scales():
        _add_course(run, paired, gains, ladder, scale, tags | {"scale": scale})


def arm_attack(plain: Group, attentive: Group) -> str:
    """The attack both were put through."""
    return "+".join(sorted({plain[0].attack, attentive[0].attack}))


def extremes(plain: Group) -> tuple[list[int], list[int]]:
    """Positions where the plain network keeps half of its accuracy, and where at most LOW is left.

    The last of the former is the *typical* radius, the first of the latter the *extreme* one.
    """
    start = pooled([member.start for member in plain]).value
    course = [
        pooled([member.accuracy[k] for member in plain]).value
        for k in range(len(plain[0].accuracy))
    ]
    typical = [k for k, value in enumerate(course) if value >= start / 2]
    return typical, [k for k, value in enumerate(course) if value <= LOW]


def _add_extremes(
    run: Run, plain: Group, attentive: Group, gains: Sequence[Estimate], tags: Sequence[dict]
) -> None:
    """Gains where the plain network keeps half of its accuracy, and where it has almost none.

    ``tags`` holds those of each radius.
    """
    course = [pooled([member.accuracy[k] for member in plain]) for k in range(len(gains))]
    ours = [pooled([member.accuracy[k] for member in attentive]) for k in range(len(gains))]
    typical, extreme = extremes(plain)
    if typical:
        add(run, "gain_typical", gains[typical[-1]], **tags[typical[-1]])
        best = max(typical, key=lambda k: gains[k].value / course[k].value)
        add(run, "gain_typical_relative", ratio(gains[best], course[best]), **tags[best])
    if extreme:
        add(run, "gain_extreme", gains[extreme[0]], **tags[extreme[0]])
        known = [k for k in extreme if course[k].value > 0]
        if known:
            best = max(known, key=lambda k: ours[k].value / course[k].value)
            add(run, "gain_extreme_relative", ratio(gains[best], course[best]), **tags[best])


def _add_course(
    run: Run, paired: Callable, gains: Sequence[Estimate], ladder: Radii, scale: str, tags: dict
) -> None:
    """Rows on the whole ladder of one reading, and on what lies beyond it."""
    places = ladder.at(scale)
    last = places[max(places)]
    if len(places) == len(ladder.eps):  # "over all radii" wants all of them
        _add_whole(run, [gains[k] for k in places.values()], tags)
    if BEGIN in places:
        first = places[BEGIN]
        saved = paired(
            lambda p, a: (
                (p.accuracy[first] - p.accuracy[last]) - (a.accuracy[first] - a.accuracy[last])
            )
        )
        left = paired(lambda p, a: metrics.mean([p.accuracy[first], a.accuracy[first]])).value
        add(run, "later_loss_saved", saved, **tags, alive=left > LOW)
    beyond = gains[last + 1 :]
    if beyond:
        add(run, "gain_beyond", metrics.mean(beyond), **tags)


def _add_whole(run: Run, here: Sequence[Estimate], tags: dict) -> None:
    add(run, "mean_gain", metrics.mean(here), **tags)
    largest = np.max([np.abs(one.replicates) for one in here], axis=0)
    add(run, "largest_gap", Estimate(max(abs(one.value) for one in here), largest), **tags)


def excess(over: Estimate, under: Estimate, times: float) -> Estimate:
    """``over - times * under``: above zero where the ratio is larger, also where ``under`` is 0."""
    return Estimate(over.value - times * under.value, over.replicates - times * under.replicates)


def absolute(estimate: Estimate) -> Estimate:
    """|estimate|, replicate by replicate."""
    return Estimate(abs(estimate.value), np.abs(estimate.replicates))


def ratio(over: Estimate, under: Estimate) -> Estimate:
    """``over / under``; not a number where the denominator is zero."""
    value = over.value / under.value if under.value else math.nan
    draws = np.full(len(over.replicates), math.nan)
    np.divide(over.replicates, under.replicates, out=draws, where=under.replicates != 0)
    return Estimate(value, draws)


def add_filter(run: Run, without: Group, with_filter: Group) -> None:
    """What the contrast filter costs, on the same test images."""
    tags = without[0].arm.tags | gates(without, with_filter)
    tags = {name: value for name, value in tags.items() if name != "filter"}
    for name in ("balanced_accuracy", "auc_macro"):
        pairs = zip(without, with_filter, strict=False)
        lost = pooled([a.clean[name] - b.clean[name] for a, b in pairs])
        add(run, f"{name}_lost_by_filter", lost, n=len(without[0].arm.task.split.test), **tags)


def add_between_tasks(run: Run, fragile: Group, robust: Group) -> None:
    """How much more of its right answers one task's network keeps than another's, over all radii.

    Unpaired: the images differ.
    """
    arms = fragile[0].arm, robust[0].arm
    tags = {
        "pair": f"{arms[1].task.role}-{arms[0].task.role}",
        "dataset": f"{arms[1].task.data.name}+{arms[0].task.data.name}",
        "finding": arms[1].task.finding,
    }
    tags |= {name: arms[0].tags[name] for name in ("split", "model", "attention", "start")}
    means = [pooled([metrics.mean(one.kept) for one in group]) for group in (robust, fragile)]
    add(run, "kept_difference", means[0] - means[1], **tags, **gates(fragile, robust))
