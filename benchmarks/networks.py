"""What the sweeps attack: paper 1's two networks, trained on real skin lesions, 200 held out.

Data, split and recipe are those of notebook 01, section 12, and so are the networks of 64 pixels;
those that it trained before are read back. For 224 pixels the same 800 images fine-tune them on.
No lesion of the 200 was trained on at either size.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from medrobust_utils.core import env
from medrobust_utils.core.errors import ContractError
from medrobust_utils.data import ImageSet
from medrobust_utils.models import MedicalModel, digest
from medrobust_utils.reporting import protocol
from medrobust_utils.scoring import metrics
from medrobust_utils.scoring.predict import predict
from medrobust_utils.studies import swin_noise
from medrobust_utils.studies.experiment import Trained
from medrobust_utils.training.fit import fit

PAPER, PROFILE, SEED = "1_swin_noise", "small", 0
EPOCHS = 2  # of the fine-tuning
TITLES = {"swin": "Swin-T", "resnet": "ResNet-50"}


@dataclass(frozen=True)
class Victim:
    """A trained network and what it is attacked on.

    Attributes:
        title: what a reader calls it.
        held_out: rows of ``data`` that it never saw, by chance.
        folder: keeps what was computed of this network.
    """

    title: str
    model: MedicalModel
    data: ImageSet
    held_out: np.ndarray
    folder: Path


def victim(name: str, size: int) -> Victim:
    """``resnet`` or ``swin`` at 64 or 224 pixels, trained, or read back from a run before.

    Raises:
        DataError: without ``MEDROBUST_DATA`` or the images of HAM10000 in it.
    """
    settings = protocol.load(PAPER).settings(PROFILE)
    settings = {**settings, **settings["thousand"]}
    checkpoints = env.home() / "checkpoints"
    planned = list(swin_noise.arms(settings, seed=SEED, role="isic", model=name))
    # the last is from ImageNet where the profile has that
    trained = swin_noise.train(planned[-1], settings, checkpoints)
    task, folder = trained.arm.task, trained.folder
    if size != task.size:
        task, folder = _grown(trained, settings, size, checkpoints)
    order = np.random.default_rng(SEED).permutation(task.attacked)
    return Victim(f"{TITLES[name]} at {size} px", trained.model, task.data, order, folder)


def plain(model: nn.Module) -> nn.Module:
    """A copy as a checkpoint gives it, in torch's default memory format."""
    return copy.deepcopy(model).to(memory_format=torch.contiguous_format).eval()


def _grown(
    trained: Trained, settings: Mapping, size: int, checkpoints: Path
) -> tuple[swin_noise.Task, Path]:
    """Fine-tune a network in place on larger images; those, and where the result is kept.

    Raises:
        ContractError: if an image that is attacked was trained on at the smaller size.
    """
    model, small = trained.model, trained.arm.task
    if hasattr(model.backbone, "set_input_size"):  # windows and position tables grow with the image
        model.backbone.set_input_size((size, size), window_size=7)
    task = next(swin_noise.arms({**settings, "size": size}, seed=SEED, role="isic")).task
    learnt = {small.data.ids[row] for row in small.split.train}
    if small.before:
        learnt |= {small.before.data.ids[row] for row in small.before.split.train}
    if seen := learnt & {task.data.ids[row] for row in task.attacked}:
        raise ContractError(f"{len(seen)} of the attacked images were trained on at another size.")
    folder = checkpoints / f"bench-{trained.arm.model}-{size}-{digest(model)}"
    recipe = dict(settings["training"]) | {"epochs": EPOCHS, "lr": settings["lr"]["fit"]}
    recipe["flips"] = settings["flips"]["isic"]
    fit(
        model,
        task.data,
        task.split,
        recipe,
        folder,
        seed=SEED,
        validate=lambda model: {"top1": _top1(model, task.data, task.attacked)},
    )
    return task, folder


def _top1(model: MedicalModel, data: ImageSet, rows: np.ndarray) -> float:
    logits = predict(model, data, rows)
    return metrics.score(logits, data.targets[rows], np.ones((1, len(rows))))["top1"].value
