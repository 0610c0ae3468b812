"""Models that take images in [0, 1] and return logits; normalisation lives inside."""

from .assimilation import AssimilatedModel, build_assimilated
from .attentive import AttentiveCNN, build_attentive
from .digest import digest
from .medical import MedicalModel, build, use_v1_strides
from .soft_attention import SoftAttention
from .unet import UNet, build_unet

__all__ = [
    "AssimilatedModel",
    "AttentiveCNN",
    "MedicalModel",
    "SoftAttention",
    "UNet",
    "build",
    "build_assimilated",
    "build_attentive",
    "build_unet",
    "digest",
    "use_v1_strides",
]
