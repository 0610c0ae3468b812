"""Two families of figures on tidy rows: curves over an axis, and intervals one below the other.

Rows are those of a record, as a table: ``value``, ``low`` and ``high`` with tags. A panel, a curve
or a marker is a value of one column; each has colour, marker and line style of its own, so that
no figure needs its colours.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from . import PALETTE, STYLES, grid, without_empty

GRAYS = ("0.35", "0.6")  # of the levels that a figure is read against
MARKS = {"value": "X", "above": "^", "below": "v"}  # what somebody else reports: exact, or a limit


def curves(
    rows: pd.DataFrame,
    x: str,
    *,
    panel: str,
    line: str,
    xlabel: str,
    ylabel: str,
    fill: str = "",
    order: list[str] | None = None,
    levels: pd.DataFrame | None = None,
    marks: pd.DataFrame | None = None,
    doublings: bool = False,
    columns: int = 3,
) -> Figure:
    """A value against ``x``, a curve a value of ``line``, with its interval as a band.

    Args:
        fill: column that tells filled from hollow markers, for a second distinction.
        order: of the lines, which fixes their looks; without it, as they come.
        levels: what to compare with: panel, label, value.
        marks: what is reported elsewhere: panel, x, value and ``mark``, one of MARKS.
        doublings: whether the axis is logarithmic, with ticks at what was measured or, of many,
            at powers of two; 0 stands at its left end, marked so.
    """
    order = order or list(dict.fromkeys(rows[line]))
    panels, fills = rows[panel].unique(), list(rows[fill].unique()) if fill else [""]
    columns = min(columns, max(1, len(panels)))
    figure, axes = grid(-(-max(1, len(panels)) // columns), columns, 4.8, 3.6, sharey=True)
    zero = rows[x][rows[x] > 0].min() / 4
    if rows["value"].between(0, 1).all():  # a share: the whole of its range
        axes[0][0].set_ylim(-0.03, 1.03)
    for axis, title in zip(axes.flat, panels, strict=False):
        here = rows[rows[panel].eq(title)]
        for keys, curve in here.groupby([line, fill] if fill else [line], sort=False):
            number, hollow = order.index(keys[0]), fills.index(keys[-1]) if fill else 0
            if doublings:
                curve = curve.assign(**{x: curve[x].where(curve[x] > 0, zero)})
            _curve(axis, curve.sort_values(x), x, number, hollow, ", ".join(keys))
        for number, level in enumerate(_of(levels, panel, title)):
            look = {"color": GRAYS[number], "linestyle": ("-", "--")[number]}
            axis.axhline(level.value, label=level.label, **look)
        for mark in _of(marks, panel, title):
            axis.plot(getattr(mark, x), mark.value, MARKS[mark.mark], color="k", zorder=3)
        axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
        if doublings:
            _doublings(axis, rows[x], zero)
        axis.legend(fontsize=7)
    return without_empty(figure, axes, len(panels))


def _of(table: pd.DataFrame | None, panel: str, title: str) -> list:
    return [] if table is None else list(table[table[panel].eq(title)].itertuples())


def _curve(axis: Axes, curve: pd.DataFrame, x: str, number: int, hollow: int, label: str) -> None:
    marker, line = STYLES[number % len(STYLES)]
    look = {"marker": marker, "linestyle": line, "color": PALETTE[number % len(PALETTE)]}
    look |= {"fillstyle": "none" if hollow else "full", "markersize": 5, "label": label}
    axis.plot(curve[x], curve["value"].astype(float), **look)
    if "low" in curve:
        ends = (curve[end].astype(float) for end in ("low", "high"))
        axis.fill_between(curve[x], *ends, color=look["color"], alpha=0.15, linewidth=0)


def _doublings(axis: Axes, sizes: pd.Series, zero: float) -> None:
    axis.set_xscale("log")
    axis.xaxis.set_minor_locator(NullLocator())
    known = np.unique(sizes[sizes > 0])
    powers = range(round(np.log2(known[0])), round(np.log2(known[-1])) + 1)
    if len(known) > 9:
        known = [2.0**power for power in powers[:: 1 + len(powers) // 7]]
    axis.set_xticks([zero, *known] if sizes.eq(0).any() else known)
    axis.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: "0" if abs(x / zero - 1) < 1e-6 else f"{x:.3g}")
    )


def intervals(
    rows: pd.DataFrame,
    label: str,
    *,
    xlabel: str,
    panel: str = "",
    by: str = "",
    order: list[str] | None = None,
    levels: pd.DataFrame | None = None,
    marks: pd.DataFrame | None = None,
    zero: bool = False,
    columns: int = 3,
) -> Figure:
    """Values with their intervals, one below the other; a line a value of ``label``.

    Args:
        by: column that tells the markers of one line apart.
        order: of its values, which fixes their looks; without it, as they come.
        levels: what to compare with, from top to bottom: panel, name, value.
        marks: what is reported elsewhere, as crosses: panel, label, value.
        zero: whether to draw a line there.
    """
    rows = rows.assign(**{} if panel else {"": ""}, **{} if by else {" ": xlabel})
    panel, by = panel or "", by or " "
    panels, kinds = rows[panel].unique(), order or list(rows[by].unique())
    columns = min(columns, len(panels))
    longest = rows.groupby(panel)[label].nunique().max()
    tall = 1.2 + (0.22 + 0.1 * len(kinds)) * longest
    figure, axes = grid(-(-len(panels) // columns), columns, 5.4 if len(panels) > 1 else 7.0, tall)
    for axis, title in zip(axes.flat, panels, strict=False):
        here = rows[rows[panel].eq(title)]
        labels = list(dict.fromkeys(here[label]))
        for number, kind in enumerate(kinds):
            if not len(some := here[here[by].eq(kind)]):
                continue
            shift = 0.5 * ((number + 0.5) / len(kinds) - 0.5)
            value = some["value"].to_numpy(float)
            spans = [value - some["low"].to_numpy(float), some["high"].to_numpy(float) - value]
            axis.errorbar(
                value,
                [labels.index(one) + shift for one in some[label]],
                xerr=np.nan_to_num(np.array(spans).clip(0)),  # without an interval: exact
                fmt=STYLES[number % len(STYLES)][0],
                color=PALETTE[number % len(PALETTE)],
                fillstyle=("full", "none")[number % 2],
                capsize=2,
                label=kind,
            )
        for number, level in enumerate(_of(levels, panel, title)):
            axis.axvline(level.value, color=GRAYS[number % len(GRAYS)], label=level.name)
        for mark in _of(marks, panel, title):
            if (name := getattr(mark, label)) in labels:
                axis.plot(mark.value, labels.index(name), "kX", label="reported")
        if zero:
            axis.axvline(0, color="k", linewidth=1)
        axis.set_yticks(range(len(labels)), labels, fontsize=8)
        axis.set(title=title, xlabel=xlabel, ylim=(len(labels) - 0.4, -0.6))
    legend = {}
    for axis in axes.flat:
        handles, words = axis.get_legend_handles_labels()
        legend |= dict(zip(words, handles, strict=True))
    figure.legend(legend.values(), legend, fontsize=7, loc="outside lower center", ncols=3)
    return without_empty(figure, axes, len(panels))
