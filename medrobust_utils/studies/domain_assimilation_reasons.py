"""Paper 3: the slides' reasons for fragile networks, measured: attention regions and sharp losses.

"Medical images typically have monotonic biological texture, which tends to mislead DNNs to pay
attention to areas irrelevant to diagnosis", and training on them creates a "sharp loss landscape".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..attacks import attack_sweep
from ..core import env
from ..core.storage import cached_arrays, fingerprint
from ..data import ImageSet, to_float
from ..data.photographs import natural_photos
from ..explain import measures, sharpness
from ..explain.cams import grad_cam
from ..models import AssimilatedModel, MedicalModel
from ..models.medical import wrap_pretrained
from ..scoring import metrics
from ..scoring.predict import predict
from ..training import glcm
from .common import precision, some
from .domain_assimilation import Arm

MEASURES = ("attention_area", "loss_rise", "gradient_norm")


@dataclass(frozen=True)
class Reasons:
    """One number an image.

    Attributes:
        values: measure -> float (n,); NaN where it is undefined (a map that says nothing).
        weights: (1 + draws, n), drawn by patient, lesion, cluster or photograph.
        texture: (n,) GLCM loss of what the modules made of each image against the image; None
            for networks without modules.
    """

    values: dict[str, np.ndarray]
    weights: np.ndarray
    texture: np.ndarray | None = None


def explain(
    arm: Arm, model: MedicalModel, settings: Mapping, folder: Path, *, seed: int
) -> Reasons:
    """Measured on ``settings["explained"]`` of the arm's attacked images; kept in ``folder``."""
    data = arm.task.data
    index = some(arm.task.attacked, settings["explained"], seed)
    path = folder / f"reasons-{fingerprint(index.tolist(), dict(settings['glcm']))}.npz"
    found = cached_arrays(path, lambda: _measured(model, data, index, settings["glcm"]))
    texture = found.pop("texture", None)
    weights = metrics.group_weights(data.groups[index], seed)
    return Reasons(found, weights, texture)


@dataclass(frozen=True)
class Natural:
    """The ImageNet network on everyday photographs: what medical networks are held against.

    Attributes:
        photos: gray, as the medical images are, with the network's own answers as targets.
        stands: bool (n,), answers that PGD at 1/255 leaves as they were.
    """

    photos: ImageSet
    reasons: Reasons
    robust: np.ndarray


def natural(settings: Mapping, backbone: str, start: str, folder: Path, *, seed: int) -> Natural:
    """``backbone`` with its ImageNet head on photographs, gray and at the medical images' size.

    Gray, so that an attacker moves as many numbers as on a medical image.
    """
    photos = natural_photos(settings["size"])
    shade = glcm.grayscale(to_float(photos.images))
    gray = (shade * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    env.seed_everything(seed)
    model = wrap_pretrained(backbone, start).eval()
    photos = replace(photos, images=gray)
    every = np.arange(len(photos))
    said = predict(model, photos, every).argmax(1)
    photos = replace(photos, targets=said.astype(np.int64))
    key = fingerprint(
        photos.checksum,
        backbone,
        model.source,
        settings["size"],
        said.tolist(),
        seed if model.start == "scratch" else "",
    )
    folder = folder / f"natural-{backbone}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    values = cached_arrays(folder / "reasons.npz", lambda: _measured(model, photos, every, {}))
    plan = settings["attack"]["quarter"]
    sweep = attack_sweep(
        model,
        photos,
        every,
        [1 / 255],
        folder=folder,
        mode="independent",
        seed=seed,
        steps=plan["steps"],
        rel_step=plan["rel_step"],
        dtype=precision(settings, model),
    )
    weights = metrics.group_weights(photos.groups, [seed, len(photos)])  # draws of their own
    return Natural(photos, Reasons(values, weights), sweep.right[0])


def _measured(
    model: MedicalModel, data: ImageSet, index: np.ndarray, how: Mapping
) -> dict[str, np.ndarray]:
    """Every measure, for the network's own answers (see ``sharpness``)."""
    device = env.pick_device()
    model = model.to(device)
    said = torch.from_numpy(predict(model, data, index).argmax(1))
    images = to_float(data.images[index]).to(device)
    maps = grad_cam(model, images, said)
    found = {
        "attention_area": measures.area(maps.maps),
        "loss_rise": sharpness.rise(model, images, said),
        "gradient_norm": sharpness.gradient_norm(model, images, said),
    }
    if isinstance(model, AssimilatedModel):
        with torch.no_grad(), env.full_float32():
            adapted = glcm.grayscale(model.adapt(images))
        hard = {"levels": how["levels"], "softness": 0.0}  # counts, whatever it was trained with
        pair = [glcm.texture(part, **hard) for part in (adapted, images)]
        found["texture"] = glcm.texture_distance(*pair, how["rows"]).cpu().numpy()
    return found
