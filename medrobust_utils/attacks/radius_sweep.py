"""Accuracy at every eps: an attack over a data set, part by part, each kept as it is finished."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core import env
from ..core.contracts import check_model
from ..core.errors import ContractError, RunError
from ..core.gate import gate
from ..core.storage import cached_arrays, fingerprint
from ..data import ImageSet, batches
from .autoattack.attack import attack_batch
from .config import AttackConfig, AutoAttackConfig
from .engine import check_eps
from .fold_batchnorm import quick_copy
from .radii import Job
from .red_flags import Flag
from .sweep_result import AutoResult, SweepResult, lowest, overtaken

# Batches that are attacked together by bisection, so that a network gets full ones from the
# images still to be fooled. A kill costs all four: less than one of 40 steps at each of 8 eps.
TOGETHER = 4
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
            belong to one trained model. Each sweep (settings, batch, weights, images) has a
            folder of its own inside.
        desc: label of the progress bar; no bar without one.
        how: what ``AttackConfig`` takes, or for AutoAttack ``AutoAttackConfig``.

    Returns:
        For AutoAttack an ``AutoResult``.

    Raises:
        ContractError: for a breach of the contract, or an empty index.
        RunError: for a kept part that is damaged, or if not even one image fits into memory.
    """
    check_eps(*epsilons)
    check_model(model)
    if not len(index):
        raise ContractError("no image to attack: the index is empty.")
    auto, shape = attack == "autoattack", (len(epsilons), len(index))
    config = AutoAttackConfig(**how) if auto else AttackConfig(attack=attack, **how)
    known = np.zeros(shape, bool) if fooled is None else fooled
    if known.shape != shape or not (auto or fooled is None):
        raise ContractError(f"fooled is for AutoAttack, bool (eps, images): expected {shape}.")
    model.to(env.pick_device(), memory_format=torch.channels_last)
    halving = config.mode == "bisection"
    size = batch * (TOGETHER if halving else 1)
    if folder:
        settings = vars(config) | {"version": config.version, "size": size}
        settings |= {"fooled": np.packbits(known).tolist()} if auto else {}
        key = identify(model, data, index, [float(eps) for eps in epsilons], settings)
        folder = folder / f"{attack}-{key}"

    @cache  # for all parts, and for none where every part is kept already
    def through() -> nn.Module:
        copied = auto or config.engine == "native"
        return quick_copy(model, on_device(data, index[:1])[0]) if copied else model

    def run(part: slice) -> dict[str, np.ndarray]:
        rows = index[part]
        job = Job(model, through(), *on_device(data, rows), rows, epsilons, batch, config)
        if auto:
            return attack_batch(job, known[:, part], bar.update)
        found = {"logits": job.run(lambda _: bar.update(len(rows))), "clean": job.clean}
        found |= {"vanished": job.vanished} if halving else {}
        return {name: values.cpu().numpy() for name, values in found.items()}

    def compute(part: slice) -> dict[str, np.ndarray]:
        nonlocal batch
        while True:
            try:
                return run(part)
            except RuntimeError as error:
                if not env.out_of_memory(error):
                    raise
            torch.cuda.empty_cache()  # out here nothing of the failed try is held any more
            batch = _halved(min(batch, len(index[part])))

    # bisection doubles its steps, then halves what is open, and tries once more in the end
    rounds = 2 * len(epsilons).bit_length() + 1 if halving else len(epsilons)
    parts = []
    with env.progress(total=rounds * len(index), desc=desc, disable=not desc) as bar:
        for start in range(0, len(index), size):
            path, part = folder and folder / f"{start:07d}.npz", slice(start, start + size)
            parts.append(cached_arrays(path, partial(compute, part)) if path else compute(part))
            bar.n = rounds * len(index[: part.stop])  # whatever a failed try has counted
            bar.refresh()
    found = {
        name: np.concatenate([part[name] for part in parts], axis=int(name not in PER_IMAGE))
        for name in parts[0]
    }
    labels = np.ascontiguousarray(data.targets[index])
    result = AutoResult if auto else SweepResult
    return result(np.array(epsilons, float), labels=labels, mode=config.mode, **found)


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


def on_device(data: ImageSet, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """The images of these rows on the device, as networks like them best, and their labels."""
    ((_, images, labels),) = batches(data, rows, len(rows))
    return images.to(env.pick_device(), memory_format=torch.channels_last), labels


def _halved(size: int) -> int:
    if size == 1:
        raise RunError(
            "not even one image fits into memory. Choose smaller images, a smaller model, or "
            "close what else uses the memory."
        )
    warnings.warn(f"{size} images do not fit into memory: going on with {size // 2}", stacklevel=5)
    return size // 2
