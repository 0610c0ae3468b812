"""Figures: seaborn, readable in gray and by the colour-blind; every function returns a Figure.

A model is told by colour, marker and line style together, so that none of the three is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from .data import ImageSet

PALETTE = sns.color_palette("colorblind")
STYLES = [("o", "-"), ("s", "--"), ("^", "-."), ("D", ":"), ("v", (0, (5, 1)))]
LABELS = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "auc_macro": "AUC, macro",
    "auc_micro": "AUC, micro",
    "loss": "loss (nats)",
    "balanced_accuracy": "balanced accuracy",
    "val_accuracy": "accuracy",
}


def _axes(
    rows: int, columns: int, width: float = 4.2, height: float = 3.4, **kwargs: object
) -> tuple[Figure, np.ndarray]:
    """A grid of axes in the house style; the figure is closed for pyplot, so it is shown once."""
    with sns.axes_style("whitegrid"), sns.plotting_context("notebook", font_scale=0.9):
        figure, axes = plt.subplots(
            rows,
            columns,
            figsize=(width * columns, height * rows),
            squeeze=False,
            layout="constrained",
            **kwargs,
        )
    plt.close(figure)
    return figure, axes


def image_grid(images: Sequence[np.ndarray], titles: Sequence[str], columns: int = 6) -> Figure:
    """Images (H, W, C) uint8 or float in [0, 1] with a title each."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure, axes = _axes(rows, columns, 2.0, 2.3)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, images, titles, strict=False):
        gray = image.shape[2] == 1
        axis.imshow(
            image[:, :, 0] if gray else image,
            cmap="gray" if gray else None,
            vmin=0,
            vmax=255 if image.dtype == np.uint8 else 1,
        )
        axis.set_title(title, fontsize=8, wrap=True)
    return figure


def samples(data: ImageSet, count: int = 12) -> Figure:
    """The first images of as many classes as possible, labelled."""
    hot = (
        data.targets.T
        if data.multi_label
        else [data.targets == k for k in range(len(data.classes))]
    )
    queues = [list(np.flatnonzero(column)[:count]) for column in hot]
    chosen: list[int] = []
    while len(chosen) < min(count, len(data)) and any(queues):
        for queue in queues:
            if queue and len(chosen) < count and (index := int(queue.pop(0))) not in chosen:
                chosen.append(index)
    return image_grid([data.images[i] for i in chosen], [_label(data, i) for i in chosen])


def _label(data: ImageSet, index: int) -> str:
    if not data.multi_label:
        return data.classes[data.targets[index]]
    return "\n".join(data.classes[k] for k in np.flatnonzero(data.targets[index])[:3])


def class_sizes(sets: Mapping[str, Mapping[str, int]]) -> Figure:
    """Images per class of each set, largest first, on a log scale."""
    figure, axes = _axes(1, len(sets), 4.8, 3.8)
    for axis, (name, counts) in zip(axes[0], sets.items(), strict=True):
        table = pd.Series(dict(counts)).sort_values(ascending=False)
        sns.barplot(x=table.values, y=list(table.index), ax=axis, color=PALETTE[0])
        axis.set(xscale="log", xlabel="images", title=name, xlim=(0.7, 2.5 * max(1, table.max())))
        axis.bar_label(axis.containers[0], fontsize=7, padding=2)
    return figure


def learning_curves(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Training loss, validation loss and macro AUC over the epochs, a line an arm."""
    panels = {
        "train_loss": "training loss (nats)",
        "val_loss": "validation loss (nats)",
        "val_auc_macro": "validation AUC, macro",
    }
    figure, axes = _axes(1, len(panels), 4.4, 3.6)
    for number, (name, history) in enumerate(histories.items()):
        marker, line = STYLES[number % len(STYLES)]
        for axis, key in zip(axes[0], panels, strict=True):
            axis.plot(
                [row["epoch"] for row in history],
                [row[key] for row in history],
                label=name,
                marker=marker,
                linestyle=line,
                color=PALETTE[number % len(PALETTE)],
                markersize=4,
            )
    for axis, label in zip(axes[0], panels.values(), strict=True):
        axis.set(xlabel="epoch", ylabel=label)
    axes[0][-1].axhline(0.5, color="0.4", linewidth=1)
    axes[0][-1].text(
        0.99,
        0.5,
        "chance",
        ha="right",
        va="bottom",
        fontsize=8,
        color="0.3",
        transform=axes[0][-1].get_yaxis_transform(),
    )
    axes[0][0].legend(fontsize=7)
    return figure


def noise_curves(
    rows: pd.DataFrame,
    paper: Mapping[str, Sequence[tuple[float, float]]],
    metric: str,
    titles: Mapping[str, str],
    reading: str = "variance",
) -> Figure:
    """The paper's Figures 6 and 7: a score against the noise level, paper's curve and ours.

    Args:
        rows: result rows with columns role, model, start, reading, noise, metric, value, low, high;
            ``majority`` rows draw the line that a constant answer reaches.
        paper: role -> [(noise level, reported value)], drawn black and dotted.
        titles: role -> panel title; also the order of the panels.
        reading: which reading of the noise level to draw.
    """
    figure, axes = _axes(1, len(titles), 5.0, 3.8)
    rows = rows[(rows["metric"] == metric) & rows["reading"].isin(["none", reading])]
    for axis, (role, title) in zip(axes[0], titles.items(), strict=True):
        here = rows[rows["role"] == role]
        majority = here[here["model"] == "majority"]
        arms = here[here["model"] != "majority"].groupby(["model", "start"], sort=True)
        for number, ((model, start), arm) in enumerate(arms):
            _noise_line(axis, arm.sort_values("noise"), f"{model}, {start}", number)
        if len(majority):
            axis.axhline(
                majority["value"].iloc[0],
                color="0.35",
                linewidth=1,
                label="label frequencies alone",
            )
        if paper.get(role):
            axis.plot(*zip(*paper[role], strict=True), "k:X", label="paper, Swin-T", markersize=7)
        ticks = sorted(here["noise"].unique())
        axis.set(
            title=title,
            xlabel=f"noise level, read as {reading}",
            ylabel=LABELS[metric],
            xscale="symlog",
        )
        axis.set_xscale("symlog", linthresh=0.025)
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks], rotation=45)
        axis.minorticks_off()
        axis.legend(fontsize=7)
    return figure


def _noise_line(axis: plt.Axes, arm: pd.DataFrame, label: str, number: int) -> None:
    marker, line = STYLES[number]
    axis.plot(
        arm["noise"],
        arm["value"],
        marker=marker,
        linestyle=line,
        color=PALETTE[number],
        label=label,
    )
    axis.fill_between(
        arm["noise"].astype(float),
        arm["low"].astype(float),
        arm["high"].astype(float),
        color=PALETTE[number],
        alpha=0.15,
        linewidth=0,
    )


def forest(rows: pd.DataFrame, labels: Sequence[str], xlabel: str) -> Figure:
    """Estimates with their intervals, one below the other, against a line at zero."""
    figure, axes = _axes(1, 1, 7.0, 0.9 + 0.28 * len(rows))
    axis, places = axes[0][0], np.arange(len(rows))[::-1]
    value = rows["value"].to_numpy(float)
    spans = np.stack(
        [value - rows["low"].to_numpy(float), rows["high"].to_numpy(float) - value]
    ).clip(0)
    axis.errorbar(
        value, places, xerr=spans, fmt="o", color=PALETTE[0], ecolor="0.4", capsize=2, markersize=4
    )
    axis.axvline(0, color="k", linewidth=1)
    axis.set_yticks(places, list(labels), fontsize=8)
    axis.set(xlabel=xlabel)
    return figure


def complexity(table: pd.DataFrame) -> Figure:
    """Counted multiply-adds of attention against the formulas, for growing images."""
    figure, axes = _axes(1, 1, 5.6, 4.0)
    axis = axes[0][0]
    for number, kind in enumerate(("global", "window")):
        marker, _ = STYLES[number]
        axis.plot(
            table["patches"],
            table[f"equation_{number + 1}"],
            color=PALETTE[number],
            linewidth=1.5,
            linestyle="-" if number else "--",
            label=f"equation ({number + 1})",
        )
        axis.plot(
            table["patches"],
            table[kind],
            marker,
            color=PALETTE[number],
            markersize=8,
            fillstyle="none",
            label=f"counted, {kind} attention",
        )
    axis.set(
        xscale="log", yscale="log", xlabel="patches in the image (h w)", ylabel="multiply-adds"
    )
    axis.legend(fontsize=8)
    return figure


def auc_by_size(rows: pd.DataFrame) -> Figure:
    """AUC of each finding against its number of training images, a panel an arm."""
    arms = list(rows.groupby(["model", "start"], sort=True))
    figure, axes = _axes(1, max(1, len(arms)), 4.4, 3.8, sharey=True)
    for number, (axis, ((model, start), arm)) in enumerate(zip(axes[0], arms, strict=False)):
        spans = (
            np.stack([arm["value"] - arm["low"], arm["high"] - arm["value"]]).astype(float).clip(0)
        )
        axis.errorbar(
            arm["images"],
            arm["value"],
            yerr=spans,
            fmt=STYLES[number][0],
            color=PALETTE[number],
            ecolor="0.6",
            capsize=2,
        )
        for _, row in arm.iterrows():
            axis.annotate(
                row["finding"],
                (row["images"], row["value"]),
                fontsize=7,
                xytext=(4, 3),
                textcoords="offset points",
            )
        axis.axhline(0.5, color="0.35", linewidth=1)
        axis.set(
            xscale="log",
            xlabel="training images with the finding",
            ylabel="AUC",
            title=f"{model}, {start}",
        )
    return figure
