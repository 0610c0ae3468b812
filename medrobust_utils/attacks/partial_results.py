"""Sweeps over a data set, part by part: each finished one is kept, so a killed one goes on."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..core import env
from ..core.contracts import check_model
from ..core.errors import ContractError, RunError
from ..core.storage import fingerprint, read_arrays, write_arrays
from ..data import ImageSet, batches
from .fold_batchnorm import quick_copy
from .radii import check_radii

PER_IMAGE = ("clean", "vanished")  # arrays of a part whose first axis is the image, not the eps
Compute = Callable[[nn.Module, np.ndarray, int, Callable[[int], object]], dict[str, np.ndarray]]


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


def swept(
    name: str,
    model: nn.Module,
    data: ImageSet,
    index: np.ndarray,
    epsilons: Sequence[float],
    settings: Mapping,
    compute: Compute,
    *,
    batch: int,
    folder: Path | None,
    desc: str,
    rounds: int,
    together: int = 1,
    copied: bool = True,
) -> dict[str, np.ndarray]:
    """A sweep's arrays over all images, part by part, each computed where it is not kept yet.

    A batch that does not fit into memory is halved, with a warning.

    Args:
        name: of the attack; with the identity it names a folder inside ``folder``.
        settings: what of them changes the result.
        compute: gives the arrays of some of ``index``, ``clean`` among them with one row an image.
            It is asked with the network to take gradients of, those rows, how many of them go
            through it together, and what to call with the number of images whenever it has gone
            one of ``rounds`` steps with all of them.
        batch, folder, desc: see ``attack_sweep``.
        together: batches in a part.
        copied: whether gradients are taken of a ``quick_copy``.
    """
    check_radii(epsilons)
    check_model(model)
    if not len(index):
        raise ContractError("no image to attack: the index is empty.")
    model.to(env.pick_device(), memory_format=torch.channels_last)
    identity = identify(model, data, index, [float(eps) for eps in epsilons], settings)
    folder = folder / f"{name}-{identity}" if folder else None
    paths = sorted(folder.glob("*.npz")) if folder else []
    parts = {int(path.stem): _read(path, identity) for path in paths}  # by first position
    through, position = None, 0
    with env.progress(total=rounds * len(index), desc=desc, disable=not desc) as bar:
        while position < len(index):
            if position not in parts:
                if through is None:  # not needed where every part is kept already
                    first = on_device(data, index[:1])[0]
                    through = quick_copy(model, first) if copied else model
                stop = min([position + batch * together, *(p for p in parts if p > position)])
                rows = index[position:stop]
                part = _fitting(partial(compute, through), rows, batch, bar.update)
                if part is None and batch == 1 < together:
                    together = 1  # what does not fit may be the images of the others
                elif part is None:
                    batch = _halved(min(batch, len(rows)))
                else:
                    parts[position] = part
                    if folder:
                        kept = part | {"identity": np.array(identity)}
                        write_arrays(folder / f"{position:07d}.npz", kept)
            position += len(parts[position]["clean"]) if position in parts else 0
            bar.n = rounds * position  # whatever a try that did not fit has counted
            bar.refresh()
    every = [parts[position] for position in sorted(parts)]
    return {
        key: np.concatenate([part[key] for part in every], axis=int(key not in PER_IMAGE))
        for key in every[0]
    }


def _read(path: Path, identity: str) -> dict[str, np.ndarray]:
    part = read_arrays(path)
    if str(part.pop("identity", "")) != identity:
        raise RunError(
            f"{path}: was computed with other settings, images or weights. Delete it to "
            "compute it again."
        )
    return part


def _fitting(compute: Callable, *args: Any) -> Any:
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
    warnings.warn(f"{size} images do not fit into memory: going on with {size // 2}", stacklevel=4)
    return size // 2
