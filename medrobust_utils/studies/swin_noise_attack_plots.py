"""Paper 1: noise, PGD and AutoAttack side by side, and sensitivity by frequency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from ..plots import PALETTE, STYLES, grid
from ..plots.spectrum_plots import by_frequency

TITLES = {"noise": "noise (random signs)", "pgd": "PGD", "autoattack": "AutoAttack"}


def by_eps(
    rows: pd.DataFrame,
    names: Mapping[tuple[str, str], str],
    titles: Mapping[str, str],
    majority: Mapping[str, float],
) -> Figure:
    """Accuracy against eps: a row of panels for each data set, a panel for each attack.

    Args:
        rows: ``accuracy_attacked``, with columns role, model, start, attack, eps_255, value, low
            and high; with ``attack`` none, accuracy before.
        names: (model, start) -> name in the legend; also the order of styles.
        titles: role -> data set, the rows of panels.
        majority: role -> what one constant answer reaches on the attacked images, a gray line.
    """
    figure, axes = grid(len(titles), len(TITLES), 3.6, 3.1, sharey="row")
    for line, (role, title) in zip(axes, titles.items(), strict=True):
        for axis, (attack, what) in zip(line, TITLES.items(), strict=True):
            here = rows[(rows["role"] == role) & rows["attack"].isin([attack, "none"])]
            for number, ((model, start), name) in enumerate(names.items()):
                arm = here[(here["model"] == model) & (here["start"] == start)]
                if not len(arm):
                    continue
                arm = arm.sort_values("eps_255")
                (marker, style), colour = STYLES[number], PALETTE[number]
                axis.plot(
                    arm["eps_255"],
                    arm["value"],
                    marker=marker,
                    linestyle=style,
                    color=colour,
                    label=name,
                    markersize=5,
                )
                axis.fill_between(
                    arm["eps_255"], arm["low"], arm["high"], color=colour, alpha=0.15, linewidth=0
                )
            axis.axhline(majority[role], color="0.4", linewidth=1, label="one constant answer")
            axis.set(title=f"{title}: {what}", xlabel="eps (gray levels of 255)", ylim=(0, 1))
        line[0].set_ylabel("accuracy")
        line[0].legend(fontsize=7)
    return figure


def spectra(
    rows: pd.DataFrame, names: Mapping[tuple[str, str], str], ylabel: str, level: float | None
) -> Figure:
    """What was measured in each band, a line a network; rows of one metric and data set."""
    curves = {}
    for (model, start), name in names.items():
        arm = rows[(rows["model"] == model) & (rows["start"] == start)].sort_values("band")
        if len(arm):
            curves[name] = tuple(arm[column] for column in ("band", "value", "low", "high"))
    return by_frequency(curves, ylabel, level=level)


def fooled(rows: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    """Who fooled which share: a line a network and eps, a column a member, 0 where nobody."""
    table = rows.pivot_table(
        index=["role", "model", "start", "eps_255"], columns="member", values="value", fill_value=0
    )
    return table[[name for name in order if name in table.columns]]
