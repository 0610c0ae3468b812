"""Paper 2: the ladder of radii under every reading of their unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SAME = 0.01  # radii closer than this (relative) are attacked once


@dataclass(frozen=True)
class Radii:
    """The paper's radii under every reading of their unit.

    Attributes:
        values: rising, for images in [0, 1].
        cells: (scale, the paper's eps) -> position in ``values``. A scale says how the paper's
            network may have been fed: ``0-1``, ``signed`` (-1 to 1) or ``0-255``.
        eps: the paper's radii, those too small to be attacked included.
    """

    values: tuple[float, ...]
    cells: dict[tuple[str, float], int]
    eps: tuple[float, ...] = ()

    def scales(self) -> list[str]:
        """The readings, in order."""
        return list(dict.fromkeys(scale for scale, _ in self.cells))

    def at(self, scale: str) -> dict[float, int]:
        """The paper's eps -> position, under one reading."""
        return {eps: place for (name, eps), place in self.cells.items() if name == scale}


def radii(attack: Mapping) -> Radii:
    """Every ``attack["eps"]`` divided by the range of every one of ``attack["scales"]``.

    Radii below ``attack["smallest"]`` are left out: where nothing falls at one radius, nothing
    falls at a smaller one. The paper's ladder doubles, and 255 is nearly a power of two, so the
    readings fall onto one ladder to within half a percent; such neighbours are attacked once, at
    the larger.
    """
    wanted = sorted(
        (
            (eps / width, scale, eps)
            for scale, width in attack["scales"].items()
            for eps in attack["eps"]
            if eps / width >= attack["smallest"]
        ),
        reverse=True,
    )
    values: list[float] = []
    places = {}
    for value, scale, eps in wanted:
        if not values or value < values[-1] * (1 - SAME):
            values.append(value)
        places[scale, eps] = len(values) - 1
    last = len(values) - 1
    cells = {cell: last - place for cell, place in sorted(places.items(), key=lambda p: p[0][1])}
    order = {scale: number for number, scale in enumerate(attack["scales"])}
    cells = dict(sorted(cells.items(), key=lambda cell: order[cell[0][0]]))
    return Radii(tuple(values[::-1]), cells, tuple(attack["eps"]))
