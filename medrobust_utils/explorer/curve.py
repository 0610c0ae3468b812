"""From one picture to a number: what a growing attack does to maps and answers of many images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import binomtest

from .. import plots
from ..core import env
from ..core.errors import ContractError
from ..explain import measures
from ..scoring import metrics
from . import answers
from .look import Choice, Memory, Seen, look
from .record import CLASSES, PIXELS
from .scene import Scene

FEW = 5  # with fewer patients, lesions or tiles an interval would promise what nobody knows
TITLES = {
    "correlation": "likeness of the two maps: correlation",
    "lost": "answers lost",
    "no_map": "images without a map: share",
}
LOST = {
    CLASSES: "right answers lost: share",
    PIXELS: "pixels with another class: share",
}


def rows(
    scene: Scene, choice: Choice, eps_255: Sequence[float], count: int, *, seed: int, memory: Memory
) -> list[dict]:
    """Numbers of every network at every eps, and of the second network less the first.

    ``correlation`` compares the maps of the clean and of the attacked image, over those images
    that have a map at every eps in every network: the attack empties maps, and a mean over
    whoever is left would praise the network whose maps it empties most. ``no_map`` is the share
    of images whose map it emptied. ``lost`` is, of images that were answered rightly, the share
    that is not any more; for findings the share of images with another list of findings, for
    label maps that of the pixels with another class. ``correlation_by_chance`` (eps 0) compares
    clean maps of different images.

    Args:
        choice: all but eps; of label maps always the label's class is explained.
        count: images, drawn from the scene's by chance (``seed``).

    Returns:
        Dicts for ``results.Run.add``: metric, value, low and high (95 %; None with fewer than
        ``FEW`` groups), n images in ``groups`` groups, network, eps_255.

    Raises:
        ContractError: for a count below 1, and see ``look``.
    """
    if count < 1:
        raise ContractError(f"IMAGES={count}: choose 1 or more.")
    numbers = np.sort(np.random.default_rng(seed).permutation(len(scene.rows))[:count])
    groups = scene.data.groups[scene.rows[numbers]]
    if scene.data.segmentation:
        choice = replace(choice, target=answers.LABEL)
    seen = _looks(scene, choice, eps_255, numbers, memory)
    likeness = _array(seen, lambda one: one.record["correlation"])
    lost = _array(seen, _lost)
    no_map = _array(seen, lambda one: float(one.before.valid[0] and not one.after.valid[0]))
    everywhere = np.isfinite(likeness).all((0, 1))
    cells = {"correlation": np.where(everywhere, likeness, np.nan), "lost": lost, "no_map": no_map}
    found = []
    for metric, values in cells.items():
        for name, per_eps in zip(_names(scene), values, strict=True):
            for eps, one in zip(eps_255, per_eps, strict=True):
                found.append(_row(metric, one, groups, seed, network=name, eps_255=eps))
        if metric != "no_map" and len(values) > 1:
            for eps, first, second in zip(eps_255, *values[:2], strict=True):
                tags = dict(network="second less first", eps_255=eps)
                found.append(_row(f"{metric}_difference", second - first, groups, seed, **tags))
    for name, looks in zip(_names(scene), seen, strict=True):
        chance = _by_chance(looks[0])
        found.append(_row("correlation_by_chance", chance, groups, seed, network=name, eps_255=0))
    return found


def _names(scene: Scene) -> list[str]:
    return [network.name for network in scene.networks]


def _looks(
    scene: Scene, choice: Choice, eps_255: Sequence[float], numbers: np.ndarray, memory: Memory
) -> list[list[list[Seen]]]:
    """Network, eps, image."""
    samples = [scene.sample(int(number)) for number in numbers]
    steps = len(scene.networks) * len(eps_255) * len(samples)
    with env.progress(total=steps, desc="looking") as bar:

        def every(network: object, eps: float) -> Iterator[Seen]:
            for sample in samples:
                yield look(scene, network, sample, replace(choice, eps_255=eps), memory=memory)
                bar.update()

        return [[list(every(network, eps)) for eps in eps_255] for network in scene.networks]


def _array(seen: list, number: object) -> np.ndarray:
    """(networks, eps, images) of a number; NaN where there is none."""
    return np.array([[[number(one) for one in looks] for looks in row] for row in seen], float)


def _lost(one: Seen) -> float | None:
    """Whether the attack took the answer away; None where there was no right one to take."""
    record = one.record
    if record["head"] == PIXELS:
        return record["pixels_changed"]
    if record["head"] == CLASSES:
        right = record["answer_before"] == record["label"]
        return float(record["answer_after"] != record["label"]) if right else None
    return float(record["changed"])


def _by_chance(looks: Sequence[Seen]) -> np.ndarray:
    """Correlation of each image's clean map with that of the next image."""
    maps = np.concatenate([one.before.maps for one in looks])
    return measures.correlation(maps, np.roll(maps, 1, axis=0)) if len(maps) > 1 else [np.nan]


def _row(metric: str, values: np.ndarray, groups: np.ndarray, seed: int, **tags: object) -> dict:
    values = np.asarray(values, float)
    known = np.isfinite(values)
    values, groups = values[known], groups[known]
    found = {"metric": metric, "n": len(values), "groups": len(np.unique(groups)), **tags}
    found["value"] = float(values.mean()) if len(values) else float("nan")
    if found["groups"] < FEW:
        return found | {"low": None, "high": None}
    if set(values) <= {0.0, 1.0}:
        # Exact (Clopper and Pearson 1934), with as many answers as there are groups: a bootstrap
        # of eight zeros would be sure of zero.
        hits = round(found["value"] * found["groups"])
        low, high = binomtest(hits, found["groups"]).proportion_ci(0.95)
    else:
        mean = metrics.weighted_mean(values, metrics.group_weights(groups, seed))
        low, high = mean.low, mean.high
    return found | {"low": float(low), "high": float(high)}


def draw(found: Sequence[dict], head: str) -> Figure:
    """Three panels over eps: likeness of the maps, answers lost, images without a map.

    Args:
        found: see ``rows``.
        head: what the networks answer with (``record``).
    """
    figure, axes = plots.grid(1, 3, 3.6, 3)
    titles = TITLES | {"lost": LOST.get(head, "other findings: share of images")}
    for axis, (metric, title) in zip(axes[0], titles.items(), strict=True):
        part = [row for row in found if row["metric"] == metric]
        for number, name in enumerate(dict.fromkeys(row["network"] for row in part)):
            _line(axis, [row for row in part if row["network"] == name], name, number)
        axis.set_title(title, fontsize=9)
        axis.set(xlabel="eps (1/255)", xscale="log")
        eps = sorted({row["eps_255"] for row in part})
        axis.set_xticks(eps, [f"{one:g}" for one in eps])
        axis.minorticks_off()
    for number, row in enumerate(r for r in found if r["metric"] == "correlation_by_chance"):
        look_of = dict(color=plots.PALETTE[number], linestyle=":", linewidth=1)
        axes[0][0].axhline(row["value"], label="between different images", **look_of)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8)
    return figure


def _line(axis: object, part: Sequence[dict], name: str, number: int) -> None:
    eps, value = ([row[key] for row in part] for key in ("eps_255", "value"))
    axis.plot(
        eps,
        value,
        "o^"[number % 2] + ("-", "--")[number % 2],
        color=plots.PALETTE[number],
        label=name,
    )
    for row in part:
        if row["low"] is not None:
            at = row["eps_255"] * (1 + 0.06 * number)  # side by side
            axis.plot([at, at], [row["low"], row["high"]], color=plots.PALETTE[number], linewidth=1)
