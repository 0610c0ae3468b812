"""Grad-CAM (Selvaraju et al. 2017) for any classifier of the kit: what speaks for a class, where.

The map is the last one that still has a place for every part of the image. Which module makes it
is found by running the model once, so that residual, dense, inception, Swin and plain vision
transformer networks need no list of names. A map that says nothing (constant, empty, not finite)
is marked invalid with a reason, and its pixels are NaN so that nothing can take it for a map.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from . import env
from .contracts import check_eval, check_images, check_logits
from .errors import ContractError

SMALLEST = 3  # a 2 x 2 map cannot tell the centre of an image from its rim
FLAT = 1e-6  # range of a map, as a share of its largest value, below which it is constant


@dataclass(frozen=True)
class Maps:
    """Activation maps of some images.

    Attributes:
        maps: float32 (N, H, W) at the size of the images, each scaled to [0, 1]; NaN where invalid.
        valid: bool (N,).
        reasons: why a map is invalid; empty for a valid one.
        classes: int64 (N,): the class that each map explains.
        layer: name of the module whose output was explained.
    """

    maps: np.ndarray
    valid: np.ndarray
    reasons: tuple[str, ...]
    classes: np.ndarray
    layer: str

    def __len__(self) -> int:
        return len(self.maps)


def grad_cam(
    model: nn.Module,
    images: torch.Tensor,
    classes: Sequence[int] | np.ndarray | torch.Tensor | None = None,
    *,
    layer: str | None = None,
    batch: int = 16,
) -> Maps:
    """Where in each image ``model`` finds what speaks for a class.

    To compare a clean image with its attacked twin, give both the same ``classes`` (the true
    ones, or those predicted on the clean images). With None each image is explained for the class
    predicted on it: what most published figures show, but a successful attack then changes the
    question together with the image, and the map may differ for that reason alone.

    The model is left as it was: parameters, their gradients and hooks.

    Args:
        model: in eval mode; takes images and returns logits (N, K), or (N, 1) for two classes.
        images: float32 (N, C, H, H) in [0, 1].
        classes: (N,) class indices; 0 or 1 for a single logit, where 0 explains its opposite.
        layer: name of the module to explain, by default ``target_layer``'s choice.
        batch: images at a time.

    Raises:
        ContractError: for images, a model, classes or a layer that do not fit.
    """
    from pytorch_grad_cam import GradCAM  # slow to import, and few runs explain anything

    check_eval(model)
    check_images(images)
    if classes is not None and len(classes) != len(images):
        raise ContractError(f"{len(classes)} classes for {len(images)} images. Give one each.")
    layer = layer or target_layer(model, tuple(images.shape[1:]))
    wanted = [None] * len(images) if classes is None else [int(k) for k in classes]
    found: list[tuple[np.ndarray, list[str], list[int]]] = []
    with env.full_float32(), torch.enable_grad(), _frozen(model), ExitStack() as stack:
        module = _module(model, layer)
        # From here on only what lies behind the layer needs a graph: one forward pass and the head.
        hook = module.register_forward_hook(lambda _m, _i, out: _restart(out, layer))
        stack.callback(hook.remove)
        cam = GradCAM(model, [module], reshape_transform=lambda out: spatial(out).clone())
        stack.callback(cam.activations_and_grads.release)
        for start in range(0, len(images), batch):
            targets = [_Score(k) for k in wanted[start : start + batch]]
            maps = cam(images[start : start + batch].detach(), targets)
            reasons = _reasons(cam, module, targets, layer)
            found.append((maps, reasons, [target.wanted for target in targets]))
    if not found:
        raise ContractError("no image to explain: the batch is empty.")
    reasons = tuple(reason for part in found for reason in part[1])
    valid = np.array([not reason for reason in reasons])
    maps = np.concatenate([part[0] for part in found]).clip(0, 1)
    maps[~valid] = np.nan
    return Maps(maps, valid, reasons, np.concatenate([part[2] for part in found]), layer)


class _Score:
    """What pytorch-grad-cam differentiates: one image's logit of a class."""

    def __init__(self, wanted: int | None) -> None:
        self.wanted = wanted

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        if logits.ndim != 1:
            raise ContractError(f"the model returned {logits.ndim + 1} dimensions, not (N, K).")
        single = len(logits) == 1
        if self.wanted is None:
            self.wanted = int(logits[0] > 0) if single else int(logits.argmax())
        if not 0 <= self.wanted < (2 if single else len(logits)):
            raise ContractError(
                f"class {self.wanted} of a model with {len(logits)} logit(s). Classes count from 0."
            )
        return logits[0] * (2 * self.wanted - 1) if single else logits[self.wanted]


def _restart(output: object, layer: str) -> torch.Tensor:
    """A copy of the layer's output with a graph of its own, safe from in-place layers behind it."""
    if not isinstance(output, torch.Tensor) or spatial(output) is None:
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ContractError(
            f"layer {layer!r} returns {shape}, which is no square map (N, C, H, H), "
            "(N, H, H, C) or (N, tokens, C). Name another layer."
        )
    return output.detach().requires_grad_().clone()


def _reasons(cam: Any, module: nn.Module, targets: list[_Score], layer: str) -> list[str]:
    """Why each map of the last batch is invalid, judged before scaling; empty for valid ones."""
    kept = cam.activations_and_grads
    if len(kept.activations) != 1 or len(kept.gradients) != 1:
        raise ContractError(
            f"layer {layer!r} is used {len(kept.activations)} times in one pass, or the logits do "
            "not depend on it. Name another layer."
        )
    logits = cam.outputs.detach()
    check_logits(logits[logits.isfinite().all(1)], multi_label=False)
    activations, gradients = kept.activations[0].numpy(), kept.gradients[0].numpy()
    raw = cam.get_cam_image(None, module, targets, activations, gradients)
    return [_reason(map_, gradient) for map_, gradient in zip(raw, gradients, strict=True)]


def _reason(raw: np.ndarray, gradient: np.ndarray) -> str:
    if not (np.isfinite(raw).all() and np.isfinite(gradient).all()):
        return "not finite: the model overflows on this image"
    if not gradient.any():
        return "no gradient reaches the layer"
    positive = np.maximum(raw, 0)
    if not positive.any():
        return "empty: nothing speaks for the class"
    if np.ptp(positive) <= FLAT * positive.max():
        return "constant: every place speaks equally for the class"
    return ""


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Neither gradients nor ``requires_grad`` of the parameters change for good."""
    before = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, required, gradient in before:
            parameter.requires_grad_(required)
            parameter.grad = gradient


def _module(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise ContractError(
            f"the model has no layer {name!r}. See model.named_modules() for those it has."
        ) from error


def spatial(output: torch.Tensor) -> torch.Tensor | None:
    """A layer's output as maps (N, C, h, h); None if it has no place for each part of an image.

    Known are (N, C, h, h), (N, h, h, C) and (N, tokens, C) with h * h tokens, or one more where
    a class token goes first.
    """
    if output.ndim == 4 and output.shape[2] == output.shape[3]:
        return output
    if output.ndim == 4 and output.shape[1] == output.shape[2]:
        return output.permute(0, 3, 1, 2)
    if output.ndim == 3:
        tokens = output.shape[1]
        side = math.isqrt(tokens)
        if tokens - side**2 in (0, 1):
            patches = output[:, tokens - side**2 :]
            return patches.transpose(1, 2).unflatten(2, (side, side))
    return None


class _Candidate(NamedTuple):
    name: str
    output: torch.Tensor
    side: int
    channels: int


def target_layer(model: nn.Module, shape: tuple[int, int, int]) -> str:
    """Name of the module whose output Grad-CAM explains, for images of ``shape`` (C, H, H).

    A model's ``backbone`` can point at the module itself with an attribute ``cam_layer``. Else it
    is the last module whose output (see ``spatial``) has at least 3 x 3 places and a gradient
    at them: behind the last attention of a transformer only the class token has one. A network
    that shrinks the image below 3 x 3 is explained at its last larger map; 2 x 2 serves where
    there is none. The choice depends on the model and the shape, never on the images.

    Raises:
        ContractError: if no module fits, or the images are not square.
    """
    check_eval(model)
    if (own := getattr(getattr(model, "backbone", model), "cam_layer", None)) is not None:
        return next(name for name, module in model.named_modules() if module is own)
    if shape[1] != shape[2]:
        raise ContractError(f"images are {shape[1]} x {shape[2]}; only square ones are explained.")
    with torch.enable_grad(), _frozen(model):
        candidates, flowing = _probe(model, shape)
    for smallest in (SMALLEST, 2):
        large = [one for one in candidates if one.side >= smallest]
        # Queries, keys and hidden layers have other widths than the stream they belong to.
        width = large[-1].channels if large else 0
        side = large[-1].side if large else 0
        for one in reversed(large):
            if one.side == side and one.channels == width and one.name in flowing:
                return one.name
    raise ContractError(
        "no layer of this model returns a map that its logits depend on. Name one: layer=..."
    )


def _probe(model: nn.Module, shape: tuple[int, int, int]) -> tuple[list[_Candidate], set[str]]:
    """Modules that return maps, in the order they finish, and those that a gradient reaches."""
    noise = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    noise = noise.to(next(model.parameters()).device).requires_grad_()
    candidates: list[_Candidate] = []
    smallest = math.inf

    def look(name: str, output: object) -> None:
        nonlocal smallest
        maps = spatial(output) if isinstance(output, torch.Tensor) else None
        # Two images: windows that were cut out of them come in other numbers.
        if maps is None or len(maps) != 2 or maps.shape[2] < 2:
            return
        # Attention weights (N, heads, tokens, tokens) look like maps, but larger than those before.
        if maps.shape[2] <= smallest:
            smallest = maps.shape[2]
            candidates.append(_Candidate(name, output, maps.shape[2], maps.shape[1]))

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name:
                hook = module.register_forward_hook(lambda _m, _i, out, name=name: look(name, out))
                stack.callback(hook.remove)
        score = model(noise).max(1).values.sum()
    alive = [one for one in candidates if one.output.requires_grad]
    if not alive:
        return [], set()
    gradients = torch.autograd.grad(score, [one.output for one in alive], allow_unused=True)
    return candidates, {
        one.name
        for one, gradient in zip(alive, gradients, strict=True)
        if gradient is not None and spatial(gradient).any()
    }
