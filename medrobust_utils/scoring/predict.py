"""Logits of a model on clean and on noisy images: float32, resumable, contract checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..attacks.noise import gaussian, noise_std, noisy_logits, signs
from ..core import env
from ..core.contracts import ask, check_images, check_logits, check_model
from ..core.errors import ContractError, RunError
from ..core.storage import cached_arrays, fingerprint
from ..data import ImageSet, batches
from ..models import MedicalModel


def predict(
    model: nn.Module,
    data: ImageSet,
    index: np.ndarray,
    *,
    batch: int = 64,
    desc: str = "",
    forward: Callable[[torch.Tensor, np.ndarray], torch.Tensor] | None = None,
) -> np.ndarray:
    """Logits float32 (len(index), K) of ``model`` on the images of ``index``.

    Args:
        forward: what to compute instead of ``ask(model, images)``; called with images float32
            (N, C, H, W) on the model's device and their indices.
        desc: label of the progress bar; no bar without one.

    Raises:
        ContractError: training mode, images out of range, probabilities or NaN.
    """
    logits = []
    with torch.no_grad(), env.full_float32():
        for rows, images, _ in on_device(model, data, index, batch, desc):
            logits.append((forward(images, rows) if forward else ask(model, images)).float().cpu())
    out = torch.cat(logits)
    check_logits(out, data.multi_label)
    return out.numpy()


def on_device(
    model: nn.Module, data: ImageSet, index: np.ndarray, batch: int, desc: str
) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor]]:
    """Indices, images and labels, ``batch`` at a time, checked and where the model is sent to."""
    if not len(index):
        raise ContractError("no image: the index is empty.")
    check_model(model)
    device = env.pick_device()
    model.to(device)
    like = torch.channels_last if data.segmentation else torch.preserve_format
    with env.progress(total=len(index), desc=desc, disable=not desc) as bar:
        for rows, images, labels in batches(data, index, batch):
            check_images(images)
            yield rows, images.to(device, memory_format=like), labels.to(device)
            bar.update(len(rows))


def noise_sweep(
    model: MedicalModel,
    data: ImageSet,
    index: np.ndarray,
    folder: Path,
    *,
    levels: Iterable[float],
    seeds: Mapping[str, int],
    first_seed: int = 0,
) -> dict[tuple[str, float, int], np.ndarray]:
    """Logits clean and under every noise; keys are (reading, level, seed).

    The clean logits stand under ("none", 0.0, 0). Each result is kept in ``folder`` as it
    comes; a sweep that was killed goes on where it was.

    Args:
        levels: the paper's noise levels, in normalised units (0 stands for the clean images).
        seeds: how many noise seeds for each reading of a level (see ``noise_std``); ``signs`` is
            plus or minus the level, of images in [0, 1], in each pixel, clipped.
        first_seed: the first of them.
    """
    wanted = [("none", 0.0, 0)]
    wanted += [
        (reading, level, first_seed + number)
        for reading, count in seeds.items()
        for level in levels
        if level
        for number in range(count)
    ]
    shape = (3, *data.images.shape[1:3])  # the paper's loader turns gray into three channels

    def noisy(
        reading: str, level: float, seed: int, images: torch.Tensor, rows: np.ndarray
    ) -> torch.Tensor:
        if reading == "none":
            return ask(model, images)
        if reading == "signs":
            noise = level * signs(images.shape[1:], rows, seed).to(images)
            return ask(model, (images + noise).clamp(0, 1))
        noise = gaussian(shape, rows, seed).to(images.device)
        return noisy_logits(model, images, noise, noise_std(level, reading))

    results = {}
    for reading, level, seed in env.progress(wanted, desc=f"noise sweep, {len(index)} images"):
        name = f"logits-{reading}-{level:g}-{seed}-{fingerprint(index.tolist())}.npz"
        forward = partial(noisy, reading, level, seed)
        results[reading, level, seed] = kept(folder / name, model, data, index, forward=forward)
    return results


def kept(path: Path, model: nn.Module, data: ImageSet, index: np.ndarray, **how: Any) -> np.ndarray:
    """``predict(model, data, index, **how)``, read back from ``path`` if it was done before.

    The caller's folder must belong to one trained model (see ``training.fit``).

    Raises:
        RunError: if ``path`` is damaged or was computed on other images.
    """
    found = cached_arrays(
        path, lambda: {"logits": predict(model, data, index, **how), "index": index}
    )
    if not np.array_equal(found.get("index"), index) or "logits" not in found:
        raise RunError(f"{path}: was computed on other images. Delete it to compute it again.")
    return found["logits"]
