"""What the studies of several papers do alike."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from ..core import env
from ..data import ImageSet, to_float
from ..data.own_roles import own_folder, question, whole_images, with_own_data  # noqa: F401
from ..data.splits import some  # noqa: F401
from ..scoring.imagesets import clean_scores, unscored  # noqa: F401
from ..training.arms import parameters  # noqa: F401


def precision(settings: Mapping, model: nn.Module) -> torch.dtype:
    """Of an attack's gradients: float32, or, where the profile is ``fast``, that of the training.

    The probe that chose it may choose anew on a busy machine; what was attacked already stays
    valid only if the attack does not. A model that was not trained here asks the probe. Scores
    are float32 always.
    """
    if not settings["attack"]["fast"]:
        return torch.float32
    return getattr(model, "trained_in", None) or env.training_dtype(env.pick_device())


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
