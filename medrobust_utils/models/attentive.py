"""The four networks of paper 2 (section 3.3): ResNet-50 and Inception-ResNet-v2, each with and
without soft attention, cut where Keras' ``layers[-3]`` and ``layers[-28]`` cut them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from ..core.errors import ContractError
from .medical import MedicalModel, remembered, wrap_pretrained
from .soft_attention import SoftAttention

DROPOUT = 0.5
ATTENTION = ("none", "released", "intended", "uniform")
INCEPTION_SIZE = 160  # pixels: a 3x3 map. Less leaves attention no places to choose from


class AttentiveCNN(nn.Module):
    """A convolutional trunk, soft attention or none, and a linear head.

    With attention, the trunk's map and its weighted copy are max-pooled 2x2 (a last odd row or
    column is kept, Keras' "same"), concatenated, and passed through ReLU and dropout.

    Args:
        trunk: returns a feature map (N, C, H, W).
        shape: (C, H, W) of that map.
        classes: K.
        attention: ``none``, ``released``, ``intended`` or ``uniform`` (see SoftAttention).
        flatten: whether the head reads every place (Inception-ResNet-v2) or their mean (ResNet).
        gamma: see SoftAttention.

    Attributes:
        trunk: also the layer whose output Grad-CAM explains: the last map before attention.
    """

    def __init__(
        self,
        trunk: nn.Module,
        shape: tuple[int, int, int],
        classes: int,
        *,
        attention: str,
        flatten: bool,
        gamma: bool = False,
    ) -> None:
        super().__init__()
        channels, height, width = shape
        self.trunk, self.flatten, self.attention = trunk, flatten, None
        if attention != "none":
            self.attention = SoftAttention(channels, attention, gamma=gamma)
            channels, height, width = 2 * channels, -(-height // 2), -(-width // 2)
        # The plain ResNet goes from its average pool to its head without dropout.
        self.dropout = nn.Dropout(DROPOUT if self.attention or flatten else 0.0)
        self.head = nn.Linear(channels * height * width if flatten else channels, classes)

    @property
    def cam_layer(self) -> nn.Module:
        """The layer that Grad-CAM explains."""
        return self.trunk

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.trunk(images)
        if self.attention is not None:
            weighted, _ = self.attention(x)
            both = [F.max_pool2d(part, 2, ceil_mode=True) for part in (x, weighted)]
            x = torch.cat(both, 1)
        x = self.dropout(F.relu(x))
        return self.head(x.flatten(1) if self.flatten else x.mean((2, 3)))

    def attention_map(self, images: torch.Tensor) -> torch.Tensor:
        """Sum (N, H, W) of the sixteen attention maps: what Datta et al. draw over the image."""
        if self.attention is None:
            raise ContractError("this network has no attention, so it has no attention map.")
        return self.attention(self.trunk(images))[1].sum(1)


@remembered
def build_attentive(
    name: str,
    classes: int,
    *,
    attention: str,
    start: str,
    size: int,
    gamma: bool = False,
    options: Mapping | None = None,
) -> MedicalModel:
    """One of the paper's networks, behind its own normalisation.

    Args:
        name: a timm ResNet (``resnet50`` in the paper) or ``inception_resnet_v2``.
        classes: K logits.
        attention: ``none``, ``released``, ``intended`` or ``uniform``.
        start: ``imagenet`` or ``scratch`` (see ``build``).
        size: side of the images in pixels; 160 or more for Inception-ResNet-v2.
        gamma: whether the attention is scaled by a learnable scalar.
        options: further arguments of the timm architecture.

    Raises:
        ContractError: for an unknown network, form or start, or images that are too small.
    """
    if attention not in ATTENTION:
        raise ContractError(f"attention={attention!r}: choose one of {', '.join(ATTENTION)}.")
    if not name.startswith("resnet") and name != "inception_resnet_v2":
        raise ContractError(f"{name!r}: choose a ResNet or inception_resnet_v2.")
    inception = name == "inception_resnet_v2"
    if inception and size < INCEPTION_SIZE:
        raise ContractError(
            f"{name} leaves too small a map of {size} pixels to attend to. "
            f"Use {INCEPTION_SIZE} pixels or more."
        )
    model = wrap_pretrained(name, start, options)
    if inception:
        trunk = _inception_trunk(model.backbone)
    else:
        model.backbone.reset_classifier(0, "")
        trunk = model.backbone
    shape = _map_shape(trunk, size)
    model.backbone = AttentiveCNN(
        trunk, shape, classes, attention=attention, flatten=inception, gamma=gamma
    )
    return model


def _inception_trunk(net: nn.Module) -> nn.Module:
    """Up to Keras' ``batch_normalization_195``: a branch of the ninth 8x8 block, before its ReLU.

    Datta et al. count 28 layers back from the end, which does not lead to the last map of 1536
    channels but into the middle of a block: 192 channels of one of its branches.
    """
    branch = net.repeat_2[8].branch0
    branch.bn.act = nn.Identity()  # timm fuses the ReLU into its batch norm
    names = (
        "conv2d_1a conv2d_2a conv2d_2b maxpool_3a conv2d_3b conv2d_4a maxpool_5a mixed_5b repeat "
        "mixed_6a repeat_1 mixed_7a"
    )
    return nn.Sequential(*[getattr(net, n) for n in names.split()], net.repeat_2[:8], branch)


def _map_shape(trunk: nn.Module, size: int) -> tuple[int, int, int]:
    training = trunk.training
    trunk.eval()
    with torch.inference_mode():
        shape = tuple(trunk(torch.zeros(1, 3, size, size)).shape[1:])
    trunk.train(training)
    return shape
