"""What a finished training leaves beside its weights, so that others can open its network.

``card.json`` says what the network is, and which builder of ``models`` makes it again from which
arguments. ``samples.npz`` holds test images that it was never trained on.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file, save_file
from torch import nn

from ..core import env
from ..core.errors import MedrobustError, RunError
from ..core.storage import fingerprint, plain, read_arrays, write_arrays, write_atomic
from ..data import ImageSet
from ..models import MedicalModel, build, build_assimilated, build_attentive, build_unet
from .arms import Arm, Task

NAME, SAMPLES, SHIPPED = "card.json", "samples.npz", "weights.safetensors"
OFFERED = 60  # test images that are kept
AGAIN = (
    "Run the paper's notebook again: it reads back what was trained, and writes what is missing."
)
BUILDERS = {one.__name__: one for one in (build, build_assimilated, build_attentive, build_unet)}


class Card(BaseModel):
    """What a trained network is. Cards of earlier versions (schema 1) do not say how it is built.

    Attributes:
        paper: name of its protocol file.
        task, arm: their keys.
        seed: of the split and of phantoms.
        source: which weights it began with (see ``MedicalModel``).
        checksum: of the images and labels it was trained for.
        split: fingerprint of the images it was trained on.
        title: what a reader calls it.
        own: what tells it from other networks on its task, its training seed among them.
        tags: what rows on its task carry: data set, split and what else tells it apart.
        data: name, classes, synthetic and complete of the data set.
        built: a name in BUILDERS, its ``args`` and ``how``, and what weights leave out: ``mean``
            and ``std`` of the normalisation, and the ``strides`` of the convolutions in order.
    """

    model_config = ConfigDict(frozen=True, strict=True, populate_by_name=True)
    version: Literal[1, 2] = Field(2, alias="schema")
    paper: str
    task: str
    arm: str
    seed: int
    source: str
    checksum: str
    split: str
    title: str = ""
    own: dict[str, Any] = {}
    tags: dict[str, Any] = {}
    data: dict[str, Any] = {}
    built: dict[str, Any] | None = None


def leave(folder: Path, arm: Arm, model: MedicalModel, paper: str) -> None:
    """Write card and samples of the finished training in ``folder``; those that say the same stay.

    Args:
        arm: as it was really run.
    """
    task, data = arm.task, arm.task.data
    card = Card(
        paper=paper,
        task=task.key,
        arm=arm.key,
        seed=task.seed,
        source=model.source,
        checksum=data.checksum,
        split=fingerprint(task.split.train.tolist()),
        title=arm.title,
        own={**arm.own, "seed": arm.seed},
        tags=dict(task.tags),
        data={
            "name": data.name,
            "classes": list(data.classes),
            "synthetic": data.synthetic,
            "complete": data.complete,
        },
        built=_built(model),
    )
    if not (folder / SAMPLES).exists():
        write_arrays(folder / SAMPLES, _samples(task))
    path, text = folder / NAME, json.dumps(plain(card.model_dump(by_alias=True))[0])
    if not path.exists() or path.read_text("utf-8") != text:
        write_atomic(path, text.encode())


def find(checkpoints: Path) -> list[tuple[Path, Card]]:
    """Folders of finished trainings below ``checkpoints`` with their cards, the newest first.

    What is no card, or one of a later version, is passed over: it is nobody's result.
    """
    found = []
    for path in checkpoints.glob(f"*/{NAME}"):
        try:
            if any((path.parent / name).is_file() for name in ("checkpoint.pt", SHIPPED)):
                found.append((path.parent, read(path.parent)))
        except (OSError, ValueError):
            continue
    return sorted(found, key=lambda one: finished_at(one[0]), reverse=True)


def read(folder: Path) -> Card:
    """The card in ``folder``; ValueError where it is none."""
    return Card.model_validate_json((folder / NAME).read_bytes())


def finished_at(folder: Path) -> int:
    """When the training in ``folder`` finished, in nanoseconds of the file system's clock."""
    return (folder / NAME).stat().st_mtime_ns


def network(folder: Path) -> MedicalModel:
    """The trained network in ``folder``, in evaluation mode; asks no model hub.

    Raises:
        RunError: for a card that does not say how to build it, or weights that do not fit.
    """
    card = read(folder)
    state, built = weights(folder), card.built or {}
    try:
        how = built["how"] | ({"start": "scratch"} if "start" in built["how"] else {})
        if not _numbers(list((how.get("options") or {}).values())):
            raise ValueError("options are numbers")  # text could name a file to load, or a hub
        model = BUILDERS[built["builder"]](*built["args"], **how)
        model.renormalise(built["mean"], built["std"])
        for part, stride in zip(_convolutions(model), built["strides"], strict=True):
            part.stride = tuple(stride)
        model.load_state_dict(state)
    except (MedrobustError, RuntimeError, TypeError, ValueError, KeyError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise RunError(
            f"{folder}: its card does not build its network ({reason}). {AGAIN}"
        ) from error
    model.start, model.source = card.own.get("start", "scratch"), card.source
    return model.to(env.pick_device(), memory_format=torch.channels_last).eval()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Weights of the finished training in ``folder``: those of its best epoch, or the last.

    Raises:
        RunError: if the checkpoint cannot be read.
    """
    path = folder / "checkpoint.pt"
    try:
        if (folder / SHIPPED).is_file():
            return load_file(folder / SHIPPED)
        state = torch.load(path, map_location="cpu", weights_only=True)
        return state["best"] or state["model"]
    except Exception as error:  # torch raises many types for a damaged archive
        raise RunError(
            f"{path}: cannot be read ({type(error).__name__}). Delete its folder, and run the "
            "notebook that trained it again."
        ) from error


def samples(folder: Path, card: Card) -> ImageSet:
    """The test images that were kept beside a network.

    Raises:
        RunError: if there are none, or they cannot be read.
    """
    arrays = read_arrays(folder / SAMPLES)
    if not len(arrays["ids"]):
        raise RunError(
            f"{card.task}: every test image has an exact copy among the training images. Choose a "
            "run with the honest split."
        )
    about = card.data | {"classes": tuple(card.data["classes"]), "checksum": card.checksum}
    return ImageSet(**about, **arrays | {"ids": tuple(arrays["ids"].tolist())})


def ship(trained: Path, folder: Path) -> None:
    """Copy a finished training to ``folder``, without optimiser and in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(trained / NAME, folder)
    np.savez_compressed(folder / SAMPLES, **read_arrays(trained / SAMPLES))
    state = weights(trained).items()
    state = {name: one.half() if one.is_floating_point() else one for name, one in state}
    save_file({name: one.contiguous() for name, one in state.items()}, folder / SHIPPED)


def _built(model: MedicalModel) -> dict[str, Any] | None:
    if model.built is None:
        return None
    strides = [list(part.stride) for part in _convolutions(model)]
    mean, std = model.mean.flatten().tolist(), model.std.flatten().tolist()
    return plain(model.built)[0] | {"mean": mean, "std": std, "strides": strides}


def _convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [part for part in model.modules() if isinstance(part, nn.Conv2d)]


def _numbers(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_numbers, value))
    return isinstance(value, int | float) and not isinstance(value, bool)


def _samples(task: Task) -> dict[str, np.ndarray]:
    """Arrays of at most OFFERED test images: of those under attack, where there are such."""
    data = task.data
    rows = _unseen(task, task.split.test if task.attacked is None else task.attacked)
    places = np.linspace(0, len(rows) - 1, min(OFFERED, len(rows))).round().astype(int)
    rows = np.sort(rows[places])
    found = {
        "images": data.images[rows],
        "targets": data.targets[rows],
        "groups": data.groups[rows],
    }
    if data.masks is not None:
        found["masks"] = np.asarray(data.masks[rows])
    return found | {"ids": np.array([data.ids[row] for row in rows], str)}


def _unseen(task: Task, rows: np.ndarray) -> np.ndarray:
    """``rows`` without exact copies of training images, where a set keeps its duplicates."""
    if "duplicates_kept" not in task.data.census:
        return rows

    def pixels(row: int) -> bytes:
        return np.ascontiguousarray(task.data.images[row : row + 1]).tobytes()

    groups, train = task.data.groups, task.split.train
    # Copies share a group, so only its training images need be read.
    trained = {pixels(row) for row in train[np.isin(groups[train], groups[rows])]}
    return rows[[pixels(row) not in trained for row in rows]]
