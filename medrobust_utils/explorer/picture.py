"""A look as a picture: what was there, what was changed, and what the network made of it.

Colours are those of ``plots`` and its ``images``; before is light and hatched, after dark, so that
a gray print tells them apart. No line depends on what pyplot remembers: threads may draw.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import Patch

from ..core.errors import ContractError
from ..explain.cams import Maps
from ..explain.perturbations import to_be_seen
from ..plots import PALETTE
from ..plots import images as grids
from .attacking import NAMES
from .look import Seen
from .record import FINDINGS, PIXELS

DPI = 100
WIDTH, HEIGHT = 6.2, 5.3  # inches of a network's block: 620 pixels, readable on half a page
CELL, LEFT, GAP = 1.74, 0.08, 0.1
TOPS = (0.92, 2.94)  # where the two rows of cells begin, inches from above
SMALL = 8  # points; nothing is smaller
CLASSES = 8  # bars at most
BEFORE = dict(facecolor="0.85", edgecolor="0.35", hatch="/////", linewidth=0.6)
AFTER = dict(facecolor=PALETTE[0], edgecolor="0.1", linewidth=0.6)
AREA = "-", PALETTE[1]  # a network's area: solid and orange, which is gray in a gray print
TRUTH = (0, (2.4, 2.4)), "w"  # the finding or the label: white dashes, the other seen in between


class Picture(Figure):
    """A figure that pyplot knows nothing of, and that a notebook shows all the same."""

    def __init__(self, width: float, height: float) -> None:
        super().__init__((width, height), dpi=DPI, facecolor="w")
        FigureCanvasAgg(self)

    def _repr_png_(self) -> bytes:
        return encode(self)


def draw(seen: Sequence[Seen]) -> Figure:
    """A block for each network, side by side.

    Above: the image, the attacked image, and the change stretched until it can be seen. Below: the
    activation map of each, and the probabilities before and after. Dashed is what the label or a
    doctor outlined; on a segmented image the network's own area has a solid, orange line.

    Raises:
        ContractError: if there is nothing to draw.
    """
    if not seen:
        raise ContractError("nothing was looked at: choose a network.")
    figure = Picture(WIDTH * len(seen), HEIGHT)
    for place, one in enumerate(seen):
        _block(figure, one, WIDTH * place)
    return figure


def encode(figure: Figure) -> bytes:
    """The figure as PNG, ``DPI`` dots to the inch, whatever notebooks set for theirs."""
    buffer = io.BytesIO()
    figure.canvas.print_png(buffer)
    return buffer.getvalue()


def _block(figure: Figure, one: Seen, left: float) -> None:
    numbers, step = one.record, CELL + GAP
    width = figure.get_figwidth()

    def cell(row: int, column: int, title: str, wide: float = CELL) -> Axes:
        x, y = left + LEFT + column * step, HEIGHT - TOPS[row] - CELL
        axis = figure.add_axes((x / width, y / HEIGHT, wide / width, CELL / HEIGHT))
        axis.set_title(printable(title), fontsize=SMALL, pad=3, parse_math=False)
        return axis

    def line(inches: float, text: str, x: float = LEFT, **look: object) -> None:
        at = ((left + x) / width, 1 - inches / HEIGHT)
        look = {"fontsize": SMALL, "va": "top", "parse_math": False} | look
        figure.text(*at, printable(text), **look)

    line(0.06, cut(numbers["network"], 64), fontsize=10, weight="bold")
    line(0.27, told(numbers, 78), fontsize=10)
    line(0.49, subheading(numbers), color="0.25")
    _images(cell, one)
    _change(cell(0, 2, _stretch(one)), one.change)
    under, segments = TOPS[1] + CELL + 0.04, one.region_before is not None
    what = "the class" if segments else "the finding"
    for column, (maps, when) in enumerate(((one.before, "before"), (one.after, "after"))):
        title = cut(f"map {when}: {numbers['explained']}", 32)
        axis = cell(1, column, title)
        activation(axis, (one.image, one.attacked)[column], maps)
        if one.mask is not None and not segments and maps.valid[0]:
            grids.outline(axis, one.mask, *TRUTH)
        hit = numbers[f"inside_{when}"]
        if hit is not None:
            middle = LEFT + column * step + CELL / 2
            line(under, f"{hit:.2f} of it on {what}", middle, ha="center")
    wide = WIDTH - 3 * LEFT - 2 * step
    axis = cell(1, 2, "", wide)
    bars(axis, numbers)
    if one.mask is not None:
        whose = "label" if segments else "finding"
        dashes = f"white dashes: {whose}, {numbers['mask_share']:.2f} of the image"
        line(under, dashes, LEFT + 2 * step)
    line(under + 0.2, _footer(numbers, segments), color="0.25")


def _images(cell: object, one: Seen) -> None:
    """The clean and the attacked image with their outlines."""
    numbers = one.record
    taken = numbers["attack"] is not None
    titles = ["image", f"attacked, eps {numbers['eps_255']:g}/255" if taken else "not attacked"]
    pictures = (one.image, one.attacked)
    for column, region in enumerate((one.region_before, one.region_after)):
        dice = numbers.get(("dice_before", "dice_after")[column])
        title = titles[column]
        if dice is not None:  # the eps stands above already
            title = f"{title.partition(',')[0]}: Dice {dice:.2f}"
        axis = cell(0, column, title)
        grids.picture(axis, pictures[column])
        if region is not None:
            grids.outline(axis, region, *AREA)
        if one.mask is not None:
            grids.outline(axis, one.mask, *TRUTH)


def _change(axis: Axes, change: np.ndarray) -> None:
    grids.picture(axis, to_be_seen(change[None])[0])


def _stretch(one: Seen) -> str:
    largest = np.abs(one.change).max()
    return f"the change, × {0.5 / largest:.0f}" if largest else "no change"


def activation(axis: Axes, image: np.ndarray, maps: Maps) -> None:
    """One map over its image (C, H, H), or why there is none."""
    if maps.valid[0]:
        grids.heat(axis, image, maps.maps[0])
    else:
        grids.no_map(axis, maps.reasons[0])


def bars(axis: Axes, numbers: dict) -> None:
    """Probabilities before and after, the largest ones and that of the explained class."""
    before, after = (numbers[f"probabilities_{when}"] for when in ("before", "after"))
    sides = (before, after) if numbers["attack"] else (before,)
    explained = numbers["explained"]
    largest = {name: max(before[name], after[name]) for name in before}
    shown = sorted(before, key=lambda name: (name != explained, -largest[name]))[:CLASSES]
    shown = [name for name in before if name in shown]
    for row, name in enumerate(shown):
        axis.barh(row + 0.03, before[name], 0.19, **BEFORE)
        axis.barh(row + 0.22, after[name], 0.19, **AFTER)
        look = dict(fontsize=SMALL, va="center", parse_math=False)
        bold = "bold" if name == explained else "normal"
        mark = "▸ " if name == explained else ""
        axis.text(0.02, row - 0.33, printable(mark + name), weight=bold, **look)
        values = " → ".join(f"{side[name]:.2f}" for side in sides)
        axis.text(1, row - 0.33, values, ha="right", weight=bold, **look)
    axis.set(xlim=(0, 1), ylim=(max(len(shown), 3) - 0.5, -0.66), xticks=[], yticks=[])
    axis.grid(False)
    for side in ("top", "right", "bottom"):
        axis.spines[side].set_visible(False)
    what = "share of pixels" if numbers["head"] == PIXELS else "probability"
    handles = [Patch(**BEFORE, label=f"{what} before"), Patch(**AFTER, label="after")]
    how = dict(ncols=2, frameon=False, borderpad=0, borderaxespad=0.2, handlelength=1.4)
    how |= dict(columnspacing=1, handletextpad=0.4, fontsize=SMALL)
    axis.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), **how)


def told(numbers: dict, width: int) -> str:
    """What the network says before and after, in at most ``width`` letters."""
    sides = ("before", "after") if numbers["attack"] else ("before",)
    if numbers["head"] == PIXELS:
        kind = numbers["explained"]
        said = " → ".join(f"{numbers[f'probabilities_{k}'][kind]:.2f}" for k in sides)
        return cut(f"gives {said} of the pixels to {kind}", width)
    verb = "finds" if numbers["head"] == FINDINGS else "says"
    room = (width - len(f"{verb}  → ")) // len(sides)
    return f"{verb} {' → '.join(cut(answer(numbers, k), room) for k in sides)}"


def answer(numbers: dict, when: str) -> str:
    """What a network says ``before`` or ``after``, and how sure it is of it."""
    said, values = numbers[f"answer_{when}"], numbers[f"probabilities_{when}"]
    return f"{said} {values[said]:.2f}" if said in values else said


def subheading(numbers: dict) -> str:
    """Which image and which attack, in two lines."""
    image = about(numbers, 88)
    if numbers["attack"] is None:
        return f"{image}\nno attack"
    count = numbers["steps"]
    steps = f"{count} step{'s' * (count > 1)}"
    return f"{image}\n{NAMES[numbers['attack']]}, {steps}, eps {numbers['eps_255']:g}/255"


def _footer(numbers: dict, segments: bool) -> str:
    """How alike the maps are, how they were made, and what the lines are."""
    made = cut(f"{numbers['method']} at {numbers['layer']}", 38 if segments else 50)
    made += "; orange line: the network's area" * segments
    made += "; white line: half of a map's largest value"
    alike = {"SSIM": numbers["similarity"], "correlation": numbers["correlation"]}
    alike = [f"{name} {value:.2f}" for name, value in alike.items() if value is not None]
    return (f"maps before and after: {', '.join(alike)}\n" if alike else "") + made


def about(numbers: dict, width: int) -> str:
    """The image in at most ``width`` letters; a phantom is called one, an upload is none."""
    if numbers["label"] is None:
        trained = "; the network knows phantoms only" if numbers["synthetic"] else ""
        told = f"no label{trained}"
    else:
        told = f"{'a phantom, ' * numbers['synthetic']}label: {numbers['label']}"
    room = width - len(told) - 3
    name = cut(numbers["image"], max(room, 30))
    return cut(f"{name} ({told})", width)


def cut(text: str, width: int) -> str:
    """``text`` in one line of at most ``width`` letters."""
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width - 1]}…"


def printable(text: str) -> str:
    """``text`` without what the font cannot show: an uploaded file may be called anything."""
    return "".join(c if c == "\n" or _drawn(c) else "?" for c in text)


@cache
def _drawn(letter: str) -> bool:
    font = get_font(findfont(FontProperties()))
    return letter.isprintable() and font.get_char_index(ord(letter)) > 0
