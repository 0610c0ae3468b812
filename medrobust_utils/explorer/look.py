"""One look: an image, an attack on it, and what a network sees in both."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..core.contracts import ask, check_logits
from ..core.errors import ContractError
from ..explain import cam_layers, cams
from . import answers, record
from .attacking import NAMES, STEPS, Outdated, attack, attacks_for, interruptible
from .memory import Memory
from .scene import Network, Sample, Scene
from .seen import Choice, Seen

WAIT_SECONDS = 0.05  # before one who waits asks again whether to go on

__all__ = [
    "Choice",
    "Memory",
    "NAMES",
    "Outdated",
    "STEPS",
    "Seen",
    "attacks_for",
    "layers",
    "look",
]


def look(
    scene: Scene,
    network: Network,
    sample: Sample,
    choice: Choice,
    *,
    memory: Memory,
    go_on: Callable[[], bool] = lambda: True,
) -> Seen:
    """Attack an image and explain what the network says of it, before and after.

    The attack aims away from the image's label, or from the network's own answer where nobody knows
    one. Both maps explain the same class, and of a segmentation the same pixels. What ``memory``
    holds already is not computed again.

    Args:
        go_on: asked before every pass through the network.

    Raises:
        Outdated: when ``go_on`` says no.
        ContractError: for a choice that does not fit the scene.
    """
    if choice.attack not in attacks_for(scene):
        known = ", ".join(attacks_for(scene))
        raise ContractError(f"attack {choice.attack!r} does not fit {scene.key}: choose {known}.")
    with _alone(go_on), interruptible(network.model, go_on):
        stages = _Stages(scene, network, sample, memory)
        clean = stages.logits(())
        to = (choice.attack, choice.eps_255) if choice.eps_255 else ()
        attacked, fooled = stages.image(to), stages.logits(to)
        kind, notes = answers.explained(scene, sample, choice.target, clean)
        layer, more = stages.layer(choice.layer)
        _, and_more = stages.region(kind)
        before, after = (stages.map(step, kind, layer, choice.method) for step in ((), to))
    regions = [None, None]
    mask = sample.mask
    if scene.data.segmentation:
        regions = [(one.argmax(1) == kind)[0].numpy() for one in (clean, fooled)]
        mask = None if sample.label is None else (sample.label[0] == kind).numpy()
    seen = Seen(
        sample.image[0].numpy(),
        attacked[0].numpy(),
        before,
        after,
        mask if mask is not None and mask.any() else None,
        *regions,
        record={},
    )
    notes = (*sample.notes, *notes, *more, *and_more)
    written = record.write(scene, network, sample, choice, seen, (clean, fooled), kind, notes)
    return replace(seen, record=written)


def layers(network: Network, shape: tuple[int, int, int]) -> dict[str, int]:
    """``cam_layers.layers`` of a network, while nobody else is at it."""
    with _alone():
        return cam_layers.layers(network.model, shape)


# Attacks and maps hang hooks into a network and freeze its weights for a while. A panel looks in a
# thread of its own, and the cells below it may look at the same networks meanwhile.
_LOOKING = threading.RLock()


@contextmanager
def _alone(go_on: Callable[[], bool] = lambda: True) -> Iterator[None]:
    while not _LOOKING.acquire(timeout=WAIT_SECONDS):
        if not go_on():
            raise Outdated
    try:
        yield
    finally:
        _LOOKING.release()


class _Stages:
    """The steps of a look, each kept in the memory under all that it depends on.

    ``to`` names the image: nothing for the clean one, else the attack and its eps in gray levels.
    """

    def __init__(self, scene: Scene, network: Network, sample: Sample, memory: Memory) -> None:
        self.scene, self.model, self.sample, self.memory = scene, network.model, sample, memory
        self.device = next(network.model.parameters()).device
        seen = hashlib.sha256(sample.image.numpy().tobytes())
        if sample.label is not None:
            seen.update(sample.label.numpy().tobytes())
        self.key = (scene.paper, scene.key, network.identity, seen.hexdigest())

    def _kept(self, compute: Callable[[], Any], *key: object) -> Any:
        return self.memory.get((*self.key, *key), compute)

    def image(self, to: tuple) -> torch.Tensor:
        """(1, C, H, H), clean or attacked, on the CPU."""
        if not to:
            return self.sample.image

        def compute() -> torch.Tensor:
            label = self.sample.label
            if label is None:
                label = answers.given(self.scene, self.logits(()))
            images, labels = self.sample.image.to(self.device), label.to(self.device)
            return attack(to[0], self.model, images, labels, to[1] / 255).cpu()

        return self._kept(compute, "image", *to)

    def logits(self, to: tuple) -> torch.Tensor:
        """Of the image, in float32, on the CPU."""

        def compute() -> torch.Tensor:
            images = self.image(to).to(self.device)
            logits = ask(self.model, images).cpu()
            check_logits(logits, self.scene.data.multi_label)
            return logits

        return self._kept(compute, "logits", *to)

    def layer(self, wanted: str) -> tuple[str, tuple[str, ...]]:
        """The layer to explain, and a word where the network has no layer of the wanted name."""
        own = self._sides(self.model, self.key[2])
        if not wanted:
            return next(iter(own)), ()
        if wanted in dict(self.model.named_modules()):
            return wanted, ()
        for other in self.scene.networks:
            side = self._sides(other.model, other.identity).get(wanted)
            if side:
                near = min(own, key=lambda name: abs(np.log2(own[name] / side)))
                return near, (f"It has no layer {wanted}: {near} is the one nearest in size.",)
        raise ContractError(
            f"no network here has a layer {wanted!r}. Choose one of {', '.join(own)}."
        )

    def _sides(self, model: torch.nn.Module, identity: str) -> dict[str, int]:
        shape = tuple(self.sample.image.shape[1:])
        return self.memory.get(("layers", identity, shape), lambda: cam_layers.layers(model, shape))

    def region(self, kind: int) -> tuple[np.ndarray | None, tuple[str, ...]]:
        """Whose logits a segmentation's map explains, bool (1, H, W), and a word if need be.

        The pixels that the network gives to the class in the clean image, before and after: an
        attack must not change the question together with the image.
        """
        if not self.scene.data.segmentation:
            return None, ()
        given, label = self.logits(()).argmax(1) == kind, self.sample.label
        if given.any() or label is None or not (label == kind).any():
            return given.numpy(), ()
        note = "The network gives the class to no pixel: the maps explain it where the label does."
        return (label == kind).numpy(), (note,)

    def map(self, to: tuple, kind: int, layer: str, method: str) -> cams.Maps:
        """The activation map of the image for a class."""

        def compute() -> cams.Maps:
            images = self.image(to).to(self.device)
            how = dict(method=method, layer=layer, regions=self.region(kind)[0])
            return cams.grad_cam(self.model, images, [kind], **how)

        return self._kept(compute, "map", *to, kind, layer, method)
