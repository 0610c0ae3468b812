"""Eight eps of PGD against trained networks: the kit beside Foolbox and torchattacks.

A peer attacks every image afresh at every eps, 40 steps each, and how long it takes depends on no
eps; so a round times it, and the kit's independent mode with the same steps, at one eps, and the
sweep is eight times that. Bisection is timed over all radii, with all that a sweep
does once: hashing, copying, reading. All attack held-out images that are right before the attack,
for whose others nobody has to pay, in batches of the same size. How strong the attacks are stands
beside how long they take (see ``strength``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle

import numpy as np
import torch
from torch import nn

from medrobust_utils.attacks import AttackConfig, attack_sweep
from medrobust_utils.attacks.fold_batchnorm import quick_copy
from medrobust_utils.attacks.radii import Job
from medrobust_utils.attacks.radius_sweep import on_device
from medrobust_utils.core import env
from medrobust_utils.data import to_float

from . import by_device, contest, peers, strength
from .contest import BISECTION, INDEPENDENT, LADDERS, STEPS
from .networks import Victim, plain, victim
from .timing import Comparison, judge, take_turns

ROUNDS = 3  # each at another eps
TIMES = {64: 8, 224: 3}  # as many images are attacked by bisection, which is over sooner
AT_LEAST = {  # times as fast as a peer: bisection and independent, on a CPU and on a GPU
    "cpu": {"resnet": (15, 2), "swin": (15, 2.5)},
    "cuda": {"resnet": (30, 2), "swin": (30, 2.5)},
}


def measure() -> Iterator[Comparison]:
    """Four comparisons for each network and size: two modes beside two peers."""
    for (name, size), ladder in LADDERS.items():
        attacked = victim(name, size)
        epsilons = [level / 255 for level in ladder]
        strong = strength.measure(attacked, epsilons, STEPS)
        yield from _timed(name, size, attacked, epsilons, strong)


def _timed(
    name: str, size: int, attacked: Victim, epsilons: list[float], strong: strength.Strength
) -> Iterator[Comparison]:
    right = attacked.held_out[: len(strong.clean)][strong.clean]
    batch = by_device(contest.BATCH)[size]
    few, many = right[:batch], right[: TIMES[size] * batch]
    copy = quick_copy(attacked.model, on_device(attacked.data, few[:1])[0])
    sides = {
        INDEPENDENT: _independent(attacked, copy, few, epsilons[2:-2]),
        BISECTION: lambda: attack_sweep(
            attacked.model,
            attacked.data,
            many,
            epsilons,
            batch=batch,
            **contest.plans(STEPS)[BISECTION],
        ),
        **{peer: _peer(peer, attacked, few, epsilons[2:-2]) for peer in peers.PGD},
    }
    found = take_turns(list(sides.values()), ROUNDS, warm=False)
    seconds = {  # for one image and the whole ladder
        side: [s / len(many) if side == BISECTION else s * len(epsilons) / len(few) for s in rounds]
        for side, rounds in zip(sides, found, strict=True)
    }
    dtype = str(contest.plans(STEPS)[BISECTION]["dtype"])[6:]
    common = {"eps": len(epsilons), "steps": STEPS, "batch": batch, "gradients": dtype}
    timed = {BISECTION: len(many), INDEPENDENT: len(few)}
    for mode, goal in zip(timed, by_device(AT_LEAST)[name], strict=True):
        for peer in peers.PGD:
            yield judge(
                f"sweep, {attacked.title}",
                (peer, seconds[peer]),
                (mode, seconds[mode]),
                at_least=goal,
                facts=strong.facts(mode) | common | {"timed_images": timed[mode]},
                kept=strong.kept(mode),
            )


def _independent(
    attacked: Victim, copy: nn.Module, rows: np.ndarray, ladder: list[float]
) -> Callable[[], object]:
    """Attacks the images of ``rows`` at the next eps, scores included.

    Model, copy and images are ready, as they are for a peer.
    """
    images, labels = on_device(attacked.data, rows)
    how = AttackConfig(**contest.plans(STEPS)[INDEPENDENT])
    turns = cycle(ladder)

    def attack() -> float:
        job = Job(attacked.model, copy, images, labels, rows, [next(turns)], None, how)
        return job.scores(lambda count: None)["logits"].sum().item()

    return attack


def _peer(
    name: str, attacked: Victim, rows: np.ndarray, ladder: list[float]
) -> Callable[[], object]:
    """Attacks the images of ``rows`` at the next eps of the ladder."""
    device = env.pick_device()
    model = plain(attacked.model)
    images = to_float(attacked.data.images[rows]).to(device).contiguous()
    labels = torch.from_numpy(attacked.data.targets[rows]).to(device)
    turns = cycle(ladder)
    return lambda: peers.PGD[name](model, images, labels, next(turns), STEPS).sum().item()
