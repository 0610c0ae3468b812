"""Accuracy at every eps: an attack over a data set, part by part, each kept as it is finished."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from ..core import env
from ..core.contracts import check_model
from ..core.errors import ContractError, RunError
from ..core.gate import gate
from ..core.storage import fingerprint, read_arrays, write_arrays
from ..data import ImageSet, batches
from .autoattack.attack import attack_batch
from .config import AttackConfig, AutoAttackConfig
from .fold_batchnorm import quick_copy
from .radii import Job, check_radii
from .red_flags import Flag
from .sweep_result import AutoResult, SweepResult, lowest, overtaken

# Batches that are attacked together by bisection, so that a network gets full ones from the
# images still to be fooled. A kill costs all four: less than one of 40 steps at each of 8 eps.
TOGETHER = 4
# counts changes, so that no part of an older sweep is read back
METHOD = {"bisection": 1, "autoattack": 3}
PER_IMAGE = ("clean", "vanished")  # arrays of a part whose first axis is the image, not the eps


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
        RunError: for a kept part that is damaged, or if not even one image fits into memory.
    """
    check_radii(epsilons)
    check_model(model)
    if not len(index):
        raise ContractError("no image to attack: the index is empty.")
    if attack == "autoattack":
        plan = _autoattack(model, data, index, epsilons, fooled, AutoAttackConfig(**how))
    elif fooled is None:
        plan = _gradient(model, data, index, epsilons, AttackConfig(attack=attack, **how))
    else:
        raise ContractError("fooled is for attack='autoattack'; others find that out themselves.")
    model.to(env.pick_device(), memory_format=torch.channels_last)
    if folder:
        key = identify(model, data, index, [float(eps) for eps in epsilons], plan.settings)
        folder = folder / f"{attack}-{key}"
    found = _swept(plan, model, data, index, batch, folder, desc)
    labels = np.ascontiguousarray(data.targets[index])
    result = AutoResult if attack == "autoattack" else SweepResult
    return result(np.array(epsilons, float), labels=labels, mode=plan.mode, **found)


def autoattack_sweep(*asked: Any, **how: Any) -> AutoResult:
    """``attack_sweep`` with ``attack="autoattack"``."""
    return attack_sweep(*asked, attack="autoattack", **how)


def robust_curve(
    model: nn.Module,
    data: ImageSet,
    index: np.ndarray,
    epsilons: Sequence[float],
    *,
    autoattack: Mapping | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **common: Any,
) -> tuple[SweepResult, list[Flag]]:
    """A curve by bisection, or the lowest of several where a red flag says not to believe it.

    Those are bisection's, independent PGD's and AutoAttack's.

    Args:
        autoattack: what ``AutoAttackConfig`` takes; the published settings unless given.
        common: batch, folder and desc, see ``attack_sweep``.

    Returns:
        The result, of mode ``bisection`` or ``lowest``, and the flags, raised or not.
    """
    asked, how = (model, data, index, epsilons), dict(seed=seed, dtype=dtype, **common)
    found = attack_sweep(*asked, mode="bisection", **how)
    flags = found.flags()
    if not any(flag.raised for flag in flags):
        return found, flags
    cold = attack_sweep(*asked, mode="independent", **how)
    fooled = ~lowest(found, cold).right
    auto = autoattack_sweep(*asked, fooled=fooled, **how, **(autoattack or {}))
    others = [cold, auto]
    return lowest(found, *others), [*flags, overtaken(found, others), *auto.flags()]


class _Plan(NamedTuple):
    """An attack, as a sweep asks for it.

    Attributes:
        mode: of the result.
        settings: what changes the result.
        compute: gives the arrays of a part of the index, from the network to take gradients of,
            how many images go through it together, and what to call with the size of the part
            whenever one of ``rounds`` steps is done.
        together: batches in a part.
        copied: whether gradients are taken of a ``quick_copy``.
    """

    mode: str
    settings: dict
    compute: Callable[[nn.Module, slice, int, Callable], dict[str, np.ndarray]]
    rounds: int
    together: int = 1
    copied: bool = True


def _gradient(
    model: nn.Module,
    data: ImageSet,
    index: np.ndarray,
    epsilons: Sequence[float],
    config: AttackConfig,
) -> _Plan:
    halving, settings = config.mode == "bisection", asdict(config)
    # sweeps were kept before these existed, and are still found where nobody sets them
    if config.attack == "pgd":
        del settings["attack"]
    if config.step_size is None:
        del settings["step_size"]
    if halving:
        settings["method"] = METHOD["bisection"]

    def compute(through: nn.Module, part: slice, batch: int, done: Callable) -> dict:
        images, labels = on_device(data, index[part])
        job = Job(model, through, images, labels, index[part], epsilons, batch, config)
        logits = job.clean.expand(len(epsilons), *job.clean.shape).clone()
        for attempt in job.attempts():
            attempt.put(logits, attempt.logits)
            done(len(images))
        found = {"logits": logits, "clean": job.clean}
        if halving:
            found["vanished"] = job.vanished
        return {name: values.cpu().numpy() for name, values in found.items()}

    rounds = int(sum(eps > 0 for eps in epsilons))
    if halving:  # doubles its steps, then halves what is open, and tries once more in the end
        rounds = 2 * rounds.bit_length() + 1
    together, copied = TOGETHER if halving else 1, config.engine == "native"
    return _Plan(config.mode, settings, compute, rounds, together, copied)


def _autoattack(
    model: nn.Module,
    data: ImageSet,
    index: np.ndarray,
    epsilons: Sequence[float],
    fooled: np.ndarray | None,
    config: AutoAttackConfig,
) -> _Plan:
    if config.to_the_end and len(epsilons) > 1:
        raise ContractError(f"to_the_end takes one eps, not {len(epsilons)}: run it for each.")
    shape = (len(epsilons), len(index))
    fooled = np.zeros(shape, bool) if fooled is None else fooled
    if fooled.shape != shape:
        raise ContractError(f"fooled has shape {fooled.shape}; expected (eps, images), {shape}.")
    settings = asdict(config) | {"fooled": np.packbits(fooled).tolist()}
    settings["method"] = METHOD["autoattack"]

    def compute(through: nn.Module, part: slice, batch: int, done: Callable) -> dict:
        asked = (*on_device(data, index[part]), epsilons, config, index[part], fooled[:, part])
        return attack_batch(model, through, *asked, done)

    mode = "to the end" if config.to_the_end else "autoattack"
    return _Plan(mode, settings, compute, len(epsilons))


def identify(
    model: nn.Module, data: ImageSet, index: np.ndarray, epsilons: list[float], settings: Mapping
) -> str:
    """Changes with whatever changes the result: weights, architecture, images, settings."""
    architecture = re.sub(" at 0x[0-9a-f]+", "", repr(model))  # addresses change with the process
    weights = hashlib.sha256(architecture.encode())
    tensors = model.state_dict() | dict(model.named_buffers())
    for name, tensor in sorted(tensors.items()):
        weights.update(name.encode())
        weights.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return fingerprint(weights.hexdigest(), data.checksum, index.tolist(), epsilons, settings)


def on_device(data: ImageSet, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """The images of these rows on the device, as networks like them best, and their labels."""
    ((_, images, labels),) = batches(data, rows, len(rows))
    return images.to(env.pick_device(), memory_format=torch.channels_last), labels


def _swept(
    plan: _Plan,
    model: nn.Module,
    data: ImageSet,
    index: np.ndarray,
    batch: int,
    folder: Path | None,
    desc: str,
) -> dict[str, np.ndarray]:
    """The arrays of all images, part by part, each computed where it is not kept yet."""
    paths = sorted(folder.glob("*.npz")) if folder else []
    parts = {int(path.stem): read_arrays(path) for path in paths}  # by first position
    through, position, together = None, 0, plan.together
    with env.progress(total=plan.rounds * len(index), desc=desc, disable=not desc) as bar:
        while position < len(index):
            if position not in parts:
                if through is None:  # not needed where every part is kept already
                    image = on_device(data, index[:1])[0]
                    through = quick_copy(model, image) if plan.copied else model
                later = [first for first in parts if first > position]
                stop = min(position + batch * together, len(index), *later)
                part = _fitting(plan.compute, through, slice(position, stop), batch, bar.update)
                if part is None and batch == 1 < together:
                    together = 1  # what does not fit may be the images of the others
                elif part is None:
                    batch = _halved(min(batch, stop - position))
                else:
                    parts[position] = part
                    if folder:
                        write_arrays(folder / f"{position:07d}.npz", part)
            position += len(parts[position]["clean"]) if position in parts else 0
            bar.n = plan.rounds * position  # whatever a try that did not fit has counted
            bar.refresh()
    every = [parts[position] for position in sorted(parts)]
    return {
        name: np.concatenate([part[name] for part in every], axis=int(name not in PER_IMAGE))
        for name in every[0].keys() - {"identity"}  # once written into every part
    }


def _fitting(compute: Callable, *args: Any) -> dict[str, np.ndarray] | None:
    """One part, or None if it does not fit into memory."""
    try:
        return compute(*args)
    except RuntimeError as error:
        if not env.out_of_memory(error):
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # out here nothing of the failed try is held any more
    return None


def _halved(size: int) -> int:
    if size == 1:
        raise RunError(
            "not even one image fits into memory. Choose smaller images, a smaller model, or "
            "close what else uses the memory."
        )
    warnings.warn(f"{size} images do not fit into memory: going on with {size // 2}", stacklevel=5)
    return size // 2
