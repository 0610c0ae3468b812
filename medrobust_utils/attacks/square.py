"""Square attack (Andriushchenko et al. 2020), L-infinity: random search that asks for no gradient.

Begins with vertical stripes of plus or minus eps and tries one square of one colour at a time,
keeping it where the margin falls. Whoever hides gradients is caught here.
"""

from __future__ import annotations

import numpy as np
import torch

from .engine import ball
from .probe import Probe

SHARE = 0.8  # of the pixels that the first square covers (p); AutoAttack's setting
# The share is halved after so many of 10,000 queries; other budgets are stretched to that.
HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def square(
    probe: Probe,
    images: torch.Tensor,
    rows: torch.Tensor,
    eps: float,
    *,
    queries: int,
    numbers: np.ndarray,
    seed: int,
    to_the_end: bool = False,
) -> torch.Tensor:
    """Attack images until they fall, with ``queries`` questions each at most.

    Args:
        images: float32 (n, C, H, W) in [0, 1].
        rows: their numbers in ``probe`` (n,).
        numbers: what tells the images apart (n,): an image gets the same squares whatever the
            batch it comes in.
        to_the_end: go on with images that have fallen.

    Returns:
        Images in the ball, exactly: the point of the lowest margin.
    """
    low, high = ball(images, eps)
    draws = [np.random.default_rng([seed, int(number)]) for number in numbers]
    best = _stripes(images, eps, draws).clamp(low, high)
    margin = _margin(probe, best, rows)
    for query in range(1, queries):
        live = torch.arange(len(images), device=images.device)
        if not to_the_end:
            live = live[margin > 0]
        if not len(live):
            break
        side = side_of(query, queries, images.shape[2:])
        tried = _with_square(best[live], eps, side, [draws[k] for k in live.tolist()])
        tried = tried.clamp(low[live], high[live])
        found = _margin(probe, tried, rows[live])
        # an equal margin is no gain, but a felled image stays felled
        better = found < margin[live]
        best[live[better]] = tried[better]
        margin[live[better]] = found[better]
    return best


def side_of(query: int, queries: int, shape: tuple[int, int]) -> int:
    """Side of the square in pixels at one query, at most that of the image less one."""
    at = query / queries * 10_000
    share = SHARE / 2 ** sum(at > limit for limit in HALVED_AT)
    side = round((share * shape[0] * shape[1]) ** 0.5)
    return max(1, min(side, min(shape) - 1))


def _margin(probe: Probe, images: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The least margin (n,), above 0 exactly for those that stand."""
    logits, up = probe.stands(images, rows)
    margin = probe.goal.margins(logits, probe.labels[rows]).amin(1)
    tiny = torch.finfo(margin.dtype).tiny
    return torch.where(up, margin.clamp_min(tiny), margin.clamp_max(0))


def _stripes(images: torch.Tensor, eps: float, draws: list[np.random.Generator]) -> torch.Tensor:
    _, channels, _, width = images.shape
    signs = np.stack([draw.choice([-1.0, 1.0], (channels, 1, width)) for draw in draws])
    return images + eps * torch.from_numpy(signs).to(images)


def _with_square(
    images: torch.Tensor, eps: float, side: int, draws: list[np.random.Generator]
) -> torch.Tensor:
    """One square of each image moved by plus or minus two eps, a sign for each channel."""
    _, channels, height, width = images.shape
    tried = images.clone()
    for image, draw in zip(tried, draws, strict=True):
        top, left = draw.integers(height - side), draw.integers(width - side)
        signs = torch.from_numpy(draw.choice([-1.0, 1.0], (channels, 1, 1))).to(image)
        image[:, top : top + side, left : left + side] += 2 * eps * signs
    return tried
