"""Robust curves and AutoAttack beside Foolbox and pyautoattack."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from itertools import cycle

import foolbox
import numpy as np
import torch
from pyautoattack import AutoAttack

from medrobust_utils.attacks import attack_sweep, autoattack, autoattack_sweep
from medrobust_utils.core import env

from . import victims
from .timing import Row, promised, take_turns
from .victims import Victim

STEPS, REL_STEP = 40, 0.01 / 0.3  # of Foolbox's LinfPGD at each radius, as its manual has them
WIDE = np.geomspace(1 / 32, 32, 41) / 255
BATCH, MANY = 4, 24  # images of Foolbox's batch; images that bisection attacks
MET = 8  # images that every AutoAttack meets
COMPARED = 0.005  # share of images by which robust accuracies may differ
victim = cache(victims.large)


def fitted(attacked: Victim, count: int) -> np.ndarray:
    """``count`` radii, even in log2, from where nine in ten are still right to where none is."""
    found = attack_sweep(attacked.model, attacked.data, attacked.right[:60], WIDE)
    left = found.right.mean(1)
    first, last = max(0, (left > 0.9).sum() - 1), min(len(WIDE) - 1, (left > 0.02).sum())
    return np.geomspace(WIDE[first], WIDE[last], count)


def foolbox_pgd(attacked: Victim, radii: np.ndarray) -> object:
    """Attacks a batch afresh at the next radius, each time it is called."""
    images, labels = attacked.batch(BATCH)
    net = foolbox.PyTorchModel(attacked.plain(), bounds=(0, 1), device=images.device)
    attack, turns = foolbox.attacks.LinfPGD(rel_stepsize=REL_STEP, steps=STEPS), cycle(radii)
    return lambda: attack(net, images, labels, epsilons=float(next(turns)))[1].sum().item()


def bisected(attacked: Victim, radii: np.ndarray, count: int = MANY) -> object:
    """A curve of the first images, with all that a sweep does: hashing, copying, reading."""
    asked = attacked.model, attacked.data, attacked.right[:count], radii
    how = dict(batch=BATCH, dtype=env.training_dtype(env.pick_device()))
    return lambda: attack_sweep(*asked, mode="bisection", **how)


def sweep(name: str, *bounds: float) -> Iterator[Row]:
    """Bisection over eight radii beside Foolbox at each; seconds of one image and all radii."""
    attacked = victim(name, 224)
    radii = fitted(attacked, 8)
    spent = take_turns(
        foolbox_pgd(attacked, radii[2:-2]), bisected(attacked, radii), rounds=3, warm=False
    )
    theirs = [one / BATCH * len(radii) for one in spent[0]]
    ours = [one / MANY for one in spent[1]]
    facts = {"radii_255": (radii * 255).round(3).tolist()}
    what = f"a curve over 8 radii, {attacked.title}"
    yield Row(what, ("Foolbox", theirs), ("bisection", ours), promised(*bounds), facts=facts)


def radii32() -> Iterator[Row]:
    """32 radii beside eight, within the same ends."""
    attacked = victim("resnet50", 224)
    few = fitted(attacked, 8)
    many = np.geomspace(few[0], few[-1], 32)
    spent = take_turns(bisected(attacked, few), bisected(attacked, many), rounds=3, warm=False)
    what = f"32 radii beside 8, {attacked.title}"
    yield Row(what, ("8 radii", spent[0]), ("32 radii", spent[1]), 1.6, at_most=True)


def peer(attacked: Victim, eps: float, count: int) -> np.ndarray:
    """Bool (count,): who is right under pyautoattack's standard version."""
    images, labels = attacked.batch(count)
    device = str(images.device)
    attack = AutoAttack(attacked.plain(), eps=float(eps), seed=0, device=device)
    moved, _ = attack.run_standard_evaluation(images, labels, batch_size=count)
    with torch.no_grad():
        return (attacked.model(moved).argmax(1) == labels).cpu().numpy()


def curve(name: str) -> Iterator[Row]:
    """AutoAttack's curve by monotony, published settings, beside ours and theirs afresh."""
    attacked = victims.small(name)
    radii, found = fitted(attacked, 8), {}
    rows = attacked.right[:MET]

    def monotone() -> None:
        found["kit"] = autoattack_sweep(attacked.model, attacked.data, rows, radii).right

    def afresh() -> None:
        images, labels = attacked.batch(MET)
        answers = [autoattack(attacked.model, images, labels, float(eps)) for eps in radii]
        found["afresh"] = np.stack([one.robust.cpu().numpy() for one in answers])

    def theirs() -> None:
        found["theirs"] = np.stack([peer(attacked, eps, MET) for eps in radii])

    kit, own, other = take_turns(monotone, afresh, theirs, rounds=1, warm=False)
    shares = {side: right.mean(1).round(3).tolist() for side, right in found.items()}
    for base, spent, bound in (("afresh", own, 3), ("theirs", other, 5)):
        apart = np.abs(np.subtract(shares["kit"], shares[base])).max()
        facts = {"robust": shares, "images": MET, "apart": float(apart)}
        title = {"afresh": "our own afresh", "theirs": "pyautoattack afresh"}[base]
        what = f"AutoAttack over 8 radii, {attacked.title}"
        kept = apart <= COMPARED
        yield Row(what, (title, spent), ("by monotony", kit), bound, facts=facts, kept=bool(kept))


def robust_to_the_end() -> Iterator[Row]:
    """AutoAttack at a radius where nobody is fooled, ten classes: every member runs to its end."""
    attacked, eps, count = victims.small("plain"), 0.01 / 255, 4
    images, labels = attacked.batch(count)
    spent = take_turns(
        lambda: peer(attacked, eps, count),
        lambda: autoattack(attacked.model, images, labels, eps).queries.sum().item(),
        rounds=1,
        warm=False,
    )
    what = f"AutoAttack where images stay right, {attacked.title}"
    yield Row(what, ("pyautoattack", spent[0]), ("kit", spent[1]), 1.6)


MEASURED = {
    "resnet50": partial(sweep, "resnet50", 45, 60, 50, 100),
    "swin": partial(sweep, "swin", 33, 45),
    "radii32": radii32,
    **{f"autoattack_{name}": partial(curve, name) for name in victims.SMALL},
    "autoattack_end": robust_to_the_end,
}
