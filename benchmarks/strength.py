"""``python -m benchmarks.strength``: how strong the quick curves are, beside the best known.

Each attack of each network is kept as it is finished; a run that was stopped goes on there, two
hours in all on two cores. *Optimality* is AttackBench's: 1 minus the area between a curve and the
best one, as a share of the largest there could be. The best is the worst case, image by image, of
all attacks here, and of APGD-CE and targeted APGD with 100 steps after them.
"""

from __future__ import annotations

import sys
import types

import foolbox
import numpy as np
import torch
from medrobust_climb.attacks import climb
from torch import nn

from medrobust_utils.attacks import attack_sweep, autoattack_sweep
from medrobust_utils.attacks.fold_batchnorm import quick_copy
from medrobust_utils.core import env
from medrobust_utils.core.storage import cached_arrays, fingerprint
from medrobust_utils.models import digest

from . import victims
from .__main__ import save
from .attacks import PGD, fitted

sys.modules.setdefault("visdom", types.ModuleType("visdom"))  # adv-lib's plotting client
from adv_lib.attacks import fmn  # noqa: E402

NETWORKS = (("resnet50", 64, 200), ("swin", 64, 200), ("hardened", 64, 200))
NETWORKS += (("resnet50", 224, 100), ("swin", 224, 100))
SIDES, BATCH = ("climb", "bisection", "Foolbox PGD", "FMN"), 20
LESS, POINT = 0.7, 0.01  # of the climb's gradients; of accuracy above it


class Counted(nn.Module):
    """A network that counts the images whose gradient is asked for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.gradients = model, 0
        self.__deepcopy__ = lambda memo: self  # a prepared copy would count for itself

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.gradients += len(images) * images.requires_grad
        return self.model(images)


def attacked(
    side: str, net: nn.Module, images: torch.Tensor, labels: torch.Tensor, radii: list[float]
) -> np.ndarray:
    """Bool (radii, n): who is right under the attack of a side, called as its manual says."""
    if side == "climb":
        rungs = climb(net, images, labels, radii, mode="nested")
        right = torch.stack([one.logits.argmax(1) == labels for one in rungs])
    elif side == "Foolbox PGD":
        model = foolbox.PyTorchModel(net, bounds=(0, 1), device=images.device)
        right = ~PGD(model, images, labels, epsilons=radii)[2]
    else:
        moved = fmn(net, images.contiguous(), labels, norm=float("inf"), steps=100)
        with torch.no_grad():
            fooled = net(moved).argmax(1) != labels
        size = (moved - images).abs().amax((1, 2, 3)).where(fooled, torch.inf)
        right = size[None] > torch.tensor(radii, device=size.device)[:, None] + 1e-6
    return right.cpu().numpy()


def judge(name: str, size: int, count: int) -> dict:
    """Gradients an image, optimality and points above the best of each side, for one network."""
    victim, folder = victims.large(name, size), env.home() / "bench-strength"
    radii, count = fitted(victim, 8), min(count, len(victim.right))
    asked = victim.data, victim.right[:count], radii
    images, labels = victim.batch(count)
    found = {}
    for side in SIDES:

        def compute(side: str = side) -> dict[str, np.ndarray]:
            net = Counted(quick_copy(victim.model, images[:1])).eval()
            if side == "bisection":
                right = attack_sweep(net, *asked, batch=BATCH).right
            else:
                parts = zip(images.split(BATCH), labels.split(BATCH), strict=True)
                each = [attacked(side, net, *part, radii.tolist()) for part in parts]
                right = np.concatenate(each, 1)
            return {"right": right, "gradients": np.array(net.gradients / count)}

        key = fingerprint(digest(victim.model), radii.tolist(), count, side)
        found[side] = cached_arrays(folder / f"{name}-{size}-{key}.npz", compute)
    fooled = ~np.logical_and.reduce([one["right"] for one in found.values()])
    how = dict(fooled=fooled, targets=2, queries=1, folder=folder)
    curves = {side: one["right"].mean(1) for side, one in found.items()}
    best = autoattack_sweep(victim.model, *asked, **how).right.mean(1)

    def optimality(curve: np.ndarray) -> float:
        areas = [np.trapezoid([1, *one], [0, *radii]) for one in (curve, best)]
        return float(1 - (areas[0] - areas[1]) / (radii[-1] - areas[1]))

    rows = {
        side: {
            "gradients": float(found[side]["gradients"]),
            "optimality": optimality(curve),
            "points_above_best": float((curve - best).max() * 100),
        }
        for side, curve in curves.items()
    }
    ours, theirs = rows["bisection"], rows["climb"]
    reached = ours["gradients"] <= LESS * theirs["gradients"]
    reached &= ours["optimality"] >= theirs["optimality"]
    reached &= bool((curves["bisection"] - curves["climb"]).max() <= POINT)
    about = {"network": victim.title, "images": count, "radii_255": (radii * 255).tolist()}
    return about | {"best": best.tolist(), "reached": reached} | rows


if __name__ == "__main__":
    judged = []
    for network in NETWORKS:
        judged.append(judge(*network))
        print(judged[-1], flush=True)
        save("strength", judged)
