"""Robust curves and AutoAttack beside Foolbox and pyautoattack."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle

import foolbox
import numpy as np
import torch
from pyautoattack import AutoAttack

from medrobust_utils.attacks import attack_sweep, autoattack, autoattack_sweep
from medrobust_utils.core import env

from . import victims
from .timing import Row, kind, take_turns
from .victims import Victim

PGD = foolbox.attacks.LinfPGD(rel_stepsize=0.01 / 0.3, steps=40)  # its defaults
WIDE = np.geomspace(1 / 32, 32, 41) / 255
BATCH, MANY = 4, 24  # images of Foolbox's batch; images that bisection attacks
MET = 8  # images that every AutoAttack meets
APART = 0.005  # by which robust accuracies may differ
# Times as fast as Foolbox.
BOUNDS = {
    "resnet50": {"avx2": 45, "intel-bf16": 60, "amd-bf16": 50, "gpu": 100},
    "swin": {"avx2": 33, "intel-bf16": 45, "amd-bf16": 45, "gpu": 100},
}


def fitted(attacked: Victim, count: int) -> np.ndarray:
    """``count`` radii, even in log2, from where nine in ten are still right to where none is."""
    left = attack_sweep(attacked.model, attacked.data, attacked.right[:60], WIDE).right.mean(1)
    first, last = max(0, (left > 0.9).sum() - 1), min(len(WIDE) - 1, (left > 0.02).sum())
    return np.geomspace(WIDE[first], WIDE[last], count)


def bisected(attacked: Victim, radii: np.ndarray) -> Callable:
    """A curve of the first images, with all that a sweep does: hashing, copying, reading."""
    dtype = env.training_dtype(env.pick_device())
    asked = attacked.model, attacked.data, attacked.right[:MANY], radii
    return lambda: attack_sweep(*asked, batch=BATCH, dtype=dtype)


def sweep(name: str) -> Iterator[Row]:
    """Eight radii: Foolbox, whose seconds depend on no radius, takes the next one each round."""
    attacked = victims.large(name, 224)
    radii, (images, labels) = fitted(attacked, 8), attacked.batch(BATCH)
    net = foolbox.PyTorchModel(attacked.plain(), bounds=(0, 1), device=images.device)
    turns = cycle(map(float, radii[2:-2]))
    theirs = lambda: PGD(net, images, labels, epsilons=next(turns))[1].sum().item()  # noqa: E731
    spent = take_turns(theirs, bisected(attacked, radii), rounds=3, warm=False)
    base = "Foolbox", [one / BATCH * len(radii) for one in spent[0]]
    facts = {"radii_255": (radii * 255).round(3).tolist()}
    kit = "bisection", [one / MANY for one in spent[1]]
    what = f"an image at 8 radii, {attacked.title}"
    yield Row(what, base, kit, BOUNDS[name][kind()], facts=facts)
    if name == "resnet50":
        many = np.geomspace(radii[0], radii[-1], 32)
        both = (bisected(attacked, few) for few in (radii, many))
        few, more = take_turns(*both, rounds=3, warm=False)
        what = f"32 radii beside 8, {attacked.title}"
        yield Row(what, ("8", few), ("32", more), 1.6, at_most=True)


def peer(attacked: Victim, eps: float, count: int) -> np.ndarray:
    """Bool (count,): who is right under pyautoattack's standard version."""
    images, labels = attacked.batch(count)
    attack = AutoAttack(attacked.plain(), eps=eps, seed=0, device=str(images.device))
    moved, _ = attack.run_standard_evaluation(images, labels, batch_size=count)
    with torch.no_grad():
        return (attacked.model(moved).argmax(1) == labels).cpu().numpy()


def curve(name: str) -> Iterator[Row]:
    """AutoAttack at eight radii by monotony, beside ours and theirs afresh; and to the end."""
    attacked, found = victims.small(name), {}
    radii, (images, labels) = fitted(attacked, 8).tolist(), attacked.batch(MET)

    def monotone() -> None:
        asked = attacked.model, attacked.data, attacked.right[:MET], radii
        found["by monotony"] = autoattack_sweep(*asked).right

    def ours() -> None:
        answers = [autoattack(attacked.model, images, labels, eps).robust for eps in radii]
        found["our own afresh"] = torch.stack(answers).cpu().numpy()

    def theirs() -> None:
        found["pyautoattack afresh"] = np.stack([peer(attacked, eps, MET) for eps in radii])

    kit, *others = take_turns(monotone, ours, theirs, rounds=1, warm=False)
    shares = {side: right.mean(1).round(3).tolist() for side, right in found.items()}
    for base, spent, bound in zip([*found][1:], others, (3, 5), strict=True):
        apart = float(np.abs(np.subtract(shares["by monotony"], shares[base])).max())
        facts = {"robust": shares, "images": MET, "apart": apart}
        what = f"AutoAttack at 8 radii, {attacked.title}"
        sides = (base, spent), ("by monotony", kit)
        yield Row(what, *sides, bound, facts=facts, kept=apart <= APART)
    if name == "plain":
        eps = radii[0] / 100  # where nobody is fooled
        spent = take_turns(
            lambda: peer(attacked, eps, MET),
            lambda: autoattack(attacked.model, images, labels, eps).queries.sum().item(),
            rounds=1,
            warm=False,
        )
        what = f"AutoAttack where images stay right, {attacked.title}"
        yield Row(what, ("pyautoattack", spent[0]), ("kit", spent[1]), 1.6)


MEASURED = {name: partial(sweep, name) for name in BOUNDS}
MEASURED |= {f"autoattack_{name}": partial(curve, name) for name in victims.SMALL}
