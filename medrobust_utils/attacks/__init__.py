"""Attacks: noise that knows nothing, and gradients that know the model."""

# ruff: noqa: F401  the face of the room: what is imported here is what users call

from .autoattack.attack import Attacked, autoattack
from .config import AttackConfig, AutoAttackConfig
from .engine import bim, fgsm, madry_step, mifgsm, pgd
from .layered import Attack, Layered
from .noise import gaussian, noise_std, noisy_logits
from .radii import at_radii
from .radius_sweep import attack_sweep, autoattack_sweep, robust_curve
from .red_flags import Flag, red_flags
from .selective import Selective
from .sweep_result import AutoResult, SweepResult, lowest, overtaken
