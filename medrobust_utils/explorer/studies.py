"""The four studies under one set of names, for those who open networks of any of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.views import enhanced_pixels
from ..models import MedicalModel
from ..studies import attentive_cnn, domain_assimilation, swin_noise, unet_adversarial

Filter = tuple[Callable[[np.ndarray], np.ndarray], str]
Arm = Any  # each study has a class of its own, with ``key``, ``title`` and ``task``


@dataclass(frozen=True)
class Study:
    """How a study's networks are planned, built and trained.

    Attributes:
        paper: name of its protocol.
        arms: (settings, seed, role) -> every arm.
        build: (arm, settings, seed) -> the untrained network.
        train: (arm, settings, checkpoints, seed) -> the trained network and its folder.
        tested: task -> test images, those under attack where there are such.
        kind: attribute of an arm that tells apart what the paper compares.
        pair: the undefended kind, and the one to set beside it.
        alike: arm -> what two networks that differ in ``kind`` alone have in common.
        caveat: task -> what a reader of its test images must know, or nothing.
        backbone: (arm, settings) -> timm's name of the architecture that brings weights along.
        filter: task -> a filter that its networks see images through, uint8 (H, W, C) both ways,
            and what to call it; or None.
        role: whose phantoms a small pair is trained on.
        longer: overrides of the smoke profile for that pair, where its networks learn too little
            for their maps to mean anything.
    """

    paper: str
    arms: Callable[[Mapping, int, str], Iterable[Arm]]
    build: Callable[[Arm, Mapping, int], MedicalModel]
    train: Callable[[Arm, Mapping, Path, int], tuple[MedicalModel, Path]]
    tested: Callable[[Any], np.ndarray]
    kind: str
    pair: tuple[str, str]
    alike: Callable[[Arm], tuple]
    role: str
    caveat: Callable[[Any], str] = lambda task: ""
    backbone: Callable[[Arm, Mapping], str] = lambda arm, settings: ""
    filter: Callable[[Any], Filter | None] = lambda task: None
    longer: str = ""


def _usual(module: Any) -> dict[str, Callable]:
    """Arms, building and training of the studies of all papers."""

    def train(arm: Arm, settings: Mapping, checkpoints: Path, seed: int) -> tuple:
        _, model, _, folder = module.train(arm, settings, checkpoints)
        return model, folder

    return {
        "arms": lambda settings, seed, role: module.arms(settings, seed=seed, role=role),
        "build": lambda arm, settings, seed: module.build_arm(arm, settings),
        "train": train,
        "tested": lambda task: task.attacked,
    }


def _of_model(arm: Arm, settings: Mapping) -> str:
    return settings["models"][arm.model]["backbone"]


def _filter(task: attentive_cnn.Task) -> Filter | None:
    if task.tags["filter"] == "none":
        return None
    return lambda pixels: enhanced_pixels(pixels[None])[
        0
    ], "seen through the paper's contrast filter"


def _chose_the_epoch(task: attentive_cnn.Task) -> str:
    leaks = "datta split: these test images chose the epoch, and near duplicates of them may have "
    return f"{leaks}been trained on: too good to be true." * (task.tags["split"] == "datta")


def _by_image(task: domain_assimilation.Task) -> str:
    leaks = "split by image: duplicates, and slices of one patient, lie on both sides: the networks"
    return f"{leaks} may have been trained on pictures like these." * (
        task.tags["split"] != "honest"
    )


_ALL = (
    Study(
        "1_swin_noise",
        **_usual(swin_noise),
        kind="model",
        pair=("resnet", "swin"),
        alike=lambda arm: (arm.start, arm.seed),
        role="isic",
        caveat=lambda task: "validation images: paper 1 has no test set.",
        backbone=_of_model,
        longer="size=64 models.swin.options.img_size=64 models.swin.options.embed_dim=48",
    ),
    Study(
        "2_attentive_cnn",
        **_usual(attentive_cnn),
        kind="attention",
        pair=("none", "released"),
        alike=lambda arm: (arm.model, arm.start, arm.seed),
        role="skin",
        caveat=_chose_the_epoch,
        backbone=_of_model,
        filter=_filter,
    ),
    Study(
        "3_domain_assimilation",
        **_usual(domain_assimilation),
        kind="defence",
        pair=("none", "adversarial"),
        alike=lambda arm: (arm.backbone, arm.start, arm.seed),
        role="ct",
        caveat=_by_image,
        backbone=lambda arm, settings: arm.backbone,
        longer="phantoms=320 size=64 training.epochs.test_resnet=30 attack.images.ct=40",
    ),
    Study(
        "4_unet_adversarial_training",
        **_usual(unet_adversarial),
        kind="scheme",
        pair=("clean", "selective"),
        alike=lambda arm: (arm.seed,),
        role="histology",
    ),
)
STUDIES = {study.paper: study for study in _ALL}
