"""Paper 1: its Figures 6 and 7 with our curves beside them, and the figures of its arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

from ..plots import PALETTE, STYLES, grid

LABELS = {
    "top1": "top-1 accuracy",
    "auc_macro": "AUC, macro",
    "auc_micro": "AUC, micro",
}


def noise_curves(
    rows: pd.DataFrame,
    paper: Mapping[str, Sequence[tuple[float, float]]],
    metric: str,
    titles: Mapping[str, str],
    reading: str = "variance",
) -> Figure:
    """The paper's Figures 6 and 7: a score against the noise level, paper's curve and ours.

    Args:
        rows: result rows with columns role, model, start, reading, noise, metric, value, low, high;
            ``majority`` rows draw the line that a constant answer reaches.
        paper: role -> [(noise level, reported value)], drawn black and dotted.
        titles: role -> panel title; also the order of the panels.
        reading: which reading of the noise level to draw.
    """
    figure, axes = grid(1, len(titles), 5.0, 3.8)
    rows = rows[rows["metric"] == metric]
    arms = rows[rows["reading"] == reading].groupby(["model", "start"], sort=True)
    for axis, (role, title) in zip(axes[0], titles.items(), strict=True):
        here = rows[rows["role"] == role]
        majority = here[here["model"] == "majority"]
        here = here[here["reading"] == reading]
        for number, ((model, start), arm) in enumerate(arms):  # one style an arm in all panels
            if len(arm := arm[arm["role"] == role]):
                _noise_line(axis, arm.sort_values("noise"), f"{model}, {start}", number)
        if len(majority):
            axis.axhline(
                majority["value"].iloc[0],
                color="0.35",
                linewidth=1,
                label="label frequencies alone",
            )
        if paper.get(role):
            axis.plot(*zip(*paper[role], strict=True), "k:X", label="paper, Swin-T", markersize=7)
        ticks = sorted(here["noise"].unique())
        axis.set(
            title=title,
            xlabel=f"noise level, read as {reading}",
            ylabel=LABELS[metric],
        )
        axis.set_xscale("symlog", linthresh=0.025)
        axis.set_xlim(-0.004, 1.3 * max(ticks))
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks], rotation=45)
        axis.minorticks_off()
        axis.legend(fontsize=7)
    return figure


def _noise_line(axis: Axes, arm: pd.DataFrame, label: str, number: int) -> None:
    marker, line = STYLES[number]
    axis.plot(
        arm["noise"],
        arm["value"],
        marker=marker,
        linestyle=line,
        color=PALETTE[number],
        label=label,
    )
    axis.fill_between(
        arm["noise"].astype(float),
        arm["low"].astype(float),
        arm["high"].astype(float),
        color=PALETTE[number],
        alpha=0.15,
        linewidth=0,
    )


def complexity(table: pd.DataFrame) -> Figure:
    """Counted multiply-adds of attention against the formulas, for growing images."""
    figure, axes = grid(1, 1, 5.6, 4.0)
    axis = axes[0][0]
    for number, kind in enumerate(("global", "window")):
        marker, _ = STYLES[number]
        axis.plot(
            table["patches"],
            table[f"equation_{number + 1}"],
            color=PALETTE[number],
            linewidth=1.5,
            linestyle="-" if number else "--",
            label=f"equation ({number + 1})",
        )
        axis.plot(
            table["patches"],
            table[kind],
            marker,
            color=PALETTE[number],
            markersize=8,
            fillstyle="none",
            label=f"counted, {kind} attention",
        )
    axis.set(
        xscale="log", yscale="log", xlabel="patches in the image (h w)", ylabel="multiply-adds"
    )
    axis.legend(fontsize=8)
    return figure


def auc_by_size(rows: pd.DataFrame) -> Figure:
    """AUC of each finding against its number of training images, a panel an arm."""
    arms = list(rows.groupby(["model", "start"], sort=True))
    figure, axes = grid(1, max(1, len(arms)), 4.4, 3.8, sharey=True)
    for number, (axis, ((model, start), arm)) in enumerate(zip(axes[0], arms, strict=False)):
        spans = (
            np.stack([arm["value"] - arm["low"], arm["high"] - arm["value"]]).astype(float).clip(0)
        )
        axis.errorbar(
            arm["images"],
            arm["value"],
            yerr=spans,
            fmt=STYLES[number][0],
            color=PALETTE[number],
            ecolor="0.6",
            capsize=2,
        )
        for place, (_, row) in enumerate(arm.sort_values("images").iterrows()):
            axis.annotate(
                row["finding"],
                (row["images"], row["value"]),
                fontsize=7,
                xytext=(4, -9 if place % 2 else 3),  # neighbours must not overlap
                textcoords="offset points",
            )
        axis.axhline(0.5, color="0.35", linewidth=1)
        axis.set(
            xlabel="training images with the finding",
            ylabel="AUC",
            title=f"{model}, {start}",
        )
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_locator(NullLocator())
    return figure
