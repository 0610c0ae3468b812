"""Accuracy at every eps: the ladder over a data set, batch by batch, kept as it comes."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from .. import env
from ..contracts import check_eval
from ..data import ImageSet, batches
from ..errors import ContractError, RunError
from ..losses import correct
from ..storage import fingerprint, write_atomic
from .ladder import Plan, check_ladder, climb


@dataclass(frozen=True)
class SweepResult:
    """Scores of N images under attack at E sizes.

    Attributes:
        epsilons: (E,), rising.
        logits: float32 (E, N, K) of the attacked images. Accuracy and balanced accuracy may be
            computed from them in every mode. AUC may not from a nested or standing sweep, which
            leaves an image alone once it is judged wrong: its AUC is an upper bound.
        clean: float32 (N, K), before the attack.
        labels: of the images, as the data set has them.
        mode: ``nested``, ``standing`` or ``independent``.
    """

    epsilons: np.ndarray
    logits: np.ndarray
    clean: np.ndarray
    labels: np.ndarray
    mode: str

    @property
    def right(self) -> np.ndarray:
        """Bool (E, N): judged right under attack."""
        return np.stack([_right(logits, self.labels) for logits in self.logits])

    @property
    def clean_right(self) -> np.ndarray:
        """Bool (N,): judged right before the attack."""
        return _right(self.clean, self.labels)

    @property
    def clean_wrong(self) -> int:
        """Images that were wrong before the attack: no success of it."""
        return int((~self.clean_right).sum())

    def accuracy(self) -> np.ndarray:
        """Share (E,) of all images judged right under attack."""
        return self.right.mean(1)

    def success(self) -> np.ndarray:
        """Share (E,) of the images right before that the attack felled; NaN if there are none."""
        before = self.clean_right
        if not before.any():
            return np.full(len(self.epsilons), np.nan)
        return (~self.right[:, before]).mean(1)

    def fell_at(self) -> np.ndarray:
        """Smallest eps (N,) at which each image was judged wrong.

        0 for an image wrong before the attack, infinity for one that never fell.
        """
        fallen = ~self.right
        first = np.where(fallen.any(0), self.epsilons[fallen.argmax(0)], np.inf)
        return np.where(self.clean_right, first, 0.0)


def _right(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return correct(torch.from_numpy(logits), torch.from_numpy(labels)).numpy()


def attack_sweep(
    model: nn.Module,
    data: ImageSet,
    index: np.ndarray,
    epsilons: Sequence[float],
    *,
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
        batch: images attacked together.
        folder: where finished batches are kept; a sweep that was killed goes on there. It must
            belong to one trained model. Each sweep (settings, weights, images) has a folder of
            its own inside.
        desc: label of the progress bar; no bar without one.
        how: what ``Plan`` takes: ``mode="nested"`` for looking and for worst cases,
            ``mode="independent"`` for what the papers ran, with ``engine="foolbox"`` by the
            very library, ``mode="standing"`` for that without luck; attack, steps, rel_step or
            step_size, seed, dtype.

    Raises:
        ContractError: for a breach of the contract, or an empty index.
        RunError: for a kept batch that is damaged or of another sweep, or if not even one
            image fits into memory.
    """
    plan = Plan(**how)
    check_ladder(epsilons)
    check_eval(model)
    if not len(index):
        raise ContractError("no image to attack: the index is empty.")
    epsilons = [float(eps) for eps in epsilons]
    model.to(env.pick_device(), memory_format=torch.channels_last)
    kept = _Kept(folder, plan.attack, _identity(model, data, index, epsilons, plan), len(index))
    position = 0
    with env.progress(total=len(index), desc=desc, disable=not desc) as bar:
        while position < len(index):
            if position not in kept.parts:
                stop = kept.stop(position, batch)
                part = _fitting(model, data, index[position:stop], epsilons, plan)
                if part is None:
                    batch = _halved(stop - position)
                    continue
                kept.add(position, part)
            size = len(kept.parts[position].clean)
            position += size
            bar.update(size)
    parts = [kept.parts[position] for position in sorted(kept.parts)]
    return SweepResult(
        np.array(epsilons),
        np.concatenate([part.logits for part in parts], axis=1),
        np.concatenate([part.clean for part in parts]),
        np.ascontiguousarray(data.targets[index]),
        plan.mode,
    )


class _Part(NamedTuple):
    logits: np.ndarray  # (E, n, K)
    clean: np.ndarray  # (n, K)


def _fitting(
    model: nn.Module, data: ImageSet, rows: np.ndarray, epsilons: list[float], plan: Plan
) -> _Part | None:
    """The scores of one batch, or None if it does not fit into memory."""
    try:
        ((_, images, labels),) = batches(data, rows, len(rows))
        images = images.to(env.pick_device(), memory_format=torch.channels_last)
        ladder = [0.0, *(eps for eps in epsilons if eps)]  # the first rung is the clean one
        rungs = climb(model, images, labels, ladder, rows=rows, **vars(plan))
        logits = np.stack([rung.logits.cpu().numpy() for rung in rungs])
        return _Part(logits[len(ladder) - len(epsilons) :], logits[0])
    except RuntimeError as error:
        # MPS and the CPU raise a plain RuntimeError
        known = ("out of memory", "can't allocate memory")
        if not isinstance(error, torch.OutOfMemoryError) and not any(
            words in str(error) for words in known
        ):
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
    warnings.warn(f"{size} images do not fit into memory: going on with {size // 2}", stacklevel=3)
    return size // 2


def _identity(
    model: nn.Module, data: ImageSet, index: np.ndarray, epsilons: list[float], plan: Plan
) -> str:
    """Changes with whatever changes the result: weights, architecture, images, settings."""
    architecture = re.sub(" at 0x[0-9a-f]+", "", repr(model))  # addresses change with the process
    weights = hashlib.sha256(architecture.encode())
    tensors = model.state_dict() | dict(model.named_buffers())
    for name, tensor in sorted(tensors.items()):
        weights.update(name.encode())
        weights.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    settings = asdict(plan)
    # sweeps were kept before these two existed, and are still found where nobody sets them
    if plan.attack == "pgd":
        del settings["attack"]
    if plan.step_size is None:
        del settings["step_size"]
    return fingerprint(weights.hexdigest(), data.checksum, index.tolist(), epsilons, settings)


class _Kept:
    """Finished batches by first position, in memory and, with a folder, on disk."""

    def __init__(self, folder: Path | None, attack: str, identity: str, total: int) -> None:
        self.identity, self.total, self.parts = identity, total, {}
        self.folder = folder / f"{attack}-{identity}" if folder else None
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in sorted(self.folder.glob("*.npz")):
                self.parts[int(path.stem)] = self._read(path)

    def stop(self, position: int, batch: int) -> int:
        """Where a batch that begins at ``position`` ends: before what is there already."""
        later = [p for p in self.parts if p > position]
        return min([position + batch, self.total, *later])

    def add(self, position: int, part: _Part) -> None:
        self.parts[position] = part
        if self.folder:
            buffer = io.BytesIO()
            np.savez(buffer, identity=self.identity, **part._asdict())
            write_atomic(self.folder / f"{position:07d}.npz", buffer.getvalue())

    def _read(self, path: Path) -> _Part:
        try:
            with np.load(path, allow_pickle=False) as file:
                identity, part = str(file["identity"]), _Part(file["logits"], file["clean"])
        except Exception as error:  # zip, zlib and numpy raise many types for a damaged file
            raise RunError(
                f"{path}: cannot be read ({error}). Delete it to compute it again."
            ) from error
        if identity != self.identity:
            raise RunError(
                f"{path}: was computed with other settings, images or weights. Delete it to "
                "compute it again."
            )
        return part
