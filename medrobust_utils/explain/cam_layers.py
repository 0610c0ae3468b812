"""Which modules of a network return a map of the image, and which of them to explain.

The network is run once on noise and every module's output looked at, so that residual, dense,
inception, Swin, plain vision transformer and U-shaped networks need no list of names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from ..core.contracts import ask, blamed, check_model
from ..core.errors import ContractError
from .layer_maps import check_hooks, frozen, patches, spatial

SMALLEST = 3  # a 2 x 2 map cannot tell the centre of an image from its rim
DEEP, EARLY = 16, 1 / 8  # layers of a deep network, and the share of them that is its beginning


class _Candidate(NamedTuple):
    """A module that returned a map: its width and side, and whether a gradient reaches it.

    ``before`` is the number of the network's layers that have finished by then.
    """

    name: str
    channels: int
    side: int
    reached: bool
    before: int


def target_layer(model: nn.Module, shape: tuple[int, int, int]) -> str:
    """Name of the module whose output Grad-CAM explains, for images of ``shape`` (C, H, H).

    A model's ``backbone`` can point at the module itself with an attribute ``cam_layer``. Else it
    is the last module whose output (see ``spatial``) has at least 3 x 3 places and a gradient
    at them: behind the last attention of a transformer only the class token has one. Modules that
    are used more than once are left out. A network that shrinks the image below 3 x 3 is explained
    at its last larger map; 2 x 2 serves where there is none. Of a U-Net it is the last module
    before the way up. The choice depends on the model and the shape, never on the images.

    Raises:
        ContractError: if no module fits, or the images are not square.
    """
    check_model(model)
    check_hooks(model)
    return _own(model) or next(iter(layers(model, shape)))


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
    down: list[_Candidate] = []
    up: list[_Candidate] = []
    found, count = _probe(model, shape)
    for one in found:  # attention weights look like maps, but larger than those before
        shrinks = not down or one.side <= down[-1].side
        down, up = (down + [one], []) if shrinks else (down, up + [one])
    names, own = [one.name for one in down], _own(model)
    if own in names:  # what lies behind it the model does not want to be explained
        down, up = down[: names.index(own) + 1], []
    best = _best_of_each_side(down)
    if not own and count >= DEEP and best[0].before < EARLY * count:
        raise ContractError(
            f"the last map of this model is that of {best[0].name!r}, before its first block: what "
            "comes behind returns none that is known. Name a layer yourself: layer=..."
        )
    up = [one for one in up if one.reached and one.side > best[0].side]
    best += _best_of_each_side(up) if up else []
    return {one.name: one.side for one in sorted(best, key=lambda one: one.side)}


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
                surface = min((one.name.count(".") for one in same), default=0)
                same = [one for one in same if one.name.count(".") <= surface + 1]
            best += same[-1:]
        if best:
            return best
    raise ContractError(
        "no layer of this model returns a map that its logits depend on. Name one: layer=..."
    )


def _probe(model: nn.Module, shape: tuple[int, int, int]) -> tuple[list[_Candidate], int]:
    """Modules that return maps, in the order they finish, and the number of layers at work."""
    if shape[1] != shape[2]:
        raise ContractError(f"images are {shape[1]} x {shape[2]}; only square ones are explained.")
    noise = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    noise = noise.to(next(model.parameters(), noise).device).requires_grad_()
    found: list[tuple[str, torch.Tensor, int]] = []
    used, reached = Counter[str](), set[str]()
    cut = partial(spatial, patches=patches(model, shape[1]))
    leaves = {name for name, one in model.named_modules() if [*one.parameters(recurse=False)]}

    def feel(name: str, gradient: torch.Tensor) -> None:
        if cut(gradient).any():
            reached.add(name)

    def listen(name: str, _module: object, _inputs: object, output: object) -> None:
        used[name] += 1
        maps = cut(output) if isinstance(output, torch.Tensor) else None
        # Two images: windows that were cut out of them come in other numbers.
        if maps is not None and len(maps) == 2 and maps.shape[2] >= 2:
            found.append((name, output, len(leaves & used.keys())))
            if output.requires_grad:
                output.register_hook(partial(feel, name))

    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(frozen(model))
        for name, module in model.named_modules():
            if name:
                hook = module.register_forward_hook(partial(listen, name))
                stack.callback(hook.remove)
        logits = ask(model, noise, slopes=True)
        if logits.requires_grad:
            with blamed(model, noise):
                torch.autograd.grad(logits.max(1).values.sum(), noise, allow_unused=True)
    candidates = [
        _Candidate(name, *cut(output).shape[1:3], name in reached, before)
        for name, output, before in found
        if output is not logits and used[name] == 1
    ]
    return candidates, len(leaves & used.keys())
