"""Paper 2: does what attention gains under PGD survive AutoAttack?"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import nn

from ..reporting.protocol import Claim
from ..reporting.results import Run
from . import survival
from .attentive_cnn import ROLES, Arm
from .attentive_cnn_attack import Robustness
from .attentive_cnn_gains import TIMES, excess, extremes
from .attentive_cnn_radii import Radii
from .attentive_cnn_rows import Group
from .common import LOW, pooled, some
from .survival import Survival

MOST = 4  # radii of one network: AutoAttack is dear
# Rows on the gain at one radius; it does not speak to ratios, means over the ladder, one network.
GAINS = ("accuracy_gain", "gain_typical", "gain_extreme")
OVER = "excess_over_twenty"


def asked(claims: Iterable[Claim], arm: Arm, ladder: Radii) -> set[int]:
    """Positions in the ladder at which claims of a gain on this network's task are judged."""
    named = ("role", "split", "filter", "model")
    return {
        ladder.cells[cell]
        for claim in claims
        if claim.robust
        and claim.metric in (*GAINS, OVER)
        and (cell := (claim.select.get("scale"), claim.select.get("eps"))) in ladder.cells
        and all(claim.select.get(name, arm.tags[name]) == arm.tags[name] for name in named)
    }


def families(pairs: Iterable[tuple[Group, Group]]) -> list[tuple[Group, list[Group]]]:
    """Each plain network with all its attentive rivals: they are attacked at the same radii."""
    found: dict[str, tuple[Group, list[Group]]] = {}
    for plain, attentive in pairs:
        found.setdefault(plain[0].arm.key, (plain, []))[1].append(attentive)
    return list(found.values())


def choose(plain: Group, rivals: Sequence[Group], wanted: Collection[int]) -> list[int]:
    """Positions of the radii that a plain network and its attentive rivals are attacked at.

    The typical and the extreme radius (see ``extremes``), then, smallest first, those of
    ``wanted`` at which PGD finds a sure gain and one of the two has more than LOW right; at most
    MOST.
    """
    typical, extreme = extremes(plain)
    found = typical[-1:] + [k for k in extreme[:1] if k not in typical[-1:]]
    sure = [k for k in sorted(wanted) if any(_leads(plain, rival, k) for rival in rivals)]
    found += [k for k in sure if k not in found]
    return sorted(found[:MOST])


def _leads(plain: Group, rival: Group, k: int) -> bool:
    pairs = zip(plain, rival, strict=False)
    gain = pooled([a.accuracy[k] - p.accuracy[k] for p, a in pairs])
    left = [pooled([one.accuracy[k] for one in group]).value for group in (plain, rival)]
    return gain.low > 0 and max(left) > LOW


def survive(
    robust: Robustness,
    model: nn.Module,
    settings: Mapping,
    ladder: Radii,
    places: Sequence[int],
    folder: Path,
    *,
    seed: int,
) -> Survival:
    """AutoAttack on some of the attacked images at ``places`` of the ladder.

    On ``settings["attack"]["autoattack"]["images"]`` of them (0: all).

    Args:
        seed: as for ``measure``.
    """
    task, how = robust.arm.task, settings["attack"]["autoattack"]
    index = some(task.attacked, how["images"], seed)
    epsilons = [ladder.values[k] for k in places]
    sweep = robust.sweep
    every = np.array(ladder.values)
    before = survival.standing(every, sweep.right, sweep.clean_right, epsilons)
    before = before[:, np.isin(task.attacked, index)]
    return survival.attack_again(
        robust,
        model,
        how,
        index,
        epsilons,
        before,
        folder,
        seed=seed,
        draw=[seed, ROLES.index(task.role)],
    )


def add_network(run: Run, group: survival.Group) -> None:
    """Rows of one network (see ``survival.add_network``), and what was attacked in words."""
    survival.add_network(run, group, "radius_255")
    first = group[0]
    radii = ", ".join(f"{eps * 255:.3g}" for eps in first.epsilons)
    run.deviation(
        f"AutoAttack on {first.arm.key.rpartition('-')[0]}: {len(first.result.labels)} of "
        f"{len(first.arm.task.attacked)} attacked images, at {radii} gray levels of 255"
        + (f"; {first.shortened}." if first.shortened else ".")
    )


def add_pair(run: Run, plain: survival.Group, attentive: survival.Group) -> None:
    """Rows of what attention gains under AutoAttack; rows of the same gain under PGD are marked."""
    left = survival.add_gains(run, plain, attentive, "radius_255")
    pairs = list(zip(plain, attentive, strict=False))
    for k, (eps, gain) in enumerate(zip(attentive[0].epsilons, left, strict=True)):
        tags = attentive[0].arm.tags | {"radius_255": eps * 255}
        shortened = plain[0].shortened or attentive[0].shortened
        survival.mark(run, GAINS, tags, survival.outcome(gain, shortened))
        over = pooled([excess(a.accuracy(k), p.accuracy(k), TIMES) for p, a in pairs])
        survival.mark(run, [OVER], tags, survival.outcome(over, shortened))
