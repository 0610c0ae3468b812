"""Paper 4: what the record says about its networks, and where a run departs from the paper."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from ..training import recipes
from .common import parameters
from .unet_adversarial import MIXED, Arm, Trained, methods, recipe_of


def describe(trained: Trained, settings: Mapping) -> dict[str, object]:
    """What the record says about a network; it may have been trained in an earlier run."""
    arm, history = trained.arm, trained.history
    best = len(history) - 1
    if recipe_of(arm, settings)["patience"]:
        scores = [row[settings["training"]["monitor"]] for row in history]
        best = recipes.best_epoch(scores, 0.0)
    sets = list(trained.sets)
    if arm.scheme in MIXED or not sets:
        sets.insert(0, "clean")
    return {
        **arm.tags,
        "seed": arm.seed,
        "start": trained.model.start,
        "parameters": parameters(trained.model),
        "trained_on": sets,
        "perturbed_by": "; ".join(map(str, methods(arm, settings).values())),
        "images": len(arm.task.split.train) * len(sets),
        "epochs": len(history),
        "best_epoch": history[best]["epoch"],
        "training_seconds": round(sum(row["seconds"] for row in history)),
        "precision": sorted({row["precision"] for row in history}),
    }


def deviations(settings: Mapping, paper: Mapping, arms: Iterable[Arm]) -> list[str]:
    """Where this run departs from the protocol of the profile ``paper``, in words."""
    arms = list(arms)
    task, found = arms[0].task, []
    if task.data.name != paper["datasets"][task.role]:
        kind = "phantoms" if task.data.synthetic else "images"
        found.append(f"{task.data.name} ({len(task.data)} {kind}) in place of PanNuke.")
    for name in ("size", "seeds"):
        if settings[name] != paper[name]:
            found.append(f"{name} {settings[name]} (profile paper: {paper[name]}).")
    if len(task.attacked) != paper["attack"]["images"]:
        found.append(f"{len(task.attacked)} test images (paper: {paper['attack']['images']}).")
    if settings["attack"]["fast"]:
        found.append("attacks: gradients in the training's precision, scores in float32.")
    worded = ("images", "fast")
    for group in ("unet", "training", "adversarial", "method_one", "method_two", "attack"):
        for key, theirs in paper[group].items():
            ours = settings[group][key]
            if key not in worded and ours != theirs:
                found.append(f"{group}: {key} {ours} (profile paper: {theirs}).")
    found += _fewer_seeds(arms, settings["seeds"])
    found.append("width, depth, recipe, split and step sizes: not in the draft.")
    return found


def _fewer_seeds(arms: Iterable[Arm], seeds: int) -> list[str]:
    """Networks that were trained with fewer seeds than the others."""
    trained = Counter(arm.group for arm in arms)
    fewer = {group: count for group, count in trained.items() if count < seeds}
    return [f"{group}: {count} training seed(s)." for group, count in fewer.items()]
