"""What the studies of several papers do alike."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..attacks import Flag, red_flags
from ..core import env
from ..core.errors import DataError, ProtocolError, RunError
from ..core.storage import fingerprint, write_atomic
from ..data import ImageSet, own, to_float
from ..models import MedicalModel
from ..scoring import metrics
from ..scoring.metrics import Estimate
from ..scoring.predict import predict


def cast(settings: Mapping, role: str, part: str) -> tuple[Mapping, str]:
    """Settings in which ``folder:PATH``, given as DATASET, plays the ``part`` of a paper's set.

    Everything else (sizes, epochs, flips) stays as it is for the set that it stands in for. Only
    arms on that set under an honest split remain.

    Returns:
        The settings and the role; unchanged for any other DATASET.
    """
    if not role.startswith(own.PREFIX):
        return settings, role
    arms = [
        group
        for group in settings["arms"]
        if group.get("role", part) == part and group.get("split", "honest") == "honest"
    ]
    if not arms:
        raise ProtocolError(f"this profile has no arm with an honest split on {part}.")
    return {**settings, "arms": arms, "datasets": {**settings["datasets"], part: role}}, part


def asked_for(settings: Mapping, role: str) -> str:
    """``folder:PATH`` where one's own data play a role, else nothing."""
    name = settings["datasets"][role]
    return name if name.startswith(own.PREFIX) else ""


def whole_images(data: ImageSet) -> ImageSet:
    """``data`` if its labels are of whole images, else DataError."""
    if data.segmentation:
        raise DataError(
            f"{data.name} has a class for every pixel; this paper classifies whole images. "
            "Notebook 04 takes label maps."
        )
    return data


def question(data: ImageSet, wanted: Sequence[str], part: str, *, two: bool) -> list[str]:
    """Which classes of one's own data are positive, or none where every class is one.

    Args:
        wanted: what the profile says, for the set of the paper or by an override.
        two: whether two classes are needed; the second of two is then the positive one.

    Raises:
        DataError: for label maps, or where nobody said what is positive.
    """
    whole_images(data)
    if set(wanted) <= set(data.classes) and (wanted or not (two or data.multi_label)):
        return list(wanted)
    if len(data.classes) == 2 and not data.multi_label:
        return [data.classes[1]] if two else []
    raise DataError(
        f"{data.name} has {len(data.classes)} {'findings' if data.multi_label else 'classes'}; say "
        f"which are positive, e.g. SET='positive.{part}=[{data.classes[-1]}]'. There are: "
        f"{', '.join(data.classes)}."
    )


def some(index: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """``limit`` images of ``index`` by chance (0: all), sorted."""
    return np.sort(np.random.default_rng(seed).permutation(index)[: limit or None])


def unscored(data: ImageSet) -> tuple[int, ...]:
    """Classes without an AUC of their own: "No Finding" is the absence of the others."""
    none = data.multi_label and "No Finding" in data.classes
    return (data.classes.index("No Finding"),) if none else ()


def curve_scores(model: MedicalModel, data: ImageSet, chosen: np.ndarray) -> dict[str, float]:
    """What the learning curve shows after each epoch, on the images that choose the epoch."""
    logits, weights = predict(model, data, chosen), np.ones((1, len(chosen)))
    scores = metrics.score(logits, data.targets[chosen], weights, ignore=unscored(data))
    names = ("loss", "top1", "balanced_accuracy", "auc_macro")
    return {f"val_{name}": round(scores[name].value, 4) for name in names}


def precision(settings: Mapping, model: nn.Module) -> torch.dtype:
    """Of an attack's gradients: float32, or, where the profile is ``fast``, that of the training.

    The probe that chose it may choose anew on a busy machine; what was attacked already stays
    valid only if the attack does not. A model that was not trained here asks the probe. Scores
    are float32 always.
    """
    if not settings["attack"]["fast"]:
        return torch.float32
    return getattr(model, "trained_in", None) or env.training_dtype(env.pick_device())


def weights(data: ImageSet, index: np.ndarray, draw: int | Sequence[int] = 0) -> np.ndarray:
    """Bootstrap weights (1 + draws, n) of some images, drawn by whole groups.

    Within strata where an image has one class.
    """
    targets = data.targets[index]
    classes = targets if targets.ndim == 1 else None
    return metrics.group_weights(data.groups[index], draw, classes=classes)


def clean_scores(
    data: ImageSet, index: np.ndarray, logits: np.ndarray, draw: Sequence[int]
) -> dict[str, Estimate]:
    """Scores of clean logits on the images of ``index``."""
    drawn = weights(data, index, draw)
    return metrics.score(logits, data.targets[index], drawn, ignore=unscored(data))


def cached_flags(
    folder: Path,
    name: str,
    model: nn.Module,
    data: ImageSet,
    index: np.ndarray,
    radius: float,
    *,
    seed: int,
    dtype: torch.dtype,
) -> list[Flag]:
    """Red flags of one network on the images of ``index``, kept in ``folder``.

    Raises:
        RunError: if what was kept cannot be read.
    """
    path = folder / f"{name}-{fingerprint(index.tolist(), radius, seed, str(dtype))}.json"
    if not path.exists():
        device = env.pick_device()
        images = to_float(data.images[index]).to(device)
        labels = torch.from_numpy(data.targets[index])
        found = red_flags(model.to(device), images, labels, radius, seed=seed, dtype=dtype)
        write_atomic(path, json.dumps([asdict(flag) for flag in found]).encode())
    try:
        return [Flag(**flag) for flag in json.loads(path.read_text("utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise RunError(
            f"{path}: cannot be read ({error}). Delete it to compute it again."
        ) from error


def parameters(model: MedicalModel) -> int:
    """Trainable numbers of a network."""
    return sum(p.numel() for p in model.parameters())


def budget(how: Mapping) -> dict[str, int]:
    """How hard AutoAttack tries by a profile (see ``attacks.AutoAttackConfig``)."""
    return {name: how[name] for name in ("steps", "targets", "queries") if name in how}


def in_gray_levels(eps: float) -> float:
    """A size in [0, 1] as rows tell it, of 255."""
    return round(float(eps) * 255, 6)


def count_gradients(settings: Mapping, arms: Sequence, attack_steps: int) -> int:
    """Gradients, one an image, that training and attacking the ``arms`` take together.

    Args:
        settings: with ``training.epochs`` by role and, for adversarial training, its steps.
        arms: of `experiment.Arm`; those without ready networks.
        attack_steps: gradients of all attacks on one test image of one network.
    """
    total = 0
    for arm in arms:
        harder = "adversarial" in arm.own.values()
        passes = 1 + settings["adversarial"]["steps"] * harder
        epochs = settings["training"]["epochs"][arm.task.role]
        total += len(arm.task.split.train) * epochs * passes
        total += len(arm.task.attacked) * attack_steps
    return total


def forecast(model: nn.Module, data: ImageSet, gradients: int, seconds: float = 20.0) -> str:
    """How long so many ``gradients`` (images) take here, measured for some ``seconds``.

    The network is left as it was. Attacks that succeed stop early, so it is rather too long.
    """
    device, batch = env.pick_device(), data.images[:32]
    images = to_float(batch).to(device).requires_grad_()
    model, done = model.to(device).eval(), 0
    torch.autograd.grad(model(images).sum(), images)  # kernels are chosen in the first one
    begun = time.monotonic()
    while not done or time.monotonic() - begun < seconds:
        gradient = torch.autograd.grad(model(images).sum(), images)[0]
        gradient.sum().item()  # waits for the device
        done += len(batch)
    rate = done / (time.monotonic() - begun)
    hours = gradients / rate / 3600
    return f"{gradients:,} gradients at {rate:,.0f} a second: about {hours:.1f} hours on {device}"
