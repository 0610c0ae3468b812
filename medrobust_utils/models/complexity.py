"""What networks cost: counted operations, and equations (1) and (2) of paper 1 on attention.

The modules run on torch's meta device, which tracks shapes and computes nothing, so that
images far too large for memory can be counted.
"""

from __future__ import annotations

import copy
import math

import torch
from timm.models.swin_transformer import WindowAttention
from timm.models.vision_transformer import Attention
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..core.errors import ContractError


def equation_1(side: int, channels: int) -> int:
    """Multiply-adds of global attention over side x side patches: 4hwC^2 + 2(hw)^2 C."""
    patches = side * side
    return 4 * patches * channels**2 + 2 * patches**2 * channels


def equation_2(side: int, channels: int, window: int) -> int:
    """Multiply-adds of attention in windows of M x M patches: 4hwC^2 + 2 M^2 hw C."""
    patches = side * side
    return 4 * patches * channels**2 + 2 * window**2 * patches * channels


def counted_global(side: int, channels: int, heads: int = 3) -> int:
    """Counted multiply-adds of timm's ViT attention over side x side patches."""
    attention = Attention(channels, heads, qkv_bias=True)
    return _count(attention, 1, side * side, channels)


def counted_window(side: int, channels: int, window: int, heads: int = 3) -> int:
    """Counted multiply-adds of timm's Swin attention over the windows of side x side patches.

    Raises:
        ContractError: if the windows do not tile the image.
    """
    if side % window:
        raise ContractError(f"windows of {window} patches do not tile {side}; choose a multiple.")
    attention = WindowAttention(channels, heads, window_size=window)
    windows = (side // window) ** 2
    return _count(attention, windows, window**2, channels)


def _count(attention: nn.Module, *tokens: int) -> int:
    attention.fused_attn = False  # the fused kernel hides its two products from the counter
    return operations(attention, *tokens)


def growth_exponent(costs: list[int], patches: list[int]) -> float:
    """Power p of cost ~ patches^p over the last step of a growing series."""
    return math.log(costs[-1] / costs[-2]) / math.log(patches[-1] / patches[-2])


def operations(module: nn.Module, *shape: int) -> int:
    """Multiply-adds of one forward pass of ``module`` over float32 input of ``shape``, counted.

    Convolutions and matrix products count, additions and activations do not. The module is
    copied to the meta device and left alone.
    """
    ghost = copy.deepcopy(module).to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ghost(torch.empty(shape, device="meta"))
    return counter.get_total_flops() // 2  # a multiply-add counts as two operations
