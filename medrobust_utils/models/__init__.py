"""Models that take images in [0, 1] and return logits; normalisation lives inside."""

from .attentive import AttentiveCNN, build_attentive
from .medical import MedicalModel, build, use_v1_strides
from .soft_attention import SoftAttention

__all__ = [
    "AttentiveCNN",
    "MedicalModel",
    "SoftAttention",
    "build",
    "build_attentive",
    "use_v1_strides",
]
