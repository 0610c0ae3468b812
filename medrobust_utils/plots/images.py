"""Grids of images: activation maps and perturbations beside the images they belong to."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke

from ..core.errors import ContractError
from ..explain.cams import Maps
from . import grid

HEAT = "viridis"  # grows lighter evenly, so it reads in gray and for the colour-blind


def explanations(
    images: torch.Tensor | np.ndarray,
    columns: Mapping[str, Maps | np.ndarray | torch.Tensor],
    *,
    labels: Sequence[str] | None = None,
    masks: np.ndarray | None = None,
) -> Figure:
    """A row for each image: the image, then one cell for each of ``columns``.

    Activation maps are laid over the image in gray, with a white line at half of their largest
    value. An invalid map is a hatched cell with the reason, never a picture.

    Args:
        images: (N, C, H, W) in [0, 1].
        columns: title -> ``Maps`` of the images, or pictures (N, C, H, W) in [0, 1], e.g.
            ``perturbations.to_be_seen``.
        labels: what to write before each row, e.g. the true class.
        masks: (N, H, W); their outline is drawn on the image, dashed.
    """
    images = np.asarray(images)
    columns = {k: v if isinstance(v, Maps) else np.asarray(v) for k, v in columns.items()}
    wrong = {title: len(column) for title, column in columns.items() if len(column) != len(images)}
    if wrong or not len(images):
        raise ContractError(f"{len(images)} images, but columns {wrong}. Give each image a cell.")
    figure, axes = grid(len(images), 1 + len(columns), 1.7, 1.7)
    shown = None
    for row, image in enumerate(images):
        picture(axes[row][0], image)
        if masks is not None:
            outline(axes[row][0], masks[row], "--")
        if labels is not None:
            axes[row][0].set_ylabel(textwrap.fill(labels[row], 18), fontsize=8)
        for axis, column in zip(axes[row][1:], columns.values(), strict=True):
            if not isinstance(column, Maps):
                picture(axis, column[row])
            elif column.valid[row]:
                shown = heat(axis, image, column.maps[row])
            else:
                no_map(axis, column.reasons[row])
    for axis, title in zip(axes[0], ("image", *columns), strict=True):
        axis.set_title(textwrap.fill(title, 18), fontsize=8)
    if shown is not None:
        bar = figure.colorbar(shown, ax=axes, location="right", shrink=min(1, 3 / len(images)))
        bar.set_label("activation, largest = 1", fontsize=8)
        bar.ax.tick_params(labelsize=7)
    return figure


def bare(axis: Axes) -> None:
    """Neither ticks nor grid."""
    axis.set(xticks=[], yticks=[])
    axis.grid(False)


def picture(axis: Axes, image: np.ndarray) -> None:
    """An image (C, H, W) in [0, 1], gray or RGB."""
    gray = len(image) == 1
    axis.imshow(image[0] if gray else image.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=1)
    bare(axis)


def heat(axis: Axes, image: np.ndarray, values: np.ndarray) -> AxesImage:
    """An activation map (H, W) over its image in gray, lined at half of its largest value."""
    axis.imshow(image.mean(0), cmap="gray", vmin=0, vmax=1)
    shown = axis.imshow(values, cmap=HEAT, vmin=0, vmax=1, alpha=0.6)
    outline(axis, values > values.max() / 2, "-")
    bare(axis)
    return shown


def outline(axis: Axes, mask: np.ndarray, line: str | tuple, colour: str | tuple = "w") -> None:
    """The rim of a mask (H, W) with a black seam; nothing if it is empty or all there is.

    Args:
        line: Matplotlib's linestyle.
        colour: Matplotlib's colour; others than white are drawn broader, to show beside white.
    """
    mask = np.asarray(mask).astype(bool)
    if mask.any() and not mask.all():
        drawn = axis.contour(mask, levels=[0.5], colors=[colour], linestyles=[line])
        drawn.set_linewidth(width := 1.2 if colour == "w" else 1.8)
        seam = Stroke(linewidth=width + 0.6, foreground="k")
        drawn.set_path_effects([seam, Normal()])  # on any ground


def no_map(axis: Axes, reason: str) -> None:
    """A hatched cell that says why there is no map."""
    bare(axis)
    axis.set_box_aspect(1)
    axis.add_patch(
        Rectangle((0, 0), 1, 1, transform=axis.transAxes, hatch="///", fill=False, edgecolor="0.7")
    )
    axis.text(
        0.5,
        0.5,
        textwrap.fill(f"no map: {reason}", 16),
        transform=axis.transAxes,
        ha="center",
        va="center",
        fontsize=8,
        bbox={"facecolor": "w", "edgecolor": "none", "pad": 2},
    )
