"""Paper 3: its figure with our curves, and the figures of its arguments.

A defence is told by colour, marker and line style together, so that no figure needs its colours;
as on the slides, vanilla networks are dashed and assimilated ones solid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from .. import plots
from ..plots import PALETTE, grid, without_empty
from ..plots.glcm_plots import HEAT

NAMES = {
    "natural": "network on photographs",
    "none": "vanilla",
    "modules": "T and C alone",
    "glcm": "assimilated (T, C, GLCM loss)",
    "adversarial": "adversarial training",
}
LOOKS = {  # marker, line, colour
    "natural": ("X", "-", "0.3"),
    "none": ("o", "--", PALETTE[1]),
    "modules": ("^", "-.", PALETTE[2]),
    "glcm": ("s", "-", PALETTE[0]),
    "adversarial": ("D", ":", PALETTE[4]),
}
ATTACKS = {"fgsm": "FGSM", "bim": "BIM", "mifgsm": "MI-FGSM", "pgd": "PGD"}
STEPS = {"quarter": "steps of eps / 4", "torchattacks": "torchattacks' steps"}
# (attack, step) -> title; FGSM has one step only, so the worst of all stands below it.
CELLS = {
    ("fgsm", "single"): "FGSM",
    **{(name, "quarter"): f"{ATTACKS[name]}, {STEPS['quarter']}" for name in list(ATTACKS)[1:]},
    ("worst", "all"): "worst of all",
    **{
        (name, "torchattacks"): f"{ATTACKS[name]}, {STEPS['torchattacks']}"
        for name in list(ATTACKS)[1:]
    },
}
BORDER = np.log(2)  # nats: with two classes, a larger loss is a wrong answer


def usual(one: object, settings: Mapping) -> bool:
    """Whether an arm, or a row with its tags, has the profile's own alpha, colour and rows."""
    return (
        one.alpha in (1.0, settings["alpha"])
        and one.colour in ("none", "conv")
        and one.rows in ("none", settings["glcm"]["rows"])
    )


def variant(row: object) -> str:
    """What is special about a network with modules, as a label: ``alpha 0.9, deconv``."""
    if row.defence == "modules":
        return "no GLCM loss"
    colour = "" if row.colour == "conv" else f", {row.colour}"
    return f"alpha {row.alpha:g}{colour}" + ("" if row.rows == "areas" else f", {row.rows}")


def stretched(images: torch.Tensor) -> torch.Tensor:
    """Images (N, C, H, W), each channel of each spread over the whole of [0, 1]."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return (images - low) / (high - low).clamp(min=1 / 255)


def by_eps(rows: pd.DataFrame, *, majority: float | None = None) -> Figure:
    """The slides' figure, a panel an attack: accuracy against eps, a curve a defence, with bands.

    Args:
        rows: ``accuracy_attacked`` rows of one task and backbone, with attack, step, eps_255,
            defence, value, low, high. What was measured before any attack stands at 0. Attacks
            that were not run have no panel.
        majority: accuracy of a constant answer.
    """
    clean = rows[rows["attack"].eq("none")]
    parts = {
        title: rows[rows["attack"].eq(attack) & rows["step"].eq(step)]
        for (attack, step), title in CELLS.items()
    }
    parts = {title: part for title, part in parts.items() if len(part)}
    columns = 4 if len(parts) > 6 else 3
    figure, axes = grid(-(-len(parts) // columns), columns, 3.3, 2.8, sharey=True)
    for number, (axis, title) in enumerate(zip(axes.flat, parts, strict=False)):
        here = pd.concat([clean, parts[title]])
        for defence in [name for name in NAMES if here["defence"].eq(name).any()]:
            _curve(axis, here[here["defence"].eq(defence)].sort_values("eps_255"), defence)
        if majority is not None:
            axis.axhline(majority, color="0.5", linewidth=1, label="constant answer")
        axis.set_title(title, fontsize=10)
        axis.set_ylim(-0.03, 1.03)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        if number + columns >= len(parts):  # nothing below it
            axis.set_xlabel("eps (gray levels of 255)")
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy")
    _legend(figure, axes)
    return without_empty(figure, axes, len(parts))


def _legend(figure: Figure, axes: np.ndarray) -> None:
    """One legend for all panels, whichever of them shows a curve."""
    pairs = [axis.get_legend_handles_labels() for axis in axes.flat]
    known = {word: handle for pair in pairs for handle, word in zip(*pair, strict=True)}
    figure.legend(known.values(), known, fontsize=9, loc="outside lower center", ncols=3)


def below(panels: Mapping[str, pd.DataFrame]) -> Figure:
    """Accuracy by bisection from eps far below the slides' smallest, eps on a log scale.

    Args:
        panels: title -> rows as for ``by_eps``, each eps once. The gray line is the slides'
            smallest eps.
    """
    columns = min(3, len(panels))
    figure, axes = grid(-(-len(panels) // columns), columns, 4.6, 3.2, sharey=True)
    for axis, (title, rows) in zip(axes.flat, panels.items(), strict=False):
        smallest = rows["eps_255"][rows["eps_255"].gt(0)].min()
        zero = smallest / 2
        rows = rows.assign(eps_255=rows["eps_255"].where(rows["eps_255"].gt(0), zero))
        for defence in [name for name in NAMES if rows["defence"].eq(name).any()]:
            _curve(axis, rows[rows["defence"].eq(defence)].sort_values("eps_255"), defence)
        axis.axvline(1, color="0.5", linewidth=1)
        axis.set(xscale="log", xlabel="eps (gray levels of 255)", ylim=(-0.03, 1.03))
        axis.set_title(title, fontsize=10)
        powers = np.arange(np.log2(smallest), np.log2(rows["eps_255"].max()) + 0.5)
        axis.set_xticks([zero, *2.0**powers], ["0", *[f"{eps:.2g}" for eps in 2.0**powers]])
        axis.xaxis.set_minor_locator(NullLocator())
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy")
    _legend(figure, axes)
    return without_empty(figure, axes, len(panels))


def _curve(axis: Axes, curve: pd.DataFrame, defence: str) -> None:
    marker, line, colour = LOOKS[defence]
    value, low, high = (curve[name].astype(float) for name in ("value", "low", "high"))
    axis.plot(
        curve["eps_255"],
        value,
        marker=marker,
        linestyle=line,
        color=colour,
        markersize=5,
        linewidth=1.8,
        label=NAMES[defence],
    )
    axis.fill_between(curve["eps_255"], low, high, color=colour, alpha=0.13, linewidth=0)


def dots(
    panels: Mapping[str, pd.DataFrame],
    xlabel: str | Sequence[str],
    *,
    line: float | None = None,
    columns: int = 3,
) -> Figure:
    """Estimates with their intervals, a marker a defence (see ``plots.dots``)."""
    how = dict(by="defence", names=NAMES, looks=LOOKS, line=line, columns=columns)
    return plots.dots(panels, xlabel, **how)


def pull(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """How strongly each weighted term of the loss pulls at T and C after every epoch, log scale.

    Args:
        histories: title -> learning curve with ``entropy_gradient`` and ``glcm_gradient``.
    """
    columns = min(3, len(histories))
    figure, axes = grid(-(-len(histories) // columns), columns, 4.4, 3.2, sharey=True)
    terms = {"entropy": "cross-entropy", "glcm": "GLCM loss"}
    for axis, (title, history) in zip(axes.flat, histories.items(), strict=False):
        for (key, name), (marker, line, colour) in zip(
            terms.items(), (LOOKS["none"], LOOKS["glcm"]), strict=True
        ):
            norms = np.array([row[f"{key}_gradient"] for row in history])
            norms = np.where(norms > 0, norms, np.nan)  # a log scale has no place for none at all
            axis.plot(
                [row["epoch"] for row in history],
                norms,
                marker=marker,
                linestyle=line,
                color=colour,
                label=name,
            )
        axis.set(yscale="log", xlabel="epoch", ylabel="norm of the gradient by T and C")
        axis.set_title(title, fontsize=10)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.legend(fontsize=8)
    return without_empty(figure, axes, len(histories))


def loss_along(changes: np.ndarray, courses: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """The loss of one image under attacks of growing eps, a panel a defence, a line an attack.

    Args:
        changes: eps (E,) in gray levels of 255.
        courses: defence -> attack -> loss (E,) in nats.
    """
    figure, axes = grid(1, len(courses), 4.8, 3.2, sharey=True)
    for axis, (defence, lines) in zip(axes[0], courses.items(), strict=True):
        colour = LOOKS[defence][2]
        for (name, course), look in zip(lines.items(), (("x", ":"), ("o", "-")), strict=True):
            axis.plot(
                changes,
                course,
                marker=look[0],
                linestyle=look[1],
                color=colour,
                markersize=4,
                label=name,
            )
        axis.axhline(BORDER, color="k", linewidth=1, label="above: wrong answer")
        axis.set(title=NAMES[defence], xlabel="eps (gray levels of 255)")
        axis.legend(fontsize=8)
    axes[0][0].set_ylabel("loss (nats)")
    return figure


def surfaces(planes: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Losses of one image around it under several networks, in one colour scale.

    Args:
        planes: title -> what ``sharpness.surface`` returns. The black line is the border beyond
            which the answer changes.
    """
    figure, axes = grid(1, len(planes), 3.8, 3.3, sharey=True)
    top = max(losses.max() for _, losses in planes.values())
    for axis, (title, (changes, losses)) in zip(axes[0], planes.items(), strict=True):
        drawn = axis.pcolormesh(
            changes * 255, changes * 255, losses, cmap=HEAT, vmin=0, vmax=top, shading="gouraud"
        )
        if losses.min() < BORDER < losses.max():
            axis.contour(changes * 255, changes * 255, losses, [BORDER], colors="k")
        axis.plot(0, 0, "w+", markersize=9)
        axis.set_title(title, fontsize=10)
        axis.set(xlabel="along random signs", aspect="equal")
        axis.grid(False)
    axes[0][0].set_ylabel("along the gradient's signs")
    figure.colorbar(drawn, ax=axes, label="loss (nats)", shrink=0.85)
    return figure
