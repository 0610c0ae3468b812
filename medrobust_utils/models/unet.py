"""U-Net (Ronneberger et al. 2015), which paper 4 calls "custom" and describes no further."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from ..core.errors import ContractError
from .medical import MedicalModel, remembered


class UNet(nn.Module):
    """Convolutions down and up again, with a bridge at every size.

    ``forward`` takes (N, 3, H, W) and returns logits (N, K, H, W); H and W must be divisible by
    2^depth. Against the original: batch norm, and padding, so that the map is as large as the
    image.

    Args:
        classes: K.
        width: channels at full size; doubled with every halving.
        depth: number of halvings.
    """

    def __init__(self, classes: int, *, width: int, depth: int) -> None:
        super().__init__()
        channels = [width * 2**level for level in range(depth + 1)]
        levels = range(depth)
        self.down = nn.ModuleList(map(_block, [3, *channels[:-1]], channels))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(channels[k + 1], channels[k], 2, 2) for k in reversed(levels)
        )
        self.merge = nn.ModuleList(_block(2 * channels[k], channels[k]) for k in reversed(levels))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, K, H, W) of normalised images (N, 3, H, W)."""
        features = self.down[0](images)
        bridges = []
        for block in self.down[1:]:
            bridges.append(features)
            features = block(F.max_pool2d(features, 2))
        for up, merge in zip(self.up, self.merge, strict=True):
            features = merge(torch.cat([up(features), bridges.pop()], 1))
        return self.head(features)


def _block(inside: int, outside: int) -> nn.Sequential:
    """Twice convolution, batch norm, ReLU."""
    layers: list[nn.Module] = []
    for before in (inside, outside):
        layers += [
            nn.Conv2d(before, outside, 3, padding=1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


@remembered
def build_unet(classes: int, *, width: int, depth: int, size: int) -> MedicalModel:
    """A U-Net from scratch behind its normalisation, for images of ``size`` pixels.

    Raises:
        ContractError: if the images cannot be halved ``depth`` times.
    """
    if width < 1 or depth < 1 or size % 2**depth:
        raise ContractError(
            f"a U-Net of width {width} and depth {depth} on {size} pixels: width and depth are 1 "
            f"or more, and the size a multiple of 2^depth."
        )
    return MedicalModel(
        UNet(classes, width=width, depth=depth), IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    )
