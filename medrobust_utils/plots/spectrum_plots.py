"""Figure of what is measured at each spatial frequency, a line a network."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from ..core.errors import ContractError
from . import PALETTE, STYLES, grid

Curve = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
PARTS = ("centres", "mean", "low", "high")


def by_frequency(curves: Mapping[str, Curve], ylabel: str, *, level: float | None = None) -> Figure:
    """Each network's mean against the frequency, with its interval as a band of its colour.

    Args:
        curves: name of the network -> centres of the bands in cycles per pixel (see
            ``frequency.centres``), then mean, low and high there; all (bands,). Their order fixes
            the styles.
        ylabel: what was measured, and its unit.
        level: what to compare with, a gray line from left to right, e.g. white noise's 1.

    Raises:
        ContractError: for no curve, more than there are styles, or a curve of uneven parts.
    """
    _check(curves)
    figure, axes = grid(1, 1, 5.6, 3.8)
    axis = axes[0][0]
    if level is not None:
        axis.axhline(level, color="0.4", linewidth=1)
    for number, (name, curve) in enumerate(curves.items()):
        (marker, line), colour = STYLES[number], PALETTE[number]
        places, mean, low, high = (np.asarray(part, float) for part in curve)
        axis.plot(
            places,
            mean,
            label=name,
            marker=marker,
            linestyle=line,
            color=colour,
            markersize=5,
        )
        axis.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
    axis.set(xlabel="spatial frequency (cycles per pixel)", ylabel=ylabel, xlim=(0, 0.5))
    axis.legend(fontsize=7)
    return figure


def _check(curves: Mapping[str, Curve]) -> None:
    if not 1 <= len(curves) <= len(STYLES):
        raise ContractError(
            f"{len(curves)} curves: give 1 to {len(STYLES)} a figure, so that each has a marker "
            "and a line style of its own. Spread more over several figures."
        )
    for name, curve in curves.items():
        if len(curve) != len(PARTS) or len(set(map(len, curve))) != 1:
            raise ContractError(
                f"the curve of {name} has parts of lengths {[len(part) for part in curve]}. Give "
                f"{', '.join(PARTS)}, one number a band each."
            )
