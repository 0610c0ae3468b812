"""What a user would pick instead, called as each library's own manual calls it.

The models are float32, contiguous, their weights asking for gradients. Steps are eps / 30.
"""

from __future__ import annotations

import foolbox
import torch
import torchattacks
from torch import nn

REL_STEP = 0.01 / 0.3


def foolbox_pgd(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, eps: float, steps: int
) -> torch.Tensor:
    """Adversarial images by Foolbox's LinfPGD."""
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=images.device)
    attack = foolbox.attacks.LinfPGD(rel_stepsize=REL_STEP, steps=steps)
    return attack(wrapped, images, labels, epsilons=eps)[1]


def torchattacks_pgd(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, eps: float, steps: int
) -> torch.Tensor:
    """Adversarial images by torchattacks' PGD."""
    attack = torchattacks.PGD(model, eps=eps, alpha=REL_STEP * eps, steps=steps)
    return attack(images, labels)


PGD = {"Foolbox": foolbox_pgd, "torchattacks": torchattacks_pgd}
