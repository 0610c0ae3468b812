"""Segmentation in four calls: fit, predict, attack, harden.

    segmentation.fit(model, data, split, recipe, folder, seed=0)
    maps = segmentation.predict(model, data, split.test)
    attacked = segmentation.attack(model, data, split.test, Attack("segpgd", eps=0.01, steps=100))
    harder = segmentation.harden(model, data, split.train, Layered(eps=0.01, steps=100), folder)

Any torch module that takes images in [0, 1] and returns logits (N, K, H, W) will do; ``fit``
wants a ``MedicalModel``, which is such a module behind its normalisation. Attacked and hardened
images come back as data sets, so that they can be shown, scored and trained on like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .attacks import Attack, Layered, Selective
from .attacks.engine import extremes
from .core import env
from .core.contracts import ask, check_images, check_labels, check_logits, check_model
from .core.errors import ContractError
from .core.gate import gate
from .core.losses import IGNORED
from .core.storage import cached_arrays, fingerprint
from .data import ImageSet, Split, ThreeWay, batches
from .data.imageset import with_images
from .data.masks import pixel_counts
from .models import MedicalModel, digest
from .scoring.segmentation import Tally, join, score, tally
from .training import fit as training
from .training.objectives import Objective

PART = 32  # images computed, and kept, at a time


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
    ((logits, label),) = _forward(model.eval(), data, split.train[:1], "")
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
    maps = [logits.argmax(1).byte().cpu() for logits, _ in _forward(model, data, index, "predict")]
    return torch.cat(maps).numpy()


def tallied(model: nn.Module, data: ImageSet, index: np.ndarray, *, desc: str = "") -> Tally:
    """Tally of the images of ``index``, from float32 logits."""
    parts = []
    for logits, labels in _forward(model, data, index, desc):
        check_labels(labels, logits, extremes(labels))
        parts.append(tally(logits, labels))
    return join(parts)


def attack(
    model: nn.Module,
    data: ImageSet,
    index: np.ndarray,
    how: Attack,
    *,
    dtype: torch.dtype = torch.float32,
    folder: Path | None = None,
) -> ImageSet:
    """The images of ``index`` as the attack leaves them: float32, in the order of ``index``.

    Args:
        dtype: of the gradients (see ``env.training_dtype``); images and scores stay float32.
        folder: keep them there, as ``harden`` does; without one nothing is kept.
    """
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

    Returns:
        The images as a data set (float32, in the order of ``index``), and what else the method
        tells of each image (``signs`` of ``Selective``).
    """
    index, found = np.asarray(index), []
    origin, name = (digest(model), repr(how), str(dtype)), type(how).__name__.lower()
    key = fingerprint(data.checksum, index.tolist(), *origin)
    starts = range(0, max(1, len(index)), PART)
    for start in env.progress(starts, desc=f"{name}: perturbing"):
        rows = index[start : start + PART]

        def compute(rows: np.ndarray = rows) -> dict[str, np.ndarray]:
            (pair,) = _batches(model, data, rows, "")
            return {k: v.cpu().numpy() for k, v in how(model, *pair, dtype).items()}

        path = folder and folder / f"{name}-{key}" / f"{start:06d}.npz"
        found.append(cached_arrays(path, compute) if path else compute())
    arrays = {k: np.concatenate([part[k] for part in found]) for k in found[0]}
    images = torch.from_numpy(arrays.pop("images"))
    return with_images(data, index, images, *origin), arrays


def _batches(
    model: nn.Module, data: ImageSet, index: np.ndarray, desc: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and label maps on the model's device, PART at a time, checked."""
    if not data.segmentation:
        raise ContractError(
            f"{data.name}: its targets are classes of images, not of pixels. Take a set with "
            "label maps, or `data.views.label_maps` of one whose masks are such maps."
        )
    if not len(index):
        raise ContractError("no image: the index is empty.")
    check_model(model)
    device = env.pick_device()
    model.to(device)
    with env.progress(total=len(index), desc=desc, disable=not desc) as bar:
        for rows, images, labels in batches(data, index, PART):
            check_images(images)
            yield images.to(device, memory_format=torch.channels_last), labels.to(device)
            bar.update(len(rows))


def _forward(
    model: nn.Module, data: ImageSet, index: np.ndarray, desc: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits float32 (N, K, H, W) and label maps, PART at a time, checked."""
    for images, labels in _batches(model, data, index, desc):
        logits = ask(model, images)
        check_logits(logits, multi_label=False)
        yield logits, labels
