"""What the studies of several papers do alike."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ..core import env
from ..data.own import own_folder, with_own_data  # noqa: F401
from ..data.splits import some  # noqa: F401
from ..data.views import question, whole_images  # noqa: F401
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
