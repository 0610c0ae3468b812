"""The attacks on offer, with settings quick enough to watch: one image, at most ten steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from .. import attacks
from ..attacks import engine
from ..core.errors import ContractError, Stopped
from .scene import Scene

STEPS = 10
SEED = 0  # of random starts and of the noise: a second look shows the same
NAMES = {
    "pgd": "PGD",
    "mifgsm": "MI-FGSM",
    "bim": "BIM",
    "fgsm": "FGSM",
    "noise": "random noise",
    "background": "PGD to the background",
    "segpgd": "SegPGD",
}
ON_CLASSES = ("pgd", "mifgsm", "bim", "fgsm", "noise")
ON_LABEL_MAPS = ("background", "pgd", "segpgd", "noise")
ONE_STEP = ("fgsm", "noise")


class Outdated(Stopped):
    """Somebody asked for something newer: what was begun is not finished."""


def attacks_for(scene: Scene) -> tuple[str, ...]:
    """Attacks that fit a scene's networks, the usual one first; ``NAMES`` has what to call them."""
    return ON_LABEL_MAPS if scene.data.segmentation else ON_CLASSES


def attack(
    kind: str, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, eps: float
) -> torch.Tensor:
    """``images`` attacked: at most ``eps`` away, in [0, 1], the same on every call.

    The iterative ones take ``STEPS`` steps of ``attacks.madry_step``. ``noise`` moves every value
    by eps up or down at random, whatever the network: what an attack achieves beyond that it
    achieves by knowing the network. At eps 0 the images come back as they are.

    Gradients are float32: bfloat16 pays in large batches, and makes a single image slower.

    Args:
        images, labels: see ``attacks.engine``; on the model's device.
        eps: in units of the full range.

    Raises:
        ContractError: for an unknown attack, or one that does not fit the labels.
    """
    maps = labels.ndim == 3
    if kind not in (ON_LABEL_MAPS if maps else ON_CLASSES):
        raise ContractError(
            f"attack {kind!r}: choose {', '.join(ON_LABEL_MAPS if maps else ON_CLASSES)}."
        )
    if eps == 0:
        return images.clone()
    if kind == "noise":
        return _noise(images, eps)
    if kind == "fgsm":
        return attacks.fgsm(model, images, labels, eps)
    if maps:
        return attacks.Attack(kind, eps, STEPS)(model, images, labels, torch.float32)["images"]
    how = dict(steps=STEPS, step_size=attacks.madry_step(eps, STEPS))
    if kind == "pgd":
        how["generator"] = torch.Generator().manual_seed(SEED)
    return getattr(attacks, kind)(model, images, labels, eps, **how)


def _noise(images: torch.Tensor, eps: float) -> torch.Tensor:
    engine.check_eps(eps)
    generator = torch.Generator().manual_seed(SEED)
    signs = torch.randint(2, images.shape, generator=generator).to(images) * 2 - 1
    low, high = engine.ball(images, eps)
    return torch.where(signs > 0, high, low)


@contextmanager
def interruptible(model: nn.Module, go_on: Callable[[], bool]) -> Iterator[None]:
    """Inside, every pass through ``model`` first asks whether to ``go_on``, else ``Outdated``."""

    def ask(*_: object) -> None:
        if not go_on():
            raise Outdated

    ask()
    hook = model.register_forward_pre_hook(ask)
    try:
        yield
    finally:
        hook.remove()
