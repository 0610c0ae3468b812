"""Auto-PGD (Croce and Hein 2020, algorithm 1), L-infinity: momentum, and steps that shorten.

An image that is fooled is dropped at once. No image sees another, so nothing else changes.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import torch

from ..engine import ball
from .margins import Loss, QueryCounter

MOMENTUM = 0.75  # share of the new step; section 4.1
RHO = 0.75  # share of the steps that must go up, section 4.1
# Checks lie at these shares of the steps: the first, how much closer each, the closest.
FIRST, CLOSER, CLOSEST = 0.22, 0.03, 0.06


def apgd(
    counter: QueryCounter,
    images: torch.Tensor,
    rows: torch.Tensor,
    eps: float,
    loss_of: Callable[[torch.Tensor], Loss],
    *,
    steps: int,
    start: torch.Tensor,
    to_the_end: bool = False,
) -> torch.Tensor:
    """Attack images until they are fooled, and return the last or the best point of each.

    Args:
        images: float32 (n, C, H, W) in [0, 1].
        rows: their numbers in ``counter`` (n,).
        loss_of: gives the loss to climb for some of the n images, by their positions.
        steps: at most so many; one gradient more is computed, at the start.
        start: where to begin, projected into the ball.
        to_the_end: go on with images that are fooled, and return the point of the highest loss.

    Returns:
        Images in the ball, exactly: fooled where the attack found such a point, else those of the
        highest loss.
    """
    result = images.clone()
    if not len(images):
        return result
    low, high = ball(images, eps)
    at = start.clamp(low, high)
    place = torch.arange(len(images), device=images.device)
    loss, slope, up = counter.uphill(at, rows, loss_of(place))
    # what is known of each image that is still robust; the first axis is the image
    state = SimpleNamespace(
        rows=place, low=low, high=high, at=at, before=at, slope=slope, loss=loss
    )
    state.best, state.best_slope, state.best_loss, state.checked_loss = at, slope, loss, loss
    state.length, state.rises = torch.full_like(loss, 2 * eps), torch.zeros_like(loss)
    state.shortened = torch.ones_like(loss, dtype=torch.bool)
    gap = max(int(FIRST * steps), 1)
    since = 0
    for step in range(steps + 1):
        if step:
            _move(state, first=step == 1)
            up = _look(state, counter, rows, loss_of)
            since += 1
        if not to_the_end and not up.all():  # before a check may send it back to its best point
            result[state.rows[~up]] = state.at[~up]
            vars(state).update({name: known[up] for name, known in vars(state).items()})
        if not len(state.rows):
            return result
        if since == gap:
            _shorten(state, gap)
            gap, since = max(gap - max(int(CLOSER * steps), 1), max(int(CLOSEST * steps), 1)), 0
    result[state.rows] = state.best
    return result


def _move(state: SimpleNamespace, *, first: bool) -> None:
    """One step along the sign of the gradient, and a share of the last move."""
    step = state.length[:, None, None, None] * state.slope.sign()
    plain = (state.at + step).clamp(state.low, state.high)
    share = 1.0 if first else MOMENTUM
    moved = state.at + share * (plain - state.at) + (1 - share) * (state.at - state.before)
    state.before, state.at = state.at, moved.clamp(state.low, state.high)


def _look(
    state: SimpleNamespace, counter: QueryCounter, rows: torch.Tensor, loss_of: Callable
) -> torch.Tensor:
    """Loss and gradient at the new points; which images are still robust."""
    loss, state.slope, up = counter.uphill(state.at, rows[state.rows], loss_of(state.rows))
    state.rises = state.rises + (loss > state.loss)
    state.loss = loss
    better = loss > state.best_loss
    wide = better[:, None, None, None]
    state.best = torch.where(wide, state.at, state.best)
    state.best_slope = torch.where(wide, state.slope, state.best_slope)
    state.best_loss = torch.where(better, loss, state.best_loss)
    return up


def _shorten(state: SimpleNamespace, gap: int) -> None:
    """Halve the steps where they overshoot or bring nothing, and go back to the best point.

    Conditions 1 and 2 of section 4.1: too few steps went up, or the best loss stands still
    although the steps were as long at the last check.
    """
    few = state.rises <= RHO * gap
    still = ~state.shortened & (state.best_loss <= state.checked_loss)
    halve = few | still
    state.shortened, state.checked_loss = halve, state.best_loss
    state.rises = torch.zeros_like(state.rises)
    state.length = torch.where(halve, state.length / 2, state.length)
    wide = halve[:, None, None, None]
    state.at = torch.where(wide, state.best, state.at)
    state.slope = torch.where(wide, state.best_slope, state.slope)
