"""Paper 4: from what its networks scored to the rows that its claims are judged by.

Networks that differ in their training seed only are one *group*: their numbers are averaged, and
the bootstrap draws seeds as well as tiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from ..core.losses import IGNORED
from ..data.masks import pixel_counts
from ..data.splits import leaks
from ..reporting.results import Run
from ..scoring import metrics
from ..scoring import segmentation as scoring
from .common import add, gates
from .tables import pooled
from .unet_adversarial import Task, Trained
from .unet_adversarial_attack import CLEAN, INSIDE, Robustness
from .unet_adversarial_methods import SHAPES

Group = Sequence[Robustness]  # one network, one member a training seed
LOW = 0.05  # of the foreground right: where neither of two networks has more, a gain says nothing


def add_task(run: Run, task: Task) -> None:
    """Rows on the data: sizes of the sides, shares of the classes, unlabelled pixels, leaks."""
    data, tags = task.data, {"role": task.role, "dataset": task.data.name}
    run.dataset(data)
    sides = {**task.split._asdict(), "attacked": task.attacked, "all": np.arange(len(data))}
    for side, rows in sides.items():
        counts = pixel_counts(data.targets[rows])
        run.add("images", len(rows), side=side, **tags)
        run.add("groups", len(np.unique(data.groups[rows])), side=side, **tags)
        run.add("pixels_ignored", int(counts[IGNORED]), side=side, **tags)
        for kind, name in enumerate(data.classes):
            share = counts[kind] / counts[:IGNORED].sum()
            run.add("pixel_share", share, side=side, kind=name, **tags)
    run.add("test_images_leaked", leaks(data, task.split), n=len(task.split.test), **tags)


def add_majority(run: Run, robust: Robustness) -> None:
    """Rows of answering "background" everywhere, which no attack changes."""
    tags = {"role": robust.arm.task.role, "dataset": robust.arm.task.data.name}
    for name, value in robust.majority.items():
        if name != "loss":  # infinite
            metric, kind = split_name(name)
            add(run, metric, value, scheme="majority", n=len(robust.weights[0]), **kind, **tags)


def split_name(score: str) -> tuple[str, dict[str, str]]:
    """``dice_<class>`` as the metric ``dice`` with a tag ``kind``; other scores as they are."""
    metric, found, kind = score.partition("dice_")
    return ("dice", {"kind": kind}) if found and not metric else (score, {})


def add_arm(run: Run, group: Group) -> None:
    """Rows of one network: every score clean and under every attack, and what each attack takes.

    ``<score>_drop`` is the clean score less the attacked one, of the same network on the same
    images; ``by_seed`` holds it for each training seed, and ``alive`` says whether every network
    had foreground to lose.
    """
    tags = group[0].arm.tags | gates(group) | {"seeds": len(group)}
    n = len(group[0].weights[0])
    alive = min(one.scores[CLEAN]["foreground_accuracy"].value for one in group) > LOW
    for cell, names in group[0].scores.items():
        for name in names:
            metric, kind = split_name(name)
            where = tags | cell._asdict() | kind
            own = [member.scores[cell][name] for member in group]
            before = [member.scores[CLEAN][name] for member in group]
            add(run, metric, pooled(own), n=n, **where)
            if cell != CLEAN:
                drops = [b - a for b, a in zip(before, own, strict=True)]
                where["by_seed"] = [round(drop.value, 4) for drop in drops]
                add(run, f"{metric}_drop", pooled(drops), n=n, alive=alive, **where)
        if cell in group[0].moved:
            moved = np.concatenate([member.moved[cell] for member in group], axis=1)
            run.add("largest_change", moved[0].max(), **tags, **cell._asdict())
            run.add("mean_change", moved[1].mean(), **tags, **cell._asdict())
    for place, cell in enumerate(INSIDE):
        share = np.mean([(member.worst_by == place).mean() for member in group])
        run.add("worst_of_all", share, n=n, **tags, **cell._asdict())


def pairs(groups: Mapping[str, Group]) -> Iterator[tuple[str, str]]:
    """Keys of groups held against each other, the one that comes first in the profile first.

    Every network against the clean one, and models 2 to 4, as the paper has them, against each
    other.
    """
    for one, other in combinations(groups, 2):
        plain, defended = groups[one][0].arm, groups[other][0].arm
        if plain.scheme == "clean" or plain.variant == defended.variant == "main":
            yield one, other


def add_pair(run: Run, plain: Group, defended: Group) -> None:
    """Rows ``<score>_gain``: the second network's score less the first's, image by image.

    They carry the tags of the second, and the first's scheme and variant as ``against`` and
    ``against_variant``. Where the seeds differ in number, those that both have; ``by_seed`` holds
    the gain of each.
    """
    common = min(len(plain), len(defended))
    plain, defended = plain[:common], defended[:common]
    arm, other = defended[0].arm, plain[0].arm
    tags = arm.tags | gates(plain, defended) | {"seeds": common, "against": other.scheme}
    tags["against_variant"] = other.variant
    for cell, names in defended[0].scores.items():
        # one attacked test set for all: the clean network meets it as its own
        theirs = cell if cell in plain[0].scores else cell._replace(made_for="own")
        sides = [(a.scores[theirs], b.scores[cell]) for a, b in zip(plain, defended, strict=True)]
        left = [side["foreground_accuracy"].value for pair in sides for side in pair]
        for name in names:
            metric, kind = split_name(name)
            gains = [b[name] - a[name] for a, b in sides]
            where = tags | cell._asdict() | kind | {"alive": max(left) > LOW}
            where["by_seed"] = [round(gain.value, 4) for gain in gains]
            add(run, f"{metric}_gain", pooled(gains), n=len(plain[0].weights[0]), **where)


def add_shapes(
    run: Run, tags: Mapping[str, str], shapes: Mapping[str, Mapping], weights: np.ndarray
) -> None:
    """Rows on what predictions look like after plain and layered PGD, and their differences.

    ``<measure>_above_plain`` is paired, layered less plain; ``<measure>_above_strong`` less
    plain with the radius and steps that all layers have together.
    """
    rivals = {"plain": shapes["plain"], "strong": shapes["plain, K times"]}
    for name, values in shapes.items():
        for measure in (*SHAPES, "moved"):
            if np.isnan(values[measure]).any():  # a target that differs from image to image
                continue
            value = metrics.weighted_mean(values[measure], weights)
            add(run, measure, value, perturbed=name, n=len(weights[0]), **tags)
            for rival, theirs in rivals.items() if name.startswith("layered") else ():
                change = metrics.weighted_mean(values[measure] - theirs[measure], weights)
                add(run, f"{measure}_above_{rival}", change, perturbed=name, **tags)


def add_likeness(
    run: Run, tags: Mapping[str, str], method: str, values: Mapping, weights: np.ndarray
) -> None:
    """Rows on how much the images that a method made resemble their originals."""
    for measure, found in values.items():
        value = metrics.weighted_mean(found, weights)
        add(run, measure, value, perturbed=f"{method} set", n=len(found), **tags)


def add_costs(run: Run, tags: Mapping[str, str], table: Sequence[Mapping]) -> None:
    """Rows on what each method costs with 1 to K classes, and how that grows from 1 to K."""
    for line in table:
        where = tags | {"method": line["method"], "count": line["classes"]}
        for name in ("gradients", "evaluations", "seconds"):
            run.add(f"cost_{name}", line[name], **where)
    for method in ("layered", "selective"):
        lines = [line for line in table if line["method"] == method]
        for name in ("gradient", "evaluation", "second"):
            first, last = lines[0][f"{name}s"], lines[-1][f"{name}s"]
            if first:
                run.add(f"{name}_growth", last / first, method=method, **tags)


def add_searches(
    run: Run, tags: Mapping[str, str], found: Mapping[str, Mapping], weights: np.ndarray
) -> None:
    """Rows on the three searches of method two: loss, what is missed of the least, evaluations."""
    least = found["exhaustive"]["loss"]
    for search, values in found.items():
        where = {**tags, "search": search, "n": len(least)}
        add(run, "selected_loss", metrics.weighted_mean(values["loss"], weights), **where)
        gap = metrics.weighted_mean(values["loss"].astype(float) - least, weights)
        add(run, "loss_above_least", gap, **where)
        run.add("misses", int((values["loss"] > least + 1e-6).sum()), **where)
        run.add("evaluations", float(np.mean(values["evaluations"])), **where)
        gain = values["before"].astype(float) - values["loss"]
        add(run, "loss_saved", metrics.weighted_mean(gain, weights), **where)


def add_signs(run: Run, tags: Mapping[str, str], signs: np.ndarray, classes: Sequence[str]) -> None:
    """Rows on what method two chose: for each class the share of images with each sign."""
    for place, kind in enumerate(classes):
        for sign in (-1, 0, 1):
            share = float((signs[:, place] == sign).mean())
            run.add("sign_share", share, kind=kind, sign=sign, n=len(signs), **tags)
    spread = np.bincount(np.abs(signs).sum(1), minlength=len(classes) + 1) / len(signs)
    for count, share in enumerate(spread):
        run.add("signs_used", share, used=count, n=len(signs), **tags)


def add_curves(
    run: Run, tags: Mapping[str, str], histories: Mapping[str, Sequence[Sequence[Mapping]]]
) -> None:
    """Rows on how much the validation loss fluctuates; ``histories``: scheme -> one a seed.

    ``val_loss_spread``: standard deviation over the last half of the epochs, as a share of their
    mean. ``val_loss_rises``: share of the epochs with a higher validation loss than the one before.
    ``best_epoch_share``: place of the lowest, as a share of all epochs. Intervals reach from the
    lowest to the highest of the seeds.
    """
    for scheme, curves in histories.items():
        found: dict[str, list[float]] = {}
        for curve in curves:
            loss = np.array([row["val_loss"] for row in curve])
            half = loss[len(loss) // 2 :]
            for name, value in (
                ("val_loss_spread", half.std() / half.mean()),
                ("val_loss_rises", (np.diff(loss) > 0).mean() if len(loss) > 1 else np.nan),
                ("best_epoch_share", (loss.argmin() + 1) / len(loss)),
            ):
                found.setdefault(name, []).append(float(value))
        for name, values in found.items():
            ends = min(values), max(values)
            run.add(name, float(np.mean(values)), *ends, scheme=scheme, seeds=len(curves), **tags)


def per_image_table(groups: Mapping[str, Group]) -> pd.DataFrame:
    """A line for each network, seed, cell and test image: its scores, and the worst attack."""
    lines = []
    for group in groups.values():
        for member in group:
            ids = [member.arm.task.data.ids[row] for row in member.arm.task.attacked]
            worst = [INSIDE[place].attack for place in member.worst_by]
            for cell, counts in member.tallies.items():
                about = {**member.arm.tags, "seed": member.arm.seed, **cell._asdict()}
                scores = {k: v.round(4) for k, v in scoring.per_image(counts).items()}
                lines.append(pd.DataFrame({**about, "image": ids, **scores, "worst_by": worst}))
    return pd.concat(lines, ignore_index=True).drop(columns=["role", "dataset"])


def signs_table(trained: Trained) -> pd.DataFrame:
    """A line for each training image: the sign that method two chose for each class."""
    task = trained.arm.task
    table = pd.DataFrame(trained.signs, columns=list(task.data.classes))
    table.insert(0, "image", [task.data.ids[row] for row in task.split.train])
    table.insert(0, "seed", trained.arm.seed)
    return table
