"""Attacks: noise that knows nothing, and gradients that know the model."""

from .adversarial import AdversarialTraining
from .flags import Flag, red_flags
from .gradient import bim, fgsm, mifgsm, pgd, segpgd
from .ladder import Plan, climb
from .layered import layered_pgd
from .noise import gaussian, noise_std, noisy_logits
from .reference import foolbox_fgsm, foolbox_pgd
from .selective import Selected, selective_fgsm
from .sweep import SweepResult, attack_sweep

__all__ = [
    "AdversarialTraining",
    "Flag",
    "Plan",
    "Selected",
    "SweepResult",
    "attack_sweep",
    "bim",
    "climb",
    "fgsm",
    "foolbox_fgsm",
    "foolbox_pgd",
    "gaussian",
    "layered_pgd",
    "mifgsm",
    "noise_std",
    "noisy_logits",
    "pgd",
    "red_flags",
    "segpgd",
    "selective_fgsm",
]
