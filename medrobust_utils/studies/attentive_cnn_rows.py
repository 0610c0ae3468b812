"""Paper 2: from what its networks scored to the rows that its claims are judged by.

Networks that differ in their training seed only are one *arm group*: their numbers are averaged,
and the bootstrap draws seeds as well as images.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..attacks import Flag
from ..data.splits import leaks
from ..reporting.results import Run
from ..scoring import metrics
from ..scoring.metrics import Estimate
from .attentive_cnn import Task
from .attentive_cnn_attack import Robustness
from .attentive_cnn_radii import Radii
from .common import add, gates, pooled

NO_ATTACK = {"attack": "none", "scale": "none", "eps": 0.0}
Group = Sequence[Robustness]  # one network, one member a training seed


def add_task(run: Run, task: Task) -> None:
    """Rows on a data set and its split: sizes, leaks, and the line a constant answer reaches."""
    data, test = task.data, task.split.test
    run.dataset(task.raw)
    tags = {
        "role": task.role,
        "dataset": data.name,
        "split": task.split_name,
        "filter": task.filter,
        "finding": task.finding,
    }
    prior = metrics.prior_logits(data.targets[task.split.train], len(test), len(data.classes))
    weights = metrics.group_weights(data.groups[test])
    for name, value in metrics.score(prior, data.targets[test], weights).items():
        name = "accuracy" if name == "top1" else name
        add(run, name, value, model="majority", n=len(test), **tags, **NO_ATTACK)
    run.add("test_images_leaked", leaks(data, task.split), n=len(test), **tags)
    run.add("classes", len(data.classes), **tags)


def add_arm(run: Run, group: Group, ladder: Radii) -> None:
    """Rows of one network: clean scores, accuracy at every radius under every reading."""
    arm, attack = group[0].arm, group[0].attack
    tags = arm.tags | gates(group) | {"seeds": len(group)}
    n, attacked = len(arm.task.split.test), len(group[0].sweep.labels)
    for name in group[0].clean:
        value = pooled([member.clean[name] for member in group])
        add(run, "accuracy" if name == "top1" else name, value, n=n, **tags, **NO_ATTACK)
    start = pooled([member.start for member in group])  # on the images that are then attacked
    add(run, "accuracy_attacked", start, n=attacked, **tags, **NO_ATTACK)
    scores = [_at(group, k) for k in range(len(ladder.values))]
    for radius, found in zip(ladder.values, scores, strict=True):
        cell = tags | {"attack": attack, "radius_255": radius * 255, "n": attacked}
        for name, value in found.items():
            add(run, name, value, **cell)
    for (scale, eps), k in ladder.cells.items():
        cell = tags | {"attack": attack, "scale": scale, "eps": eps, "n": attacked}
        cell["radius_255"] = ladder.values[k] * 255
        add(run, "accuracy", scores[k]["accuracy_attacked"], **cell)
        add(run, "accuracy_lost", pooled([m.start - m.accuracy[k] for m in group]), **cell)


def _at(group: Group, k: int) -> dict[str, Estimate]:
    """Scores at one radius. AUC under a nested attack is an upper bound (see ``SweepResult``)."""
    found: dict[str, list[Estimate]] = {}
    for member in group:
        scores = metrics.score(member.sweep.logits[k], member.sweep.labels, member.weights)
        for name, value in {
            "accuracy_attacked": member.accuracy[k],
            "kept": member.kept[k],
            "balanced_accuracy_attacked": scores["balanced_accuracy"],
            "auc_macro_attacked": scores["auc_macro"],
        }.items():
            found.setdefault(name, []).append(value)
    return {name: pooled(values) for name, values in found.items()}


def add_flags(run: Run, robust: Robustness, flags: Sequence[Flag], ladder: Radii) -> None:
    """A row a red flag, 1 where it is raised; raised ones are warnings of the run too."""
    place = -1 if robust.half_fallen is None else robust.half_fallen
    tags = robust.arm.tags | robust.gates | {"radius_255": ladder.values[place] * 255}
    for flag in flags:
        run.add("red_flag", float(flag.raised), flag=flag.name, measured=flag.measured, **tags)
        if flag.raised:
            run.warn(f"{robust.arm.key}: {flag.name}: {flag.measured}")
