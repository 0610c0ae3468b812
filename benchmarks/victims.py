"""The networks that are attacked: trained here, and read back by the next run.

Large ones on real chest X-rays of children; small ones of ten classes on phantoms, for
AutoAttack, whose published settings want that many.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from medrobust_utils.attacks.radius_sweep import on_device
from medrobust_utils.core import env
from medrobust_utils.data import ImageSet, load, split_by_group
from medrobust_utils.models import build, build_attentive
from medrobust_utils.scoring.predict import predict
from medrobust_utils.training.adversarial import AdversarialTraining
from medrobust_utils.training.fit import fit

NAMES = {"resnet50": "resnet50", "swin": "swin_tiny_patch4_window7_224", "hardened": "resnet18"}
SMALL = {"plain": "none", "attentive": "intended", "hardened": "none"}  # attention of each
TRAINED, ATTACKED = 1600, 200
RECIPE = dict(epochs=4, batch=16, lr=3e-4, weight_decay=0.05, warmup_epochs=0.2, clip=1.0)
RECIPE["flips"] = "horizontal"


@dataclass(frozen=True)
class Victim:
    """A trained network, and the held-out images of ``data`` that it has right."""

    title: str
    model: nn.Module
    data: ImageSet
    right: np.ndarray

    def batch(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The first images and labels, on the device, contiguous as peers expect them."""
        images, labels = on_device(self.data, self.right[:count])
        return images.contiguous(), labels

    def plain(self) -> nn.Module:
        """A copy as a checkpoint gives it, in torch's default memory format."""
        return copy.deepcopy(self.model).to(memory_format=torch.contiguous_format).eval()


def large(name: str, size: int) -> Victim:
    """A network of NAMES on chest X-rays; ``hardened`` by adversarial training at 4/255."""
    how = {"options": {"img_size": size}} if name == "swin" and size != 224 else {}
    data = load("kermany", size=size)
    model = build(NAMES[name], len(data.classes), start="scratch", **how)
    return _trained(f"{name} at {size} px", model, data, 4 / 255)


def small(name: str) -> Victim:
    """A narrow ResNet-10 of SMALL, ten classes at 32 pixels: AutoAttack asks it 7,000 times."""
    data = load("phantom-dermatoscopy10", size=32, phantoms=600)
    how = dict(options={"channels": (16, 32, 64, 128)}, start="scratch", size=32)
    model = build_attentive("resnet10t", len(data.classes), attention=SMALL[name], **how)
    return _trained(f"{name} ResNet-10, ten classes of phantoms, 32 px", model, data, 1 / 255)


def _trained(title: str, model: nn.Module, data: ImageSet, eps: float) -> Victim:
    objective = AdversarialTraining(eps, 3, eps / 2) if title.startswith("hardened") else None
    split = split_by_group(data, seed=0)
    train, held = (np.random.default_rng(0).permutation(rows) for rows in split)
    folder = env.home() / "checkpoints" / f"bench-{title.replace(' ', '-')}"
    how = dict(seed=0, validate=lambda _: {}, objective=objective)
    fit(model, data, split._replace(train=np.sort(train[:TRAINED])), RECIPE, folder, **how)
    held = np.sort(held[:ATTACKED])
    right = predict(model, data, held).argmax(1) == data.targets[held]
    return Victim(title, model, data, held[right])
