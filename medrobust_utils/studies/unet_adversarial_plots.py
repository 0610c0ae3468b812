"""Paper 4: its figures with our networks, and the figures of its arguments.

A class is told by how dark it is (colours as well, chosen for the colour-blind) and by its number
on its largest area; a network by colour, marker and line style together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from scipy import ndimage

from .. import plots
from ..core.losses import IGNORED
from ..plots import PALETTE, STYLES, grid
from .unet_adversarial_attack import BACKGROUND, CLEAN, INSIDE, PER_STEP, TRANSFERRED, WORST

NAMES = {
    "clean": "1: clean images",
    "layered": "2: layered (method one)",
    "selective": "3: selective (method two)",
    "union": "4: union of the three",
    "adversarial": "adversarial training (ours)",
    "clean_layered": "1 and 2: clean and layered (ours)",
    "on_the_fly": "method one on the fly (ours)",
}
LOOKS = {  # marker, line, colour
    "clean": ("o", "--", PALETTE[7]),
    "layered": ("s", "-", PALETTE[0]),
    "selective": ("^", "-.", PALETTE[1]),
    "union": ("D", "-", PALETTE[2]),
    "adversarial": ("v", ":", PALETTE[4]),
    "clean_layered": ("P", "--", PALETTE[3]),
    "on_the_fly": ("X", ":", PALETTE[5]),
}
SIDES = {"ours": "ours", "paper": "paper", "majority": "background everywhere"}
SIDE_LOOKS = {"ours": ("o", "-", PALETTE[0]), "paper": ("X", "", "k"), "majority": ("|", "", "0.5")}
CELLS = {  # in the order of the paper, the attacks that it does not have after its own
    CLEAN: "clean",
    BACKGROUND: "to background, 1 % in all",
    PER_STEP: "to background, 1 % a step",
    TRANSFERRED: "to background, made for model 1",
    INSIDE[2]: "away from the truth (PGD)",
    INSIDE[3]: "SegPGD",
    WORST: "worst of all, image by image",
}
# Background first; each clearly darker than the one before, so that they read in gray.
CLASS_COLOURS = ("#ffffff", "#f7d340", "#6fb7e0", "#d9742b", "#2f6f4f", "#3b0f5c")
HEAT = "viridis"  # grows lighter evenly
SMALLEST = 6  # pixels of an area that has room for its number


def tested(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of a cell of CELLS, in its order, with its title as ``label``."""
    titles = {tuple(cell): title for cell, title in CELLS.items()}
    keys = zip(rows["attack"], rows["reading"], rows["made_for"], strict=True)
    rows = rows.assign(label=[titles.get(key) for key in keys])
    order = list(titles.values())
    return rows[rows["label"].notna()].sort_values(
        "label", key=lambda labels: labels.map(order.index), kind="stable"
    )


def without_images(
    rows: Sequence[Sequence[np.ndarray | None]], titles: Sequence[str], labels: Sequence[str] = ()
) -> tuple[list[list[np.ndarray | None]], list[str], list[str]]:
    """What ``pictures`` takes, less every image, every column "truth", and what is then empty.

    Real images and the outlines that people drew on them are looked at, not published; what a
    network answers shows neither.
    """
    kept = [
        [None if p is None or p.ndim == 3 or title == "truth" else p for p, title in pairs]
        for pairs in (list(zip(row, titles, strict=True)) for row in rows)
    ]
    lines = [place for place, row in enumerate(kept) if any(p is not None for p in row)]
    columns = [place for place in range(len(titles)) if any(row[place] is not None for row in kept)]
    return (
        [[kept[line][column] for column in columns] for line in lines],
        [titles[column] for column in columns],
        [labels[line] for line in lines] if labels else [],
    )


def pictures(
    rows: Sequence[Sequence[np.ndarray | None]],
    titles: Sequence[str],
    classes: Sequence[str],
    labels: Sequence[str] = (),
) -> Figure:
    """Images and label maps in rows, with a legend of the classes.

    Args:
        rows: each (H, W, 3) in [0, 1] or uint8, an image; (H, W), a label map; or None, nothing.
        titles: of the columns.
        labels: what to write before each row.
    """
    figure, axes = grid(len(rows), len(titles), 1.6, 1.65)
    for line, row in zip(axes, rows, strict=True):
        for axis, picture in zip(line, row, strict=True):
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
            if picture is None:
                axis.axis("off")
            elif picture.ndim == 3:
                axis.imshow(picture)
            else:
                _label_map(axis, picture, len(classes))
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8, wrap=True)
    for axis, label in zip(axes[:, 0], labels, strict=bool(labels)):
        axis.axis("on")
        axis.set_ylabel(label, fontsize=8)
    maps = [part for row in rows for part in row if part is not None and part.ndim == 2]
    patches = [
        Patch(facecolor=colour, edgecolor="0.4", label=f"{number} {name}")
        for number, (name, colour) in enumerate(zip(classes, CLASS_COLOURS, strict=False))
    ]
    if any((part == IGNORED).any() for part in maps):
        patches.append(Patch(facecolor="w", edgecolor="k", hatch="xxxx", label="nobody can say"))
    if maps:
        figure.legend(handles=patches, fontsize=7, loc="outside lower center", ncols=len(patches))
    return figure


def _label_map(axis: Axes, label_map: np.ndarray, classes: int) -> None:
    """One label map (H, W), each class with its number, ignored pixels hatched."""
    ignored = label_map == IGNORED
    shown = np.where(ignored, 0, label_map)
    colours = ListedColormap(CLASS_COLOURS[:classes])
    axis.imshow(shown, cmap=colours, vmin=-0.5, vmax=classes - 0.5, interpolation="nearest")
    if ignored.any():
        axis.contourf(ignored, levels=[0.5, 1.5], colors="none", hatches=["xxxx"])
    for kind in range(1, classes):
        areas, count = ndimage.label(shown == kind)
        if not count:
            continue
        largest = 1 + np.bincount(areas.ravel())[1:].argmax()
        if (areas == largest).sum() >= SMALLEST:
            # the pixel deepest inside, so that the number never lies beside its area
            depth = ndimage.distance_transform_edt(np.pad(areas == largest, 1))[1:-1, 1:-1]
            y, x = np.unravel_index(depth.argmax(), depth.shape)
            shade = "w" if kind > 3 else "k"
            axis.text(x, y, kind, ha="center", va="center", fontsize=6, color=shade)


def shares(table: pd.DataFrame) -> Figure:
    """Share of the pixels of each class (rows ``kind``, ``side``, ``value``), log scale."""
    figure, axes = grid(1, 1, 7.2, 3.4)
    axis = axes[0][0]
    sides = list(dict.fromkeys(table["side"]))
    palette = sns.color_palette("gray", len(sides) + 2)[1:-1]
    sns.barplot(
        table,
        x="value",
        y="kind",
        hue="side",
        hue_order=sides,
        palette=palette,
        ax=axis,
        edgecolor="k",
    )
    for bars, hatch in zip(axis.containers, ("", "///", "...", "xx"), strict=False):
        for bar in bars:
            bar.set_hatch(hatch)
    axis.set(xscale="log", xlabel="share of the labelled pixels", ylabel="")
    axis.legend(fontsize=8)
    return figure


def dots(
    panels: Mapping[str, pd.DataFrame],
    xlabel: str | Sequence[str],
    *,
    line: float | None = None,
    columns: int = 3,
) -> Figure:
    """Estimates with their intervals, a marker a scheme (see ``plots.dots``)."""
    how = dict(by="scheme", names=NAMES, looks=LOOKS, line=line, columns=columns)
    return plots.dots(panels, xlabel, **how)


def beside(panels: Mapping[str, pd.DataFrame], xlabel: Sequence[str]) -> Figure:
    """Our estimates beside the paper's numbers, told by a column ``side`` (see ``plots.dots``)."""
    return plots.dots(panels, xlabel, by="side", names=SIDES, looks=SIDE_LOOKS, columns=2)


def curves(
    histories: Mapping[str, Sequence[Sequence[Mapping]]], kept: Mapping[str, Sequence[int]]
) -> Figure:
    """Figure 4: validation loss over the epochs, a panel a scheme, a line a training seed.

    Args:
        histories: scheme -> one learning curve a seed.
        kept: scheme -> the epoch that was kept for each seed, marked by a ring.
    """
    figure, axes = grid(1, len(histories), 3.3, 3.0, sharey=True)
    for axis, (scheme, runs) in zip(axes[0], histories.items(), strict=True):
        for number, (history, best) in enumerate(zip(runs, kept[scheme], strict=True)):
            losses = {row["epoch"]: row["val_loss"] for row in history}
            line, colour = STYLES[number % len(STYLES)][1], PALETTE[number % len(PALETTE)]
            axis.plot(
                list(losses),
                list(losses.values()),
                linestyle=line,
                color=colour,
                linewidth=1.2,
                label=f"training {number + 1}",
            )
            axis.plot(best, losses[best], "o", color=colour, fillstyle="none")
        axis.set_title(NAMES[scheme], fontsize=9)
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes[0][0].set_ylabel("validation loss (nats)")
    axes[0][0].legend(fontsize=7)
    return figure


def candidates(losses: np.ndarray, marks: Mapping[str, float]) -> Figure:
    """How the losses (M,) of all candidates of one image lie, and where the marked ones do."""
    figure, axes = grid(1, 1, 6.6, 3.2)
    axis = axes[0][0]
    sns.histplot(x=losses, bins=60, color="0.7", edgecolor="0.5", ax=axis)
    for place, (name, value) in enumerate(marks.items()):
        axis.axvline(value, linestyle=STYLES[place][1], color=PALETTE[place], label=name)
    axis.set(xlabel="loss of the candidate (nats)", ylabel="candidates")
    axis.legend(fontsize=8)
    return figure


def signs(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Share of the images with each sign (columns) for each class (rows); a panel a title."""
    figure, axes = grid(1, len(tables), 3.4, 3.0, sharey=True)
    for axis, (title, table) in zip(axes[0], tables.items(), strict=True):
        sns.heatmap(
            table,
            vmin=0,
            vmax=1,
            cmap=HEAT,
            annot=True,
            fmt=".2f",
            cbar=False,
            ax=axis,
            annot_kws={"fontsize": 8},
        )
        axis.set_title(title, fontsize=9)
        axis.set(xlabel="sign (-1: pulled towards, 1: pushed away)", ylabel="")
        axis.xaxis.label.set_size(9)
        axis.tick_params(axis="y", rotation=0)
    return figure


def costs(table: pd.DataFrame) -> Figure:
    """Passes through the network and seconds an image, with 1 to K classes, on a log scale.

    Args:
        table: as ``unet_adversarial_methods.costs`` measures it.
    """
    passes = table.assign(passes=table["gradients"] + table["evaluations"])
    figure, axes = grid(1, 2, 4.4, 3.2)
    for axis, column in zip(axes[0], ("passes", "seconds"), strict=True):
        for method, rows in passes.groupby("method", sort=False):
            marker, line, colour = LOOKS[method]
            axis.plot(
                rows["classes"],
                rows[column],
                marker=marker,
                linestyle=line,
                color=colour,
                label=NAMES[method].partition(": ")[2],
            )
        axis.set(yscale="log", xlabel="classes taken", ylabel=f"{column} an image")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0][0].legend(fontsize=8)
    return figure
