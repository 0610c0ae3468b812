"""Train the pairs of networks that the explorer ships ready: python tools/ready_pairs.py."""

from __future__ import annotations

import tempfile
from pathlib import Path

from medrobust_utils.explorer import ready
from medrobust_utils.explorer.studies import STUDIES
from medrobust_utils.reporting import protocol

PAPERS = ("3_domain_assimilation", "4_unet_adversarial_training")


def main() -> None:
    """Train both pairs on phantoms, seed 0, and keep their weights in the package."""
    ready.FOLDER.mkdir(exist_ok=True)
    for paper in PAPERS:
        study = STUDIES[paper]
        settings = protocol.load(paper).settings("smoke", study.longer)
        for arm in study.arms(settings, 0, study.role):
            if getattr(arm, study.kind) in study.pair:
                with tempfile.TemporaryDirectory() as checkpoints:
                    model, _ = study.train(arm, settings, Path(checkpoints), 0)
                path = ready.keep(study, arm, settings, 0, model)
                print(f"{path}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
