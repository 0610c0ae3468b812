"""Pairs of small networks that ship with the kit, trained on phantoms: they open at once.

`python tools/ready_pairs.py` trains them anew where the smoke profile has changed.
"""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
from safetensors import safe_open

from ..core import env
from ..core.storage import fingerprint
from ..models import MedicalModel
from ..reporting.protocol import Settings
from .studies import Arm, Study

FOLDER = Path(__file__).parent / "ready"


def place(study: Study, arm: Arm) -> Path:
    """The file of an arm's weights."""
    return FOLDER / f"{study.paper}-{getattr(arm, study.kind)}.safetensors"


def network(study: Study, arm: Arm, settings: Settings, seed: int) -> MedicalModel | None:
    """A trained network, where one ships for just these settings and this seed."""
    path = place(study, arm)
    if not path.is_file():
        return None
    with safe_open(path, "pt") as file:
        if (file.metadata() or {}).get("trained") != fingerprint(dict(settings), seed):
            return None
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no dict
    model = study.build(arm, settings, seed)
    model.load_state_dict(state)  # from half precision, which is what was written
    model.trained_in = torch.float32
    return model.to(env.pick_device(), memory_format=torch.channels_last).eval()


def keep(study: Study, arm: Arm, settings: Settings, seed: int, model: MedicalModel) -> Path:
    """Write the weights of a trained network in half precision; returns the file."""
    state = {
        name: (part.half() if part.is_floating_point() else part).cpu().contiguous()
        for name, part in model.state_dict().items()
    }
    about = {"trained": fingerprint(dict(settings), seed)}
    path = place(study, arm)
    safetensors.torch.save_file(state, path, about)
    return path
