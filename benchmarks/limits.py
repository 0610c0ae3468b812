"""What the machine itself allows: the arithmetic a network needs, and the fastest there is.

A promise of speed that is not kept says so with these: no engine can do the same arithmetic
quicker than the machine's fastest matrix product.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from statistics import median
from typing import TypeVar

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from medrobust_utils.core import env
from medrobust_utils.explain.cam_layers import frozen

T = TypeVar("T")

SIDES = (1024, 2048, 4096)  # of the square matrices tried
KINDS = (torch.float32, torch.bfloat16)
ROUNDS = 5


def matmul_gflops(device: torch.device, dtype: torch.dtype) -> float:
    """The most that a square matrix product reaches, in 10^9 operations a second.

    A multiplication and an addition are two operations. Of each size the median of five counts.
    """
    return _fastest(device, dtype, torch.get_num_threads())


@cache
def _fastest(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    best = 0.0
    for side in SIDES:
        left, right = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
        seconds = [_product(left, right) for _ in range(ROUNDS + 1)][1:]
        best = max(best, 2 * side**3 / median(seconds) / 1e9)
        if median(seconds) > 0.3:  # emulated: the larger ones would take minutes
            break
    return best


def _product(left: torch.Tensor, right: torch.Tensor) -> float:
    start = time.perf_counter()
    (left @ right)[0, 0].item()
    return time.perf_counter() - start


def gradient_gflop(model: nn.Module, images: torch.Tensor) -> float:
    """Operations of one forward and backward pass to the pixels of one image, in 10^9.

    Convolutions and matrix products are counted, which is nearly all of it.
    """
    one = images[:1].detach().clone().requires_grad_()
    with frozen(model), FlopCounterMode(display=False) as counter:
        model(one).sum().backward()
    return counter.get_total_flops() / 1e9


def forward_gflop(model: nn.Module, images: torch.Tensor) -> float:
    """The same for a forward pass alone."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(images[:1])
    return counter.get_total_flops() / 1e9


def training_gflop(model: nn.Module, images: torch.Tensor) -> float:
    """The same for one image of a training step, which needs the gradients of the weights."""
    with FlopCounterMode(display=False) as counter:
        model(images[:2]).sum().backward()
    model.zero_grad(set_to_none=True)
    return counter.get_total_flops() / 2 / 1e9


def peak(device: torch.device) -> float:
    """The most in any precision that gradients may have."""
    return max(matmul_gflops(device, dtype) for dtype in KINDS)


def bound(theirs: float, ours: float, goal: float, device: torch.device) -> str:
    """What stands in the way of doing the same arithmetic ``goal`` times as fast.

    Args:
        theirs, ours: 10^9 operations a second of the two sides.
    """
    peaks = {str(dtype)[6:]: matmul_gflops(device, dtype) for dtype in KINDS}
    most = peak(device) / theirs
    every = " and ".join(f"{value:.0f} in {name}" for name, value in peaks.items())
    words = (
        f"the other side does {theirs:.0f} GFLOP/s of the arithmetic that is needed and the kit "
        f"{ours:.0f}; this machine's fastest matrix product reaches {every}, {most:.1f} times the "
        f"other side's. The kit is at {ours / peak(device):.0%} of it."
    )
    if ours < theirs:
        words += f" Why it is {1 - ours / theirs:.0%} slower than the other side was not found."
    if most < goal:
        return f"Arithmetic: {words} More would need fewer operations."
    return f"Memory and overhead: {words}"


def by_device(table: Mapping[str, T]) -> T:
    """The entry of the device that runs; the CPU's for one that has none."""
    return table.get(env.pick_device().type, table["cpu"])
