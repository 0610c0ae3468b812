"""The explorer where nobody can click: one image, and what a growing attack does to it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..core.errors import ContractError
from ..plots import images as grids
from .attacking import NAMES
from .look import Choice, Memory, Seen, look
from .picture import AREA, SMALL, TRUTH, Picture, about, activation, answer, printable
from .record import PIXELS
from .scene import Sample, Scene

EPS = (0, 0.5, 1, 2, 4, 8)  # gray levels of 255: from nothing to what one can see
WIDTH = 10.0  # inches: a page of 1000 pixels
LEFT, TOP, GAP, BELOW, BETWEEN = 1.0, 0.76, 0.08, 0.36, 0.1


def grid(
    scene: Scene, sample: Sample, choice: Choice, eps_255: Sequence[float], memory: Memory
) -> tuple[Figure, list[dict]]:
    """Two rows for each network: the attacked image with the answer, and the activation map.

    Args:
        choice: all but eps.
        eps_255: one column each, in gray levels of 255.

    Returns:
        The figure and the record of every cell (see ``record.write``), network by network.

    Raises:
        ContractError: without any eps, and see ``look``.
    """
    if not eps_255:
        raise ContractError("no eps to draw a column for: give one or more, e.g. 0 and 4.")
    seen = [
        [
            look(scene, network, sample, replace(choice, eps_255=eps), memory=memory)
            for eps in eps_255
        ]
        for network in scene.networks
    ]
    return _draw(seen), [one.record for row in seen for one in row]


def _draw(seen: Sequence[Sequence[Seen]]) -> Figure:
    columns = len(seen[0])
    cell = (WIDTH - LEFT - GAP * columns) / max(columns, 4)
    block = 2 * (cell + BELOW) + BETWEEN
    height = TOP + block * len(seen)
    figure = Picture(WIDTH, height)
    strongest = max((one.record for one in seen[0]), key=lambda numbers: numbers["eps_255"])
    how = dict(fontsize=SMALL, va="top", parse_math=False)
    figure.text(0.05 / WIDTH, 1 - 0.06 / height, printable(_title(strongest)), **how)
    for place, row in enumerate(seen):
        top = TOP + place * block
        for column, one in enumerate(row):
            x = LEFT + column * (cell + GAP)
            boxes = [
                (x / WIDTH, 1 - (y + cell) / height, cell / WIDTH, cell / height)
                for y in (top, top + cell + BELOW)
            ]
            _cells(*map(figure.add_axes, boxes), one)
            if not place:
                eps = f"eps {one.record['eps_255']:g}/255"
                figure.axes[-2].set_title(eps, fontsize=SMALL, pad=3)
        for step, what in enumerate(_names(row[0].record)):
            y = 1 - (top + step * (cell + BELOW) + 0.02) / height
            figure.text(0.05 / WIDTH, y, printable(what), **how)
    return figure


def _cells(above: Axes, below: Axes, one: Seen) -> None:
    """The attacked image with the answer, and the map with what became of it."""
    numbers = one.record
    grids.picture(above, one.attacked)
    segments = numbers["head"] == PIXELS
    for mask, line in ((one.region_after, AREA), (one.mask, TRUTH)):
        if mask is not None:
            grids.outline(above, mask, *line)
    said = textwrap.wrap(answer(numbers, "after"), 26, max_lines=2, placeholder=" ...")
    said = "\n".join(said)
    if segments:
        share = numbers["probabilities_after"][numbers["explained"]]
        said = f"{share:.2f} of the pixels"
        if numbers.get("dice_after") is not None:
            said += f"\nDice {numbers['dice_after']:.2f}"
    activation(below, one.attacked, one.after)
    if one.mask is not None and not segments and one.after.valid[0]:
        grids.outline(below, one.mask, *TRUTH)
    alike = numbers["correlation"]
    told = "" if alike is None else f"correlation {alike:.2f}"
    if numbers["inside_after"] is not None:
        what = "class" if segments else "finding"
        told += f"\n{numbers['inside_after']:.2f} of it on the {what}"
    for axis, text in ((above, said), (below, told.strip())):
        axis.set_xlabel(printable(text), fontsize=SMALL, labelpad=2, parse_math=False)


def _names(numbers: dict) -> tuple[str, str]:
    """What stands before the two rows of a network."""
    name = textwrap.fill(numbers["network"], 14)
    return name, textwrap.fill(f"map of {numbers['explained'].replace('_', ' ')}", 14)


def _title(numbers: dict) -> str:
    attack = NAMES.get(numbers["attack"], "no attack")
    share = numbers["mask_share"]
    lines = "" if share is None else f"; white dashes: the finding, {share:.2f} of the image"
    under = "under an image: the answer and its probability"
    if numbers["head"] == PIXELS:  # each network may be asked for another class
        lines = "; orange line: the network's area, white dashes: the label's"
        under = "under an image: how much of it the network gives to the class"
    compared = f"under a map: correlation with that of the clean image ({numbers['method']})"
    return f"{about(numbers, 140)}\n{attack}{lines}\n{under}; {compared}"
