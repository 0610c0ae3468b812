"""Reading images for training: the kit's decoded cache beside ImageFolder, which decodes anew.

Both give the same chest X-rays of children as gray float32 batches of 224 pixels, each shrunk in
its own way. The publisher's folders are what torchvision's ImageFolder reads, with a decoding
process for each processor core.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from medrobust_utils.core import env
from medrobust_utils.data import ImageSet, load, to_float

from .timing import Comparison, compare

SET, SIZE, BATCH, IMAGES = "kermany", 224, 32, 2000
ROUNDS = 7  # of two seconds, or less
WORKERS = os.cpu_count() or 1  # processes that decode
FASTER = 10  # times


def measure() -> Iterator[Comparison]:
    """One pass over 2,000 images."""
    data = load(SET, size=SIZE)
    rows, decoding = _decoding(data)

    def cached() -> float:
        return sum(
            to_float(data.images[rows[start : start + BATCH]])[0, 0, 0, 0].item()
            for start in range(0, len(rows), BATCH)
        )

    yield compare(
        f"reading {len(rows)} chest X-rays at {SIZE} px, {WORKERS} decoding processes",
        ("ImageFolder", decoding),
        ("decoded cache", cached),
        at_least=FASTER,
        rounds=ROUNDS,
    )


def _decoding(data: ImageSet) -> tuple[np.ndarray, Callable[[], float]]:
    """Rows of ``data``, and what reads the same images by ImageFolder.

    Its processes are started by the first reading, which is not timed.
    """
    change = v2.Compose(
        [v2.Resize((SIZE, SIZE)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    )
    root = env.data_root() / "chest_xray"
    folder = ImageFolder(str(root / "train"), change, loader=_gray)
    paths = (Path(path).relative_to(root).with_suffix("") for path, _ in folder.samples)
    places = {path.as_posix(): place for place, path in enumerate(paths)}
    shared = [row for row, name in enumerate(data.ids) if name in places]
    rows = np.random.default_rng(0).permutation(shared)[:IMAGES]
    some = Subset(folder, [places[data.ids[row]] for row in rows])
    loader = DataLoader(some, BATCH, num_workers=WORKERS, persistent_workers=WORKERS > 0)
    return rows, lambda: sum(images[0, 0, 0, 0].item() for images, _ in loader)


def _gray(path: str) -> Image.Image:
    """One channel, as the kit keeps X-rays."""
    with Image.open(path) as image:
        return image.convert("L")
