"""From one picture to a number: what a growing attack does to maps and answers of many images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..core.errors import ContractError
from ..explain import measures
from ..scoring import metrics
from ..scoring.inference import exact_share
from .look import Choice, Look, look, place_of
from .scene import Scene

FEW = 5  # with fewer patients, lesions or tiles an interval would promise what nobody knows
METRICS = ["correlation", "lost", "no_map"]


def rows(
    scene: Scene, choice: Choice, eps_255: Sequence[float], count: int, *, seed: int
) -> list[dict]:
    """Numbers of every network at the radii nearest to ``eps_255``, and of their difference.

    ``correlation`` compares maps over those images that have one at every eps in every network:
    a mean over whoever is left would praise the network whose maps the attack empties most
    (``no_map``: their share). ``lost`` are answers that were right and are not any more; of
    findings all that changed, of label maps the share of pixels. ``correlation_by_chance`` (eps 0)
    compares clean maps of different images.

    Args:
        count: images, drawn from the scene's by chance (``seed``).

    Returns:
        Dicts for ``results.Run.add``; low and high (95 %) are None with fewer than ``FEW`` groups.

    Raises:
        ContractError: for a count below 1, and see ``look``.
    """
    if count < 1:
        raise ContractError(f"IMAGES={count}: choose 1 or more.")
    drawn = np.sort(np.random.default_rng(seed).permutation(len(scene.samples))[:count])
    cells, found = [], []

    def add(metric: str, values: Sequence[float], images: Sequence[int], **tags: object) -> None:
        found.append(_row(metric, np.array(values, float), scene.data.groups[images], seed) | tags)

    for network in scene.networks:
        clean = []
        for image in drawn:
            one = look(scene, network, scene.sample(int(image)), choice)
            clean.append(one.maps.maps[0])
            tags = {"network": network.name, "image": image}
            cells += [tags | {"eps_255": eps} | _numbers(one, place_of(eps)) for eps in eps_255]
        chance = measures.correlation(np.stack(clean), np.roll(clean, 1, axis=0))
        chance = chance if len(clean) > 1 else [np.nan]
        add("correlation_by_chance", chance, drawn[: len(chance)], network=network.name, eps_255=0)
    table = pd.DataFrame(cells)
    table["correlation"] = table["correlation"].astype(float)
    without = table.loc[table["correlation"].isna(), "image"]
    table.loc[table["image"].isin(without), "correlation"] = np.nan
    for (name, eps), part in table.groupby(["network", "eps_255"], sort=False):
        for metric in METRICS:
            add(metric, part[metric], part["image"], network=name, eps_255=eps)
    if len(scene.networks) > 1:
        first, second = (
            table[table["network"] == network.name].reset_index() for network in scene.networks[:2]
        )
        gains = second[METRICS[:2]].astype(float) - first[METRICS[:2]].astype(float)
        for eps, part in gains.groupby(first["eps_255"]):
            for metric in gains:
                tags = {"network": "second minus first", "eps_255": eps}
                add(f"{metric}_difference", part[metric], first["image"][part.index], **tags)
    return found


def _numbers(one: Look, place: int) -> dict[str, float | None]:
    record = one.record(place)
    lost = record.get("pixels_changed")
    if one.scene.data.multi_label:
        lost = float(record["answer_after"] != record["answer_before"])
    elif lost is None and record["answer_before"] == record["label"]:
        lost = float(record["answer_after"] != record["label"])
    emptied = bool(record["no_map_after"]) and not record["no_map_before"]
    return {"correlation": record["correlation"], "lost": lost, "no_map": float(emptied)}


def _row(metric: str, values: np.ndarray, groups: np.ndarray, seed: int) -> dict:
    known = np.isfinite(values)
    values, groups = values[known], groups[known]
    mean, number, low, high = float("nan"), len(np.unique(groups)), None, None
    if len(values):
        mean = float(values.mean())
    if number >= FEW and set(values) <= {0.0, 1.0}:
        # with as many answers as there are groups: a bootstrap of eight zeros would be sure of zero
        low, high = exact_share(round(mean * number), number)
    elif number >= FEW:
        estimate = metrics.weighted_mean(values, metrics.group_weights(groups, seed))
        low, high = float(estimate.low), float(estimate.high)
    about = {"n": len(values), "groups": number}
    return {"metric": metric, "value": mean, "low": low, "high": high} | about
