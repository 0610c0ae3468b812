"""Eight eps of PGD against trained networks: the kit beside Foolbox and torchattacks.

A peer attacks every image afresh at every eps, 40 steps each, and how long it takes depends on no
eps; so a round times it at one eps, and its sweep is eight times that. The kit's independent mode
does the same steps; its nested mode is timed over the whole ladder. How strong the attacks are
stands beside how long they take (see ``strength``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle
from statistics import median

import torch

from medrobust_utils import env
from medrobust_utils.attacks import attack_sweep
from medrobust_utils.attacks.quick import quick_copy
from medrobust_utils.data import to_float

from . import limits, peers, strength
from .networks import Victim, plain, victim
from .timing import Comparison, judge, take_turns

STEPS = 40
ROUNDS = 3  # each at another eps
# Sizes of the ladder in gray levels of 255, where each network falls from all to none.
LADDERS = {
    ("resnet", 64): (0.05, 0.1, 0.15, 0.25, 0.4, 0.6, 1, 1.6),
    ("swin", 64): (0.5, 1, 1.6, 2.5, 3.2, 4, 5, 8),
    ("resnet", 224): (0.05, 0.1, 0.15, 0.25, 0.4, 0.6, 1, 1.6),
    ("swin", 224): (0.5, 1, 1.6, 2.5, 3.2, 4, 5, 8),
}
# Images of a round: on a CPU an image at 224 takes a peer eight seconds an eps.
EACH = {"cpu": {64: 8, 224: 4}, "cuda": {64: 100, 224: 100}}
NESTED = {"cpu": {64: 50, 224: 8}, "cuda": {64: 200, 224: 200}}
AT_LEAST = {  # times as fast as a peer: nested and independent, on a CPU and on a GPU
    "cpu": {"resnet": (15, 2), "swin": (15, 2.5)},
    "cuda": {"resnet": (30, 2), "swin": (30, 2.5)},
}


def measure() -> Iterator[Comparison]:
    """Four comparisons for each network and size, and one of strength."""
    for (name, size), ladder in LADDERS.items():
        attacked = victim(name, size)
        epsilons = [level / 255 for level in ladder]
        strong = strength.measure(attacked, epsilons, STEPS)
        yield from _timed(name, size, attacked, epsilons, strong)


def _timed(
    name: str, size: int, attacked: Victim, epsilons: list[float], strong: strength.Strength
) -> Iterator[Comparison]:
    device = env.pick_device()
    each, many = EACH[device.type][size], NESTED[device.type][size]
    dtype = env.training_dtype(device)
    middle = epsilons[2:-2]

    def ours(mode: str, count: int, ladder: Callable[[], list[float]], **how: int) -> Callable:
        rows = attacked.held_out[:count]
        return lambda: attack_sweep(
            attacked.model, attacked.data, rows, ladder(), mode=mode, dtype=dtype, **how
        )

    turns = cycle([eps] for eps in middle)
    sides = {
        "independent": ours("independent", each, lambda: next(turns), steps=STEPS, batch=each),
        "nested": ours("nested", many, lambda: epsilons),
        **{peer: _peer(peer, attacked, each, middle) for peer in peers.PGD},
    }
    found = take_turns(list(sides.values()), ROUNDS, warm=False)
    seconds = {  # for one image and the whole ladder
        side: [s / many if side == "nested" else s * len(epsilons) / each for s in rounds]
        for side, rounds in zip(sides, found, strict=True)
    }
    where = f"{device.type}, {torch.get_num_threads()} threads, gradients in {str(dtype)[6:]}"
    images = to_float(attacked.data.images[attacked.held_out[:1]]).to(device)
    gflop = limits.gradient_gflop(quick_copy(attacked.model, images), images)
    for mode, goal in zip(("nested", "independent"), AT_LEAST[device.type][name], strict=True):
        for peer in peers.PGD:
            yield judge(
                f"sweep of {len(epsilons)} eps, {STEPS} steps, {attacked.title} ({where})",
                (peer, seconds[peer]),
                (mode, seconds[mode]),
                at_least=goal,
                facts=strong.facts(mode),
                kept=strong.kept(mode),
                bound=_bound(mode, peer, seconds, gflop * STEPS * len(epsilons), strong),
            )


def _bound(
    mode: str,
    peer: str,
    seconds: dict[str, list[float]],
    gflop: float,
    strong: strength.Strength,
) -> str:
    """What stands in the way: too few images, or the machine's arithmetic."""
    theirs, ours = median(seconds[peer]), median(seconds[mode])
    words = []
    images = strong.images(mode)
    if images < strength.WANTED:
        hours = strength.WANTED * median(seconds["Foolbox"]) / 3600
        words.append(
            f"time: {images} of {strength.WANTED} images are compared so far; Foolbox "
            f"takes {hours:.1f} hours for {strength.WANTED} on this machine."
        )
    if mode == "independent":
        device = env.pick_device()
        words.append(limits.bound(gflop / theirs, gflop / ours, device))
    return " ".join(words)


def _peer(name: str, attacked: Victim, count: int, ladder: list[float]) -> Callable[[], object]:
    """Attacks the first images at the next eps of the ladder."""
    device, rows = env.pick_device(), attacked.held_out[:count]
    model = plain(attacked.model)
    images = to_float(attacked.data.images[rows]).to(device).contiguous()
    labels = torch.from_numpy(attacked.data.targets[rows]).to(device)
    turns = cycle(ladder)
    return lambda: peers.PGD[name](model, images, labels, next(turns), STEPS).sum().item()
