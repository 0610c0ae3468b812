"""The pairs of networks that ship with the kit: a visitor waits for no training."""

import numpy as np
import pytest
import torch

from medrobust_utils.core.losses import correct
from medrobust_utils.data import to_float
from medrobust_utils.explorer.shelf import Shelf
from medrobust_utils.training import fit

PAPERS = ("3_domain_assimilation", "4_unet_adversarial_training")


@pytest.mark.parametrize("paper", PAPERS)
def test_a_pair_ships_ready_and_knows_its_phantoms(paper, tmp_path, monkeypatch):
    """If the smoke profile has changed: `python tools/ready_pairs.py` trains them anew."""
    monkeypatch.setattr(fit, "_Job", None)  # nothing is trained
    scene = Shelf(tmp_path).open(Shelf(tmp_path).places(paper)[-1])
    images = to_float(scene.data.images[scene.rows])
    labels = torch.from_numpy(scene.data.targets[scene.rows])
    largest = np.bincount(labels.flatten()).max() / labels.numel()
    for network in scene.networks:
        with torch.no_grad():
            logits = network.model.cpu()(images)
        right = logits.argmax(1).eq(labels) if labels.ndim > 1 else correct(logits, labels)
        assert right.float().mean() > largest + 0.05, network.name
    assert not any(tmp_path.iterdir())
