"""A look as a picture: what was there, what was changed, and what the network made of it."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from ..explain.perturbations import to_be_seen
from ..plots import PALETTE
from ..plots import images as grids
from .look import NAMES, Look
from .scene import FINDINGS, PIXELS

DPI = 100
WIDTH, HEIGHT = 6.2, 5.4  # inches of a network's block: 620 pixels, readable on half a page
SMALL = 8  # points; nothing is smaller
BARS = 6  # at most
GRID = {"left": 0.012, "right": 0.988, "top": 0.84, "bottom": 0.1, "wspace": 0.04, "hspace": 0.1}
BEFORE = {"facecolor": "0.85", "edgecolor": "0.35", "hatch": "/////", "linewidth": 0.6}
AFTER = {"facecolor": PALETTE[0], "edgecolor": "0.1", "linewidth": 0.6}
AREA = "-", PALETTE[1]  # a network's area: solid and orange
TRUTH = (0, (2.4, 2.4)), "w"  # the finding or the label: white dashes


def draw(looks: Sequence[Look], place: int) -> Figure:
    """A block for each network, side by side, at a place of ``look.LEVELS``.

    Above: the image, the attacked image, and the change stretched until it can be seen. Below: the
    activation map of each, and the probabilities before and after.
    """
    figure = plt.figure(figsize=(WIDTH * len(looks), HEIGHT), dpi=DPI, facecolor="w")
    plt.close(figure)  # for pyplot, so that a notebook shows it once
    for part, one in zip(figure.subfigures(1, len(looks), squeeze=False)[0], looks, strict=True):
        _block(part, one, one.record(place), place)
    return figure


def encode(figure: Figure) -> bytes:
    """The figure as PNG, ``DPI`` dots to the inch, whatever notebooks set for theirs."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, pil_kwargs={"compress_level": 1})
    return buffer.getvalue()


def _block(part: SubFigure, one: Look, numbers: dict, place: int) -> None:
    (clean, attacked, changed), (before, after, bars) = part.subplots(2, 3, gridspec_kw=GRID)
    within = f"{NAMES[one.choice.attack]} within {numbers['eps_255']:.3g}/255"
    attack = within if numbers["attack"] else "no attack"
    label = numbers["label"] or "none"
    image = f"{'a phantom, ' * (numbers['synthetic'] and one.sample.label is not None)}"
    image += f"label: {label}, {numbers['image']}"
    _line(part, 0.99, _cut(numbers["network"], 64), fontsize=10, weight="bold")
    _line(part, 0.947, _cut(_said(numbers), 78), fontsize=10)
    _line(part, 0.9, _cut(f"{attack}; {image}", 84), color="0.25")
    for axis, at, title in ((clean, 0, "image"), (attacked, place, "attacked")):
        grids.picture(axis, one.images[at])
        if (region := one.region(at)) is not None:
            grids.outline(axis, region, *AREA)
        if one.mask is not None:
            grids.outline(axis, one.mask, *TRUTH)
        dice = numbers.get("dice_after" if at else "dice_before")
        _title(axis, title if dice is None else f"{title}: Dice {dice:.2f}")
    change = one.images[place] - one.images[0]
    largest = np.abs(change).max()
    grids.picture(changed, to_be_seen(change[None])[0])
    _title(changed, f"the change, × {0.5 / largest:.0f}" if largest else "no change")
    for axis, at, when in ((before, 0, "before"), (after, place, "after")):
        if one.maps.valid[at]:
            grids.heat(axis, one.images[at], one.maps.maps[at])
        else:
            grids.no_map(axis, one.maps.reasons[at])
        if one.mask is not None and one.maps.valid[at]:
            grids.outline(axis, one.mask, *TRUTH)
        hit = numbers[f"inside_{when}"]
        hit = "" if hit is None else f", {hit:.2f} inside"
        _title(axis, f"map {when}{hit}")
    for axis in (clean, attacked, changed, before, after):
        axis.set_axis_off()
    _bars(bars, numbers)
    alike = {"correlation": numbers["correlation"], "SSIM": numbers["similarity"]}
    alike = [f"{name} {value:.2f}" for name, value in alike.items() if value is not None]
    made = f"{numbers['method']} for {_cut(numbers['explained'], 18)} at {numbers['layer']}"
    _line(part, 0.075, f"{_cut(made, 60)}; maps alike: {', '.join(alike) or 'no'}")
    lines = ["hatched: before", "white line: half of a map's peak"]
    if one.mask is not None:
        lines.append(f"dashes: target, {numbers['mask_share']:.2f} of the image")
    if one.label_maps is not None:
        lines.append("orange: answer")
    _line(part, 0.038, "; ".join(lines), color="0.25")


def _bars(axis: Axes, numbers: dict) -> None:
    """Probabilities before and after, the largest ones and that of the explained class."""
    before, after = (numbers[f"probabilities_{when}"] for when in ("before", "after"))
    ranked = sorted(before, key=lambda name: -max(before[name], after[name]))
    ranked = sorted(ranked, key=lambda name: name != numbers["explained"])[:BARS]
    names = [name for name in before if name in ranked]
    rows = np.arange(len(names))
    axis.barh(rows + 0.03, [before[name] for name in names], 0.19, **BEFORE)
    axis.barh(rows + 0.22, [after[name] for name in names], 0.19, **AFTER)
    for row, name in enumerate(names):
        look = {"fontsize": SMALL, "va": "center", "parse_math": False}
        look["weight"] = "bold" if name == numbers["explained"] else "normal"
        axis.text(0.02, row - 0.3, _cut(name, 18), **look)
        axis.text(1, row - 0.3, f"{before[name]:.2f} → {after[name]:.2f}", ha="right", **look)
    axis.set(xlim=(0, 1), ylim=(max(len(names), 3) - 0.5, -0.6), xticks=[], yticks=[])
    axis.spines[["top", "right", "bottom"]].set_visible(False)
    _title(axis, "share of the pixels" if numbers["head"] == PIXELS else "probability")


def _said(numbers: dict) -> str:
    """What the network says before and after."""
    if numbers["head"] == PIXELS:
        kind = numbers["explained"]
        shares = [numbers[f"probabilities_{when}"][kind] for when in ("before", "after")]
        return f"gives {shares[0]:.2f} → {shares[1]:.2f} of the pixels to {kind}"
    said = []
    for when in ("before", "after"):
        answer, values = numbers[f"answer_{when}"], numbers[f"probabilities_{when}"]
        said.append(f"{answer} {values[answer]:.2f}" if answer in values else _cut(answer, 32))
    return f"{'finds' if numbers['head'] == FINDINGS else 'says'} {' → '.join(said)}"


def _title(axis: Axes, text: str) -> None:
    axis.set_title(text, fontsize=SMALL, pad=3, parse_math=False)


def _line(part: SubFigure, height: float, text: str, **look: object) -> None:
    look = {"fontsize": SMALL, "va": "top", "parse_math": False} | look
    part.text(GRID["left"], height, text, **look)


def _cut(text: str, width: int) -> str:
    """``text`` in one line of at most ``width`` letters."""
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width - 1]}…"
