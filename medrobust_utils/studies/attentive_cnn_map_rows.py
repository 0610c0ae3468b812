"""Paper 2, section 5.1: rows on perturbations and maps."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..explain.measures import correlation, top_overlap
from ..reporting.results import Run
from .attentive_cnn_attack import Robustness
from .attentive_cnn_maps import Explained, average
from .attentive_cnn_radii import Radii
from .attentive_cnn_rows import NO_ATTACK
from .common import add, gates

# The paper's smallest and largest radius on the skin images, "most visible" at the first of them.
SMALLEST, LARGEST = 0.00125, 0.01


def add_maps(run: Run, robust: Robustness, explained: Explained, ladder: Radii, seed: int) -> None:
    """Rows on the perturbations and maps of one network at every radius."""
    arm, half = robust.arm, robust.half_fallen
    tags = arm.tags | robust.gates | {"n": len(explained.index)}
    for name in explained.names:
        value = explained.measure(name)
        if np.isfinite(value).any():
            add(run, name, average(value, arm, explained, seed), **tags, **NO_ATTACK)
        for k, radius in enumerate(ladder.values):
            value = explained.measure(name, k)
            if np.isfinite(value).any():
                cell = tags | {"attack": "independent", "radius_255": radius * 255}
                cell["half_fallen"] = k == half
                add(run, name, average(value, arm, explained, seed), **cell)
    add(
        run, "single_region", average(_single(explained), arm, explained, seed), **tags, **NO_ATTACK
    )
    if "ring_over_centre" in explained.names:
        for scale in ladder.scales():
            places = ladder.at(scale)
            if {SMALLEST, LARGEST} <= places.keys():
                rings = [
                    explained.measure("ring_over_centre", places[e]) for e in (SMALLEST, LARGEST)
                ]
                fall = average(rings[0] - rings[1], arm, explained, seed)
                add(run, "ring_fall", fall, scale=scale, **tags)
    if half is not None:
        _add_success(run, robust, explained, half, tags, seed)


def _single(explained: Explained) -> np.ndarray:
    """Whether a clean map has one region; NaN for an invalid map."""
    count = explained.measure("map_regions")
    return np.where(np.isfinite(count), count == 1, np.nan)


def _add_success(
    run: Run, robust: Robustness, explained: Explained, half: int, tags: dict, seed: int
) -> None:
    """How maps survive attacks that fail and that succeed, among images that were right before."""
    for name in ("map_correlation", "map_correlation_own_class"):
        change = explained.measure(name, half)
        for outcome, which in (
            ("successful", explained.fallen[half]),
            ("failed", ~explained.fallen[half]),
        ):
            chosen = np.where(explained.right & which, change, np.nan)
            value = average(chosen, robust.arm, explained, seed)
            add(run, f"{name}_{outcome}", value, **tags | {"n": int(np.isfinite(chosen).sum())})


def add_maps_between(
    run: Run,
    plain: Robustness,
    attentive: Robustness,
    maps: Mapping[str, Explained],
    ladder: Radii,
    seed: int,
) -> None:
    """How alike the clean maps of two networks are, and which of the two is more focused.

    Maps are compared where both networks predict the same class: maps for two classes answer two
    questions.
    """
    first, second = maps[plain.arm.key], maps[attentive.arm.key]
    arm, agree = attentive.arm, first.classes == second.classes
    tags = arm.tags | gates([plain], [attentive]) | NO_ATTACK
    for name, of in (
        ("map_correlation_between_models", correlation),
        ("map_top_overlap_between_models", top_overlap),
    ):
        value = of(first.clean.astype(np.float64), second.clean.astype(np.float64))
        value = np.where(agree, value, np.nan)
        add(run, name, average(value, arm, first, seed), n=int(np.isfinite(value).sum()), **tags)
    n = len(first.index)
    entropy = second.measure("map_entropy") - first.measure("map_entropy")
    add(run, "map_entropy_gain", average(entropy, arm, first, seed), n=n, **tags)
    single = _single(second) - _single(first)
    add(run, "single_region_gain", average(single, arm, first, seed), n=n, **tags)
    half = plain.half_fallen
    if half is not None and "sparse_shape" in first.names:
        shape = second.measure("sparse_shape", half) - first.measure("sparse_shape", half)
        cell = tags | {"attack": "independent", "radius_255": ladder.values[half] * 255}
        cell = {name: value for name, value in cell.items() if name not in ("scale", "eps")}
        add(run, "sparse_shape_gain", average(shape, arm, first, seed), n=n, **cell)
