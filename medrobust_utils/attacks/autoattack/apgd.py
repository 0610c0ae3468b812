"""Auto-PGD (Croce and Hein 2020, algorithm 1), L-infinity: momentum, and steps that shorten.

An image that is fooled is dropped at once. No image sees another, so nothing else changes.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor

from ..engine import Loss, ball
from .margins import QueryCounter

MOMENTUM = 0.75  # share of the new step; section 4.1
RHO = 0.75  # share of the steps that must go up, section 4.1
# Checks lie at these shares of the steps: the first, how much closer each, the closest.
FIRST, CLOSER, CLOSEST = 0.22, 0.03, 0.06


def apgd(
    counter: QueryCounter,
    images: Tensor,
    rows: Tensor,
    eps: float,
    loss_of: Callable[[Tensor], Loss],
    *,
    steps: int,
    start: Tensor,
    to_the_end: bool = False,
) -> Tensor:
    """Attack images until they are fooled, and return the last or the best point of each.

    Args:
        images: float32 (n, C, H, W) in [0, 1]; ``rows`` are their numbers in ``counter`` (n,).
        loss_of: gives the loss to climb for some of the n images, by their positions.
        steps: at most so many; one gradient more is computed, at the start.
        start: where to begin, projected into the ball.
        to_the_end: go on with images that are fooled, and return the point of the highest loss.

    Returns:
        Images in the ball, exactly: fooled where the attack found such a point, else those of the
        highest loss.
    """
    result = images.clone()
    low, high = ball(images, eps)
    at = start.clamp(low, high)
    place = torch.arange(len(images), device=images.device)
    loss, slope, up = counter.uphill(at, rows, loss_of(place))
    # what is known of each image that is still robust; the first axis is the image
    s = SimpleNamespace(place=place, low=low, high=high, at=at, before=at, slope=slope, loss=loss)
    s.best, s.best_slope, s.best_loss, s.checked_loss = at, slope, loss, loss
    s.length, s.rises = torch.full_like(loss, 2 * eps), torch.zeros_like(loss)
    s.shortened = torch.ones_like(loss, dtype=torch.bool)
    gap, since = max(int(FIRST * steps), 1), 0
    for step in range(steps + 1):
        if step:
            plain = s.at + s.length[:, None, None, None] * s.slope.sign()
            plain = plain.clamp(s.low, s.high)
            share = 1.0 if step == 1 else MOMENTUM
            moved = s.at + share * (plain - s.at) + (1 - share) * (s.at - s.before)
            s.before, s.at = s.at, moved.clamp(s.low, s.high)
            loss, s.slope, up = counter.uphill(s.at, rows[s.place], loss_of(s.place))
            s.rises, s.loss = s.rises + (loss > s.loss), loss
            better = loss > s.best_loss
            s.best = torch.where(better[..., None, None, None], s.at, s.best)
            s.best_slope = torch.where(better[..., None, None, None], s.slope, s.best_slope)
            s.best_loss = torch.where(better, loss, s.best_loss)
            since += 1
        if not to_the_end and not up.all():  # before a check may send it back to its best point
            result[s.place[~up]] = s.at[~up]
            vars(s).update({name: known[up] for name, known in vars(s).items()})
        if not len(s.place):
            return result
        if since == gap:
            # conditions 1 and 2 of section 4.1: too few steps went up, or the best loss stands
            # still although the steps were as long at the last check
            halve = s.rises <= RHO * gap
            halve |= ~s.shortened & (s.best_loss <= s.checked_loss)
            s.shortened, s.checked_loss = halve, s.best_loss
            s.rises = torch.zeros_like(s.rises)
            s.length = torch.where(halve, s.length / 2, s.length)
            s.at = torch.where(halve[..., None, None, None], s.best, s.at)
            s.slope = torch.where(halve[..., None, None, None], s.best_slope, s.slope)
            gap, since = max(gap - max(int(CLOSER * steps), 1), max(int(CLOSEST * steps), 1)), 0
    result[s.place] = s.best
    return result
