"""What networks cost: counted operations, and equations (1) and (2) of paper 1 on attention.

The modules run on torch's meta device, which tracks shapes and computes nothing, so that
images far too large for memory can be counted.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence

import pandas as pd
import torch
from timm.models.swin_transformer import WindowAttention
from timm.models.vision_transformer import Attention
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..core.errors import ContractError


def attention_costs(
    sides: Iterable[int], channels: int, window: int, heads: int = 3
) -> pd.DataFrame:
    """Multiply-adds of global and windowed attention for growing images, counted and by formula.

    Counted are timm's ViT and Swin attention over h x w patches, in windows of M x M of them. The
    formulas with C channels are equation (1), 4hwC^2 + 2(hw)^2 C, and (2), 4hwC^2 + 2 M^2 hw C.

    Args:
        sides: h = w, in patches.

    Returns:
        Columns kind, equation (1 or 2), patches, counted, formula.

    Raises:
        ContractError: if the windows do not tile an image.
    """
    rows = []
    for side in sides:
        if side % window:
            raise ContractError(f"windows of {window} patches do not tile {side}; take a multiple.")
        whole = Attention(channels, heads, qkv_bias=True)
        part, inside = WindowAttention(channels, heads, window_size=window), window**2
        for kind, module, seen in (("global", whole, side**2), ("window", part, inside)):
            module.fused_attn = False  # the fused kernel hides its two products from the counter
            counted = operations(module, side**2 // seen, seen, channels)
            formula = 4 * side**2 * channels**2 + 2 * seen * side**2 * channels
            rows.append((kind, 1 if kind == "global" else 2, side**2, counted, formula))
    return pd.DataFrame(rows, columns=["kind", "equation", "patches", "counted", "formula"])


def growth_exponent(costs: Sequence[int], patches: Sequence[int]) -> float:
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
