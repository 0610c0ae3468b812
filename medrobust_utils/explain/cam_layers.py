"""Which modules of a network return a map of the image, and which of them to explain.

The network is run once on noise and every module's output looked at, so that residual, dense,
inception, Swin, plain vision transformer and U-shaped networks need no list of names.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from ..core.contracts import ask, blamed, check_model, exported
from ..core.errors import ContractError

SMALLEST = 3  # a 2 x 2 map cannot tell the centre of an image from its rim
LEADING = 16  # class and register tokens that may go before those of the patches
DEEP, EARLY = 16, 1 / 8  # layers of a deep network, and the share of them that is its beginning


def patches(model: nn.Module, side: int) -> int:
    """Tokens that stand for parts of an image of ``side`` pixels; 0 where it is not cut up."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == module.stride != (1, 1):
            return (side // module.stride[0]) ** 2
    return 0


def spatial(output: torch.Tensor, patches: int = 0) -> torch.Tensor | None:
    """A layer's output as maps (N, C, h, h); None if it has no place for each part of an image.

    Known are (N, C, h, h), (N, h, h, C) and (N, tokens, C) with h * h tokens, or one more where
    a class token goes first; with the number of ``patches``, any that go before theirs.
    """
    if output.ndim == 4 and output.shape[2] == output.shape[3]:
        return output
    if output.ndim == 4 and output.shape[1] == output.shape[2]:
        return output.permute(0, 3, 1, 2)
    if output.ndim == 3:
        tokens = output.shape[1]
        known = 0 <= tokens - patches <= LEADING and math.isqrt(patches) ** 2 == patches > 0
        side = math.isqrt(patches if known else tokens)
        if known or tokens - side**2 in (0, 1):
            places = output[:, tokens - side**2 :]
            return places.transpose(1, 2).unflatten(2, (side, side))
    return None


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Inside, no parameter asks for a gradient; afterwards all are and have what they had."""
    before = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, required, gradient in before:
            parameter.requires_grad_(required)
            parameter.grad = gradient


class _Candidate(NamedTuple):
    """A module that returned a map: its width and side, and whether a gradient reaches it.

    ``before`` is the share of a deep network's layers that have finished by then, else 1.
    """

    name: str
    channels: int
    side: int
    reached: bool
    before: float

    @property
    def depth(self) -> int:
        return self.name.count(".")


@torch.inference_mode(False)
def target_layer(model: nn.Module, shape: tuple[int, int, int]) -> str:
    """Name of the module whose output Grad-CAM explains, for images of ``shape`` (C, H, H).

    A model's ``backbone`` can point at the module itself with an attribute ``cam_layer``. Else it
    is the last module whose output (see ``spatial``) has at least 3 x 3 places and a gradient
    at them: behind the last attention of a transformer only the class token has one. Modules that
    are used more than once are left out. A network
    that shrinks the image below 3 x 3 is explained at its last larger map; 2 x 2 serves where
    there is none. Of a U-Net it is the last module before the way up. The choice depends on the
    model and the shape, never on the images.

    Raises:
        ContractError: if no module fits, or the images are not square.
    """
    check_model(model)
    check_hooks(model)
    if own := _own(model):
        return own
    down, _ = _probe(model, shape)
    best = _best_of_each_side(down)[0]
    if best.before < EARLY:
        raise ContractError(
            f"the last map of this model is that of {best.name!r}, before its first block: what "
            "comes behind returns none that is known. Name a layer yourself: layer=..."
        )
    return best.name


@torch.inference_mode(False)
def layers(model: nn.Module, shape: tuple[int, int, int]) -> dict[str, int]:
    """Modules that can be explained, for images of ``shape`` (C, H, H): name to side of its map.

    One for every side from the smallest up, each chosen as ``target_layer`` chooses, whose choice
    comes first. Of a U-Net a side's last module on the way up follows that on the way down; the
    logits themselves are not offered.

    Raises:
        ContractError: see ``target_layer``.
    """
    check_model(model)
    check_hooks(model)
    down, up = _probe(model, shape)
    names, own = [one.name for one in down], _own(model)
    if own in names:  # what lies behind it the model does not want to be explained
        down, up = down[: names.index(own) + 1], []
    best = _best_of_each_side(down)
    up = [one for one in up if one.reached and one.side > best[0].side]
    best += _best_of_each_side(up) if up else []
    return {one.name: one.side for one in sorted(best, key=lambda one: one.side)}


def check_hooks(model: nn.Module) -> None:
    """Raise ContractError for a network whose layers cannot be listened to."""
    if exported(model) or any(isinstance(one, torch.jit.ScriptModule) for one in model.modules()):
        raise ContractError(
            "the model is scripted or exported, and shows nothing of its layers. Explain the "
            "nn.Module it was made from; attacks, sweeps and scores take it as it is."
        )


def _own(model: nn.Module) -> str | None:
    """Name of the module that a model wants to be explained; None where it does not say."""
    own = getattr(getattr(model, "backbone", model), "cam_layer", None)
    return next((name for name, module in model.named_modules() if module is own), None)


def _best_of_each_side(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """One of each side from the smallest that is not too small, all reached by a gradient."""
    for smallest in (SMALLEST, 2):
        best: list[_Candidate] = []
        for side in sorted({one.side for one in candidates if one.side >= smallest}):
            same = [one for one in candidates if one.side == side]
            if not best:
                # Queries, keys and hidden layers have other widths than their stream.
                same = [one for one in same if one.channels == same[-1].channels]
            same = [one for one in same if one.reached]
            if best:
                # The next stage starts at this side too, but deep inside its first block.
                surface = min((one.depth for one in same), default=0)
                same = [one for one in same if one.depth <= surface + 1]
            best += same[-1:]
        if best:
            return best
    raise ContractError(
        "no layer of this model returns a map that its logits depend on. Name one: layer=..."
    )


def _probe(
    model: nn.Module, shape: tuple[int, int, int]
) -> tuple[list[_Candidate], list[_Candidate]]:
    """Modules that return maps, in the order they finish: those on the way down, and up again."""
    if shape[1] != shape[2]:
        raise ContractError(f"images are {shape[1]} x {shape[2]}; only square ones are explained.")
    noise = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    noise = noise.to(next(model.parameters(), noise).device).requires_grad_()
    seen: list[tuple[str, torch.Tensor, int]] = []
    used, cut = Counter[str](), partial(spatial, patches=patches(model, shape[1]))
    leaves = {name for name, one in model.named_modules() if [*one.parameters(recurse=False)]}

    def look(name: str, output: object) -> None:
        used[name] += 1
        maps = cut(output) if isinstance(output, torch.Tensor) else None
        # Two images: windows that were cut out of them come in other numbers.
        if maps is not None and len(maps) == 2 and maps.shape[2] >= 2:
            seen.append((name, output, len(leaves & used.keys())))

    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(frozen(model))
        for name, module in model.named_modules():
            if name:
                hook = module.register_forward_hook(lambda _m, _i, out, name=name: look(name, out))
                stack.callback(hook.remove)
        logits = ask(model, noise, slopes=True)
        seen = [one for one in seen if one[1] is not logits and used[one[0]] == 1]
        with blamed(model, noise):
            reached = _reached(logits.max(1).values.sum(), [one[1] for one in seen], cut)
    found, deep = [], len(leaves & used.keys())
    for (name, output, before), alive in zip(seen, reached, strict=True):
        share = before / deep if deep >= DEEP else 1.0
        found.append(_Candidate(name, *cut(output).shape[1:3], alive, share))
    return _ways(found)


def _reached(
    score: torch.Tensor, outputs: Sequence[torch.Tensor], cut: Callable[[torch.Tensor], object]
) -> list[bool]:
    """Whether the places of each output have a gradient."""
    alive = [output for output in outputs if output.requires_grad]
    if not alive or not score.requires_grad:
        return [False] * len(outputs)
    gradients = iter(torch.autograd.grad(score, alive, allow_unused=True))
    found = [next(gradients) if output.requires_grad else None for output in outputs]
    return [one is not None and bool(cut(one).any()) for one in found]


def _ways(candidates: Sequence[_Candidate]) -> tuple[list[_Candidate], list[_Candidate]]:
    """Those that never grow, and those that follow the last of them."""
    down: list[_Candidate] = []
    up: list[_Candidate] = []
    for one in candidates:
        # Attention weights (N, heads, tokens, tokens) look like maps, but larger than those before.
        if not down or one.side <= down[-1].side:
            down.append(one)
            up = []
        else:
            up.append(one)
    return down, up
