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
        how = {"figsize": (width * columns, height * rows), "layout": "constrained"}
        figure, axes = plt.subplots(rows, columns, squeeze=False, **how, **kwargs)
    plt.close(figure)
    return figure, axes


def image_grid(images: Sequence[np.ndarray], titles: Sequence[str], columns: int = 6) -> Figure:
    """Images (H, W, C) uint8 or float in [0, 1] with a title each."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure, axes = grid(rows, columns, 2.0, 2.3)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, images, titles, strict=False):
        top = 255 if image.dtype == np.uint8 else 1
        axis.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=top)  # the map is of gray ones
        axis.set_title(title, fontsize=8, wrap=True)
    return figure


def samples(data: ImageSet, count: int = 12) -> Figure:
    """The first images of as many classes as possible, labelled."""
    targets = data.targets
    hot = targets.T if data.multi_label else [targets == k for k in range(len(data.classes))]
    turns = [pair for column in hot for pair in enumerate(np.flatnonzero(column)[:count].tolist())]
    turns.sort(key=lambda pair: pair[0])  # the first of each class, then the second
    chosen = [*dict.fromkeys(image for _, image in turns)][:count]
    return image_grid([data.images[i] for i in chosen], [_label(data, i) for i in chosen])


def _label(data: ImageSet, index: int) -> str:
    if not data.multi_label:
        return data.classes[data.targets[index]]
    return "\n".join(data.classes[k] for k in np.flatnonzero(data.targets[index])[:3])


def learning_curves(
    histories: Mapping[str, Sequence[Mapping[str, float]]], order: Sequence[str]
) -> Figure:
    """Training loss, validation loss and macro AUC over the epochs, a line an arm.

    Args:
        histories: name of the arm -> its learning curve.
        order: every arm's name; its place fixes the style, here and in the other figures.
    """
    from .results import curves  # which draws with what stands above

    panels = {
        "train_loss": "training loss (nats)",
        "val_loss": "validation loss (nats)",
        "val_auc_macro": "validation AUC, macro",
    }
    tables = [pd.DataFrame(history).assign(arm=name) for name, history in histories.items()]
    rows = pd.concat(tables).melt(["epoch", "arm"], [*panels], "panel").replace({"panel": panels})
    chance = pd.DataFrame({"panel": [panels["val_auc_macro"]], "label": "chance", "value": 0.5})
    how = {"xlabel": "epoch", "ylabel": "", "levels": chance, "order": list(order), "share": False}
    figure = curves(rows, "epoch", panel="panel", line="arm", **how)
    for axis in figure.axes:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure
