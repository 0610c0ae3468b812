"""Grids of images: activation maps, perturbations and label maps beside their images."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, Stroke
from scipy import ndimage

from ..core.errors import ContractError
from ..core.losses import IGNORED
from ..explain.cams import Maps
from . import grid

HEAT = "viridis"  # grows lighter evenly, so it reads in gray and for the colour-blind
# Of label maps, background first: each clearly darker than the one before, to be read in gray.
CLASS_COLOURS = ("#ffffff", "#f7d340", "#6fb7e0", "#d9742b", "#2f6f4f", "#3b0f5c")
MIDDLE = {"ha": "center", "va": "center"}
SMALLEST = 6  # pixels of an area that has room for the number of its class


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


def label_maps(
    rows: Mapping[str, Sequence[np.ndarray | None]], titles: Sequence[str], classes: Sequence[str]
) -> Figure:
    """Images and label maps in rows, with a legend of the classes.

    A class is told by how dark it is, and by its number on its largest area.

    Args:
        rows: what to write before a row -> its pictures: (H, W, 3) in [0, 1] or uint8, an image;
            (H, W), a label map, whose ignored pixels are hatched; or None, nothing.
        titles: of the columns.
    """
    figure, axes = grid(len(rows), len(titles), 1.6, 1.65)
    for line, (label, pictures) in zip(axes, rows.items(), strict=True):
        for axis, shown in zip(line, pictures, strict=True):
            bare(axis)
            if shown is None:
                axis.set_visible(False)
            elif shown.ndim == 3:
                axis.imshow(shown)
            else:
                _label_map(axis, shown, len(classes))
        line[0].set_ylabel(label, fontsize=8)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8, wrap=True)
    numbers = [f"{number} {name}" for number, name in enumerate(classes)]
    patches = [
        Patch(facecolor=colour, edgecolor="0.4", label=text)
        for text, colour in zip(numbers, CLASS_COLOURS, strict=False)
    ]
    patches.append(Patch(facecolor="w", edgecolor="k", hatch="xxxx", label="ignored"))
    if any(one is not None and one.ndim == 2 for row in rows.values() for one in row):
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
        areas, _ = ndimage.label(shown == kind)
        sizes = np.bincount(areas.ravel(), minlength=2)[1:]
        if sizes.max() >= SMALLEST:
            # the pixel deepest inside, so that the number never lies beside its area
            depth = ndimage.distance_transform_edt(np.pad(areas == 1 + sizes.argmax(), 1))
            y, x = np.unravel_index(depth.argmax(), depth.shape)
            shade = "w" if kind > 3 else "k"
            axis.text(x - 1, y - 1, kind, fontsize=6, color=shade, **MIDDLE)


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
    axis.patch.set(hatch="///", edgecolor="0.7")
    text, bbox = textwrap.fill(f"no map: {reason}", 16), {"fc": "w", "ec": "none", "pad": 2}
    axis.text(0.5, 0.5, text, transform=axis.transAxes, fontsize=8, bbox=bbox, **MIDDLE)
