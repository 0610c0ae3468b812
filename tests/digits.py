"""Small networks on real handwritten digits, which come with scikit-learn, for attack tests."""

from functools import cache

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

ATTACKED = 100
SIDE = 16


@cache
def digits(classes):
    """Images (N, 1, 16, 16) in [0, 1] and labels (N,) of the first so many digits."""
    found = load_digits()
    images = torch.tensor(found.images / 16, dtype=torch.float32)[:, None]
    images = F.interpolate(images, size=(SIDE, SIDE), mode="bilinear").clamp(0, 1)
    labels = torch.tensor(found.target)
    keep = labels < classes
    return images[keep], labels[keep]


def attacked(classes):
    images, labels = digits(classes)
    return images[:ATTACKED], labels[:ATTACKED]


@cache
def network(classes, head="softmax"):
    """Trained on the other digits, attacked a little, so that some of them stand at eps 0.1.

    Args:
        head: ``softmax``, ``single`` (one logit: is it a 1?), or ``several`` (K labels: the digit,
            and whether it is above 4 or odd, which do not exclude each other).
    """
    torch.manual_seed(0)
    images, labels = digits(classes)
    images, targets = images[ATTACKED:], as_targets(labels[ATTACKED:], classes, head)
    outputs = {"softmax": classes, "single": 1, "several": 3}[head]
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 16, outputs),
    )
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(4):
        for rows in torch.randperm(len(images)).split(64):
            clean = images[rows].clone().requires_grad_()
            slope = torch.autograd.grad(_loss(net(clean), targets[rows]), clean)[0]
            hard = (clean.detach() + 0.1 * slope.sign()).clamp(0, 1)
            optimiser.zero_grad()
            _loss(net(hard), targets[rows]).backward()
            optimiser.step()
    return net.eval()


def as_targets(labels, classes, head):
    """The labels as the head takes them."""
    if head == "several":
        return torch.stack([labels == 1, labels > 4, labels % 2 == 1], 1).float()
    return (labels == 1).float() if head == "single" else labels


def _loss(logits, targets):
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], targets)
    if targets.ndim == 2:
        return F.binary_cross_entropy_with_logits(logits, targets)
    return F.cross_entropy(logits, targets)
