"""The reference: the same attacks run by Foolbox (Rauber et al. 2020), with our signatures.

A notebook swaps engines with one word. Foolbox projects with ``image + clip(...)``, which
float32 rounds, so its images may lie a unit in the last place outside the ball.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ..core import env
from ..core.contracts import Asked, ask, blamed, check_labels, check_logits
from ..core.errors import ContractError
from ..core.gate import admit, gate
from .engine import check_eps, extremes
from .engine import random_start as uniform_start
from .gradient import PGD_STEP, PGD_STEPS


@gate()
def foolbox_fgsm(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, eps: float
) -> torch.Tensor:
    """``fgsm`` by Foolbox's LinfFastGradientAttack; softmax heads only."""
    from foolbox.attacks import LinfFastGradientAttack  # slow to import

    labels = admit(model, images, labels)
    return _run(LinfFastGradientAttack(), model, images, labels, eps)


@gate()
def foolbox_pgd(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    eps: float,
    *,
    steps: int = PGD_STEPS,
    step_size: float | None = None,
    random_start: bool = True,
    generator: torch.Generator | None = None,
    start: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """``pgd`` by Foolbox's LinfProjectedGradientDescentAttack; softmax heads, float32 only.

    The arguments are those of ``pgd``; the same generator or ``start`` gives the same start.
    """
    labels = admit(model, images, labels)
    if start is None and random_start:
        start = uniform_start(images, eps, generator)
    return foolbox_steps(model, images, labels, eps, steps, step_size, start, dtype)


def foolbox_steps(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    eps: float,
    steps: int,
    step_size: float | None,
    start: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """``foolbox_pgd`` of what ``admit`` let in, without a graph around it."""
    import eagerpy
    from foolbox.attacks import LinfProjectedGradientDescentAttack  # slow to import

    if dtype != torch.float32:
        raise ContractError(f"dtype={dtype}: Foolbox attacks in float32. Use the native engine.")

    class FromStart(LinfProjectedGradientDescentAttack):
        """Begins where it is told, which Foolbox has no argument for."""

        def get_random_start(self, x0: eagerpy.Tensor, epsilon: float) -> eagerpy.Tensor:
            return self.project(eagerpy.astensor(start), x0, epsilon)

    attack = FromStart(
        rel_stepsize=PGD_STEP,
        abs_stepsize=step_size,
        steps=steps,
        random_start=start is not None,
    )
    return _run(attack, model, images, labels, eps)


def _run(
    attack: Callable, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, eps: float
) -> torch.Tensor:
    """Clipped adversarial images of a Foolbox attack."""
    import foolbox

    check_eps(eps)
    if labels.ndim != 1 or labels.is_floating_point():
        raise ContractError(
            "Foolbox attacks softmax heads with int64 labels (N,) only. Use the native engine."
        )
    logits = ask(model, images)
    check_labels(labels, logits, extremes(labels))
    check_logits(logits, multi_label=False)
    wrapped = foolbox.PyTorchModel(Asked(model), bounds=(0, 1), device=images.device)
    criterion = foolbox.Misclassification(labels.long())
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:  # Foolbox would pile up their gradients
            parameter.requires_grad_(False)
        with env.full_float32(), torch.enable_grad(), blamed(model, images):
            return attack(wrapped, images, criterion, epsilons=eps)[1]
    finally:
        for parameter in learning:
            parameter.requires_grad_()
