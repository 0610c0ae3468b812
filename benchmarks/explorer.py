"""The explorer's slider: a new eps against one that was shown before, for two networks.

A step attacks one image in two networks, explains it before and after, and draws both pictures as
PNG. On two cores it is to take no longer than a second for ResNet-18 at 64 pixels, and four for
ResNet-50 at 224; what was shown before is to come back at once, in a fiftieth of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count

import numpy as np
import torch

from medrobust_utils.core import env
from medrobust_utils.data import phantom_set
from medrobust_utils.explorer.gallery import Gallery, View
from medrobust_utils.explorer.look import Choice
from medrobust_utils.explorer.scene import Network, Scene
from medrobust_utils.models import build

from . import limits
from .timing import Comparison, compare

CASES = (("resnet18", 64, 1.0), ("resnet50", 224, 4.0))  # network, pixels, seconds a step may take
ROUNDS = 5
AT_ONCE = 50  # times as fast


def measure() -> Iterator[Comparison]:
    """Both networks' cases, on all the threads that torch uses."""
    for case in CASES:
        yield _compare(*case)


def _compare(name: str, size: int, limit: float) -> Comparison:
    scene = _scene(name, size)
    gallery, eps = Gallery(scene), (1 + turn / 64 for turn in count(1))
    title = f"eps step, two {name} at {size} px"
    known = _view(1.0)
    gallery.show(known, lambda: True)
    found = compare(
        title,
        ("a new eps", _stepper(gallery, eps)),
        ("shown before", lambda: gallery.show(known, lambda: True)),
        at_least=AT_ONCE,
        rounds=ROUNDS,
    )
    kept = found.base_seconds <= limit
    bound = (
        f"Arithmetic: {found.base_seconds:.1f} s where {limit:g} are allowed for ten gradients, "
        "two maps and the pictures of each network; the fastest matrix product does "
        f"{limits.peak(env.pick_device()):.0f} GFLOP/s."
    )
    return replace(found, facts={"seconds_allowed": limit}, kept=kept, bound=bound)


def _stepper(gallery: Gallery, eps: Iterator[float]) -> Callable[[], object]:
    """Shows another eps on every call; clean image, its map and its logits are known, as always."""
    return lambda: gallery.show(_view(next(eps)), lambda: True)


def _view(eps: float) -> View:
    return View(0, (0, 1), Choice(attack="pgd", eps_255=eps))


def _scene(name: str, size: int) -> Scene:
    """Two untrained networks, which take as long as trained ones."""
    data = phantom_set("dermatoscopy7", 8, size=size)
    networks = []
    for seed in range(2):
        env.seed_everything(seed)
        model = build(name, len(data.classes), start="scratch").eval()
        model.to(env.pick_device(), memory_format=torch.channels_last)
        networks.append(Network(f"{name}, seed {seed}", model, str(seed)))
    return Scene("1_swin_noise", f"bench-{size}", data, np.arange(4), tuple(networks))
