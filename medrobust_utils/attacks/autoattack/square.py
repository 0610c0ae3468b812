"""Square attack (Andriushchenko et al. 2020), L-infinity: random search that asks for no gradient.

Begins with vertical stripes of plus or minus eps and tries one square of one colour at a time,
keeping it where the margin falls. Whoever hides gradients is caught here.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..engine import ball
from .margins import QueryCounter

SHARE = 0.8  # of the pixels that the first square covers (p); AutoAttack's setting
# The share is halved after so many of 10,000 queries; other budgets are stretched to that.
HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def square(
    counter: QueryCounter,
    images: Tensor,
    rows: Tensor,
    eps: float,
    *,
    queries: int,
    numbers: np.ndarray,
    seed: int,
    to_the_end: bool = False,
) -> Tensor:
    """Attack images until they fall, with ``queries`` questions each at most.

    Args:
        images: float32 (n, C, H, W) in [0, 1]; ``rows`` are their numbers in ``counter`` (n,).
        numbers: what tells the images apart (n,): an image gets the same squares whatever the
            batch it comes in.
        to_the_end: go on with images that are fooled.

    Returns:
        Images in the ball, exactly: the point of the lowest margin.
    """
    _, channels, *shape = images.shape
    # all queries are drawn at once: ten numbers or so an image and query
    random = [np.random.default_rng([seed, int(number)]) for number in numbers]
    stripes = [one.choice([-1.0, 1.0], (channels, 1, shape[1])) for one in random]
    places = [one.random((queries, 2), np.float32) for one in random]
    signs = [2 * one.integers(0, 2, (queries, channels), np.int8) - 1 for one in random]
    stripes = torch.from_numpy(np.stack(stripes)).to(images)
    places, signs = (torch.from_numpy(np.stack(x)).to(images.device) for x in (places, signs))
    low, high = ball(images, eps)
    best = (images + eps * stripes).clamp(low, high)
    margin = _margin(counter, best, rows)
    live = torch.arange(len(images), device=images.device)
    for query in range(1, queries):
        if not to_the_end:
            live = live[margin[live] > 0]
        if not len(live):
            break
        side = side_of(query, queries, shape)
        ends = zip(places[live, query].T, shape, strict=True)
        down, across = (_inside(place, length, side) for place, length in ends)
        inside = (down[:, :, None] & across[:, None, :])[:, None]
        move = inside * signs[live, query][:, :, None, None].float()  # of one sign a channel
        tried = (best[live] + 2 * eps * move).clamp(low[live], high[live])
        found = _margin(counter, tried, rows[live])
        better = found < margin[live]
        best[live[better]], margin[live[better]] = tried[better], found[better]
    return best


def side_of(query: int, queries: int, shape: tuple[int, int]) -> int:
    """Side of the square in pixels at one query, at most that of the image less one."""
    at = query / queries * 10_000
    share = SHARE / 2 ** sum(at > limit for limit in HALVED_AT)
    side = round((share * shape[0] * shape[1]) ** 0.5)
    return max(1, min(side, min(shape) - 1))


def _inside(place: Tensor, length: int, side: int) -> Tensor:
    """Which pixels (n, length) a square covers that begins at a ``place`` in [0, 1)."""
    first = (place * (length - side + 1)).long().clamp_max(length - side)[:, None]
    at = torch.arange(length, device=place.device)
    return (at >= first) & (at < first + side)


def _margin(counter: QueryCounter, images: Tensor, rows: Tensor) -> Tensor:
    """The least margin (n,), above 0 exactly for the robust ones."""
    logits, up = counter.robust(images, rows)
    margin = counter.goal.margins(logits, counter.labels[rows]).amin(1)
    tiny = torch.finfo(margin.dtype).tiny
    return torch.where(up, margin.clamp_min(tiny), margin.clamp_max(0))
