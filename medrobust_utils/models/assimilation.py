"""Domain assimilation (paper 3): gray images dressed for a backbone that knows natural ones.

A texture module T and a colour module C stand before a pretrained backbone B and its classifier
F; all are trained together. The slides name the modules and call them lightweight, and say no
more: layers are ours, or another paper's.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ..core.errors import ContractError
from .medical import MedicalModel, build, remembered


class TextureModule(nn.Module):
    """T: two 3x3 convolutions whose result is added to the gray image, (N, 1, H, W) both ways.

    The last convolution begins at zero, so that training begins with the image as it is.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, 1, 3, padding=1),
        )
        _he(self)
        nn.init.zeros_(self.layers[2].weight)
        nn.init.zeros_(self.layers[2].bias)

    def forward(self, gray: torch.Tensor) -> torch.Tensor:
        return gray + self.layers(gray)


class ConvColour(nn.Module):
    """C, the default: three 3x3 convolutions 1 -> 16 -> 16 -> 3 and a sigmoid."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, 3, 3, padding=1),
        )
        _he(self)

    def forward(self, gray: torch.Tensor) -> torch.Tensor:
        return self.layers(gray).sigmoid()


class DeconvColour(nn.Module):
    """C after Morra et al. 2020 ("DECONV"): a small residual network at a quarter of the size.

    7x7 convolution with stride 2, batch norm, leaky ReLU, 3x3 max-pool with stride 2, eight
    residual blocks of 64 channels, 1x1 convolution to three channels, transposed 8x8 convolution
    with stride 4, and the sigmoid that keeps colours in [0, 1]. Sides must be multiples of four.
    """

    def __init__(self, width: int = 64, blocks: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
            *[_Residual(width) for _ in range(blocks)],
            nn.Conv2d(width, 3, 1),
            nn.ConvTranspose2d(3, 3, 8, stride=4, padding=2),
        )
        _he(self)

    def forward(self, gray: torch.Tensor) -> torch.Tensor:
        if gray.shape[2] % 4 or gray.shape[3] % 4:
            raise ContractError(
                f"this colour module needs sides that are multiples of 4, not "
                f"{gray.shape[2]} x {gray.shape[3]}. Choose another size, or colour='conv'."
            )
        return self.layers(gray).sigmoid()


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.leaky_relu(x + self.layers(x))


def _he(module: nn.Module) -> None:
    """He's initialisation: torch's own would squeeze the picture into a few gray levels."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


COLOURS = {"conv": ConvColour, "deconv": DeconvColour}


class AssimilatedModel(MedicalModel):
    """F(B(C(T(X)))): gray images (N, 1, H, W) in [0, 1] to logits (N, K).

    Attributes:
        texture, colour: T and C.
        backbone: B with F as its head, behind ImageNet's normalisation.
    """

    def __init__(self, plain: MedicalModel, colour: str) -> None:
        super().__init__(
            plain.backbone,
            tuple(plain.mean.flatten().tolist()),
            tuple(plain.std.flatten().tolist()),
        )
        self.start, self.source, self.warnings = plain.start, plain.source, plain.warnings
        self.texture, self.colour = TextureModule(), COLOURS[colour]()

    def adapt(self, images: torch.Tensor) -> torch.Tensor:
        """What the backbone is shown: C(T(X)), (N, 3, H, W) in [0, 1].

        Raises:
            ContractError: for images that are not gray.
        """
        if images.shape[1] != 1:
            raise ContractError(
                f"images have {images.shape[1]} channels; domain assimilation colours gray ones. "
                "Convert them to one channel."
            )
        return self.colour(self.texture(images))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classify(self.adapt(images))

    def classify(self, adapted: torch.Tensor) -> torch.Tensor:
        """F(B(.)): logits (N, K) of images (N, 3, H, W) that were adapted already."""
        return super().forward(adapted)

    def new_parameters(self) -> list[nn.Parameter]:
        """Those of T and C, which begin untrained whatever the backbone knows."""
        return [*self.texture.parameters(), *self.colour.parameters()]


@remembered
def build_assimilated(
    name: str, classes: int, *, colour: str, start: str, options: Mapping | None = None
) -> AssimilatedModel:
    """Texture and colour modules before a timm backbone with a fresh head.

    Args:
        name, classes, start, options: see ``build``.
        colour: ``conv``, the lightweight default, or ``deconv`` (Morra et al. 2020).

    Raises:
        ContractError: for an unknown colour module, architecture or start.
    """
    if colour not in COLOURS:
        raise ContractError(f"colour={colour!r}: choose one of {', '.join(COLOURS)}.")
    return AssimilatedModel(build(name, classes, start=start, options=options), colour)
