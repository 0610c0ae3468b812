"""AutoAttack at every eps over a data set: resumable, with who fooled which image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from ...core import env
from ...core.contracts import check_logits, check_model
from ...core.errors import ContractError
from ...core.gate import admit, gate
from ...data import ImageSet
from ..config import ROBUST, WRONG, AutoAttackConfig
from ..fold_batchnorm import quick_copy
from ..partial_results import PartialResults, by_batches, identify, on_device
from ..radii import check_radii, score
from ..radius_sweep import SweepResult
from ..red_flags import Flag
from .attack import follow
from .margins import Goal

EARLIER = "earlier attack"  # in ``won``: what fell before AutoAttack was asked
RANDOM_SEARCH = "random search beats gradients"  # the name of AutoAttack's red flag
METHOD = 2  # counts changes of the attack, so that no batch of an older one is read back


@dataclass(frozen=True)
class AutoResult(SweepResult):
    """Scores of N images under AutoAttack at E sizes.

    Attributes:
        stands: bool (E, N): by the goal of the plan, which may be one finding of several.
        won: str (E, N): the member that fooled the image, ``wrong before``, ``earlier attack``, or
            nothing where it stands. What fell at a smaller eps keeps its entry.
        queries: int64 (E, N): how often the model was asked about the image at this eps.
    """

    robust: np.ndarray
    won: np.ndarray
    queries: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """Bool (E, N): not fooled."""
        return self.robust

    def shares(self) -> list[dict[str, float]]:
        """For each eps the share of all images that each member fooled, and ``robust``."""
        found = []
        for won in self.won:
            names, counts = np.unique(won, return_counts=True)
            part = dict(zip(names.tolist(), (counts / won.size).tolist(), strict=True))
            found.append({name or "robust": share for name, share in part.items()})
        return found

    def flags(self) -> list[Flag]:
        """Signs that gradients were hidden, from who won: Square asks for none.

        Each image counts once, and only if AutoAttack was the one to find an adversarial example.
        """
        last = self.won[-1]
        fooled = int((~np.isin(last, [ROBUST, WRONG, EARLIER])).sum())
        blind = int((last == "square").sum())
        measured = f"{blind} of the {fooled} images that AutoAttack fooled fell to random search"
        return [Flag(RANDOM_SEARCH, blind > max(1, 0.05 * fooled), measured)]


class _Part(NamedTuple):
    logits: np.ndarray  # (E, n, K)
    clean: np.ndarray  # (n, K)
    robust: np.ndarray  # (E, n)
    won: np.ndarray  # (E, n)
    queries: np.ndarray  # (E, n)


@gate()
def autoattack_sweep(
    model: nn.Module,
    data: ImageSet,
    index: np.ndarray,
    epsilons: Sequence[float],
    *,
    fooled: np.ndarray | None = None,
    batch: int = 32,
    folder: Path | None = None,
    desc: str = "",
    **how: Any,
) -> AutoResult:
    """Attack the images of ``index`` at every eps with AutoAttack.

    An image that fell at a smaller eps is spared: what fooled it lies in every larger ball.

    Args:
        epsilons: rising, in [0, 1].
        fooled: bool (E, n): images that another attack has fooled at that eps; they count as
            fooled and are not attacked. Their logits are the clean ones.
        batch, folder, desc: see ``attack_sweep``.
        how: what ``AutoAttackConfig`` takes. ``to_the_end`` spares nobody, and takes one eps.

    Raises:
        ContractError: for a breach of the contract, or an empty index.
        RunError: for a kept batch that is damaged or of another sweep, or if not even one
            image fits into memory.
    """
    plan = AutoAttackConfig(**how)
    check_radii(epsilons)
    if plan.to_the_end and len(epsilons) > 1:
        raise ContractError(f"to_the_end takes one eps, not {len(epsilons)}: run it for each.")
    check_model(model)
    if not len(index):
        raise ContractError("no image to attack: the index is empty.")
    epsilons = [float(eps) for eps in epsilons]
    fooled = np.zeros((len(epsilons), len(index)), bool) if fooled is None else fooled
    if fooled.shape != (len(epsilons), len(index)):
        raise ContractError(
            f"fooled has shape {fooled.shape}; expected {(len(epsilons), len(index))}: one row for "
            "each eps, one column for each image."
        )
    model.to(env.pick_device(), memory_format=torch.channels_last)
    settings = asdict(plan) | {"fooled": np.packbits(fooled).tolist(), "method": METHOD}
    identity = identify(model, data, index, epsilons, settings)
    kept = PartialResults(folder, f"autoattack-{identity}", identity, len(index), _Part)
    place = {int(row): column for column, row in enumerate(index)}

    @cache  # not needed where every batch is kept already
    def through() -> nn.Module:
        return quick_copy(model, on_device(data, index[:1])[0])

    def compute(rows: np.ndarray, _: int, done: Callable) -> _Part:
        known = fooled[:, [place[int(row)] for row in rows]]
        return _climb(model, through(), data, rows, epsilons, plan, known, done)

    parts = by_batches(kept, index, batch, compute, desc, rungs=len(epsilons))

    def whole(name: str, axis: int = 1) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts], axis=axis)

    return AutoResult(
        np.array(epsilons),
        whole("logits"),
        whole("clean", 0),
        np.ascontiguousarray(data.targets[index]),
        "robust",
        whole("robust"),
        whole("won"),
        whole("queries"),
    )


def _climb(
    model: nn.Module,
    through: nn.Module,
    data: ImageSet,
    rows: np.ndarray,
    epsilons: list[float],
    plan: AutoAttackConfig,
    fooled: np.ndarray,
    done: Callable[[int], object],
) -> _Part:
    """One batch at every eps; who is fooled keeps what fooled them."""
    images, labels = on_device(data, rows)
    labels = admit(model, images, labels)
    clean = score(model, images)
    check_logits(clean, labels.ndim == 2)
    logits, steps = clean.clone(), []
    up = Goal(plan.finding).robust(clean, labels).cpu().numpy()
    won = np.where(up, ROBUST, WRONG).astype("U16")
    for eps, gone in zip(epsilons, fooled, strict=True):
        won[up & gone] = EARLIER
        up = up & ~gone
        queries = np.zeros(len(rows), np.int64)
        here = np.arange(len(rows)) if plan.to_the_end else np.flatnonzero(up)
        if len(here):
            found = follow(
                plan, model, images[here], labels[here], eps, rows=rows[here], through=through
            )
            robust = found.robust.cpu().numpy()
            logits[here] = found.logits
            won[here] = np.where(up[here], found.won.astype("U16"), won[here])
            queries[here] = found.queries.cpu().numpy()
            up[here] = up[here] & robust
        steps.append((logits.cpu().numpy().copy(), up.copy(), won.copy(), queries))
        done(len(rows))
    every = [np.stack(column) for column in zip(*steps, strict=True)]
    return _Part(every[0], clean.cpu().numpy(), *every[1:])
