"""What attention costs: equations (1) and (2) of paper 1 against counted operations.

The modules run on torch's meta device, which tracks shapes and computes nothing, so that
images far too large for memory can be counted.
"""

from __future__ import annotations

import math

import torch
from timm.models.swin_transformer import WindowAttention
from timm.models.vision_transformer import Attention
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .errors import ContractError


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
    return _count(attention, torch.empty(1, side * side, channels, device="meta"))


def counted_window(side: int, channels: int, window: int, heads: int = 3) -> int:
    """Counted multiply-adds of timm's Swin attention over the windows of side x side patches.

    Raises:
        ContractError: if the windows do not tile the image.
    """
    if side % window:
        raise ContractError(f"windows of {window} patches do not tile {side}; choose a multiple.")
    attention = WindowAttention(channels, heads, window_size=window)
    windows = (side // window) ** 2
    return _count(attention, torch.empty(windows, window**2, channels, device="meta"))


def _count(attention: nn.Module, tokens: torch.Tensor) -> int:
    attention.fused_attn = False  # the fused kernel hides its two products from the counter
    with FlopCounterMode(display=False) as counter:
        attention.to("meta")(tokens)
    return counter.get_total_flops() // 2  # a multiply-add counts as two operations


def growth_exponent(costs: list[int], patches: list[int]) -> float:
    """Power p of cost ~ patches^p over the last step of a growing series."""
    return math.log(costs[-1] / costs[-2]) / math.log(patches[-1] / patches[-2])
