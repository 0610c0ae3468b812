"""How a network is trained: optimiser, learning rate over time, class weights, when to stop.

Defaults are those of Swin-T's fine-tuning (AdamW, cosine schedule, every image once an epoch); a
paper that trains otherwise says so in its protocol file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ..core.errors import ContractError
from ..models import MedicalModel

REQUIRED = ("epochs", "batch", "lr", "weight_decay", "warmup_epochs", "clip", "flips")
DEFAULTS = {
    "optimiser": "adamw",
    "adam_eps": 1e-8,
    "epsilon_hat": False,
    "schedule": "cosine",
    "class_weights": False,
    "share": 1.0,
    "new_lr_factor": 1.0,
    "patience": 0,
    "monitor": "val_top1",
    "min_delta": 0.0,
    "crops": 1.0,
    "batch_norm_momentum": None,
    "precision": "auto",
}
PRECISIONS = ("auto", "float32", "bfloat16")
OPTIMISERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}


def complete(settings: Mapping) -> dict:
    """``settings`` with the defaults filled in.

    Keys: ``epochs``, ``batch``, ``lr`` (peak), ``weight_decay``, ``warmup_epochs``, ``clip``
    (gradient norm, 0: none), ``flips`` (see ``training.flip``), ``optimiser`` (``adamw`` or
    ``adam``), ``adam_eps``, ``epsilon_hat`` (see ``keras_eps``), ``schedule`` (``cosine`` or
    ``constant``, both after the warm-up),
    ``class_weights`` (inverse frequency), ``share`` (of the images seen in one epoch),
    ``new_lr_factor`` (times ``lr`` for modules before the backbone, which begin untrained),
    ``patience`` (epochs without a gain of ``min_delta`` before training stops and the best epoch
    is taken; 0: no stopping, last epoch), ``monitor`` (of the learning curve: what has to gain),
    ``crops`` (least share of an image's area that a random crop keeps; 1: no crops),
    ``batch_norm_momentum`` (weight of a new batch in the running statistics: torch's 0.1, Keras'
    0.01; None: as the network has it), ``precision`` (``float32``, ``bfloat16``, or ``auto``
    for what suits the machine at hand, see ``env.training_dtype``).

    Raises:
        ContractError: for an unknown key, optimiser, schedule or precision, or a share outside
            (0, 1].
    """
    full = {key: settings[key] for key in REQUIRED}
    full |= {key: settings.get(key, value) for key, value in DEFAULTS.items()}
    unknown = settings.keys() - full.keys()
    if unknown:
        raise ContractError(f"training knows no {sorted(unknown)}. Known: {', '.join(full)}.")
    if full["optimiser"] not in OPTIMISERS:
        raise ContractError(f"optimiser={full['optimiser']!r}: choose {' or '.join(OPTIMISERS)}.")
    if full["schedule"] not in ("cosine", "constant"):
        raise ContractError(f"schedule={full['schedule']!r}: choose cosine or constant.")
    if full["precision"] not in PRECISIONS:
        raise ContractError(
            f"precision={full['precision']!r}: choose among {', '.join(PRECISIONS)}."
        )
    for key in ("share", "crops"):
        if not 0 < full[key] <= 1:
            raise ContractError(f"{key}={full[key]}: choose more than 0 and at most 1.")
    return full


def essence(settings: Mapping) -> dict:
    """What tells one recipe from another: a default spelt out changes nothing."""
    return {k: v for k, v in settings.items() if k in REQUIRED or v != DEFAULTS[k]}


def optimiser(model: MedicalModel, settings: Mapping) -> torch.optim.Optimizer:
    """The optimiser of complete ``settings``."""
    new = model.new_parameters()
    known = {id(parameter) for parameter in new}
    groups = [{"params": [p for p in model.parameters() if id(p) not in known]}]
    if new:
        groups.append({"params": new, "lr": settings["lr"] * settings["new_lr_factor"]})
    kind = OPTIMISERS[settings["optimiser"]]
    return kind(
        groups, settings["lr"], eps=settings["adam_eps"], weight_decay=settings["weight_decay"]
    )


def keras_eps(adam_eps: float, step: int, beta: float) -> float:
    """The eps that makes torch's Adam take Keras' step number ``step`` (from 1).

    Keras adds its epsilon before the second moment is corrected for its short history (the
    "epsilon hat" of Kingma and Ba 2015, end of section 2), torch after. With the usual 1e-8 nobody
    notices. With the 0.1 of paper 2, Keras' first steps are up to thirty times shorter.
    """
    return adam_eps / math.sqrt(1 - beta**step)


def rate(settings: Mapping, step: int, steps: int) -> float:
    """Share of the peak learning rate at ``step``, of ``steps`` an epoch: linear warm-up, then
    half a cosine or a constant."""
    warmup, total = settings["warmup_epochs"] * steps, settings["epochs"] * steps
    if step < warmup:
        return (step + 1) / warmup
    if settings["schedule"] == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def inverse_frequency(targets: np.ndarray, classes: int) -> torch.Tensor:
    """Weights (K,) of the classes, N / (K n_k): one on average over the images.

    A class without an image gets weight 0. For class indices (N,) only.
    """
    if targets.ndim != 1:
        raise ContractError("class weights need one class an image, not several labels.")
    counts = np.bincount(targets, minlength=classes)
    weights = len(targets) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return torch.from_numpy(np.where(counts > 0, weights, 0.0)).float()


def best_epoch(scores: Sequence[float], min_delta: float) -> int:
    """Index of the last epoch that gained more than ``min_delta`` over the best before it."""
    best = 0
    for epoch, score in enumerate(scores):
        if score > scores[best] + min_delta:
            best = epoch
    return best
