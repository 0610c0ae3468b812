"""Attacks: noise that knows nothing, and gradients that know the model."""

from .autoattack.attack import Attacked, autoattack
from .config import AttackConfig, AutoAttackConfig
from .foolbox import foolbox_fgsm, foolbox_pgd
from .gradient import bim, fgsm, madry_step, mifgsm, pgd, segpgd
from .layered import layered_pgd
from .noise import gaussian, noise_std, noisy_logits
from .radii import at_radii
from .radius_sweep import attack_sweep, autoattack_sweep, robust_curve
from .red_flags import Flag, red_flags
from .segmenting import Attack, Layered, Selective
from .selective import Selected, selective_fgsm
from .sweep_result import AutoResult, SweepResult, lowest, overtaken

__all__ = [
    "Attack",
    "Attacked",
    "AutoAttackConfig",
    "AutoResult",
    "Flag",
    "Layered",
    "AttackConfig",
    "Selected",
    "Selective",
    "SweepResult",
    "attack_sweep",
    "autoattack",
    "autoattack_sweep",
    "bim",
    "at_radii",
    "fgsm",
    "foolbox_fgsm",
    "foolbox_pgd",
    "gaussian",
    "layered_pgd",
    "lowest",
    "madry_step",
    "mifgsm",
    "noise_std",
    "noisy_logits",
    "overtaken",
    "pgd",
    "red_flags",
    "robust_curve",
    "segpgd",
    "selective_fgsm",
]
