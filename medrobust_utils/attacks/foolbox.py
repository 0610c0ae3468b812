"""The reference: PGD run by Foolbox (Rauber et al. 2020), an ``engine`` of sweeps.

Foolbox projects with ``image + clip(...)``, which float32 rounds, so its images may lie a unit in
the last place outside the ball.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core import env
from ..core.contracts import Asked, blamed
from ..core.errors import ContractError


def foolbox_pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    start: Tensor,
    eps: float,
    *,
    lengths: Sequence[float],
    dtype: torch.dtype,
) -> Tensor:
    """``ascend`` by Foolbox's LinfProjectedGradientDescentAttack; softmax heads, float32 only."""
    import foolbox  # slow to import
    from eagerpy import astensor

    if labels.ndim != 1 or labels.is_floating_point() or dtype != torch.float32:
        raise ContractError(
            "Foolbox attacks softmax heads with int64 labels (N,), in float32. Use the native "
            f"engine for {labels.dtype} labels {tuple(labels.shape)} and {dtype}."
        )

    class FromStart(foolbox.attacks.LinfProjectedGradientDescentAttack):
        """Begins where it is told, which Foolbox has no argument for."""

        def get_random_start(self, x0: Any, epsilon: float) -> Any:
            return self.project(astensor(start), x0, epsilon)

    attack = FromStart(steps=len(lengths), abs_stepsize=lengths[0])
    wrapped = foolbox.PyTorchModel(Asked(model), bounds=(0, 1), device=images.device)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:  # Foolbox would pile up their gradients
            parameter.requires_grad_(False)
        with env.full_float32(), torch.enable_grad(), blamed(model, images):
            criterion = foolbox.Misclassification(labels.long())
            return attack(wrapped, images, criterion, epsilons=eps)[1]
    finally:
        for parameter in learning:
            parameter.requires_grad_()
