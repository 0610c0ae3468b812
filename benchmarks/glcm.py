"""What the GLCM loss adds to a training step: at most 30 %, with the texture of X at hand.

Both sides train ResNet-18 behind the texture and colour modules on the same batch, as paper 3
does (32 gray images of 224 pixels); only the loss differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch

from medrobust_utils.core import env
from medrobust_utils.data import ImageSet, phantom_set, to_float
from medrobust_utils.models import build_assimilated
from medrobust_utils.training.objectives import Assimilation

from .timing import Comparison, compare

BATCH, SIZE = 32, 224
ROUNDS = 5
TARGET = 1.30


def measure() -> Iterator[Comparison]:
    """A step with the loss beside one without."""
    data, device, dtype = batch = _batch()
    with_term = Assimilation.of(data, 0.5, levels=8, softness=1.0, rows="areas")
    found = compare(
        f"training step of ResNet-18 ({BATCH} images of {SIZE} px, {str(dtype)[6:]})",
        ("cross-entropy", plain_step()),
        ("with the GLCM loss", _step(with_term, *batch)),
        at_most=TARGET,
        rounds=ROUNDS,
    )
    more = 1000 * (found.other_seconds - found.base_seconds) / BATCH
    yield replace(
        found, bound=f"counting gray levels in 121 areas and 4 directions: {more:.1f} ms an image."
    )


def plain_step() -> Callable[[], float]:
    """The step without the GLCM loss."""
    return _step(Assimilation(1.0, None), *_batch())


def _batch() -> tuple[ImageSet, torch.device, torch.dtype]:
    """The images, and where and in which precision they are trained on."""
    device = env.pick_device()
    return phantom_set("ct", BATCH, size=SIZE), device, env.training_dtype(device)


def _step(
    objective: Assimilation, data: ImageSet, device: torch.device, dtype: torch.dtype
) -> Callable[[], float]:
    """A training step that returns its loss, which makes it wait until a GPU is done."""
    env.seed_everything(0)
    images = to_float(data.images).to(device, memory_format=torch.channels_last)
    targets = torch.from_numpy(data.targets).to(device)
    model = build_assimilated("resnet18", len(data.classes), colour="conv", start="scratch")
    model.to(device, memory_format=torch.channels_last).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4)

    def step() -> float:
        loss = objective(model, images, targets, np.arange(len(images)), dtype)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return loss.item()

    return step
