"""The members of AutoAttack (Auto-PGD, FAB and Square, L-infinity) and what they ask of a model.

Each attacks images float32 (n, C, H, W) in [0, 1], whose numbers in ``counter`` are ``rows`` (n,),
until they are fooled, and returns images within ``eps`` (n,), exactly. No image sees another; a
number may come several times, for several ways to be fooled, and all leave with the first. An
image is fooled as for every head of this kit (see ``losses.correct``): by another class than the
true one, or, with several labels, by *any* of them that flips.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from ...core.contracts import check_finite
from ...core.losses import as_classes, correct
from ..engine import Loss, ball, extremes, gradient
from ..radii import score

FLOOR = 1e-12  # below a difference of logits; Croce and Hein 2020 do the same
# Auto-PGD
MOMENTUM = 0.75  # share of the new step; section 4.1
RHO = 0.75  # share of the steps that must go up, section 4.1
# Checks lie at these shares of the steps: the first, how much closer each, the closest.
FIRST, CLOSER, CLOSEST = 0.22, 0.03, 0.06
# FAB
BIAS = 0.1  # the largest pull towards the image (alpha_max); section 3
OVERSHOOT = 1.05  # eta: how far beyond the plane
BACK = 0.9  # beta: where to go on from an adversarial point, as a share of the way from the image
NEWTON = 20  # steps to the nearest point of a plane; more than the border of a box ever took
# Square
SHARE = 0.8  # of the pixels that the first square covers (p); AutoAttack's setting
# The share is halved after so many of 10,000 queries; other budgets are stretched to that.
HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """How far each image is from being misclassified in each way, (N, T); negative where it is.

    The ways are the T = K - 1 other classes in order (one for a single logit), or the K labels.
    """
    if labels.ndim == 2:
        return logits * (2 * labels.to(logits.dtype) - 1)
    logits, labels = as_classes(logits), labels.long()
    true = logits.gather(1, labels[:, None])
    other = torch.ones_like(logits, dtype=torch.bool).scatter_(1, labels[:, None], False)
    return true - logits[other].view(len(logits), -1)


def margin(way: Tensor) -> Loss:
    """The margin of each image in its own way (N,), a column of ``margins``."""
    return lambda logits, labels: margins(logits, labels).gather(1, way[:, None])[:, 0]


def towards(way: Tensor) -> Loss:
    """The loss that fools each image in its own way (N,), the targeted ratio (equation 7).

    The margin itself, negated, below four classes and for labels that do not compete.
    """

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        negated = -margin(way)(logits, labels)
        if labels.ndim == 2 or logits.shape[1] < 4:
            return negated
        top = logits.topk(4, 1).values
        return negated / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + FLOOR)

    return loss


class QueryCounter:
    """A model and the labels (N,) or (N, K) of some images.

    Gradients are taken ``through`` the model or a ``quick_copy`` of it, in ``dtype``; answers are
    its own, in float32. ``queries``, int64 (N,), counts both.
    """

    def __init__(
        self, model: nn.Module, through: nn.Module, labels: Tensor, dtype: torch.dtype
    ) -> None:
        self.model, self.through, self.labels, self.dtype = model, through, labels, dtype
        self.span = extremes(labels)
        self.queries = torch.zeros(len(labels), dtype=torch.int64, device=labels.device)

    def robust(self, images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, K) in float32 of the images with these numbers, and which are robust (n,)."""
        self.queries.index_add_(0, rows, torch.ones_like(rows))
        logits = score(self.model, images)
        return logits, correct(logits, self.labels[rows])

    def uphill(self, images: Tensor, rows: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
        """The loss (n,), its gradient by the pixels, and whether each image is robust.

        With gradients in mixed precision, or through a copy, an image that seems fooled is asked
        about again: the model itself, in float32.
        """
        labels = self.labels[rows]
        uphill, logits = gradient(self.through, images, labels, self.span, self.dtype, loss)
        self.queries.index_add_(0, rows, torch.ones_like(rows))
        check_finite(uphill.isfinite().all())
        up = correct(logits, labels)
        rough = self.dtype != torch.float32 or self.through is not self.model
        if rough and not up.all():
            doubted = (~up).nonzero()[:, 0]
            up = up.index_copy(0, doubted, self.robust(images[doubted], rows[doubted])[1])
        return loss(logits, labels), uphill, up


def apgd(
    counter: QueryCounter,
    images: Tensor,
    rows: Tensor,
    eps: Tensor,
    loss_of: Callable[[Tensor], Loss],
    steps: int,
    start: Tensor,
) -> Tensor:
    """Auto-PGD (Croce and Hein 2020, algorithm 1): momentum, and steps that shorten.

    Returns the first point that fools, else that of the highest loss.

    Args:
        loss_of: gives the loss to climb for some of the n images, by their positions.
        steps: at most so many; one gradient more is computed, at the start.
        start: where to begin, projected into the ball.
    """
    result = images.clone()
    low, high = ball(images, eps)
    at = start.clamp(low, high)
    place = torch.arange(len(images), device=images.device)
    loss, slope, up = counter.uphill(at, rows, loss_of(place))
    # what is known of each image that is still robust; the first axis is the image
    s = SimpleNamespace(place=place, low=low, high=high, at=at, before=at, slope=slope, loss=loss)
    s.best, s.best_slope, s.best_loss, s.checked_loss = at, slope, loss, loss
    s.length, s.rises = 2 * eps, torch.zeros_like(loss)
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
        if not up.all():  # before a check may send it back to its best point
            result[s.place[~up]] = s.at[~up]
            up = ~torch.isin(rows[s.place], rows[s.place[~up]])
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


def fab(
    counter: QueryCounter, images: Tensor, rows: Tensor, eps: Tensor, way: Tensor, *, steps: int
) -> Tensor:
    """Fast adaptive boundary (Croce and Hein 2020, "Minimally distorted adversarial examples").

    Looks for the adversarial point nearest to the image, whatever eps is: at each step the border
    of the answer is taken for a plane, and the point moves onto it, drawn towards the image.
    Returns the image where none lies in the ball. ``way`` (n,) is how to change each answer, a
    column of ``margins``.
    """
    result, at = images.clone(), images
    low, high = ball(images, eps)
    live = torch.arange(len(images), device=images.device)
    for _ in range(steps):
        if not len(live):
            break
        origin = images[live]
        distance, slope, _ = counter.uphill(at, rows[live], margin(way[live]))
        # onto the plane from the point and from the image, and a mean of both (equation 9)
        back = (slope * (origin - at)).sum((1, 2, 3))
        near, far = onto_plane(at, slope, -distance), onto_plane(origin, slope, -distance - back)
        a, b = (move.abs().amax((1, 2, 3)).clamp_min(1e-8) for move in (near, far))
        pull = (a / (a + b)).clamp(0, BIAS)[:, None, None, None]
        at = (1 - pull) * (at + OVERSHOOT * near) + pull * (origin + OVERSHOOT * far)
        at = at.clamp(0, 1)
        up = counter.robust(at, rows[live])[1]
        done = ~up & ((at >= low[live]) & (at <= high[live])).flatten(1).all(1)
        result[live[done]] = at[done]
        # an adversarial point too far away is still a point to come back from
        at = torch.where(up[:, None, None, None], at, origin + BACK * (at - origin))
        left = ~torch.isin(rows[live], rows[live[done]])
        live, at = live[left], at[left]
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


def square(
    counter: QueryCounter,
    images: Tensor,
    rows: Tensor,
    eps: Tensor,
    *,
    queries: int,
    numbers: np.ndarray,
    seed: int,
) -> Tensor:
    """Square attack (Andriushchenko et al. 2020): random search that asks for no gradient.

    Begins with vertical stripes of plus or minus eps and tries one square of one colour at a time,
    keeping it where the margin falls. So hidden gradients do not help. Returns the point of the
    lowest margin. ``numbers`` (n,) tell the images apart: each gets the same squares in any batch.
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
    eps = eps[:, None, None, None]
    best = (images + eps * stripes).clamp(low, high)
    least = _least(counter, best, rows)
    live = torch.arange(len(images), device=images.device)
    for query in range(1, queries):
        live = live[least[live] > 0]
        if not len(live):
            break
        side = side_of(query, queries, shape)
        ends = zip(places[live, query].T, shape, strict=True)
        down, across = (_inside(place, length, side) for place, length in ends)
        inside = (down[:, :, None] & across[:, None, :])[:, None]
        move = inside * signs[live, query][:, :, None, None].float()  # of one sign a channel
        tried = (best[live] + 2 * eps[live] * move).clamp(low[live], high[live])
        found = _least(counter, tried, rows[live])
        better = found < least[live]
        best[live[better]], least[live[better]] = tried[better], found[better]
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


def _least(counter: QueryCounter, images: Tensor, rows: Tensor) -> Tensor:
    """The least margin (n,), above 0 exactly for the robust ones."""
    logits, up = counter.robust(images, rows)
    least = margins(logits, counter.labels[rows]).amin(1)
    tiny = torch.finfo(least.dtype).tiny
    return torch.where(up, least.clamp_min(tiny), least.clamp_max(0))
