"""Fast adaptive boundary (Croce and Hein 2020, "Minimally distorted adversarial examples"), L-inf.

Looks for the adversarial point nearest to the image, whatever eps is: at each step the border of
the answer is taken for a plane, and the point moves onto it, drawn towards the image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..engine import ball
from .margins import QueryCounter

BIAS = 0.1  # the largest pull towards the image (alpha_max); section 3
OVERSHOOT = 1.05  # eta: how far beyond the plane
BACK = 0.9  # beta: where to go on from an adversarial point, as a share of the way from the image
NEWTON = 20  # steps to the nearest point of a plane; more than the border of a box ever took


def fab(
    counter: QueryCounter, images: Tensor, rows: Tensor, eps: float, way: Tensor, *, steps: int
) -> Tensor:
    """Attack images until each has an adversarial point within ``eps``.

    Args:
        images: float32 (n, C, H, W) in [0, 1]; ``rows`` are their numbers in ``counter`` (n,).
        way: how to change each image's answer (n,), a column of ``Goal.margins``.

    Returns:
        Images in the ball, exactly: fooled where the attack found such a point, else the images
        themselves.
    """
    result, at = images.clone(), images
    low, high = ball(images, eps)
    live = torch.arange(len(images), device=images.device)
    for _ in range(steps):
        if not len(live):
            break
        origin = images[live]
        margin, slope, _ = counter.uphill(at, rows[live], counter.goal.margin(way[live]))
        # onto the plane from the point and from the image, and a mean of both (equation 9)
        back = (slope * (origin - at)).sum((1, 2, 3))
        near, far = onto_plane(at, slope, -margin), onto_plane(origin, slope, -margin - back)
        a, b = (move.abs().amax((1, 2, 3)).clamp_min(1e-8) for move in (near, far))
        pull = (a / (a + b)).clamp(0, BIAS)[:, None, None, None]
        at = (1 - pull) * (at + OVERSHOOT * near) + pull * (origin + OVERSHOOT * far)
        at = at.clamp(0, 1)
        up = counter.robust(at, rows[live])[1]
        done = ~up & ((at >= low[live]) & (at <= high[live])).flatten(1).all(1)
        result[live[done]] = at[done]
        # an adversarial point too far away is still a point to come back from
        at = torch.where(up[:, None, None, None], at, origin + BACK * (at - origin))
        live, at = live[~done], at[~done]
    return result


def onto_plane(points: Tensor, normal: Tensor, offset: Tensor) -> Tensor:
    """The least L-infinity move within [0, 1] with ``(normal * move).sum() == offset``.

    Each pixel moves by ``min(t, room)`` towards the plane, ``room`` being its way to the end of
    [0, 1]; the sum that makes is concave and piecewise linear in t, so Newton's method from t = 0
    never overshoots and ends after finitely many steps. ``points`` are (n, C, H, W), ``offset``
    (n,); a plane that the box does not reach is approached as far as it goes.
    """
    weight = normal.abs().flatten(1)
    side = torch.where(offset >= 0, 1.0, -1.0)[:, None] * normal.flatten(1).sign()
    room = torch.where(side > 0, 1 - points.flatten(1), points.flatten(1))
    room = torch.where(side == 0, 0.0, room)
    most, goal = room.amax(1), offset.abs()
    t = torch.zeros_like(goal)
    for _ in range(NEWTON):
        reached = (weight * torch.minimum(t[:, None], room)).sum(1)
        free = (weight * (room > t[:, None])).sum(1)
        t = torch.where(free > 0, t + (goal - reached) / free.clamp_min(1e-30), t).clamp(min=0)
        t = torch.minimum(t, most)
    return (side * torch.minimum(t[:, None], room)).view_as(points)
