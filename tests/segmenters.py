"""Small segmentation nets for the tests, trained for a second or two on drawn tissue."""

from functools import cache

import torch
from torch import nn

from medrobust_utils.core import env
from medrobust_utils.core.losses import per_image
from medrobust_utils.data import phantom_set, to_float
from medrobust_utils.models import build_unet

SIZE = 32


@cache
def tissue(classes):
    """Images float32 (24, 3, 32, 32) and label maps uint8; the last class takes the rest."""
    data = phantom_set("histology", 24, size=SIZE)
    return to_float(data.images), torch.from_numpy(data.masks[:].clip(max=classes - 1))


def untrained(classes):
    """A U-Net of width 4 and depth 2 as it begins."""
    env.seed_everything(0)
    return build_unet(classes, width=4, depth=2, size=SIZE).eval()


@cache
@torch.enable_grad()  # whoever asks first
def trained(classes):
    """The same, after 60 steps; do not change it."""
    images, labels = tissue(classes)
    model = untrained(classes).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(60):
        rows = slice(step % 3 * 8, step % 3 * 8 + 8)
        loss = per_image(model(images[rows]), labels[rows]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


class Plain(nn.Module):
    """Any module will do that returns logits (N, K, H, W); this one is a foreign net's ``out``."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, images):
        return self.net(images)["out"]
