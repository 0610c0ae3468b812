"""Attacks: noise that knows nothing, and gradients that know the model."""

from .gradient import attack_loss, fgsm
from .noise import gaussian, noise_std, noisy_logits

__all__ = ["attack_loss", "fgsm", "gaussian", "noise_std", "noisy_logits"]
