"""The reference: the same attacks run by Foolbox (Rauber et al. 2020), with our signatures.

A notebook swaps engines with one word. Foolbox projects with ``image + clip(...)``, which
float32 rounds, so its images may lie a unit in the last place outside the ball.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..core import env
from ..core.contracts import Asked, ask, blamed, check_labels, check_logits
from ..core.errors import ContractError
from ..core.gate import admit, gate
from . import engine


def foolbox_fgsm(model: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    """``fgsm`` by Foolbox, for which it is one step of length eps; softmax heads only."""
    return foolbox_pgd(model, images, labels, eps, steps=1, step_size=eps, random_start=False)


@gate()
def foolbox_pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: float,
    *,
    steps: int = engine.USUAL["pgd"][0],
    step_size: float | None = None,
    random_start: bool = True,
    generator: torch.Generator | None = None,
    start: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """``pgd`` by Foolbox's LinfProjectedGradientDescentAttack; softmax heads, float32 only.

    The arguments are those of ``pgd``; the same generator or ``start`` gives the same start.
    """
    import foolbox  # slow to import
    from eagerpy import astensor

    labels = admit(model, images, labels)
    engine.check_eps(eps)
    if labels.ndim != 1 or labels.is_floating_point() or dtype != torch.float32:
        raise ContractError(
            "Foolbox attacks softmax heads with int64 labels (N,), in float32. Use the native "
            f"engine for {labels.dtype} labels {tuple(labels.shape)} and {dtype}."
        )
    logits = ask(model, images)
    check_labels(labels, logits, engine.extremes(labels))
    check_logits(logits, multi_label=False)
    if start is None and random_start:
        start = engine.uniform_start(images, eps, generator)

    class FromStart(foolbox.attacks.LinfProjectedGradientDescentAttack):
        """Begins where it is told, which Foolbox has no argument for."""

        def get_random_start(self, x0: Any, epsilon: float) -> Any:
            return self.project(astensor(start), x0, epsilon)

    how = dict(steps=steps, rel_stepsize=engine.USUAL["pgd"][1], abs_stepsize=step_size)
    attack = FromStart(**how, random_start=start is not None)
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
