"""The door to everything that attacks or explains a network: what is asked of it once, before.

An attack takes for granted that an image has one answer. Dropout left on, or batch norm without
statistics, break that, and chance is then counted as success.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar

import torch
from torch import nn

from .contracts import as_labels, ask, bare_norm, check_images, check_model
from .errors import ContractError

ROUNDING = 1e-4  # of the largest logit: what float32 makes of another batch stays below
SMALL = 1e-30  # logits below lose digits to float32's own limits
_ASKED: ContextVar[list[nn.Module] | None] = ContextVar("asked", default=None)


def admit(
    model: nn.Module, images: torch.Tensor, labels: object = None, *, steady: bool = True
) -> torch.Tensor | None:
    """Check what an entry point was given; return the labels, if any, ``as_labels``."""
    check_model(model)
    check_images(images)
    labels = None if labels is None else as_labels(labels, images)
    if steady and len(images):
        check_steady(model, images)
    return labels


@contextmanager
def once() -> Iterator[None]:
    """Inside, ``check_steady`` asks each network once."""
    asked = _ASKED.get()
    token = _ASKED.set([] if asked is None else asked)
    try:
        yield
    finally:
        _ASKED.reset(token)


@contextmanager
def gate() -> Iterator[None]:
    """``once``, without a graph, and outside of inference mode: its tensors serve no gradient."""
    with torch.inference_mode(False), torch.no_grad(), once():
        yield


def check_steady(model: nn.Module, images: torch.Tensor) -> None:
    """Raise ContractError if answers depend on chance, or on what else is in the batch.

    The first two images, or the first and its mirror image, are asked about twice: each alone, and
    both together. An attack on chance would call luck a success.
    """
    asked = _ASKED.get()
    if any(one is model for one in asked or ()):
        return
    pair = images[:2] if len(images) > 1 else torch.cat([images, images.flip(3)])
    answers = [ask(model, pair), ask(model, pair)]
    alone = torch.cat([ask(model, image) for image in pair.split(1)])
    if _differ(alone, answers[0]):  # chance may have spared the pair
        answers += [ask(model, pair) for _ in range(4)]
    if any(_differ(answers[0], other) for other in answers[1:]):
        raise ContractError(
            "the model's answers are random: the same images twice gave other logits. What differs "
            f"first is the output of {_first_difference(model, pair, pair)}: look there and just "
            "before for dropout, noise or crops left on in evaluation mode. Take them out, or "
            "average: wrap the model in a module whose forward, for each image alone, calls "
            "torch.manual_seed(0) and takes self.model(image.repeat(20, 1, 1, 1)).mean(0)."
        )
    if _differ(alone, answers[0]):
        hint = bare_norm(model) or (
            f"What differs first is the output of {_first_difference(model, pair, pair[:1])}: wrap "
            "the model in a module whose forward takes one image after the other."
        )
        raise ContractError(f"an image's answer depends on what else is in its batch. {hint}")
    if asked is not None:
        asked.append(model)


def _differ(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two answers are further apart than float32 rounds; NaN is no difference."""
    largest = torch.maximum(first.abs().amax(), second.abs().amax()).clamp_min(SMALL)
    return bool(((first - second).abs() > ROUNDING * largest).any())


def _first_difference(model: nn.Module, images: torch.Tensor, others: torch.Tensor) -> str:
    """The first part of the model that says something else of the same images in another call."""
    calls: list[list[tuple[str, torch.Tensor]]] = []

    def note(name: str, part: nn.Module, output: object) -> None:
        if isinstance(output, torch.Tensor) and output.is_floating_point() and output.numel() > 1:
            calls[-1].append((f"{name!r} ({type(part).__name__})", output.detach().clone()))

    with ExitStack() as stack:
        for name, part in model.named_modules():
            if name and not isinstance(part, torch.jit.ScriptModule):  # whose calls no hook sees
                hook = part.register_forward_hook(lambda p, _, out, name=name: note(name, p, out))
                stack.callback(hook.remove)
        for batch in (images, others):
            calls.append([])
            ask(model, batch)
    for (label, first), (_, second) in zip(*calls, strict=False):
        rows = min(len(first), len(second))  # the same images come first
        if first.shape[1:] == second.shape[1:] and _differ(first[:rows], second[:rows]):
            return label
    return type(model).__name__
