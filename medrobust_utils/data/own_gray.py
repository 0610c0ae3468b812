"""Coloured images of one's own, seen gray by a paper whose method is about gray images."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from .imageset import ImageSet, Rows

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R 601, as in Pillow's mode L


class Gray:
    """RGB images (N, H, W, 3) as gray ones (N, H, W, 1), computed when indexed."""

    def __init__(self, base: np.ndarray | Rows) -> None:
        self.base, self.dtype, self.ndim = base, np.dtype(np.uint8), 4
        self.shape = (*base.shape[:3], 1)

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:
        return np.rint(self.base[index] @ np.array(LUMA, np.float32)).astype(np.uint8)[..., None]


def gray(data: ImageSet) -> ImageSet:
    """``data`` with one channel, and a line in its census if that was not so before."""
    if data.images.shape[3] == 1:
        return data
    checksum = hashlib.sha256(f"{data.checksum}/gray".encode()).hexdigest()
    census = data.census | {"channels": 1, "made_gray": len(data)}
    return replace(data, images=Gray(data.images), checksum=checksum, census=census)
