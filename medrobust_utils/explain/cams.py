"""Class activation maps for any network of the kit: what speaks for a class, and where.

A map weighs what a layer holds by the gradient of the class's logit; the methods differ in how. A
map that says nothing (constant, empty, not finite) is marked invalid with a reason, and its
pixels are NaN so that nothing can take it for a map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from ..core import env
from ..core.contracts import Asked, check_logits
from ..core.errors import ContractError
from ..core.gate import admit, gate
from .cam_layers import target_layer
from .cam_scores import Score
from .layer_maps import check_hooks, frozen, patches, spatial

if TYPE_CHECKING:
    from pytorch_grad_cam.base_cam import BaseCAM

METHODS = ("grad-cam", "grad-cam++", "hirescam", "layercam")
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


@gate()
def grad_cam(
    model: nn.Module,
    images: torch.Tensor,
    classes: Sequence[int] | np.ndarray | torch.Tensor | None = None,
    *,
    method: str = "grad-cam",
    layer: str | None = None,
    regions: np.ndarray | torch.Tensor | None = None,
    batch: int = 16,
) -> Maps:
    """Where in each image ``model`` finds what speaks for a class.

    To compare a clean image with its attacked twin, give both the same ``classes`` (the true
    ones, or those predicted on the clean images). With None each image is explained for the class
    predicted on it: what most published figures show, but a successful attack then changes the
    question together with the image, and the map may differ for that reason alone.

    A segmentation is explained by the sum of the class's logits over a region of the image
    (Vinogradova et al. 2020, "Seg-Grad-CAM"). The same holds there: give both twins one region.

    Negative values are cut off, whatever the method. The model is left as it was: parameters,
    their gradients and hooks.

    Args:
        model: in eval mode; takes images and returns logits (N, K), or (N, 1) for two classes, or
            (N, K, H, W) of a segmentation.
        images: float32 (N, C, H, H) in [0, 1].
        classes: (N,) class indices; 0 or 1 for a single logit, where 0 explains its opposite.
            With None a segmentation is explained for the class it gives to most pixels, other
            than the background wherever there is another.
        method: ``grad-cam`` (Selvaraju et al. 2017) weighs a channel by its mean gradient,
            ``grad-cam++`` (Chattopadhay et al. 2018) by a weighted mean of the positive ones.
            ``hirescam`` (Draelos and Carin 2020) and ``layercam`` (Jiang et al. 2021, positive
            gradients only) multiply place by place, which also suits the larger maps of earlier
            layers.
        layer: name of the module to explain, by default ``cam_layers.target_layer``'s choice.
        regions: bool (N, H, W), of a segmentation only; by default the pixels that the model
            itself gives to the class.
        batch: images at a time.

    Raises:
        ContractError: for images, a model, classes, a method, a layer or regions that do not fit.
    """
    admit(model, images, steady=False)
    _check_questions(len(images), classes, method, regions)
    check_hooks(model)
    layer = layer or target_layer(model, tuple(images.shape[1:]))
    scores = [
        Score(None if classes is None else int(classes[n]), None if regions is None else regions[n])
        for n in range(len(images))
    ]
    found: list[tuple[np.ndarray, list[str]]] = []
    with env.full_float32(), torch.enable_grad(), frozen(model), ExitStack() as stack:
        stack.enter_context(np.errstate(over="ignore", invalid="ignore"))  # has a reason instead
        module = _module(model, layer)
        # From here on only what lies behind the layer needs a graph: one forward pass and the head.
        cut = partial(spatial, patches=patches(model, images.shape[2]))
        hook = module.register_forward_hook(lambda _m, _i, out: _restart(out, layer, cut))
        stack.callback(hook.remove)
        explain = _library(method)
        cam = explain(Asked(model), [module], reshape_transform=lambda out: cut(out).clone())
        stack.callback(cam.activations_and_grads.release)
        for start in range(0, len(images), batch):
            targets = scores[start : start + batch]
            maps = cam(images[start : start + batch].detach(), targets)
            found.append((maps, _reasons(cam, module, targets, layer)))
    reasons = tuple(reason for part in found for reason in part[1])
    valid = np.array([not reason for reason in reasons])
    maps = np.concatenate([part[0] for part in found]).clip(0, 1)
    maps[~valid] = np.nan
    return Maps(maps, valid, reasons, np.array([one.wanted for one in scores]), layer)


def _check_questions(count: int, classes: object, method: str, regions: object) -> None:
    if not count:
        raise ContractError("no image to explain: the batch is empty.")
    if classes is not None and len(classes) != count:
        raise ContractError(f"{len(classes)} classes for {count} images. Give one each.")
    if method not in METHODS:
        raise ContractError(f"method {method!r}: choose {', '.join(METHODS)}.")
    if regions is None:
        return
    if len(regions) != count or regions.dtype not in (np.bool_, torch.bool):
        raise ContractError(
            f"regions are {regions.dtype} {tuple(regions.shape)} for {count} images; expected "
            "bool (N, H, W), one for each."
        )


@cache  # a class that is made anew in each call would have to wait for the garbage collector
def _library(method: str) -> type[BaseCAM]:
    """The class of the grad-cam library, with Grad-CAM++ as published."""
    # Slow to import, and few runs explain anything.
    from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM

    class PlusPlus(GradCAMPlusPlus):
        """Equation 19, without the 1e-6 that the library adds to its denominator.

        Behind an average over places gradients g are near 1e-4. Their squares vanish beside 1e-6,
        and channels would be weighed by g to the third power.
        """

        def get_cam_weights(self, _input, _layer, _targets, activations, grads):
            # The paper's maps come out of a ReLU. Others could sum to the pole at -2 / g.
            total = np.maximum(activations, 0).sum((2, 3), keepdims=True)
            positive = np.maximum(grads, 0)
            return (positive / (2 + total * positive)).sum((2, 3))

    return dict(zip(METHODS, (GradCAM, PlusPlus, HiResCAM, LayerCAM), strict=True))[method]


def _restart(output: object, layer: str, cut: Callable) -> torch.Tensor:
    """A copy of the layer's output with a graph of its own, safe from in-place layers behind it."""
    if not isinstance(output, torch.Tensor) or cut(output) is None:
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ContractError(
            f"layer {layer!r} returns {shape}, which is no square map (N, C, H, H), "
            "(N, H, H, C) or (N, tokens, C). Name another layer."
        )
    return output.detach().requires_grad_().clone()


def _reasons(cam: BaseCAM, module: nn.Module, targets: list[Score], layer: str) -> list[str]:
    """Why each map of the last batch is invalid, judged before scaling; empty for valid ones."""
    kept = cam.activations_and_grads
    if len(kept.activations) != 1 or len(kept.gradients) != 1:
        raise ContractError(
            f"layer {layer!r} is used {len(kept.activations)} times in one pass, or the logits do "
            "not depend on it. Name another layer."
        )
    logits = cam.outputs.detach()
    finite = logits.isfinite().flatten(1).all(1)
    check_logits(logits[finite], multi_label=False)
    activations, gradients = kept.activations[0].numpy(), kept.gradients[0].numpy()
    raw = cam.get_cam_image(None, module, targets, activations, gradients, False)
    finite = finite.cpu().numpy() & np.isfinite(raw).all((1, 2))
    finite &= np.isfinite(gradients).all((1, 2, 3))
    return [
        (target.empty or _reason(map_, gradient))
        if ok
        else "not finite: the model overflows on this image"
        for ok, target, map_, gradient in zip(finite, targets, raw, gradients, strict=True)
    ]


def _reason(raw: np.ndarray, gradient: np.ndarray) -> str:
    if not gradient.any():
        return "no gradient reaches the layer"
    positive = np.maximum(raw, 0)
    if not positive.any():
        return "empty: nothing speaks for the class"
    if np.ptp(positive) <= FLAT * positive.max():
        return "constant: every place speaks equally for the class"
    return ""


def _module(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise ContractError(
            f"the model has no layer {name!r}. See model.named_modules() for those it has."
        ) from error
