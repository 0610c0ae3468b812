"""One step of an attack, and one of a training: the kit's beside the bare arithmetic.

An attack's step may cost 5 % more than the forward and backward pass it is made of, on the same
prepared network. A fine-tuning step is to be 1.8 times as fast as the plain loop in float32 that
every tutorial shows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from medrobust_utils.attacks.engine import ascend
from medrobust_utils.attacks.fold_batchnorm import quick_copy
from medrobust_utils.core import env
from medrobust_utils.data import phantom_set, to_float
from medrobust_utils.models import MedicalModel, build
from medrobust_utils.training import recipes
from medrobust_utils.training.objectives import CrossEntropy

from .timing import Comparison, compare

SIZE, CLASSES, EPS = 224, 7, 1 / 255
ATTACKED, STEPS, TRAINED = 8, 4, 16  # images of a batch, steps in a row, images of a step
RECIPE = dict(
    epochs=1, batch=TRAINED, lr=1e-4, weight_decay=0.01, warmup_epochs=0.0, clip=0.0, flips="none"
)
ROUNDS = 5
SHARE, FASTER = 1.05, 1.8


def measure() -> Iterator[Comparison]:
    """The attack's step and the training's, for ResNet-50 at 224 pixels."""
    env.seed_everything(0)
    device = env.pick_device()
    dtype = env.training_dtype(device)
    data = phantom_set("dermatoscopy7", max(ATTACKED, TRAINED), size=SIZE)
    images = to_float(data.images).to(device, memory_format=torch.channels_last)
    labels = torch.from_numpy(data.targets).to(device)
    model = build("resnet50", CLASSES, start="scratch").to(device)
    yield _attack(model.eval(), images[:ATTACKED], labels[:ATTACKED], dtype)
    yield _training(model, images[:TRAINED], labels[:TRAINED], dtype)


def _attack(
    model: MedicalModel, images: torch.Tensor, labels: torch.Tensor, dtype: torch.dtype
) -> Comparison:
    ready = quick_copy(model, images[:1])

    def bare() -> float:
        total = torch.zeros((), device=images.device)  # read back once, as the attack does
        for _ in range(STEPS):
            moved = images.detach().clone().requires_grad_()
            with env.full_float32():
                with env.autocast(images.device, dtype):
                    logits = ready(moved)
                loss = cross_entropy(logits.float(), labels, reduction="sum")
                (uphill,) = torch.autograd.grad(loss, moved)
            total = total + uphill[0, 0, 0, 0]
        return total.item()

    def step() -> float:
        how = dict(lengths=[EPS / 4] * STEPS, dtype=dtype)
        return ascend(ready, images, labels, EPS, **how)[0, 0, 0, 0].item()

    return compare(
        f"{STEPS} steps of PGD, ResNet-50, {len(images)} images of {SIZE} px, {str(dtype)[6:]}",
        ("bare forward and backward", bare),
        ("PGD", step),
        at_most=SHARE,
        rounds=ROUNDS,
    )


def _training(
    model: MedicalModel, images: torch.Tensor, labels: torch.Tensor, dtype: torch.dtype
) -> Comparison:
    settings = recipes.complete(RECIPE)
    plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format).train()
    ours = model.to(memory_format=torch.channels_last).train()
    objective, rows = CrossEntropy(None), np.arange(len(images))
    return compare(
        f"fine-tuning step, ResNet-50, {len(images)} images of {SIZE} px, {str(dtype)[6:]}",
        (
            "plain float32 loop",
            _step(
                plain,
                torch.optim.AdamW(plain.parameters(), lr=1e-4),
                lambda: cross_entropy(plain(images.contiguous()), labels),
            ),
        ),
        (
            "kit",
            _step(
                ours,
                recipes.optimiser(ours, settings),
                lambda: objective(ours, images, labels, rows, dtype),
            ),
        ),
        at_least=FASTER,
        rounds=ROUNDS,
    )


def _step(
    model: nn.Module, optimiser: torch.optim.Optimizer, loss_of: Callable[[], torch.Tensor]
) -> Callable[[], float]:
    """A training step that returns its loss, which makes it wait until a GPU is done."""

    def step() -> float:
        loss = loss_of()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return loss.item()

    return step
