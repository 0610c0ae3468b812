"""The paper-style view of a multi-label set: one copy of an image for each of its labels.

ImageNet's folder layout (paper 1, section 2.2) has one class a file, so an image with three
findings was most likely copied into three folders. Then no classifier can be right on all
copies, and the majority class shrinks from 53.8 % to 42.6 % of the full ChestX-ray14.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from ..core.errors import DataError
from .imageset import ImageSet, Rows
from .splits import Split, check_split


def copy_per_label(data: ImageSet, split: Split) -> tuple[ImageSet, Split]:
    """Single-label set with one row a label, split like the original images.

    Args:
        data: multi-label set; every image has at least one label.

    Returns:
        The copied set (targets int64 (N',)) and the split carried over, so that no image
        lies on both sides.
    """
    if not data.multi_label:
        raise DataError(f"{data.name}: has one label an image already; nothing to copy.")
    source, targets = np.nonzero(data.targets)
    digest = hashlib.sha256((data.checksum + "one copy a label").encode()).hexdigest()
    copies = replace(
        data,
        images=Rows(data.images, source),
        targets=targets.astype(np.int64),
        groups=data.groups[source],
        ids=tuple(f"{data.ids[i]}#{data.classes[k]}" for i, k in zip(source, targets, strict=True)),
        checksum=digest,
        census=data.census | {"copies": len(source)},
        masks=None if data.masks is None else data.masks[source],
        subjects=None if data.subjects is None else data.subjects[source],
        parts=None if data.parts is None else tuple(data.parts[row] for row in source),
    )
    carried = Split(
        np.flatnonzero(np.isin(source, split.train)), np.flatnonzero(np.isin(source, split.val))
    )
    check_split(copies, carried)
    return copies, carried
