"""Accuracy at every eps: an attack over a data set, part by part, kept as it comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..core.errors import ContractError
from ..core.gate import gate
from ..data import ImageSet
from .autoattack.sweep import attack_batch
from .config import AttackConfig, AutoAttackConfig
from .partial_results import on_device, swept
from .radii import Job
from .red_flags import Flag
from .sweep_result import AutoResult, SweepResult, lowest, overtaken

# Batches that are attacked together by bisection, so that a network gets full ones from the
# images still to be fooled. A kill costs all four: less than one of 40 steps at each of 8 eps.
TOGETHER = 4
# counts changes, so that no part of an older sweep is read back
METHOD = {"bisection": 1, "autoattack": 3}


@gate()
def attack_sweep(
    model: nn.Module,
    data: ImageSet,
    index: np.ndarray,
    epsilons: Sequence[float],
    *,
    attack: str = "pgd",
    fooled: np.ndarray | None = None,
    batch: int = 32,
    folder: Path | None = None,
    desc: str = "",
    **how: Any,
) -> SweepResult:
    """Attack the images of ``index`` at every eps and score them in float32.

    A batch that does not fit into memory is halved, with a warning; neither that nor ``batch``
    changes the random starts, so results agree up to float32 rounding.

    Args:
        epsilons: rising, in [0, 1]; eps = 0 gives the clean scores.
        attack: ``pgd``, ``fgsm``, ``bim``, ``mifgsm`` or ``autoattack``. AutoAttack meets an image
            only where monotony leaves its answer open: first at the largest eps it is believed to
            survive, then at smaller ones for as long as it is fooled.
        fooled: for AutoAttack, bool (E, n): images that another attack has fooled at that eps; they
            count as fooled and are not attacked. Their logits are the clean ones.
        batch: images that go through a network together. By bisection four batches are
            attacked together and filled up as images are fooled.
        folder: where finished parts are kept; a sweep that was killed goes on there. It must
            belong to one trained model. Each sweep (settings, weights, images) has a folder of
            its own inside.
        desc: label of the progress bar; no bar without one.
        how: what ``AttackConfig`` takes: ``mode="bisection"`` for looking and for worst cases,
            ``mode="independent"`` for what the papers ran, with ``engine="foolbox"``
            by the very library, ``mode="skip_fooled"`` for that without luck; steps, rel_step or
            step_size, seed, dtype. For AutoAttack, what ``AutoAttackConfig`` takes.

    Returns:
        For AutoAttack an ``AutoResult``.

    Raises:
        ContractError: for a breach of the contract, or an empty index.
        RunError: for a kept part that is damaged or of another sweep, or if not even one
            image fits into memory.
    """
    common = dict(batch=batch, folder=folder, desc=desc)
    if attack == "autoattack":
        return _autoattack(model, data, index, epsilons, fooled, AutoAttackConfig(**how), common)
    if fooled is not None:
        raise ContractError("fooled is for attack='autoattack'; others find that out themselves.")
    config = AttackConfig(attack=attack, **how)
    above = int(sum(eps > 0 for eps in epsilons))

    def compute(through: nn.Module, rows: np.ndarray, batch: int, done: Callable) -> dict:
        return _scores(model, through, data, rows, epsilons, config, batch, done)

    found = swept(
        attack,
        model,
        data,
        index,
        epsilons,
        _settings(config),
        compute,
        # bisection doubles its steps, then halves what is open, and tries once more in the end
        rounds=2 * above.bit_length() + 1 if config.mode == "bisection" else above,
        together=TOGETHER if config.mode == "bisection" else 1,
        copied=config.engine == "native",
        **common,
    )
    labels = np.ascontiguousarray(data.targets[index])
    return SweepResult(np.array(epsilons, float), labels=labels, mode=config.mode, **found)


def autoattack_sweep(*asked: Any, **how: Any) -> AutoResult:
    """``attack_sweep`` with ``attack="autoattack"``."""
    return attack_sweep(*asked, attack="autoattack", **how)


def robust_curve(
    model: nn.Module,
    data: ImageSet,
    index: np.ndarray,
    epsilons: Sequence[float],
    *,
    steps: int | None = None,
    autoattack: Mapping | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **common: Any,
) -> tuple[SweepResult, list[Flag]]:
    """A curve by bisection, or the lowest of several where a red flag says not to believe it.

    Those are bisection's, independent PGD's and AutoAttack's.

    Args:
        steps: of bisection.
        autoattack: what ``AutoAttackConfig`` takes; the published settings unless given.
        common: batch, folder and desc, see ``attack_sweep``.

    Returns:
        The result, of mode ``bisection`` or ``lowest``, and the flags, raised or not.
    """
    asked, how = (model, data, index, epsilons), dict(seed=seed, dtype=dtype, **common)
    found = attack_sweep(*asked, mode="bisection", steps=steps, **how)
    flags = found.flags()
    if not any(flag.raised for flag in flags):
        return found, flags
    cold = attack_sweep(*asked, mode="independent", **how)
    fooled = ~lowest(found, cold).right
    how |= {"dtype": torch.float32}  # nothing is to survive by rounding
    auto = autoattack_sweep(*asked, fooled=fooled, **how, **(autoattack or {}))
    others = [cold, auto]
    return lowest(found, *others), [*flags, overtaken(found, others), *auto.flags()]


def _autoattack(
    model: nn.Module,
    data: ImageSet,
    index: np.ndarray,
    epsilons: Sequence[float],
    fooled: np.ndarray | None,
    config: AutoAttackConfig,
    common: Mapping,
) -> AutoResult:
    if config.to_the_end and len(epsilons) > 1:
        raise ContractError(f"to_the_end takes one eps, not {len(epsilons)}: run it for each.")
    shape = (len(epsilons), len(index))
    fooled = np.zeros(shape, bool) if fooled is None else fooled
    if fooled.shape != shape:
        raise ContractError(
            f"fooled has shape {fooled.shape}; expected {shape}: one row for each eps, one column "
            "for each image."
        )
    place = {int(row): column for column, row in enumerate(index)}

    def compute(through: nn.Module, rows: np.ndarray, _: int, done: Callable) -> dict:
        known = fooled[:, [place[int(row)] for row in rows]]
        images, labels = on_device(data, rows)
        return attack_batch(model, through, images, labels, epsilons, config, rows, known, done)

    settings = asdict(config) | {"fooled": np.packbits(fooled).tolist()}
    settings["method"] = METHOD["autoattack"]
    found = swept(
        "autoattack",
        model,
        data,
        index,
        epsilons,
        settings,
        compute,
        rounds=len(epsilons),
        **common,
    )
    mode = "to the end" if config.to_the_end else "autoattack"
    labels = np.ascontiguousarray(data.targets[index])
    return AutoResult(np.array(epsilons, float), labels=labels, mode=mode, **found)


def _scores(
    model: nn.Module,
    through: nn.Module,
    data: ImageSet,
    rows: np.ndarray,
    epsilons: Sequence[float],
    config: AttackConfig,
    batch: int,
    done: Callable[[int], object],
) -> dict[str, np.ndarray]:
    """The scores of one part."""
    images, labels = on_device(data, rows)
    job = Job(model, images, labels, epsilons, rows, through, batch, config)
    logits = job.clean.expand(len(job.radii), *job.clean.shape).clone()
    if config.mode == "bisection":
        for attempt in job.bisect():
            attempt.put(logits, attempt.logits)
            done(len(rows))
    else:
        for place, found in enumerate(job.in_turn()):
            logits[place] = found.logits
            done(len(rows))
    clean, logits = job.clean.cpu().numpy(), logits.cpu().numpy()
    if epsilons[0] == 0:
        logits = np.concatenate([clean[None], logits])
    found = {"logits": logits, "clean": clean}
    if config.mode == "bisection":
        found["vanished"] = job.vanished.cpu().numpy()
    return found


def _settings(config: AttackConfig) -> dict:
    """What of the configuration changes the result."""
    settings = asdict(config)
    # sweeps were kept before these two existed, and are still found where nobody sets them
    if config.attack == "pgd":
        del settings["attack"]
    if config.step_size is None:
        del settings["step_size"]
    if config.mode in METHOD:
        settings["method"] = METHOD[config.mode]
    return settings
