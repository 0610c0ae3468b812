"""Two families of figures on tidy rows: curves over an axis, and intervals one below the other.

Rows are those of a record, as a table: ``value``, ``low`` and ``high`` with tags. A panel, a curve
or a marker is a value of one column; each has colour, marker and line style of its own, so that
no figure needs its colours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
import seaborn.objects as so
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from . import PALETTE, STYLES, grid

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
    order: Sequence[str] | None = None,
    levels: pd.DataFrame | None = None,
    marks: pd.DataFrame | None = None,
    doublings: bool = False,
    columns: int = 3,
    share: bool = True,
) -> Figure:
    """A value against ``x``, a curve a value of ``line``, with its interval as a band.

    Args:
        fill: column that tells filled from hollow markers, for a second distinction.
        order: of the lines, which fixes their looks; without it, as they come.
        levels: what to compare with: panel, label, value.
        marks: what is reported elsewhere: panel, x, value and ``mark``, one of MARKS.
        doublings: whether the axis is logarithmic, with ticks at what was measured or, of many,
            at powers of two; 0 stands at its left end, marked so.
        share: whether all panels have one vertical axis.
    """
    zero = rows[x][rows[x] > 0].min() / 4
    drawn = rows.assign(**{x: rows[x].where(rows[x] > 0, zero)} if doublings else {})
    drawn = drawn.reset_index(drop=True)
    parts = dict(iter(drawn.groupby(fill, sort=False))) if fill else {"": drawn}
    plot = so.Plot(drawn)
    for number, part in enumerate(parts.values()):
        told = {"data": part, "x": x, "color": line, "legend": not number}
        look = {"fillcolor": "w"} if number else {}
        plot = plot.add(
            so.Line(pointsize=5, **look), **told, y="value", marker=line, linestyle=line
        )
        if "low" in rows:
            told["legend"] = False
            plot = plot.add(so.Band(alpha=0.15), **told, ymin="low", ymax="high")
    figure, axes = _drawn(plot, rows, panel, line, order, columns, (4.8, 3.6), share)
    for style, kind in zip(("full", "none"), parts if fill else (), strict=False):
        figure.axes[0].plot([], [], "ko", fillstyle=style, label=kind)
    if rows["value"].between(0, 1).all():  # a share: the whole of its range
        axes[next(iter(axes))].set_ylim(-0.03, 1.03)
    for title, axis in axes.items():
        for number, level in enumerate(_of(levels, panel, title)):
            look = {"color": GRAYS[number], "linestyle": ("-", "--")[number]}
            axis.axhline(level.value, label=level.label, **look)
        for mark in _of(marks, panel, title):
            axis.plot(getattr(mark, x), mark.value, MARKS[mark.mark], color="k", zorder=3)
        axis.set(xlabel=xlabel, ylabel=ylabel)
        if doublings:
            _doublings(axis, rows[x], zero)
    return _legend(figure, axes)


def intervals(
    rows: pd.DataFrame,
    label: str,
    *,
    xlabel: str,
    panel: str = "",
    by: str = "",
    order: Sequence[str] | None = None,
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
    exact = {end: rows[end].fillna(rows["value"]) for end in ("low", "high")}  # no interval
    plot = so.Plot(rows.assign(**exact), x="value", y=label, color=by, marker=by)
    plot = plot.add(so.Dot(pointsize=6), so.Dodge())
    plot = plot.add(so.Range(), so.Dodge(), xmin="low", xmax="high", legend=False)
    tall = 1.2 + (0.22 + 0.1 * rows[by].nunique()) * rows.groupby(panel)[label].nunique().max()
    wide = 5.4 if rows[panel].nunique() > 1 else 7.0
    figure, axes = _drawn(plot, rows, panel, by, order, columns, (wide, tall))
    labels = [*dict.fromkeys(rows[label])]
    for title, axis in axes.items():
        for number, level in enumerate(_of(levels, panel, title)):
            axis.axvline(level.value, color=GRAYS[number % len(GRAYS)], label=level.name)
        for mark in _of(marks, panel, title):
            if (name := getattr(mark, label)) in labels:
                axis.plot(mark.value, labels.index(name), "kX", label="reported")
        if zero:
            axis.axvline(0, color="k", linewidth=1)
        axis.set(xlabel=xlabel, ylabel="", ylim=(len(labels) - 0.5, -0.5))
    return _legend(figure, axes)


def _drawn(
    plot: so.Plot, rows: pd.DataFrame, panel: str, line: str, order, columns, size, share=True
) -> tuple[Figure, dict[str, Axes]]:
    """The figure with an axis a panel, by its title; a line's place in the order is its look."""
    lines, panels = order or [*dict.fromkeys(rows[line])], [*dict.fromkeys(rows[panel])]
    count, columns = max(1, len(panels)), max(1, min(columns, len(panels)))
    figure, empty = grid(-(-count // columns), columns, *size)
    for axis in empty.flat:
        axis.remove()
    looks = [STYLES[number % len(STYLES)] for number in range(len(lines))]
    scales = {"color": [PALETTE[number % len(PALETTE)] for number in range(len(lines))]}
    scales |= {"marker": [marker for marker, _ in looks], "linestyle": [dash for _, dash in looks]}
    scales = {name: so.Nominal(values, order=lines) for name, values in scales.items()}
    plot = plot.facet(panel, order=panels, wrap=columns).label(title="{}".format)
    plot = plot.theme(sns.axes_style("whitegrid")).share(x=False, y=share)
    plot.scale(**scales).on(figure).plot()
    return figure, dict(zip(panels, figure.axes, strict=False))


def _of(table: pd.DataFrame | None, panel: str, title: str) -> list:
    return [] if table is None else list(table[table[panel].eq(title)].itertuples())


def _legend(figure: Figure, axes: Mapping[str, Axes]) -> Figure:
    """One legend below all panels: of the rows, of levels and of marks."""
    found = {}
    for legend in figure.legends:
        words = [text.get_text() for text in legend.get_texts()]
        found |= dict(zip(words, legend.legend_handles, strict=True))
    figure.legends.clear()
    for axis in axes.values():
        handles, words = axis.get_legend_handles_labels()
        found |= dict(zip(words, handles, strict=True))
    figure.legend(found.values(), found, fontsize=7, loc="outside lower center", ncols=3)
    return figure


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
