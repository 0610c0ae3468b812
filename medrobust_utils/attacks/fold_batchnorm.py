"""A quicker copy of a network, for the many passes of an attack that only look for a way.

What is found is scored by the network itself, so the copy can cost strength but never honesty.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from ..core.contracts import ask

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
ALIKE = 1e-3  # logits of the copy, relative and absolute; folding rounds about a hundredth of it


def quick_copy(model: nn.Module, images: Tensor) -> nn.Module:
    """A frozen copy, channels last, with batch norm folded into the convolutions before it.

    It cannot be folded where control flow depends on values, nor where one convolution serves two
    batch norms or the network draws at random, which shows on ``images`` (N, C, H, W); one is
    enough. The plain copy is slower, and as right. ``model``, in evaluation mode, is left alone.
    """
    try:
        plain = copy.deepcopy(model).requires_grad_(False).to(memory_format=torch.channels_last)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # it keeps what nobody can copy: tensors that were computed, locks, files
        return model
    if not any(isinstance(module, BATCH_NORMS) for module in plain.modules()):
        return plain
    try:
        folded = fuse(plain).eval().requires_grad_(False).to(memory_format=torch.channels_last)
        # of two sizes: tracing may have taken the number of images for a constant
        for some in (images, torch.cat([images, images])):
            if not torch.allclose(ask(folded, some), ask(model, some), rtol=ALIKE, atol=ALIKE):
                return plain
    except Exception:  # whatever tracing somebody's module raises, the plain copy will do
        return plain
    return folded
