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
from matplotlib.ticker import MaxNLocator

from ..data import ImageSet

PALETTE = sns.color_palette("colorblind")
STYLES = [("o", "-"), ("s", "--"), ("^", "-."), ("D", ":"), ("v", (0, (5, 1)))]


def grid(
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


def without_empty(figure: Figure, axes: np.ndarray, count: int) -> Figure:
    """The figure with its first ``count`` axes only."""
    for axis in list(axes.flat)[count:]:
        axis.remove()
    return figure


def image_grid(images: Sequence[np.ndarray], titles: Sequence[str], columns: int = 6) -> Figure:
    """Images (H, W, C) uint8 or float in [0, 1] with a title each."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure, axes = grid(rows, columns, 2.0, 2.3)
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
    figure, axes = grid(1, len(sets), 4.8, 3.8)
    for axis, (name, counts) in zip(axes[0], sets.items(), strict=True):
        table = pd.Series(dict(counts)).sort_values(ascending=False)
        sns.barplot(x=table.values, y=list(table.index), ax=axis, color=PALETTE[0])
        axis.set(xscale="log", xlabel="images", title=name, xlim=(0.7, 2.5 * max(1, table.max())))
        axis.bar_label(axis.containers[0], fontsize=7, padding=2)
    return figure


def learning_curves(
    histories: Mapping[str, Sequence[Mapping[str, float]]], order: Sequence[str]
) -> Figure:
    """Training loss, validation loss and macro AUC over the epochs, a line an arm.

    Args:
        histories: name of the arm -> its learning curve.
        order: every arm's name; its place fixes the style, here and in the other figures.
    """
    panels = {
        "train_loss": "training loss (nats)",
        "val_loss": "validation loss (nats)",
        "val_auc_macro": "validation AUC, macro",
    }
    figure, axes = grid(1, len(panels), 4.4, 3.6)
    for name, history in histories.items():
        number = list(order).index(name)
        marker, line = STYLES[number % len(STYLES)]
        colour = PALETTE[number % len(PALETTE)]
        for axis, key in zip(axes[0], panels, strict=True):
            axis.plot(
                [row["epoch"] for row in history],
                [row[key] for row in history],
                label=name,
                marker=marker,
                linestyle=line,
                color=colour,
                markersize=4,
            )
    for axis, label in zip(axes[0], panels.values(), strict=True):
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.set_xlim(
            0.5, max(map(len, histories.values())) + 0.5
        )  # one epoch is still a whole one
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
