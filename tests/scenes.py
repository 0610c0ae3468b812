"""Small scenes for the explorer's tests: drawn images, two networks each, trained for a second."""

from functools import cache

import numpy as np
import torch
from torch import nn

from medrobust_utils.core import env
from medrobust_utils.core.losses import per_image
from medrobust_utils.data import to_float
from medrobust_utils.data.imageset import rows_of
from medrobust_utils.data.phantoms import phantom_set
from medrobust_utils.data.views import label_maps
from medrobust_utils.explorer.scene import Network, Scene
from medrobust_utils.models import MedicalModel, build, build_unet

SIZE = 64
TRAINED = 32  # images; the rest is looked at
HALF = (0.5, 0.5, 0.5)


def plain_net(classes):
    """Three convolutions: maps of 32, 16 and 8 pixels."""
    layers = []
    for inside, outside in ((3, 8), (8, 12), (12, 16)):
        layers += [nn.Conv2d(inside, outside, 3, 2, 1), nn.ReLU()]
    body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes))
    return MedicalModel(body, HALF, HALF)


@torch.enable_grad()  # whoever asks first
def trained(model, data, steps):
    """``model`` after some steps on the first images, in evaluation mode."""
    images, targets = to_float(data.images[:TRAINED]), torch.from_numpy(data.targets[:TRAINED])
    optimiser = torch.optim.Adam(model.train().parameters(), lr=0.01)
    for step in range(steps):
        rows = slice(step % 4 * 8, step % 4 * 8 + 8)
        loss = per_image(model(images[rows]), targets[rows]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def network(name, model):
    """A network that is at hand."""
    return Network(name, lambda: model, {"from": "a test"})


def scene(key, data, *models):
    """The images that nothing was trained on, and one or two networks."""
    rows = np.arange(TRAINED, len(data))
    masks = None if data.masks is None else data.masks[rows]
    held = rows_of(data, rows)
    object.__setattr__(held, "masks", masks)
    names = ("vanilla", "adversarial training")
    networks = tuple(map(network, names, models))
    return Scene("2_attentive_cnn", key, held, networks, ("trained for seconds",))


@cache
def single_label():
    """Skin with outlined lesions, seven classes, two architectures; do not change it."""
    env.seed_everything(0)
    data = phantom_set("dermatoscopy7", 44, size=SIZE)
    second = build("resnet10t", 7, start="scratch").eval()
    return scene("skin", data, trained(plain_net(7), data, 300), second)


@cache
def multi_label():
    """Gray chests with several findings or none, two networks of one architecture."""
    env.seed_everything(0)
    data = phantom_set("chest", 44, size=SIZE)
    nets = [trained(plain_net(len(data.classes)), data, steps) for steps in (300, 100)]
    return scene("chest", data, *nets)


@cache
def segmentation():
    """Tissue with a class for every pixel, two U-Nets."""
    env.seed_everything(0)
    data = label_maps(phantom_set("histology", 44, size=SIZE))
    nets = [build_unet(len(data.classes), width=4, depth=3, size=SIZE) for _ in range(2)]
    return scene("tissue", data, trained(nets[0], data, 80), trained(nets[1], data, 30))


SCENES = (single_label, multi_label, segmentation)
