"""Attacks: noise that knows nothing, and gradients that know the model."""

from .gradient import fgsm
from .noise import gaussian, noise_std, noisy_logits

__all__ = ["fgsm", "gaussian", "noise_std", "noisy_logits"]
