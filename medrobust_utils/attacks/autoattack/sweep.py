"""AutoAttack at several eps on one batch of images, each attacked only where that is open."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from ...core.contracts import check_logits
from ...core.gate import admit
from ..config import ROBUST, WRONG, AutoAttackConfig
from ..radii import score
from ..sweep_result import EARLIER
from .attack import follow
from .margins import Goal


def attack_batch(
    model: nn.Module,
    through: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    epsilons: Sequence[float],
    config: AutoAttackConfig,
    rows: np.ndarray,
    fooled: np.ndarray,
    done: Callable[[int], object],
) -> dict[str, np.ndarray]:
    """From the largest eps downwards: what fools an image lies in every larger ball.

    So an image that is robust at one eps is so at all smaller ones, and one that is fooled is so at
    all larger. An attack that succeeds is quick; the one that fails costs all its queries, and each
    image meets but one of those.

    Args:
        rows: numbers (n,) that tell the images apart.
        fooled: bool (E, n), by another attack.
        done: called with n after each eps.

    Returns:
        The arrays of an ``AutoResult`` of these images.
    """
    labels = admit(model, images, labels)
    clean = score(model, images)
    check_logits(clean, labels.ndim == 2)
    right = Goal(config.finding).robust(clean, labels).cpu().numpy()
    places = np.arange(len(epsilons))[:, None]
    # the smallest eps, by position, at which each image is known to be fooled
    smallest = np.where(fooled.any(0), fooled.argmax(0), len(epsilons))
    won = np.where(places >= smallest, EARLIER, ROBUST).astype("U16")
    won[:, ~right], smallest[~right] = WRONG, 0
    logits = clean.cpu().numpy()[None].repeat(len(epsilons), 0)
    queries = np.zeros(won.shape, np.int64)
    undecided = np.ones(len(rows), bool)
    for place in reversed(range(len(epsilons))):
        here = np.flatnonzero(config.to_the_end | (undecided & (place < smallest)))
        if len(here):
            found = follow(
                config,
                model,
                images[here],
                labels[here],
                epsilons[place],
                rows=rows[here],
                through=through,
            )
            robust = found.robust.cpu().numpy()
            queries[place, here] = found.queries.cpu().numpy()
            changed = ~robust | config.to_the_end
            logits[place:, here[changed]] = found.logits.cpu().numpy()[changed]
            beaten = ~robust & (place < smallest[here])
            lost = here[beaten]
            won[place:, lost], smallest[lost] = found.won[beaten].astype("U16"), place
            undecided[here[robust]] = False
        done(len(rows))
    found = dict(logits=logits, clean=clean.cpu().numpy())
    return found | dict(robust=places < smallest, won=won, queries=queries)
