"""Figures of gray-level co-occurrence: an area, its matrices, soft levels, and the loss by area."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from . import PALETTE, grid, without_empty

HEAT = "viridis"  # grows lighter evenly, so it reads in gray and for the colour-blind


def one_area(area: np.ndarray, levels: np.ndarray, counts: np.ndarray) -> Figure:
    """From pixels to a matrix: an area, the gray level of each pixel, and how often pairs occur.

    Args:
        area: (H, W) in [0, 1].
        levels: (H, W), whole numbers from 0.
        counts: (L, L), pairs with level i at the first and j at the second pixel.
    """
    figure, axes = grid(1, 3, 4.4, 4.2)
    axes[0][0].imshow(area, cmap="gray", vmin=0, vmax=1)
    axes[0][1].imshow(levels, cmap="gray", vmin=0, vmax=len(counts) - 1)
    for (y, x), level in np.ndenumerate(levels):
        shade = "k" if level > len(counts) / 2 else "w"
        axes[0][1].text(x, y, int(level), ha="center", va="center", fontsize=6, color=shade)
    axes[0][2].imshow(counts, cmap=HEAT)
    for (i, j), count in np.ndenumerate(counts):
        shade = "k" if count > counts.max() / 2 else "w"
        axes[0][2].text(j, i, f"{count:.0f}", ha="center", va="center", fontsize=8, color=shade)
    axes[0][2].set(xlabel="level of the second pixel", ylabel="level of the first pixel")
    axes[0][2].set(xticks=range(len(counts)), yticks=range(len(counts)))
    for axis, title in zip(axes[0], ("pixels", "gray levels", "pairs counted"), strict=True):
        axis.grid(False)
        axis.set_title(title)
    for axis in axes[0][:2]:
        axis.set(xticks=[], yticks=[])
    return figure


def heat_maps(
    maps: Mapping[str, np.ndarray], label: str, columns: int = 4, level: float | None = None
) -> Figure:
    """Matrices (L, L) side by side in one colour scale; ``label`` says what the colour is.

    Args:
        level: where a black line is drawn.
    """
    columns = min(columns, len(maps))
    figure, axes = grid(-(-len(maps) // columns), columns, 2.5, 2.5)
    top = max(part.max() for part in maps.values())
    for axis, (title, part) in zip(axes.flat, maps.items(), strict=False):
        drawn = axis.imshow(part, cmap=HEAT, vmin=0, vmax=top)
        if level is not None and part.min() < level < part.max():
            axis.contour(part, [level], colors="k")
        axis.set(xticks=[], yticks=[])
        axis.set_title(title, fontsize=9)
        axis.grid(False)
    figure.colorbar(drawn, ax=axes, label=label, shrink=0.8)
    return without_empty(figure, axes, len(maps))


def memberships(values: np.ndarray, shares: Mapping[str, np.ndarray]) -> Figure:
    """Share of a pixel in every gray level, (P, L) against its value (P,); a panel a binning."""
    figure, axes = grid(1, len(shares), 4.4, 2.6, sharey=True)
    for axis, (title, part) in zip(axes[0], shares.items(), strict=True):
        for level, course in enumerate(part.T):
            line = ("-", "--", "-.", ":")[level % 4]
            axis.plot(values, course, linestyle=line, color=PALETTE[level % len(PALETTE)])
            if course.max() > 0:
                middle = values[course >= course.max() - 1e-6].mean()
                axis.text(middle, 1.04, level, ha="center", fontsize=8)
        axis.set(title=title, xlabel="value of the pixel", ylim=(-0.03, 1.15))
    axes[0][0].set_ylabel("share in the level")
    return figure


def row_sums(image: np.ndarray, changed: np.ndarray, sums: np.ndarray) -> Figure:
    """An image (H, W), what became of it, and each area's row sum (Y, X), the worst framed."""
    figure, axes = grid(1, 3, 3.6, 3.3)
    for axis, part, title in zip(axes[0], (image, changed), ("X", "changed"), strict=False):
        axis.imshow(part, cmap="gray", vmin=0, vmax=1)
        axis.set_title(title)
    drawn = axes[0][2].imshow(sums, cmap=HEAT, vmin=0)
    y, x = np.unravel_index(sums.argmax(), sums.shape)
    frame = Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor="r", linewidth=2.5)
    axes[0][2].add_patch(frame)
    axes[0][2].set_title("row sum of each area")
    for axis in axes[0]:
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
    figure.colorbar(drawn, ax=axes[0][2], shrink=0.8)
    return figure
