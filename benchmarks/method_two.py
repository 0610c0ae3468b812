"""Method two of paper 4: 729 combinations one by one, in batches, and screened in bfloat16.

Each side chooses the signs of one image of 64 pixels for a U-Net trained on drawn tissue,
gradients included. Screening promises a third of the time. What each side chose for eight images
stands beside its time: batches are to choose what trying one by one chooses, and a screened
choice whose loss is more than 1e-6 above the least is counted as a miss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import torch

from medrobust_utils import segmentation
from medrobust_utils.attacks import Selected, selective, selective_fgsm
from medrobust_utils.core import env
from medrobust_utils.data import phantom_set, split_three_ways, to_float
from medrobust_utils.data.views import label_maps
from medrobust_utils.models import MedicalModel, build_unet

from . import limits
from .timing import Comparison, compare

WIDTHS, DEPTH, SIZE = (16, 32), 3, 64
PHANTOMS, IMAGES = 200, 8
RECIPE = dict(
    epochs=12, batch=16, lr=0.003, weight_decay=0.0, warmup_epochs=0.0, clip=0.0, flips="both"
)
HOW = dict(step_size=0.01, bound=0.06)
ROUNDS = 3
SCREENED = {"cpu": 3, "cuda": 15}  # times as fast as one by one
BATCHED = 1
MISS = 1e-6  # nats above the least loss


def measure() -> Iterator[Comparison]:
    """Batches and screening, for two widths."""
    for width in WIDTHS:
        yield from _compare(width)


def _compare(width: int) -> Iterator[Comparison]:
    model, images, labels, val_loss = _trained(width)
    sides = {
        "one by one": _chooser(model, images, labels, "exhaustive", batch=1),
        "in batches": _chooser(model, images, labels, "exhaustive", batch=selective.BATCH),
        "screened": _chooser(model, images, labels, "screened", batch=selective.BATCH),
    }
    best, *others = (choose(IMAGES) for choose in sides.values())
    count = 3 ** best.signs.shape[1]
    gflop = count * limits.forward_gflop(model, images)
    goals = (BATCHED, limits.by_device(SCREENED))
    for name, goal, chosen in zip(list(sides)[1:], goals, others, strict=True):
        base, other = (
            (side, lambda choose=sides[side]: choose(1)) for side in ("one by one", name)
        )
        facts = {"val_loss": val_loss, **_facts(best, chosen)}
        found = compare(
            f"{count} combinations, U-Net of width {width}",
            base,
            other,
            at_least=goal,
            rounds=ROUNDS,
            facts=facts,
            kept=not facts["misses"],
        )
        rates = [gflop / seconds for seconds in (found.base_seconds, found.other_seconds)]
        yield replace(found, bound=limits.bound(*rates, goal, images.device))


def _facts(best: Selected, chosen: Selected) -> dict[str, float]:
    """How the choice compares with that of trying one by one."""
    above = chosen.loss - best.loss
    return {
        "images": len(above),
        "same_signs": int((chosen.signs == best.signs).all(1).sum()),
        "misses": int((above > MISS).sum()),
        "largest_gap": above.max().item(),
        "gain": (best.before - best.loss).mean().item(),
    }


def _chooser(
    model: MedicalModel, images: torch.Tensor, labels: torch.Tensor, search: str, *, batch: int
) -> Callable[[int], Selected]:
    """Chooses the signs of the first images, with so many candidates in a forward pass."""

    def choose(first: int) -> Selected:
        with patch.object(selective, "BATCH", batch):
            return selective_fgsm(model, images[:first], labels[:first], **HOW, search=search)

    return choose


def _trained(width: int) -> tuple[MedicalModel, torch.Tensor, torch.Tensor, float]:
    """A trained U-Net, test images and label maps on its device, and its validation loss."""
    data = label_maps(phantom_set("histology", PHANTOMS, size=SIZE))
    split = split_three_ways(data, seed=0)
    env.seed_everything(0)
    model = build_unet(len(data.classes), width=width, depth=DEPTH, size=SIZE)
    with TemporaryDirectory() as folder:
        history = segmentation.fit(model, data, split, RECIPE, Path(folder), seed=0)
    rows = np.sort(split.test)[:IMAGES]
    device = env.pick_device()
    images = to_float(data.images[rows]).to(device, memory_format=torch.channels_last)
    labels = torch.from_numpy(data.targets[rows]).to(device)
    return model.eval(), images, labels, history[-1]["val_loss"]
