"""A look as a picture: what was there, what was changed, and what the network made of it."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from ..explain.perturbations import to_be_seen
from ..plots import PALETTE
from ..plots import images as grids
from .look import NAMES, Look

WIDTH, HEIGHT, DPI = 6.2, 5.4, 100  # of a network's block: 620 pixels, readable on half a page
GRID = {"left": 0.012, "right": 0.988, "top": 0.84, "bottom": 0.1, "wspace": 0.04, "hspace": 0.1}
TEXT = {"fontsize": 8, "parse_math": False}  # an uploaded file may be called anything
BEFORE = {"facecolor": "0.85", "edgecolor": "0.35", "hatch": "/////", "linewidth": 0.6}
AFTER = {"facecolor": PALETTE[0], "edgecolor": "0.1", "linewidth": 0.6}
AREA = "-", PALETTE[1]  # a segmentation's answer: solid and orange
TRUTH = (0, (2.4, 2.4)), "w"  # the finding or the label: white dashes
BARS = 6  # at most


def draw(looks: Sequence[Look], place: int) -> Figure:
    """A block for each network, side by side, at a place of ``look.LEVELS``.

    Above: the image, the attacked image, and the change stretched until it can be seen. Below: the
    activation map of each, and the probabilities before and after.
    """
    figure = plt.figure(figsize=(WIDTH * len(looks), HEIGHT), dpi=DPI, facecolor="w")
    plt.close(figure)  # for pyplot, so that a notebook shows it once
    for part, one in zip(figure.subfigures(1, len(looks), squeeze=False)[0], looks, strict=True):
        numbers = one.record(place)
        _lines(part, one, numbers)
        axes = part.subplots(2, 3, gridspec_kw=GRID)
        _pictures(axes, one, numbers, place)
        _bars(axes[1, 2], numbers)
    return figure


def encode(figure: Figure) -> bytes:
    """The figure as PNG, ``DPI`` dots to the inch, whatever notebooks set for theirs."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, pil_kwargs={"compress_level": 1})
    return buffer.getvalue()


def picture(one: Look, place: int) -> bytes:
    """One network's block as PNG; kept with the look, and gone with it."""
    drawn = vars(one).setdefault("drawn", {})
    if place not in drawn:
        drawn[place] = encode(draw([one], place))
    return drawn[place]


def _pictures(axes: np.ndarray, one: Look, numbers: dict, place: int) -> None:
    for column, (at, when) in enumerate(((0, "before"), (place, "after"))):
        above, below = axes[:, column]
        grids.picture(above, one.images[at])
        if (region := one.region(at)) is not None:
            grids.outline(above, region, *AREA)
        if one.maps.valid[at]:
            grids.heat(below, one.images[at], one.maps.maps[at])
        else:
            grids.no_map(below, one.maps.reasons[at])
        for axis in (above, below)[: 1 + one.maps.valid[at]]:
            grids.outline(axis, one.mask, *TRUTH)
        dice, inside = numbers.get(f"dice_{when}"), numbers[f"inside_{when}"]
        title = "attacked" if column else "image"
        above.set_title(title if dice is None else f"{title}: Dice {dice:.2f}", pad=3, **TEXT)
        inside = "" if inside is None else f", {inside:.2f} inside"
        below.set_title(f"map {when}{inside}", pad=3, **TEXT)
    change = one.images[place] - one.images[0]
    grids.picture(axes[0, 2], to_be_seen(change[None])[0])
    stretch = f"the change, × {0.5 / np.abs(change).max():.0f}" if change.any() else "no change"
    axes[0, 2].set_title(stretch, pad=3, **TEXT)
    for axis in axes.flat[:-1]:
        axis.set_axis_off()


def _bars(axis: Axes, numbers: dict) -> None:
    """Probabilities before and after, the largest ones and that of the explained class."""
    before, after = numbers["probabilities_before"], numbers["probabilities_after"]
    explained = numbers["explained"]
    ranks = {name: (name != explained, -max(before[name], after[name])) for name in before}
    names = [name for name in before if name in sorted(before, key=ranks.get)[:BARS]]
    rows = np.arange(len(names))
    axis.barh(rows + 0.03, [before[name] for name in names], 0.19, **BEFORE)
    axis.barh(rows + 0.22, [after[name] for name in names], 0.19, **AFTER)
    for row, name in enumerate(names):
        look = TEXT | {"va": "center", "weight": "bold" if name == explained else "normal"}
        axis.text(0.02, row - 0.3, _cut(name, 18), **look)
        axis.text(1, row - 0.3, f"{before[name]:.2f} → {after[name]:.2f}", ha="right", **look)
    axis.set(xlim=(0, 1), ylim=(max(len(names), 3) - 0.5, -0.6), xticks=[], yticks=[])
    axis.spines[["top", "right", "bottom"]].set_visible(False)
    what = "share of the pixels" if "pixels_changed" in numbers else "probability"
    axis.set_title(what, pad=3, **TEXT)


def _lines(part: SubFigure, one: Look, numbers: dict) -> None:
    """What stands above and below the pictures."""
    said = []
    for when in ("before", "after"):
        name, values = numbers[f"answer_{when}"], numbers[f"probabilities_{when}"]
        name = numbers["explained"] if one.label_maps is not None else name
        said.append(f"{name} {values[name]:.2f}" if name in values else _cut(name, 32))
    drawn = numbers["synthetic"] and numbers["label"] is not None  # an upload is no phantom
    told = f"{'a phantom, ' * drawn}label: {numbers['label'] or 'none'}, {numbers['image']}"
    within = f"{NAMES[one.choice.attack]} within {numbers['eps_255']:.3g}/255"
    attack = within if numbers["attack"] else "no attack"
    alike = [(name, numbers[name]) for name in ("correlation", "similarity")]
    alike = ", ".join(f"{name} {value:.2f}" for name, value in alike if value is not None)
    made = f"{numbers['method']} for {_cut(numbers['explained'], 18)} at {numbers['layer']}"
    lines = ["hatched: before", "white line: half of a map's peak"]
    if one.mask.any():
        lines.append(f"dashes: target, {numbers['mask_share']:.2f} of the image")
    lines += ["orange: answer"] * (one.label_maps is not None)
    for height, text, look in (
        (0.99, _cut(numbers["network"], 64), {"fontsize": 10, "weight": "bold"}),
        (0.947, _cut(" → ".join(said), 78), {"fontsize": 10}),
        (0.9, _cut(f"{attack}; {told}", 84), {}),
        (0.075, f"{_cut(made, 60)}; maps alike: {alike or 'no'}", {}),
        (0.038, "; ".join(lines), {"color": "0.25"}),
    ):
        part.text(GRID["left"], height, text, va="top", **TEXT | look)


def _cut(text: str, width: int) -> str:
    """``text`` in one line of at most ``width`` letters."""
    return textwrap.shorten(text, width, placeholder="…") if " " in text else text[:width]
