"""``python -m benchmarks.strength``: how strong the quick curves are, beside the best known.

Each attack of each network is kept as it is finished; a run that was stopped goes on there. It
takes about two hours on two cores. *Optimality* is AttackBench's: 1 minus the area between a
curve and the best one, as a share of the largest there could be. The best is the worst case, image
by image, of all attacks here, APGD-CE and targeted APGD with 100 steps after them.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable

import foolbox
import numpy as np
import torch
from medrobust_climb.attacks import climb
from torch import nn

from medrobust_utils.attacks import attack_sweep, autoattack_sweep
from medrobust_utils.attacks.fold_batchnorm import quick_copy
from medrobust_utils.core.storage import cached_arrays, fingerprint
from medrobust_utils.models import digest

from . import victims
from .__main__ import save
from .attacks import BATCH, REL_STEP, STEPS, fitted
from .victims import Victim

sys.modules.setdefault("visdom", types.ModuleType("visdom"))  # adv-lib's plotting client
from adv_lib.attacks import fmn  # noqa: E402

NETWORKS = (("resnet50", 64, 200), ("swin", 64, 200), ("hardened", 64, 200))
NETWORKS += (("resnet50", 224, 100), ("swin", 224, 100))
LESS, NO_WEAKER, POINT = 0.7, 0.0, 0.01  # of the climb's gradients; optimality; accuracy


class Counted(nn.Module):
    """A network that counts the images whose gradient is asked for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.gradients = model, 0
        self.__deepcopy__ = lambda memo: self  # a prepared copy would count for itself

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.gradients += len(images) * images.requires_grad
        return self.model(images)


Right = np.ndarray  # bool (radii, images)


def _batches(attacked: Victim, count: int, attack: Callable) -> Right:
    """``attack(images, labels)`` gives bool (radii, n) of each batch."""
    images, labels = attacked.batch(count)
    parts = zip(images.split(5 * BATCH), labels.split(5 * BATCH), strict=True)
    return np.concatenate([attack(*part) for part in parts], 1)


def _climb(net: nn.Module, attacked: Victim, radii: np.ndarray, count: int) -> Right:
    def attack(images: torch.Tensor, labels: torch.Tensor) -> Right:
        rungs = climb(net, images, labels, [*map(float, radii)], mode="nested")
        return np.stack([(one.logits.argmax(1) == labels).cpu().numpy() for one in rungs])

    return _batches(attacked, count, attack)


def _bisection(net: nn.Module, attacked: Victim, radii: np.ndarray, count: int) -> Right:
    rows = attacked.right[:count]
    return attack_sweep(net, attacked.data, rows, radii, batch=5 * BATCH).right


def _foolbox(net: nn.Module, attacked: Victim, radii: np.ndarray, count: int) -> Right:
    model = foolbox.PyTorchModel(net, bounds=(0, 1))
    pgd = foolbox.attacks.LinfPGD(rel_stepsize=REL_STEP, steps=STEPS)

    def attack(images: torch.Tensor, labels: torch.Tensor) -> Right:
        return ~pgd(model, images, labels, epsilons=[*map(float, radii)])[2].cpu().numpy()

    return _batches(attacked, count, attack)


def _fmn(net: nn.Module, attacked: Victim, radii: np.ndarray, count: int) -> Right:
    def attack(images: torch.Tensor, labels: torch.Tensor) -> Right:
        moved = fmn(net, images.contiguous(), labels, norm=float("inf"), steps=100)
        with torch.no_grad():
            fooled = net(moved).argmax(1) != labels
        size = (moved - images).abs().amax((1, 2, 3)).where(fooled, torch.inf)
        return (size[None] > torch.tensor(radii)[:, None] + 1e-6).cpu().numpy()

    return _batches(attacked, count, attack)


SIDES = {"climb": _climb, "bisection": _bisection, "Foolbox PGD": _foolbox, "FMN": _fmn}


def judge(name: str, size: int, count: int) -> dict:
    """Gradients an image, optimality, and points above the best, of every side."""
    attacked = victims.large(name, size)
    radii, count = fitted(attacked, 8), min(count, len(attacked.right))
    folder = victims.env.home() / "bench-strength"
    found = {}
    for side, attack in SIDES.items():

        def compute(attack: Callable = attack) -> dict[str, np.ndarray]:
            net = Counted(quick_copy(attacked.model, attacked.batch(1)[0])).eval()
            right = attack(net, attacked, radii, count)
            return {"right": right, "gradients": np.array(net.gradients / count)}

        key = fingerprint(digest(attacked.model), radii.tolist(), count, side)
        found[side] = cached_arrays(folder / f"{name}-{size}-{key}.npz", compute)
    best = np.logical_and.reduce([one["right"] for one in found.values()])
    asked = attacked.model, attacked.data, attacked.right[:count], radii
    best &= autoattack_sweep(*asked, fooled=~best, targets=2, queries=1, folder=folder).right
    grid = np.concatenate([[0], radii])
    lost = {side: _area(grid, one["right"]) - _area(grid, best) for side, one in found.items()}
    return {
        "network": attacked.title,
        "images": count,
        "radii_255": (radii * 255).round(3).tolist(),
        "best": best.mean(1).tolist(),
        **{
            side: {
                "gradients": float(one["gradients"]),
                "optimality": 1 - lost[side] / (radii[-1] - _area(grid, best)),
                "points_above_best": float((one["right"].mean(1) - best.mean(1)).max() * 100),
            }
            for side, one in found.items()
        },
        "reached": _reached(found, lost),
    }


def _area(grid: np.ndarray, right: Right) -> float:
    return float(np.trapezoid(np.concatenate([[1.0], right.mean(1)]), grid))


def _reached(found: dict, lost: dict) -> bool:
    """Bisection beside the climb: fewer gradients, optimality no lower, nowhere a point above."""
    less = found["bisection"]["gradients"] <= LESS * found["climb"]["gradients"]
    worse = (found["bisection"]["right"].mean(1) - found["climb"]["right"].mean(1)).max()
    return bool(less and lost["bisection"] <= lost["climb"] + NO_WEAKER and worse <= POINT)


if __name__ == "__main__":
    judged = []
    for network in NETWORKS:
        judged.append(judge(*network))
        print(judged[-1], flush=True)
        save("strength", judged)
