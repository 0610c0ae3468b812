"""Small untrained networks of every family for the tests, and images to ask them about."""

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from medrobust_utils.models import MedicalModel


def small(name, **options):
    """A timm network of seven classes as it begins, behind its normalisation."""
    torch.manual_seed(0)
    backbone = timm.create_model(name, num_classes=7, **options)
    return MedicalModel(backbone, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD).eval()


def noise(size, count=3, channels=3):
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(1))


def swin():
    return small(
        "swin_tiny_patch4_window7_224",
        img_size=64,
        embed_dim=24,
        depths=(2, 2, 2, 2),
        num_heads=(2, 2, 2, 2),
    )


def vit(**options):
    return small("vit_tiny_patch16_224", img_size=64, embed_dim=48, depth=2, num_heads=2, **options)


def traces(model):
    """What an explanation must leave alone: hooks, and what parameters ask for and have."""
    hooks = sum(len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules())
    grads = [(id(p.grad), None if p.grad is None else p.grad.sum()) for p in model.parameters()]
    return hooks, [p.requires_grad for p in model.parameters()], grads


class Out(nn.Module):
    """Returns a dictionary, as torchvision's segmentation nets do."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, images):
        return {"out": self.net(images)}
