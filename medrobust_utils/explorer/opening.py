"""Opening a network of an earlier run: its arm planned anew, images checked, weights read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from ..core import env
from ..core.errors import MedrobustError, RunError
from ..models import MedicalModel, digest
from ..reporting import protocol
from ..training import cards
from .scene import Network
from .studies import Arm, Study

RANDOM = "random weights"  # the source of a network that began from scratch


def plan(study: Study, folder: Path, card: cards.Card) -> dict[str, Arm]:
    """The arms of a card's run by key, its own among them."""
    try:
        arms = study.arms(protocol.Settings(card.settings), card.seed, card.role)
        planned = {arm.key: arm for arm in arms}
        if card.arm not in planned:
            raise KeyError(card.arm)
    except MedrobustError:
        raise
    except Exception as error:  # settings of another version fail in many ways
        raise RunError(
            f"{folder / cards.NAME}: does not fit this version of the kit "
            f"({type(error).__name__}). Run the paper's notebook again, or delete the folder."
        ) from error
    return planned


def as_it_began(arm: Arm, card: cards.Card) -> Arm:
    """The arm as it was really run: it may have found no ImageNet weights to begin with."""
    if not hasattr(arm, "start"):
        return arm
    return replace(arm, start="scratch" if card.source == RANDOM else "imagenet")


def check_images(arm: Arm, folder: Path, card: cards.Card) -> None:
    """Raise RunError unless images and split are those that the network was trained on."""
    here = arm.task.data.checksum, cards.split_of(arm.task.split.train)
    if here != (card.checksum, card.split):
        raise RunError(
            f"{folder.name}: was trained on other images than {arm.task.data.name} has now. "
            "Run the paper's notebook again."
        )


def with_weights(study: Study, arm: Arm, folder: Path, card: cards.Card) -> Network:
    """Without asking a model hub: the checkpoint has all but the normalisation and the strides.

    Those are timm's, unless the network began with a file of weights that has others.
    """
    settings = protocol.Settings(card.settings)
    if card.source.startswith("timm "):
        model = study.build(replace(arm, start="scratch"), settings, card.seed)
        model.start, model.source = arm.start, card.source
    else:
        _check_weights(study, arm, folder, card, settings)
        model = study.build(arm, settings, card.seed)
    if model.source != card.source:
        raise _other_weights(folder, card, model.source)
    try:
        model.load_state_dict(cards.weights(folder))
    except RuntimeError as error:
        raise RunError(
            f"{folder}: its weights do not fit its card. Delete the folder, and run the paper's "
            "notebook again."
        ) from error
    model.to(env.pick_device(), memory_format=torch.channels_last)  # as after a training
    return described(arm, model.eval(), folder)


def _check_weights(
    study: Study, arm: Arm, folder: Path, card: cards.Card, settings: protocol.Settings
) -> None:
    root = env.weights_root()
    name = f"{study.backbone(arm, settings)}.safetensors"
    if card.source != RANDOM and not (root and (root / name).is_file()):
        raise _other_weights(folder, card, f"no {name}")


def _other_weights(folder: Path, card: cards.Card, here: str) -> RunError:
    return RunError(
        f"{folder.name}: began with {card.source}, and {here} is at hand. Set MEDROBUST_WEIGHTS as "
        "it was for its training."
    )


def described(arm: Arm, model: MedicalModel, folder: Path) -> Network:
    """A trained arm as the explorer knows it."""
    facts = {"folder": folder.name, "source": model.source}
    return Network(arm.title, model, digest(model), facts)
