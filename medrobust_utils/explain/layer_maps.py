"""Reading a layer's output as maps of the image, whatever kind of network it belongs to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..core.contracts import exported
from ..core.errors import ContractError

LEADING = 16  # class and register tokens that may go before those of the patches


def patches(model: nn.Module, side: int) -> int:
    """Tokens that stand for parts of an image of ``side`` pixels; 0 where it is not cut up."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == module.stride != (1, 1):
            return (side // module.stride[0]) ** 2
    return 0


def spatial(output: torch.Tensor, patches: int = 0) -> torch.Tensor | None:
    """A layer's output as maps (N, C, h, h); None if it has no place for each part of an image.

    Known are (N, C, h, h), (N, h, h, C) and (N, tokens, C) with h * h tokens, or one more where
    a class token goes first; with the number of ``patches``, any that go before theirs.
    """
    if output.ndim == 4 and output.shape[2] == output.shape[3]:
        return output
    if output.ndim == 4 and output.shape[1] == output.shape[2]:
        return output.permute(0, 3, 1, 2)
    if output.ndim == 3:
        tokens = output.shape[1]
        known = 0 <= tokens - patches <= LEADING and math.isqrt(patches) ** 2 == patches > 0
        side = math.isqrt(patches if known else tokens)
        if known or tokens - side**2 in (0, 1):
            places = output[:, tokens - side**2 :]
            return places.transpose(1, 2).unflatten(2, (side, side))
    return None


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Inside, no parameter asks for a gradient; afterwards all are and have what they had."""
    before = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, required, gradient in before:
            parameter.requires_grad_(required)
            parameter.grad = gradient


def check_hooks(model: nn.Module) -> None:
    """Raise ContractError for a network whose layers cannot be listened to."""
    if exported(model) or any(isinstance(one, torch.jit.ScriptModule) for one in model.modules()):
        raise ContractError(
            "the model is scripted or exported, and shows nothing of its layers. Explain the "
            "nn.Module it was made from; attacks, sweeps and scores take it as it is."
        )
