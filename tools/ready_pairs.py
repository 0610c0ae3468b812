"""Train the pairs of networks that the explorer ships ready: python tools/ready_pairs.py [PAPER].

Each becomes a folder with its card, its test images and its weights in half precision.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from medrobust_utils.core.storage import read_arrays
from medrobust_utils.explorer.networks import COMPARED, READY
from medrobust_utils.reporting import protocol
from medrobust_utils.studies import attentive_cnn, domain_assimilation, swin_noise, unet_adversarial
from medrobust_utils.training import cards

# Module and role of a paper, and how its smoke profile is changed: small files, and networks that
# learn enough for their maps to mean something.
TRAINED = {
    "1_swin_noise": (
        swin_noise,
        "isic",
        "size=64 models.swin.options.img_size=64 models.swin.options.embed_dim=48",
    ),
    "2_attentive_cnn": (
        attentive_cnn,
        "skin",
        "phantoms=400 models.resnet.size=64 models.resnet.options.channels=[16,32,64,128] "
        "training.epochs.skin=40",
    ),
    "3_domain_assimilation": (
        domain_assimilation,
        "ct",
        "phantoms=320 size=64 training.epochs.test_resnet=30 attack.images.ct=40",
    ),
    "4_unet_adversarial_training": (unet_adversarial, "histology", ""),
}


def main(papers: list[str]) -> None:
    """Train the pairs of ``papers`` on phantoms, seed 0, and keep them in the package."""
    for paper in papers or TRAINED:
        module, role, longer = TRAINED[paper]
        kind, *pair, _ = COMPARED[paper]
        settings = protocol.load(paper).settings("smoke", longer)
        for arm in module.arms(settings, seed=0, role=role):
            if getattr(arm, kind) in pair:
                with tempfile.TemporaryDirectory() as checkpoints:
                    folder = module.train(arm, settings, Path(checkpoints)).folder
                    keep(folder, READY / f"{paper}-{getattr(arm, kind)}")


def keep(trained: Path, folder: Path) -> None:
    """Copy what the explorer needs of a finished training, made small."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(trained / cards.NAME, folder)
    np.savez_compressed(folder / cards.SAMPLES, **read_arrays(trained / cards.SAMPLES))
    weights = {
        name: (part.half() if part.is_floating_point() else part).contiguous()
        for name, part in cards.weights(trained).items()
    }
    save_file(weights, folder / cards.SHIPPED)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder}: {size // 1000} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
