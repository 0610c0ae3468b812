"""Square attack (Andriushchenko et al. 2020), L-infinity: random search that asks for no gradient.

Begins with vertical stripes of plus or minus eps and tries one square of one colour at a time,
keeping it where the margin falls. Whoever hides gradients is caught here.
"""

from __future__ import annotations

import numpy as np
import torch

from ..engine import ball
from .margins import QueryCounter

SHARE = 0.8  # of the pixels that the first square covers (p); AutoAttack's setting
# The share is halved after so many of 10,000 queries; other budgets are stretched to that.
HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def square(
    counter: QueryCounter,
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
        rows: their numbers in ``counter`` (n,).
        numbers: what tells the images apart (n,): an image gets the same squares whatever the
            batch it comes in.
        to_the_end: go on with images that are fooled.

    Returns:
        Images in the ball, exactly: the point of the lowest margin.
    """
    low, high = ball(images, eps)
    draws = _Draws(images, queries, numbers, seed)
    best = (images + eps * draws.stripes).clamp(low, high)
    margin = _margin(counter, best, rows)
    for query in range(1, queries):
        live = torch.arange(len(images), device=images.device)
        if not to_the_end:
            live = live[margin > 0]
        if not len(live):
            break
        move = draws.squares(query, live, side_of(query, queries, images.shape[2:]))
        tried = (best[live] + 2 * eps * move).clamp(low[live], high[live])
        found = _margin(counter, tried, rows[live])
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


def _margin(counter: QueryCounter, images: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The least margin (n,), above 0 exactly for the robust ones."""
    logits, up = counter.robust(images, rows)
    margin = counter.goal.margins(logits, counter.labels[rows]).amin(1)
    tiny = torch.finfo(margin.dtype).tiny
    return torch.where(up, margin.clamp_min(tiny), margin.clamp_max(0))


class _Draws:
    """The stripes and squares of each image, drawn from its own number.

    Places and signs of all queries are drawn at once: ten numbers or so an image and query.
    """

    def __init__(self, images: torch.Tensor, queries: int, numbers: np.ndarray, seed: int) -> None:
        _, channels, self.height, self.width = images.shape
        random = [np.random.default_rng([seed, int(number)]) for number in numbers]
        stripes = [one.choice([-1.0, 1.0], (channels, 1, self.width)) for one in random]
        self.stripes = torch.from_numpy(np.stack(stripes)).to(images)
        places = [one.random((queries, 2), np.float32) for one in random]
        self.places = torch.from_numpy(np.stack(places)).to(images.device)
        signs = [2 * one.integers(0, 2, (queries, channels), np.int8) - 1 for one in random]
        self.signs = torch.from_numpy(np.stack(signs)).to(images.device)

    def squares(self, query: int, live: torch.Tensor, side: int) -> torch.Tensor:
        """-1, 0 or 1 for each pixel (n, C, H, W): a square of one sign a channel."""
        place = self.places[live, query]
        down = self._inside(place[:, 0], self.height, side)
        across = self._inside(place[:, 1], self.width, side)
        inside = (down[:, :, None] & across[:, None, :])[:, None]
        return inside * self.signs[live, query][:, :, None, None].float()

    @staticmethod
    def _inside(place: torch.Tensor, length: int, side: int) -> torch.Tensor:
        first = (place * (length - side + 1)).long().clamp_max(length - side)[:, None]
        at = torch.arange(length, device=place.device)
        return (at >= first) & (at < first + side)
