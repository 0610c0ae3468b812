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

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from . import env, training
from .attacks.engine import extremes
from .attacks.gradient import pgd, segpgd
from .attacks.layered import full_area, layered_pgd
from .attacks.selective import selective_fgsm
from .contracts import check_eval, check_images, check_labels, check_logits
from .data import ImageSet, Split, ThreeWay, batches, to_float
from .errors import ContractError
from .models import MedicalModel
from .objectives import Objective
from .segmentation_metrics import BACKGROUND, Tally, join, score, tally
from .storage import fingerprint, kept_arrays

ATTACKS = ("background", "pgd", "segpgd")
PART = 32  # images computed, and kept, at a time


@dataclass(frozen=True)
class Attack:
    """An attack on a segmentation.

    Attributes:
        kind: ``background`` pushes the whole prediction to the background (PGD; Avramidis et al.,
            section 3), ``pgd`` away from the truth, ``segpgd`` likewise, right pixels first.
        eps: radius, in units of the full range. 1 bounds nothing.
        steps: number of steps.
        step_size: in the units of ``eps``; 2.5 * eps / steps unless given (Madry et al. 2018).
    """

    kind: str
    eps: float
    steps: int
    step_size: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in ATTACKS:
            raise ContractError(f"attack {self.kind!r}: choose {', '.join(ATTACKS)}.")

    def __call__(
        self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, dtype: torch.dtype
    ) -> dict[str, torch.Tensor]:
        """``images`` (N, C, H, W), attacked."""
        length = 2.5 * self.eps / self.steps if self.step_size is None else self.step_size
        how = dict(steps=self.steps, step_size=length, random_start=False, dtype=dtype)
        if self.kind == "background":
            labels = full_area(images, BACKGROUND)
            how["targeted"] = True
        climb = segpgd if self.kind == "segpgd" else pgd
        return {"images": climb(model, images, labels, self.eps, **how)}


@dataclass(frozen=True)
class Layered:
    """Method one of paper 4; see ``attacks.layered``. ``step_size``: 2.5 * eps / steps."""

    eps: float
    steps: int
    ball: str = "stage"
    present: bool = False

    def __call__(
        self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, dtype: torch.dtype
    ) -> dict[str, torch.Tensor]:
        """``images`` (N, C, H, W), layered."""
        with torch.no_grad():
            classes = range(model(images[:1]).shape[1])
        how = dict(ball=self.ball, present=self.present, dtype=dtype)
        how |= dict(steps=self.steps, step_size=2.5 * self.eps / self.steps)
        return {"images": layered_pgd(model, images, labels, self.eps, classes=classes, **how)}


@dataclass(frozen=True)
class Selective:
    """Method two of paper 4; see ``attacks.selective``, whose arguments these are."""

    step_size: float
    bound: float
    search: str = "exhaustive"

    def __call__(
        self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, dtype: torch.dtype
    ) -> dict[str, torch.Tensor]:
        """``images`` (N, C, H, W), ``signs`` (N, K), ``loss``, ``before``, ``evaluations`` (N,)."""
        how = dict(step_size=self.step_size, bound=self.bound, search=self.search)
        return vars(selective_fgsm(model, images, labels, **how))


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

    The learning curve holds ``val_loss`` (nats), ``val_pixel_accuracy`` and ``val_mean_iou``.

    Args:
        clean: images to validate on, where ``data`` holds none: a set and its rows.
    """
    shown, rows = clean or (data, split.val)
    one = np.ones((1, len(rows)))

    def validate(model: MedicalModel) -> dict[str, float]:
        found = score(tallied(model, shown, rows), one, data.classes)
        names = ("loss", "pixel_accuracy", "mean_iou")
        return {f"val_{name}": round(found[name].value, 5) for name in names}

    return training.fit(
        model, data, split, recipe, folder, seed=seed, validate=validate, objective=objective
    )


def predict(model: nn.Module, data: ImageSet, index: np.ndarray, *, desc: str = "") -> np.ndarray:
    """Label maps uint8 (len(index), H, W): the class with the largest logit at each pixel."""
    maps = [logits.argmax(1).byte().cpu() for logits, _ in _forward(model, data, index, desc)]
    return torch.cat(maps).numpy()


def tallied(model: nn.Module, data: ImageSet, index: np.ndarray, *, desc: str = "") -> Tally:
    """Tally of the images of ``index``, from float32 logits."""
    return join([tally(*pair) for pair in _forward(model, data, index, desc)])


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
    return _perturbed(model, data, index, how, dtype, folder)[0]


def harden(
    model: nn.Module,
    data: ImageSet,
    index: np.ndarray,
    how: Layered | Selective,
    folder: Path,
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
    return _perturbed(model, data, index, how, dtype, folder)


def _perturbed(
    model: nn.Module,
    data: ImageSet,
    index: np.ndarray,
    how: Attack | Layered | Selective,
    dtype: torch.dtype,
    folder: Path | None,
) -> tuple[ImageSet, dict[str, np.ndarray]]:
    """Every part of the images computed, or read back, and joined."""
    index = np.asarray(index)
    if not len(index):
        raise ContractError("no image: the index is empty.")
    origin = (digest(model), repr(how), str(dtype))
    name, found = type(how).__name__.lower(), []
    key = fingerprint(data.checksum, index.tolist(), *origin)
    with env.progress(total=len(index), desc=f"{name}: perturbing") as bar:
        for start in range(0, len(index), PART):
            rows = index[start : start + PART]

            def compute(rows: np.ndarray = rows) -> dict[str, np.ndarray]:
                (pair,) = _batches(model, data, rows, "")
                return {k: v.cpu().numpy() for k, v in how(model, *pair, dtype).items()}

            path = folder and folder / f"{name}-{key}" / f"{start:06d}.npz"
            found.append(kept_arrays(path, compute) if path else compute())
            bar.update(len(rows))
    arrays = {k: np.concatenate([part[k] for part in found]) for k in found[0]}
    images = torch.from_numpy(arrays.pop("images"))
    return _copy(data, index, images, *origin), arrays


def digest(model: nn.Module) -> str:
    """Sixteen hex digits that change with any weight or buffer of ``model``.

    Not with what has none: two networks of equal weights and other strides have one digest.
    """
    found = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)  # of any type
        found.update(name.encode() + raw.numpy().tobytes())
    return found.hexdigest()[:16]


def rows_of(data: ImageSet, index: np.ndarray) -> ImageSet:
    """Some images of a set as a set of their own, in the order of ``index``."""
    return replace(
        data,
        images=data.images[index],
        targets=data.targets[index],
        groups=data.groups[index],
        ids=tuple(data.ids[row] for row in index),
        checksum=fingerprint(data.checksum, np.asarray(index).tolist()),
        masks=None, subjects=None, parts=None, census={},
    )  # fmt: skip


def union(*sets: ImageSet) -> ImageSet:
    """Several sets of the same classes as one; an image keeps its group in all of them."""
    first = sets[0]
    return replace(
        first,
        images=np.concatenate([_rows_of_floats(one) for one in sets]),
        targets=np.concatenate([one.targets[:] for one in sets]),
        groups=np.concatenate([one.groups for one in sets]),
        ids=tuple(f"{place}/{name}" for place, one in enumerate(sets) for name in one.ids),
        checksum=fingerprint([one.checksum for one in sets]),
        masks=None, subjects=None, parts=None, census={},
    )  # fmt: skip


def _rows_of_floats(data: ImageSet) -> np.ndarray:
    return to_float(data.images[:]).permute(0, 2, 3, 1).numpy()


def _batches(
    model: nn.Module, data: ImageSet, index: np.ndarray, desc: str
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Images and label maps on the model's device, PART at a time, checked."""
    if not data.segmentation:
        raise ContractError(
            f"{data.name}: its targets are classes of images, not of pixels. Take a set with "
            "label maps, or `data.views.label_maps` of one whose masks are such maps."
        )
    if not len(index):
        raise ContractError("no image: the index is empty.")
    check_eval(model)
    device = env.pick_device()
    model.to(device)
    with env.progress(total=len(index), desc=desc, disable=not desc) as bar:
        for rows, images, labels in batches(data, index, PART):
            check_images(images)
            yield images.to(device, memory_format=torch.channels_last), labels.to(device)
            bar.update(len(rows))


def _forward(
    model: nn.Module, data: ImageSet, index: np.ndarray, desc: str
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Logits float32 (N, K, H, W) and label maps, PART at a time, checked."""
    for images, labels in _batches(model, data, index, desc):
        with torch.inference_mode(), env.full_float32():
            logits = model(images).float()
        check_logits(logits, multi_label=False)
        check_labels(labels, logits, extremes(labels))
        yield logits, labels


def _copy(data: ImageSet, index: np.ndarray, images: torch.Tensor, *how: str) -> ImageSet:
    """The rows ``index`` of ``data`` with other ``images`` (N, C, H, W)."""
    plain = rows_of(data, index)
    pixels = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
    return replace(plain, images=pixels, checksum=fingerprint(plain.checksum, *how))
