"""Train the pairs that the explorer ships ready: python tools/ready_pairs.py [PAPER ...]."""

import sys
import tempfile
from importlib import import_module
from pathlib import Path

from medrobust_utils.explorer.networks import COMPARED, READY
from medrobust_utils.reporting import protocol
from medrobust_utils.training import cards

# The role whose phantoms are taken, and how the smoke profile is changed: small files, and networks
# that learn enough for their maps to mean something.
TRAINED = {
    "1_swin_noise": "isic size=64 models.swin.options.img_size=64 models.swin.options.embed_dim=48",
    "2_attentive_cnn": "skin phantoms=400 models.resnet.size=64 training.epochs.skin=40 "
    "models.resnet.options.channels=[16,32,64,128]",
    "3_domain_assimilation": "ct phantoms=320 size=64 training.epochs.test_resnet=30 "
    "attack.images.ct=40",
    "4_unet_adversarial_training": "histology ",
}

for paper in sys.argv[1:] or TRAINED:
    study = import_module(f"medrobust_utils.studies.{paper[2:].removesuffix('_training')}")
    role, changes = TRAINED[paper].split(" ", 1)
    settings = protocol.load(paper).settings("smoke", changes)
    kind, *pair, _ = COMPARED[paper]
    for arm in study.arms(settings, seed=0, role=role):
        if getattr(arm, kind) in pair:
            with tempfile.TemporaryDirectory() as checkpoints:
                folder = study.train(arm, settings, Path(checkpoints)).folder
                cards.ship(folder, READY / f"{paper}-{getattr(arm, kind)}")
