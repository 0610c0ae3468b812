"""What tells one trained network from another."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def digest(model: nn.Module) -> str:
    """Sixteen hex digits that change with any weight or buffer of ``model``.

    Not with what has none: two networks of equal weights and other strides have one digest.
    """
    found = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)  # of any type
        found.update(name.encode() + raw.numpy().tobytes())
    return found.hexdigest()[:16]
