"""What training minimises: cross-entropy, alone or beside the GLCM loss of paper 3."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import nn

from ..core import env
from ..core.errors import ContractError
from ..core.losses import per_image
from ..data import ImageSet
from ..models import AssimilatedModel
from . import glcm


class Objective(Protocol):
    """Loss of one batch.

    Called with the model in training mode, images float32 (N, C, H, W), their targets, their
    numbers in the data set (N,), and the type of mixed precision; returns the mean loss.

    Attributes:
        identity: what tells two objectives of one model apart; part of a checkpoint's identity.
    """

    identity: str

    def __call__(
        self,
        model: nn.Module,
        images: torch.Tensor,
        targets: torch.Tensor,
        rows: np.ndarray,
        dtype: torch.dtype,
    ) -> torch.Tensor: ...


@dataclass(frozen=True)
class CrossEntropy:
    """The loss of the model's head (see ``losses.per_image``), each class with its own weight.

    Attributes:
        weights: (K,) on the model's device, or None for equal ones.
    """

    weights: torch.Tensor | None = None
    identity: str = "cross-entropy"

    def __call__(
        self,
        model: nn.Module,
        images: torch.Tensor,
        targets: torch.Tensor,
        rows: np.ndarray,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        with env.autocast(images.device, dtype):
            logits = model(images)
        losses = per_image(logits.float(), targets)
        return (losses if self.weights is None else losses * self.weights[targets]).mean()


@dataclass(frozen=True)
class Assimilation:
    """alpha * cross-entropy + (1 - alpha) * GLCM loss of C(T(X)) against X (slides, eq. 18).

    Equation 18 writes C(X); the pipeline, and this, applies C to T(X), which is what the
    backbone sees. The images must reach training as they lie in the data set (``flips: none``),
    since their own texture is computed once.

    Attributes:
        alpha: in [0, 1]; 1 leaves the GLCM loss out, and then costs nothing.
        own: texture (N, T, 4, 5) of the whole data set (``glcm.texture_of_set``), or None where
            alpha is 1.
        levels, softness, rows: see ``glcm.texture`` and ``glcm.texture_distance``.
    """

    alpha: float
    own: torch.Tensor | None = field(repr=False)
    levels: int = glcm.LEVELS
    softness: float = 1.0
    rows: str = "areas"

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ContractError(f"alpha={self.alpha}: choose a share from 0 to 1.")

    @classmethod
    def of(
        cls, data: ImageSet, alpha: float, *, levels: int, softness: float, rows: str
    ) -> Assimilation:
        """With the texture of the images of ``data``, computed here."""
        own = None
        if alpha < 1:
            own = glcm.texture_of_set(data.images, levels=levels, softness=softness)
        return cls(alpha, own, levels, softness, rows)

    @property
    def identity(self) -> str:
        return repr(self)

    def __call__(
        self,
        model: AssimilatedModel,
        images: torch.Tensor,
        targets: torch.Tensor,
        rows: np.ndarray,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        entropy, distance = self.terms(model, images, targets, rows, dtype)
        return self.alpha * entropy + (1 - self.alpha) * distance

    def terms(
        self,
        model: AssimilatedModel,
        images: torch.Tensor,
        targets: torch.Tensor,
        rows: np.ndarray,
        dtype: torch.dtype,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean cross-entropy in nats and mean GLCM loss (0 where alpha is 1), both unweighted."""
        with env.autocast(images.device, dtype):
            adapted = model.adapt(images)
            logits = model.classify(adapted)
        entropy = per_image(logits.float(), targets).mean()
        if self.own is None:
            return entropy, torch.zeros_like(entropy)
        gray = glcm.grayscale(adapted)
        found = glcm.texture(gray, levels=self.levels, softness=self.softness)
        own = self.own[rows].to(images.device)
        return entropy, glcm.texture_distance(found, own, self.rows).mean()

    def pull(
        self,
        model: AssimilatedModel,
        images: torch.Tensor,
        targets: torch.Tensor,
        rows: np.ndarray,
    ) -> dict[str, float]:
        """How strongly each weighted term pulls at T and C: norms of its gradient, in float32.

        Keys ``entropy_gradient`` and ``glcm_gradient``: L2 norm of the gradient of
        alpha * cross-entropy and of (1 - alpha) * GLCM loss by all parameters of T and C.
        ``glcm_loss``: the unweighted GLCM loss. A term whose gradient is far below the other's
        has no say, whatever its value.
        """
        with torch.enable_grad(), env.full_float32():
            terms = self.terms(model, images, targets, rows, torch.float32)
            parts = [self.alpha * terms[0], (1 - self.alpha) * terms[1]]
            found = {"glcm_loss": terms[1].item()}
            for name, part in zip(("entropy", "glcm"), parts, strict=True):
                norm = 0.0
                if part.requires_grad:
                    slopes = torch.autograd.grad(
                        part, model.new_parameters(), retain_graph=True, allow_unused=True
                    )
                    norm = sum((s**2).sum() for s in slopes if s is not None).sqrt().item()
                found[f"{name}_gradient"] = norm
        return found
