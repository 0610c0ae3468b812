"""Gradient attacks, L-infinity, on images in [0, 1]: small settings of one loop of signed steps.

Each returns adversarial images of the shape of ``images``, in [0, 1] and at most ``eps`` away,
exactly so in float32. Images are float32 (N, C, H, W) on the model's device, the model is in
evaluation mode and returns logits (N, K); labels are class indices (N,), zeros and ones (N,)
for a single logit, multi-hot (N, K), or label maps (N, H, W) where the model segments and returns
(N, K, H, W). A breach raises ContractError. ``eps`` and ``step_size`` are in units of the full
range: eight gray levels are 8/255.

Nothing inside the loop waits for a GPU; where the fooled are let go, one step is one wait, and one
more where the network itself has to say who they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..core import env
from ..core.contracts import ask, blamed, check_finite, check_labels, check_logits
from ..core.errors import ContractError
from ..core.gate import admit, gate
from ..core.losses import IGNORED, correct, per_image

# Usual steps of an attack, and the length of one as a share of eps; None: the steps add up to eps.
USUAL = {
    "fgsm": (1, 1.0),  # Goodfellow et al. 2015, section 4
    "bim": (10, 0.2),  # Foolbox 3.3.4
    "mifgsm": (10, None),  # Dong et al. 2018, algorithm 1
    "pgd": (40, 0.01 / 0.3),  # Foolbox 3.3.4
}
MIFGSM_DECAY = 1.0  # Dong et al. 2018
TINY = torch.finfo(torch.float32).tiny
NEARLY_ALL = 0.99  # share of the pixels; some hidden gradients show in the few others
Loss = Callable[[Tensor, Tensor], Tensor]  # of logits and labels, (N,)


def madry_step(eps: float, steps: int) -> float:
    """Length of a step that can cross the ball two and a half times (Madry et al. 2018)."""
    if steps < 1:
        raise ContractError(f"steps={steps}: take 1 step or more.")
    return 2.5 * eps / steps


def fgsm(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: float,
    *,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Fast gradient sign method: one step of length eps (Goodfellow et al. 2015, section 4)."""
    return pgd(model, images, labels, eps, **_usual("fgsm", eps, {"dtype": dtype}))


def bim(model: nn.Module, images: Tensor, labels: Tensor, eps: float, **how: Any) -> Tensor:
    """Basic iterative method (Kurakin et al. 2017): signed steps from the image itself.

    Ten of a fifth of eps, as in Foolbox 3.3.4, unless ``how`` says otherwise (see ``pgd``).
    """
    return pgd(model, images, labels, eps, **_usual("bim", eps, how))


def mifgsm(model: nn.Module, images: Tensor, labels: Tensor, eps: float, **how: Any) -> Tensor:
    """Momentum iterative method (Dong et al. 2018, algorithm 1).

    Ten steps that add up to eps, a decay (mu) of 1, unless ``how`` says otherwise (see ``pgd``).
    """
    return pgd(model, images, labels, eps, **_usual("mifgsm", eps, {"decay": MIFGSM_DECAY} | how))


@gate()
def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: float,
    *,
    steps: int = USUAL["pgd"][0],
    step_size: float | None = None,
    random_start: bool = True,
    generator: torch.Generator | None = None,
    start: Tensor | None = None,
    targeted: bool = False,
    decay: float | None = None,
    loss: Callable[..., Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Projected gradient descent (Madry et al. 2018), with the defaults of Foolbox 3.3.4.

    Args:
        step_size: eps * 0.01 / 0.3 unless given.
        random_start: begin at a uniform point of the ball, else at the image.
        generator: of the random start; torch's own without one.
        start: begin at these images instead, projected into the ball.
        targeted: ``labels`` are where the answer shall go: walk down their loss, not up.
        decay, loss: see ``ascend``.
        dtype: bfloat16 computes gradients in mixed precision. Score the result in float32.
    """
    labels = admit(model, images, labels)
    if start is None and random_start:
        start = uniform_start(images, eps, generator)
    lengths = [eps * USUAL["pgd"][1] if step_size is None else step_size] * steps
    how = dict(start=start, decay=decay, loss=_towards if targeted else loss, dtype=dtype)
    return ascend(model, images, labels, eps, lengths=lengths, **how)


def _usual(attack: str, eps: float, how: dict[str, Any]) -> dict[str, Any]:
    """``how``, and what it leaves open as is usual for an attack that begins at the image."""
    steps, share = USUAL[attack]
    steps, length = how.get("steps", steps), how.get("step_size")
    if length is None:
        length = eps / max(1, steps) if share is None else eps * share
    return {"random_start": False} | how | {"steps": steps, "step_size": length}


def _towards(logits: Tensor, labels: Tensor, *, done: float) -> Tensor:
    return -per_image(logits, labels)


def ascend(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: float | Tensor,
    *,
    lengths: Sequence[float] | Tensor,
    start: Tensor | None = None,
    decay: float | None = None,
    loss: Callable[..., Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
    batch: int | None = None,
    fooled: Callable[..., Tensor] | None = None,
    vanished: Tensor | None = None,
) -> Tensor:
    """Climb the loss from ``start`` by signed steps and return the last point.

    Model, images and labels have been through ``gate.admit``. The result lies in [0, 1], with
    ``(result - images).abs() <= eps`` in float32, exactly.

    Args:
        eps: radius of the ball around each image, in [0, 1]: one for all, or (N,).
        lengths: of the steps in turn, in the units of ``eps``: (S,), or (S, N) of each image.
        start: where to begin, projected into the ball first; the images without one.
        decay: share of the gathered gradient that each step keeps, every gradient scaled to mean
            magnitude 1 first (Dong et al. 2018, algorithm 1); None follows the last one alone.
        loss: what to climb instead of ``losses.per_image``: of logits, labels and ``done``, the
            share of the steps already taken, each image's own number (N,).
        batch: see ``gradient``.
        fooled: asked about images (their labels and numbers) that ``model``, maybe a copy, judges
            wrong: those that are, bool (n,), stay where they are.
        vanished: bool (N,), set to True for images whose gradient, while they still had to move,
            was zero in all pixels but one in a hundred.
    """
    if not isinstance(eps, Tensor):  # others were checked as numbers, before they were sent
        check_eps(eps)
    lengths = torch.as_tensor(lengths, dtype=torch.float32, device=images.device)
    if not len(lengths) or not (lengths >= 0).all():
        raise ContractError(f"steps of length {lengths.tolist()}: take 1 or more, forward.")
    if dtype not in (torch.float32, torch.bfloat16):
        raise ContractError(f"dtype={dtype}: choose float32 or bfloat16; float16 loses gradients.")
    if not len(images):
        return images.clone()
    lengths = lengths.view(len(lengths), -1, 1, 1, 1).expand(-1, len(images), -1, -1, -1)
    span, images = extremes(labels), images.detach()
    low, high = ball(images, eps)
    moved = images.clone() if start is None else start.detach().clamp(low, high)
    gathered = None if decay is None else torch.zeros_like(images)
    first = None
    finite = torch.ones((), dtype=torch.bool, device=images.device)
    climbing = torch.arange(len(images), device=images.device)
    for step, length in enumerate(lengths):
        at_step = None if loss is None else partial(loss, done=step / len(lengths))
        asked = (moved[climbing], labels[climbing], span, dtype, at_step)
        uphill, logits = gradient(model, *asked, batch=batch)
        finite = finite & uphill.isfinite().all()
        first = logits if first is None else first
        if fooled is not None:
            robust = correct(logits, labels[climbing])
            doubted = (~robust).nonzero()[:, 0]  # each nonzero waits for the device
            if len(doubted):
                rows = climbing[doubted]
                robust[doubted] = ~fooled(moved[rows], labels[rows], rows)
                left = robust.nonzero()[:, 0]
                climbing, uphill = climbing[left], uphill[left]
            if not len(climbing):
                break
        if vanished is not None:
            vanished[climbing] |= (uphill.abs() < TINY).float().mean((1, 2, 3)) > NEARLY_ALL
        if decay is not None:
            mean = uphill.abs().mean((1, 2, 3), keepdim=True).clamp_min(TINY)
            uphill = gathered[climbing] = decay * gathered[climbing] + uphill / mean
        further = moved[climbing] + length[climbing] * uphill.sign()
        moved[climbing] = further.clamp(low[climbing], high[climbing])
    check_logits(first, labels.ndim == 2)
    check_finite(finite)
    return moved


def shares(rows: Tensor, batch: int | None) -> tuple[Tensor, ...]:
    """Rows in parts of ``batch`` at most, of nearly the same size; in one without it."""
    return rows.tensor_split(max(1, math.ceil(len(rows) / batch)) if batch else 1)


def gradient(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    span: tuple[float, float],
    dtype: torch.dtype = torch.float32,
    loss: Loss | None = None,
    batch: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradient of each image's own loss by its pixels (N, C, H, W), and the logits.

    Args:
        span: the ``extremes`` of the labels.
        loss: of logits and labels, (N,); ``losses.per_image`` without one.
        batch: so many images at a time; all without it.
    """
    found = []
    for some, truth in zip(shares(images, batch), shares(labels, batch), strict=True):
        with torch.inference_mode(False), torch.enable_grad(), env.full_float32():
            moved = some.detach().clone().requires_grad_()
            logits = ask(model, moved, dtype, slopes=True)
            check_labels(truth, logits, span)
            # the sum keeps each image's gradient independent of the batch it comes in
            total = (loss or per_image)(logits, truth).sum()
            with blamed(model, some):
                (uphill,) = torch.autograd.grad(total, moved)
        found.append((uphill, logits.detach()))
    return found[0] if len(found) == 1 else tuple(map(torch.cat, zip(*found, strict=True)))


def ball(images: Tensor, eps: float | Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest images allowed: within ``eps``, one or (N,), and [0, 1], in float32.

    ``images + eps`` is rounded, and may land up to half a unit in the last place too far out, a
    percent of a small eps. Where it does, the bound is the next number inwards.
    """
    if isinstance(eps, Tensor):
        eps = eps[:, None, None, None]
    low, high = images - eps, images + eps
    low = torch.where(images - low > eps, torch.nextafter(low, images), low)
    high = torch.where(high - images > eps, torch.nextafter(high, images), high)
    return low.clamp(min=0), high.clamp(max=1)


def uniform_start(images: Tensor, eps: float, generator: torch.Generator | None) -> Tensor:
    """``images`` plus uniform noise in [-eps, eps], drawn image after image.

    A batch split in two, with one generator for both halves, gets the same noise.
    """
    noise = torch.empty(images.shape, device=generator.device if generator else "cpu")
    for row in noise:
        row.uniform_(-1, 1, generator=generator)
    return images + eps * noise.to(images.device)


def extremes(labels: Tensor) -> tuple[float, float]:
    """The smallest and the largest label, without IGNORED pixels: all that is read back of them."""
    if labels.ndim == 3:
        labels = labels[labels != IGNORED]
    if not labels.numel():
        return 0.0, 0.0
    return labels.amin().item(), labels.amax().item()


def check_eps(*epsilons: float) -> None:
    """Raise ContractError unless these are one radius or more, rising, within [0, 1]."""
    if not epsilons:
        raise ContractError("no eps to attack with: give at least one.")
    outside = [eps for eps in epsilons if not 0 <= eps <= 1]  # also catches NaN
    if outside:
        raise ContractError(f"eps={outside[0]}: choose within [0, 1]. 8 gray levels are 8/255.")
    if any(b <= a for a, b in pairwise(epsilons)):
        raise ContractError(f"epsilons {list(epsilons)} must rise. Sort them, each once.")
