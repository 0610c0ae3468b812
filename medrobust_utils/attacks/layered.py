"""Method one of paper 4: PGD towards one class after another, layer upon layer.

Avramidis et al. (draft), section 2 and equation 2: for each class in turn, 100 steps push the
whole prediction to that class, each class starting from the last result. What earlier classes
wrote into the image stays below, and the prediction ends up in fragments, where plain PGD paints
the whole area in one class. The cost grows linearly with the number of classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..core.contracts import ask, check_labels
from ..core.errors import ContractError
from ..core.gate import admit, gate
from .engine import extremes
from .gradient import pgd

# What a class's steps are projected on: the ball around where that class began, so that the
# classes may drift apart to K * eps together; or the ball around the image itself.
BALLS = ("stage", "image")


@gate()
def layered_pgd(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    eps: float,
    *,
    classes: Sequence[int],
    steps: int,
    step_size: float,
    ball: str = "stage",
    present: bool = False,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Images after the last class; at most ``eps`` (``len(classes) * eps`` by stages) away.

    Args:
        model: returns logits (N, K, H, W), in evaluation mode.
        images: float32 (N, C, H, W) in [0, 1], on the model's device.
        labels: label maps (N, H, W); looked at with ``present`` only.
        eps: radius of each ball, in [0, 1].
        classes: in the order of attack.
        steps, step_size: of PGD, for each class; see ``gradient.pgd``.
        ball: one of BALLS. The paper names no bound; equation 2 clips only.
        present: leave out, image by image, the classes that its label map does not show
            ("as long as there are different classes" can be read so).

    Raises:
        ContractError: for an unknown ball, or a breach of the contract.
    """
    if ball not in BALLS:
        raise ContractError(f"ball={ball!r}: choose {' or '.join(BALLS)}.")
    labels = admit(model, images, labels if present else None)
    if present:
        check_labels(labels, ask(model, images), extremes(labels))
    moved = images.clone()
    for kind in classes:
        chosen = torch.ones(len(images), dtype=torch.bool, device=images.device)
        if present:
            chosen = (labels == kind).flatten(1).any(1)
        centre = (images if ball == "image" else moved)[chosen]
        moved[chosen] = pgd(
            model,
            centre,
            full_area(centre, kind),
            eps,
            steps=steps,
            step_size=step_size,
            start=moved[chosen],
            targeted=True,
            dtype=dtype,
        )
    return moved


def full_area(images: torch.Tensor, kind: int) -> torch.Tensor:
    """Label maps (N, H, W) that show the class ``kind`` everywhere."""
    n, _, height, width = images.shape
    return torch.full((n, height, width), kind, device=images.device)
