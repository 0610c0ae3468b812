"""Segmentation in four calls: fit, predict, attack, harden.

    segmentation.fit(model, data, split, recipe, folder, seed=0)
    maps = segmentation.predict(model, data, split.test)
    attacked = segmentation.attack(model, data, split.test, Attack("segpgd", eps=0.01, steps=100))
    harder, _ = segmentation.harden(model, data, split.train, Layered(0.01, steps=100), folder)

Any torch module that takes images in [0, 1] and returns logits (N, K, H, W) will do; ``fit``
wants a ``MedicalModel``, which is such a module behind its normalisation. Attacked and hardened
images come back as data sets, so that they can be shown, scored and trained on like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .attacks import Attack, Layered, Selective
from .core import env
from .core.contracts import check_labels
from .core.gate import gate
from .core.losses import IGNORED
from .core.storage import cached_arrays, fingerprint
from .data import ImageSet, Split, ThreeWay
from .data.imageset import with_images
from .data.masks import pixel_counts
from .models import MedicalModel, digest
from .scoring.segmentation import BATCH, answers, label_maps, score, tallied
from .training import fit as training
from .training.objectives import Objective


def fit(
    model: MedicalModel,
    data: ImageSet,
    split: Split | ThreeWay,
    recipe: Mapping,
    folder: Path,
    *,
    seed: int,
    clean: tuple[ImageSet, np.ndarray] | None = None,
    objective: Objective | None = None,
) -> list[dict]:
    """Train ``model`` in place; see ``training.fit`` for what is kept, resumed and raised.

    The learning curve holds ``val_loss`` (nats), ``val_pixel_accuracy`` and ``val_mean_iou``, of
    which the last chooses the epoch, unless the recipe's ``monitor`` says otherwise. ``clean``, a
    set and its rows, are images to validate on, where ``data`` holds none.
    """
    shown, rows = clean or (data, split.val)
    # all label maps against the model's classes: an index out of bounds kills a GPU
    ((logits, label),) = answers(model.eval(), data, split.train[:1])
    values = np.flatnonzero(pixel_counts(data.targets[split.train])[:IGNORED])
    check_labels(label, logits, (float(values.min(initial=0)), float(values.max(initial=0))))

    def validate(model: MedicalModel) -> dict[str, float]:
        found = score(tallied(model, shown, rows), np.ones((1, len(rows))), data.classes)
        names = ("loss", "pixel_accuracy", "mean_iou")
        return {f"val_{name}": round(found[name].value, 5) for name in names}

    recipe = {"monitor": "val_mean_iou", **recipe}
    how = dict(seed=seed, validate=validate, objective=objective)
    return training.fit(model, data, split, recipe, folder, **how)


def predict(model: nn.Module, data: ImageSet, index: np.ndarray) -> np.ndarray:
    """Label maps uint8 (len(index), H, W): the class with the largest logit at each pixel.

    The set's own label maps are not looked at.
    """
    maps = [logits.argmax(1).byte().cpu() for logits, _ in answers(model, data, index, "predict")]
    return torch.cat(maps).numpy()


def attack(
    model: nn.Module,
    data: ImageSet,
    index: np.ndarray,
    how: Attack | Layered | Selective,
    *,
    dtype: torch.dtype = torch.float32,
    folder: Path | None = None,
) -> ImageSet:
    """The images of ``harden`` alone; without a ``folder`` nothing is kept."""
    return harden(model, data, index, how, folder, dtype=dtype)[0]


@gate()
def harden(
    model: nn.Module,
    data: ImageSet,
    index: np.ndarray,
    how: Attack | Layered | Selective,
    folder: Path | None,
    *,
    dtype: torch.dtype = torch.float32,
) -> tuple[ImageSet, dict[str, np.ndarray]]:
    """The images of ``index`` as a method of paper 4 perturbs them, to train on.

    Kept in ``folder`` under a name made of the weights, images and settings they depend on, 32
    images at a time: a run that was killed goes on, a second run reads them back.

    Args:
        dtype: of the gradients (see ``env.training_dtype``); images and scores stay float32.

    Returns:
        The images as a data set (float32, in the order of ``index``), and what else the method
        tells of each image (``signs`` of ``Selective``).
    """
    index, found = np.asarray(index), []
    origin, name = (digest(model), repr(how), str(dtype)), type(how).__name__.lower()
    key = fingerprint(data.checksum, index.tolist(), *origin)
    starts = range(0, max(1, len(index)), BATCH)
    for start in env.progress(starts, desc=f"{name}: perturbing"):

        def compute(rows: np.ndarray = index[start : start + BATCH]) -> dict[str, np.ndarray]:
            (pair,) = label_maps(model, data, rows)
            return {k: v.cpu().numpy() for k, v in how(model, *pair, dtype).items()}

        path = folder and folder / f"{name}-{key}" / f"{start:06d}.npz"
        found.append(cached_arrays(path, compute) if path else compute())
    arrays = {k: np.concatenate([part[k] for part in found]) for k in found[0]}
    images = torch.from_numpy(arrays.pop("images"))
    return with_images(data, index, images, *origin), arrays
