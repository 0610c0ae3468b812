"""Reading images for training: the kit's decoded cache beside ImageFolder, which decodes anew.

Both give the same chest X-rays of children as float32 batches of 224 pixels. The publisher's
folders are what torchvision's ImageFolder reads, with a decoding process for each processor core.
Reading must also be no bottleneck: it may take a tenth of a ResNet-18 training step at most.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from statistics import median

import numpy as np
import torch
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from medrobust_utils import env
from medrobust_utils.data import load, to_float

from . import glcm
from .timing import Comparison, compare, take_turns

SET, SIZE, BATCH, IMAGES = "kermany", 224, 32, 256
ROUNDS = 15  # of a fifth of a second, or less
TRAINED = 3  # rounds beside a training step, of seconds
WORKERS = os.cpu_count() or 1  # processes that decode
FASTER, BOTTLENECK = 10, 0.1


def measure() -> Iterator[Comparison]:
    """One pass over 256 images."""
    data = load(SET, size=SIZE)
    rows = np.random.default_rng(0).permutation(len(data))[:IMAGES]

    def cached() -> float:
        return sum(
            to_float(data.images[rows[start : start + BATCH]])[0, 0, 0, 0].item()
            for start in range(0, IMAGES, BATCH)
        )

    step = glcm.plain_step()
    reading, training = (median(s) for s in take_turns([cached, step], TRAINED))
    share = reading * BATCH / IMAGES / training
    yield compare(
        f"reading {IMAGES} chest X-rays at {SIZE} px, {WORKERS} decoding processes",
        ("ImageFolder", _decoding()),
        ("decoded cache", cached),
        at_least=FASTER,
        rounds=ROUNDS,
        facts={"share_of_a_training_step": share},
        kept=share <= BOTTLENECK,
        bound="the copy from bytes to float32, on one thread.",
    )


def _decoding() -> Callable[[], float]:
    """Reads as many images by ImageFolder; its processes are started before, not timed."""
    change = v2.Compose(
        [v2.Resize((SIZE, SIZE)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    )
    folder = ImageFolder(str(env.data_root() / "chest_xray" / "train"), change)
    some = np.random.default_rng(0).permutation(len(folder))[:IMAGES]
    loader = DataLoader(
        Subset(folder, some), BATCH, num_workers=WORKERS, persistent_workers=WORKERS > 0
    )
    return lambda: sum(images[0, 0, 0, 0].item() for images, _ in loader)
