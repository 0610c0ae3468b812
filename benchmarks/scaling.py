"""How the cost of a sweep grows: ``python -m benchmarks.scaling`` draws ``docs/performance.png``.

One thing at a time is varied around four images, ten steps, four eps and 64 pixels: ResNet-50 on
skin lesions it never saw, attacked by Foolbox, by the kit with the same steps, and nested, whose
steps are its own 4 at each eps. For other sizes than its own the network keeps its weights.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from torch.nn.functional import interpolate

from medrobust_utils.attacks import climb
from medrobust_utils.attacks.fold_batchnorm import quick_copy
from medrobust_utils.core import env
from medrobust_utils.data import to_float
from medrobust_utils.reporting.results import project_root

from . import contest, peers
from .networks import Victim, plain, victim
from .timing import take_turns

BASE = {"images": 4, "steps": 10, "eps values": 4, "pixels": 64}
VARIED = {
    "images": (2, 4, 8),
    "steps": (5, 10, 20),
    "eps values": (2, 4, 8),
    "pixels": (32, 64, 96),
}
STYLES = {"Foolbox": (3, 1), "independent": "", "nested": (1, 1)}


def measure(attacked: Victim) -> pd.DataFrame:
    """Seconds of each side for each case; one run each."""
    quick = BASE | {"steps": 1}
    for side in _sides(attacked, **quick).values():
        side()  # warms up
    rows, known = [], {}  # the case that all four have in common is measured once
    cases = [(axis, value) for axis, values in VARIED.items() for value in values]
    for axis, value in env.progress(cases, desc="scaling"):
        case = BASE | {axis: value}
        key = tuple(case.values())
        if key not in known:
            sides = _sides(attacked, **case)
            found = take_turns(list(sides.values()), 1, warm=False)
            known[key] = {side: one[0] for side, one in zip(sides, found, strict=True)}
        rows += [
            {"axis": axis, "value": value, "side": side, "seconds": seconds}
            for side, seconds in known[key].items()
        ]
    return pd.DataFrame(rows)


def _sides(attacked: Victim, **case: int) -> dict[str, Callable[[], object]]:
    device, size = env.pick_device(), case["pixels"]
    rows = attacked.held_out[: case["images"]]
    images = to_float(attacked.data.images[rows]).to(device)
    images = interpolate(images, (size, size), mode="bilinear", antialias=True).clamp(0, 1)
    labels = torch.from_numpy(attacked.data.targets[rows]).to(device)
    ladder = contest.LADDERS["resnet", 64]
    chosen = np.linspace(0, len(ladder) - 1, case["eps values"]).round().astype(int)
    epsilons = [ladder[place] / 255 for place in chosen]
    model, quick = plain(attacked.model), quick_copy(attacked.model, images[:1])
    ready = images.to(memory_format=torch.channels_last)
    how = dict(dtype=env.training_dtype(device), through=quick)

    def foolbox() -> None:
        for eps in epsilons:
            peers.foolbox_pgd(model, images, labels, eps, case["steps"]).sum().item()

    def ours(**mode: object) -> Callable[[], object]:
        return lambda: [
            rung.logits.sum().item()
            for rung in climb(attacked.model, ready, labels, epsilons, **how, **mode)
        ]

    return {
        "Foolbox": foolbox,
        "independent": ours(mode="independent", steps=case["steps"]),
        "nested": ours(mode="nested"),
    }


def draw(table: pd.DataFrame) -> Figure:
    """Seconds against each of the four, both axes logarithmic."""
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.4), sharey=True, layout="constrained")
    for place, (axis, part) in zip(axes, table.groupby("axis", sort=False), strict=True):
        sns.lineplot(
            part,
            x="value",
            y="seconds",
            hue="side",
            style="side",
            ax=place,
            markers=True,
            dashes=STYLES,
            palette="colorblind",
            legend=axis == "images",
        )
        place.set(xscale="log", yscale="log", xlabel=axis, ylabel="seconds")
        place.set_xticks(VARIED[axis], [str(value) for value in VARIED[axis]])
        place.minorticks_off()
    axes[0].legend(title=None, loc="lower right")
    return figure


def main() -> None:
    """Measure, and write the figure and its numbers."""
    table = measure(victim("resnet", 64))
    folder: Path = project_root() / "docs"
    table.round(3).to_csv(folder / "performance.csv", index=False)
    draw(table).savefig(folder / "performance.png", dpi=90)
    print(table.to_string())


if __name__ == "__main__":
    main()
