"""From one picture to a number: what a growing attack does to maps and answers of many images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest

from ..core.errors import ContractError
from ..explain import measures
from ..scoring import metrics
from .look import Choice, look, place_of
from .scene import CLASSES, PIXELS, Scene

FEW = 5  # with fewer patients, lesions or tiles an interval would promise what nobody knows


def rows(
    scene: Scene, choice: Choice, eps_255: Sequence[float], count: int, *, seed: int
) -> list[dict]:
    """Numbers of every network at the radii nearest to ``eps_255``, and of their difference.

    ``correlation`` compares the maps of the clean and of the attacked image, over those images
    that have a map at every eps in every network: the attack empties maps, and a mean over
    whoever is left would praise the network whose maps it empties most. ``no_map`` is the share
    of images whose map it emptied. ``lost`` is, of images that were answered rightly, the share
    that is not any more; for findings the share of images with another list of findings, for
    label maps that of the pixels with another class. ``correlation_by_chance`` (eps 0) compares
    clean maps of different images.

    Args:
        count: images, drawn from the scene's by chance (``seed``).

    Returns:
        Dicts for ``results.Run.add``: metric, value, low and high (95 %; None with fewer than
        ``FEW`` groups), n images in ``groups`` groups, network, eps_255.

    Raises:
        ContractError: for a count below 1, and see ``look``.
    """
    if count < 1:
        raise ContractError(f"IMAGES={count}: choose 1 or more.")
    drawn = np.sort(np.random.default_rng(seed).permutation(len(scene.samples))[:count])
    groups, names = scene.data.groups[drawn], [network.name for network in scene.networks]
    shape = (len(names), len(eps_255), len(drawn))
    cells = {name: np.full(shape, np.nan) for name in ("correlation", "lost", "no_map")}
    found = []
    for number, network in enumerate(scene.networks):
        clean = []
        for column, image in enumerate(drawn):
            one = look(scene, network, scene.sample(int(image)), choice)
            clean.append(one.maps.maps[0])
            for line, eps in enumerate(eps_255):
                record = one.record(place_of(eps))
                for name, value in _numbers(record).items():
                    cells[name][number, line, column] = np.nan if value is None else value
        chance = measures.correlation(np.stack(clean), np.roll(clean, 1, axis=0))
        chance = chance if len(clean) > 1 else chance * np.nan
        tags = {"network": network.name, "eps_255": 0}
        found.append(_row("correlation_by_chance", chance, groups, seed, **tags))
    everywhere = np.isfinite(cells["correlation"]).all((0, 1))
    cells["correlation"] = np.where(everywhere, cells["correlation"], np.nan)
    for metric, values in cells.items():
        for line, eps in enumerate(eps_255):
            for name, one in zip(names, values[:, line], strict=True):
                found.append(_row(metric, one, groups, seed, network=name, eps_255=eps))
            if metric != "no_map" and len(names) > 1:
                gain, tags = values[1, line] - values[0, line], {"network": "second minus first"}
                found.append(_row(f"{metric}_difference", gain, groups, seed, **tags, eps_255=eps))
    return found


def _numbers(record: dict) -> dict[str, float | None]:
    lost = record.get("pixels_changed")
    if record["head"] == CLASSES:
        right = record["answer_before"] == record["label"]
        lost = float(record["answer_after"] != record["label"]) if right else None
    elif record["head"] != PIXELS:
        lost = float(record["answer_after"] != record["answer_before"])
    emptied = bool(record["no_map_after"]) and not record["no_map_before"]
    return {"correlation": record["correlation"], "lost": lost, "no_map": float(emptied)}


def _row(metric: str, values: np.ndarray, groups: np.ndarray, seed: int, **tags: object) -> dict:
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
