"""The card that a finished training leaves beside its checkpoint, so that others can open it.

A checkpoint holds weights without a word of what they are. Its card holds the settings, from
which the study builds the same arm, with the same split, again: nothing is guessed from names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from ..core.errors import RunError
from ..core.storage import fingerprint, plain, write_atomic

NAME = "card.json"
SCHEMA = 1


@dataclass(frozen=True)
class Card:
    """What a trained network is.

    Attributes:
        paper: name of its protocol file.
        task: key of its task.
        arm: key of its arm, as it was planned.
        role: the part that the data set plays in the paper.
        seed: of the run: of the split and of phantoms.
        settings: of the profile, overrides included.
        source: which weights it began with (see ``MedicalModel``).
        checksum: of the images and labels it was trained for.
        split: which of them it was trained on (see ``split_of``).
    """

    paper: str
    task: str
    arm: str
    role: str
    seed: int
    settings: Mapping
    source: str
    checksum: str
    split: str


def split_of(train: np.ndarray) -> str:
    """What tells one split of a data set from another: a fingerprint of its training images."""
    return fingerprint(train.tolist())


def leave(folder: Path, card: Card) -> None:
    """Write the card of the finished training in ``folder``; a card that says the same stays."""
    path = folder / NAME
    content = {"schema": SCHEMA, **vars(card), "settings": dict(card.settings)}
    text = json.dumps(plain(content)[0], indent=1) + "\n"
    if not path.exists() or path.read_text("utf-8") != text:
        write_atomic(path, text.encode())


def find(checkpoints: Path) -> list[tuple[Path, Card]]:
    """Folder and card of every finished training below ``checkpoints``, the newest first.

    What cannot be read, or belongs to another version, is passed over: it is nobody's result.
    """
    found = []
    for path in checkpoints.glob(f"*/{NAME}"):
        try:
            if (path.parent / "checkpoint.pt").is_file():
                found.append((path.parent, _checked(json.loads(path.read_text("utf-8")))))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue
    return sorted(found, key=lambda one: finished_at(one[0]), reverse=True)


def finished_at(folder: Path) -> int:
    """When the training in ``folder`` finished, in nanoseconds of the file system's clock."""
    return (folder / NAME).stat().st_mtime_ns


def _checked(content: dict) -> Card:
    if content.pop("schema") != SCHEMA:
        raise ValueError("schema")
    kinds = {"seed": int, "settings": dict}
    for one in fields(Card):
        if not isinstance(content[one.name], kinds.get(one.name, str)):
            raise TypeError(one.name)
    return Card(**content)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Weights of the finished training in ``folder``: those of its best epoch, or the last.

    Raises:
        RunError: if the checkpoint cannot be read.
    """
    path = folder / "checkpoint.pt"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return state["best"] or state["model"]
    except Exception as error:  # torch raises many types for a damaged archive
        raise RunError(
            f"{path}: cannot be read ({type(error).__name__}). Delete its folder, and run the "
            "notebook that trained it again."
        ) from error
