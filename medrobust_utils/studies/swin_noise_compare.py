"""Paper 1: the differences its claims are about, and the cost of attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

from ..models import complexity
from ..reporting.results import Run
from .swin_noise import Sweep, Task
from .swin_noise_rows import NO_NOISE, add


def add_comparisons(run: Run, sweeps: Sequence[Sweep]) -> None:
    """Differences between models, starts and data sets, wherever both sides were run."""
    for a, b in product(sweeps, sweeps):
        same_task = a.arm.task.key == b.arm.task.key
        if (
            same_task
            and a.arm.start == b.arm.start
            and (a.arm.model, b.arm.model) == ("swin", "resnet")
        ):
            _add_models(run, a, b)
        if (
            same_task
            and a.arm.model == b.arm.model
            and (a.arm.start, b.arm.start) == ("imagenet", "scratch")
        ):
            _add_starts(run, a, b)
        same_arm = (a.arm.model, a.arm.start, a.arm.task.protocol) == (
            b.arm.model,
            b.arm.start,
            b.arm.task.protocol,
        )
        if same_arm and (a.arm.task.role, b.arm.task.role) == ("isic", "nih"):
            _add_datasets(run, a, b)


def both_gates(a: Sweep, b: Sweep) -> dict[str, bool]:
    """A comparison needs two models that learnt enough."""
    return {gate: a.gates[gate] and b.gates[gate] for gate in a.gates}


def _add_models(run: Run, swin: Sweep, resnet: Sweep) -> None:
    """Paired: both models saw the same images and the same noise."""
    task = swin.arm.task
    tags = {key: value for key, value in swin.arm.tags.items() if key != "model"}
    tags |= both_gates(swin, resnet)
    n = {"n": len(task.split.val)}
    add(
        run,
        "top1_swin_minus_resnet",
        swin.clean["top1"] - resnet.clean["top1"],
        **tags,
        **NO_NOISE,
        **n,
    )
    add(
        run,
        "auc_swin_minus_resnet",
        swin.clean["auc_macro"] - resnet.clean["auc_macro"],
        **tags,
        **NO_NOISE,
        **n,
    )
    add(
        run,
        "loss_resnet_minus_swin",
        resnet.clean["loss"] - swin.clean["loss"],
        **tags,
        **NO_NOISE,
        **n,
    )
    for reading, level in swin.noisy:
        if reading == "none":
            continue
        cell = tags | {"reading": reading, "noise": level, "n": len(task.noisy)}
        for short, metric in (("top1", "top1"), ("auc", "auc_micro"), ("auc_macro", "auc_macro")):
            gap = resnet.drop(metric, reading, level) - swin.drop(metric, reading, level)
            add(run, f"{short}_drop_resnet_minus_swin", gap, **cell)


def _add_starts(run: Run, imagenet: Sweep, scratch: Sweep) -> None:
    tags = {key: value for key, value in imagenet.arm.tags.items() if key != "start"}
    gap = imagenet.clean["top1"] - scratch.clean["top1"]
    add(
        run,
        "top1_imagenet_minus_scratch",
        gap,
        **tags,
        **NO_NOISE,
        n=len(imagenet.arm.task.split.val),
    )


def _add_datasets(run: Run, isic: Sweep, nih: Sweep) -> None:
    """Unpaired: different images, so their replicates are independent."""
    tags = {
        "model": isic.arm.model,
        "start": isic.arm.start,
        "protocol": isic.arm.task.protocol,
        "dataset": f"{nih.arm.task.data.name}+{isic.arm.task.data.name}",
        **both_gates(isic, nih),
    }
    for name in ("top1", "top5"):
        add(run, f"{name}_isic_minus_nih", isic.clean[name] - nih.clean[name], **tags, **NO_NOISE)
    for reading, level in isic.noisy:
        if reading == "none":
            continue
        cell = tags | {"reading": reading, "noise": level}
        add(
            run,
            "top1_drop_isic_minus_nih",
            isic.drop("top1", reading, level) - nih.drop("top1", reading, level),
            **cell,
        )
        add(
            run,
            "auc_drop_nih_minus_isic",
            nih.drop("auc_micro", reading, level) - isic.drop("auc_micro", reading, level),
            **cell,
        )


def add_imbalance(run: Run, tasks: Sequence[Task]) -> None:
    """How much more unbalanced NIH is: log10 of largest over smallest class, less ISIC's."""
    ratio = {}
    for task in tasks:
        sizes = [size for size in task.data.class_counts().values() if size]
        ratio[task.role] = math.log10(max(sizes) / min(sizes)), task.data.name
    if len(ratio) == 2:
        run.add(
            "imbalance_nih_minus_isic",
            ratio["nih"][0] - ratio["isic"][0],
            dataset=f"{ratio['nih'][1]}+{ratio['isic'][1]}",
        )


def add_complexity(run: Run, sides: Sequence[int], channels: int, window: int) -> list[dict]:
    """Counted operations of global and windowed attention for growing images, against the formulas.

    Returns:
        One dict a side: ``patches``, ``global``, ``window`` (counted multiply-adds), and what
        equations (1) and (2) say, ``equation_1`` and ``equation_2``.
    """
    table = [
        {
            "patches": side**2,
            "global": complexity.counted_global(side, channels),
            "window": complexity.counted_window(side, channels, window),
            "equation_1": complexity.equation_1(side, channels),
            "equation_2": complexity.equation_2(side, channels, window),
        }
        for side in sides
    ]
    patches = [row["patches"] for row in table]
    for kind, number in (("global", 1), ("window", 2)):
        counted = [row[kind] for row in table]
        ratios = [row[kind] / row[f"equation_{number}"] for row in table]
        run.add(
            f"attention_exponent_{kind}",
            complexity.growth_exponent(counted, patches),
            scope="analytic",
        )
        run.add(
            f"eq_{number}_matches_count", ratios[-1], min(ratios), max(ratios), scope="analytic"
        )
    return table
