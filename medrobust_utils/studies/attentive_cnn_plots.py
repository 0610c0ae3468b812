"""Paper 2: its Figures 3 to 8 with our curves, and the figures of its arguments.

Attention is told by colour, marker and line style together, the network by filled (ResNet-50) or
hollow markers, so that no figure needs its colours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from ..plots import PALETTE, STYLES, chosen, grid, without_empty
from ..reporting.protocol import Claim

NAMES = {
    "none": "no attention",
    "released": "released attention",
    "intended": "intended attention",
    "uniform": "uniform map",
}
SCALES = {"0-1": "0 to 1", "signed": "-1 to 1", "0-255": "0 to 255"}
WIDEST = 3  # panels in a row
GRAYS = ("0.35", "0.6")  # of the lines that a figure is read against
Panels = Mapping[str, Mapping[str, object]]  # title -> the tags of its rows


def name(row: object) -> str:
    """``resnet, no attention``: a network, from anything with ``model`` and ``attention``."""
    return f"{row.model}, {NAMES[row.attention]}"


def by_radius(
    rows: pd.DataFrame,
    metric: str,
    panels: Panels,
    ylabel: str,
    *,
    lines: Mapping[str, Mapping[str, float]] | None = None,
) -> Figure:
    """A number against the attack's radius in gray levels, a curve a network, with bands.

    What was measured before the attack stands at the left end, marked 0.

    Args:
        rows: result rows with metric, value, low, high, attack, radius_255, model, attention and
            the tags of the panels.
        panels: title -> tags.
        lines: title -> what to compare with, as label -> height.
    """
    here = rows[rows["metric"].eq(metric) & rows["attention"].isin(NAMES)]
    here = here[here["radius_255"].gt(0) | here["attack"].eq("none")]
    columns = min(WIDEST, len(panels))
    figure, axes = grid(-(-len(panels) // columns), columns, 4.8, 3.6, sharey=True)
    radii = here["radius_255"][here["radius_255"].gt(0)]
    zero = radii.min() / 4
    if here["value"].between(0, 1).all():  # a share: the whole of its range
        axes[0][0].set_ylim(-0.03, 1.03)
    for axis, (title, tags) in zip(axes.flat, panels.items(), strict=False):
        for _, arm in chosen(here, tags).groupby(["model", "attention"]):
            _curve(axis, arm.assign(x=arm["radius_255"].where(arm["radius_255"] > 0, zero)))
        for number, (label, height) in enumerate((lines or {}).get(title, {}).items()):
            axis.axhline(height, color=GRAYS[number], linestyle=("-", "--")[number], label=label)
        axis.set(title=title, xlabel="radius of the attack (gray levels of 255)", ylabel=ylabel)
        axis.set_xscale("log")
        axis.xaxis.set_minor_locator(NullLocator())
        powers = range(round(np.log2(radii.min())), round(np.log2(radii.max())) + 1)
        axis.set_xticks([zero, *(2.0**power for power in powers[:: 1 + len(powers) // 7])])
        axis.xaxis.set_major_formatter(
            FuncFormatter(lambda x, _: "0" if abs(x / zero - 1) < 1e-6 else f"{x:.2g}")
        )
        axis.legend(fontsize=7)
    return without_empty(figure, axes, len(panels))


def _curve(axis: Axes, arm: pd.DataFrame) -> None:
    arm = arm.sort_values("x")
    first = arm.iloc[0]
    number = list(NAMES).index(first["attention"])
    marker, line = STYLES[number]
    axis.plot(
        arm["x"],
        arm["value"].astype(float),
        marker=marker,
        linestyle=line,
        color=PALETTE[number],
        fillstyle="full" if first["model"] == "resnet" else "none",
        markersize=5,
        label=name(first),
    )
    ends = [arm[end].astype(float) for end in ("low", "high")]
    axis.fill_between(arm["x"], *ends, color=PALETTE[number], alpha=0.15, linewidth=0)


def clean_scores(rows: pd.DataFrame, panels: Panels, claims: Iterable[Claim]) -> Figure:
    """Accuracy and balanced accuracy before the attack, beside the majority line and the paper's.

    Args:
        rows: result rows of ``attack: none``, those of the model ``majority`` included.
        panels: title -> tags.
        claims: of the paper; its clean accuracies are drawn as crosses.
    """
    rows = rows[rows["attack"].eq("none")]
    clean = [c for c in claims if c.metric == "accuracy" and c.select["eps"] == 0]
    columns = min(WIDEST, len(panels))
    figure, axes = grid(-(-len(panels) // columns), columns, 5.0, 2.8)
    for axis, (title, tags) in zip(axes.flat, panels.items(), strict=False):
        here = chosen(rows, tags)
        arms = here[here["attention"].isin(NAMES)]
        labels = list(dict.fromkeys(map(name, arms.itertuples())))
        for number, (metric, shown) in enumerate(
            {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy"}.items()
        ):
            some = arms[arms["metric"].eq(metric)]
            spans = [some["value"] - some["low"], some["high"] - some["value"]]
            places = [labels.index(name(row)) + 0.15 - 0.3 * number for row in some.itertuples()]
            axis.errorbar(
                some["value"].astype(float),
                places,
                xerr=np.array(spans, float).clip(0),
                fmt=STYLES[number][0],
                color=PALETTE[number],
                capsize=2,
                label=shown,
                fillstyle=("full", "none")[number],
            )
        majority = here[here["model"].eq("majority") & here["metric"].eq("accuracy")]
        for value in majority["value"].head(1):
            axis.axvline(value, color=GRAYS[0], label="majority line (accuracy)")
        for claim in clean:
            told = {key: tags.get(key) for key in claim.select if key in tags}
            label = f"{claim.select['model']}, {NAMES[claim.select['attention']]}"
            if label in labels and told.items() <= claim.select.items():
                axis.plot(claim.value, labels.index(label) + 0.15, "kX", markersize=8)
        axis.plot([], [], "kX", label="paper, accuracy")
        axis.set_yticks(range(len(labels)), labels, fontsize=8)
        axis.set(title=title, xlim=(0, 1.02), ylim=(-0.6, max(1, len(labels)) - 0.4))
        axis.invert_yaxis()
    handles, words = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, words, fontsize=7, loc="outside lower center", ncols=2)
    return without_empty(figure, axes, len(panels))


def reported(claims: Sequence[Claim], tags: Mapping[str, object]) -> list[tuple]:
    """What the paper says about one network's accuracy under attack, whatever the scale.

    Losses are taken off the paper's own clean accuracy.

    Returns:
        (eps, kind, accuracy) with kind ``value``, ``above`` or ``below``; each once.
    """
    about = [c for c in claims if all(c.select.get(k, v) == v for k, v in tags.items())]
    clean = [c.value for c in about if c.metric == "accuracy" and c.select.get("eps") == 0]
    found = []
    for claim in about:
        eps = claim.select.get("eps", 0)
        if not eps or claim.metric not in ("accuracy", "accuracy_lost"):
            continue
        kind = next(key for key in ("value", "above", "below") if key in claim.expect)
        value = claim.expect[kind]
        if claim.metric == "accuracy_lost":
            if not clean:
                continue
            value = clean[0] - value
            kind = {"above": "below", "below": "above"}.get(kind, kind)
        found.append((eps, kind, value))
    return sorted(set(found))


def readings(rows: pd.DataFrame, panels: Panels, claims: Sequence[Claim]) -> Figure:
    """Accuracy against the paper's eps, a curve for each reading of its unit, a panel a network.

    The paper's numbers are black: a cross is a value, a triangle a limit that points to where
    the accuracy should be.

    Args:
        rows: result rows with metric ``accuracy``, scale and eps.
        panels: title -> tags, ``model`` and ``attention`` among them.
        claims: of the paper.
    """
    columns = min(2, len(panels))  # without and with attention
    figure, axes = grid(-(-len(panels) // columns), columns, 4.6, 3.4)
    rows = rows[rows["metric"].eq("accuracy") & rows["eps"].gt(0)]
    for axis, (title, tags) in zip(axes.flat, panels.items(), strict=False):
        here = chosen(rows, tags)
        for number, scale in enumerate(SCALES):
            curve = here[here["scale"].eq(scale)].sort_values("eps")
            marker, line = STYLES[number]
            axis.plot(
                curve["eps"].astype(float),
                curve["value"].astype(float),
                marker=marker,
                linestyle=line,
                color=PALETTE[number],
                markersize=5,
            )
        for eps, kind, value in reported(claims, tags):
            mark = {"value": "X", "above": "^", "below": "v"}[kind]
            axis.plot(eps, value, mark, color="k", markersize=9, zorder=3)
        axis.set(title=title, xlabel="eps as the paper writes it", ylabel="accuracy")
        axis.set(xscale="log", ylim=(-0.03, 1.03))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    handles = [
        Line2D([], [], marker=STYLES[i][0], linestyle=STYLES[i][1], color=PALETTE[i], label=text)
        for i, text in enumerate(f"ours, inputs from {shown}" for shown in SCALES.values())
    ]
    for mark, text in {"X": "value", "^": "at least", "v": "at most"}.items():
        handles.append(Line2D([], [], marker=mark, linestyle="", color="k", label=f"paper, {text}"))
    axes[0][0].legend(handles=handles, fontsize=7)
    return without_empty(figure, axes, len(panels))


def reads(influence: np.ndarray) -> np.ndarray:
    """Bool (C,): channels with an influence; a thousandth of the largest is rounding."""
    return influence > influence.max() / 1000


def channel_influence(influence: Mapping[str, np.ndarray]) -> Figure:
    """How much the attention maps move when one channel of their input is disturbed.

    Args:
        influence: form of attention -> (C,), at least 0.
    """
    figure, axes = grid(1, len(influence), 5.0, 2.6, sharey=True)
    for number, (axis, (form, values)) in enumerate(zip(axes[0], influence.items(), strict=True)):
        read = int(reads(values).sum())
        marker, _ = STYLES[number]
        axis.vlines(np.arange(len(values)), 0, values, color=PALETTE[number], linewidth=1.5)
        axis.plot(values, marker, color=PALETTE[number], markersize=3)
        axis.set(title=f"{form}: reads {read} of {len(values)} channels", xlabel="channel")
    axes[0][0].set_ylabel("change of the maps")
    return figure
