"""Paper 2, section 5.1: the perturbations and Grad-CAM maps of a few images, in numbers."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from ..attacks import climb
from ..core import env
from ..core.contracts import ask
from ..core.errors import RunError
from ..core.losses import correct
from ..core.storage import fingerprint, write_atomic
from ..data import to_float
from ..explain import measures, perturbations
from ..explain.cams import Maps, grad_cam
from ..models import MedicalModel
from ..scoring import metrics
from ..scoring.metrics import Estimate
from .attentive_cnn import ROLES, Arm
from .attentive_cnn_radii import Radii
from .common import precision, some

VERSION = 2  # of the measures: raise it when one of them changes, and kept ones are made anew
STEPS, REL_STEP = 10, 0.25  # of the attack whose perturbations are looked at: afresh at each radius


@dataclass(frozen=True)
class Explained:
    """The images that were looked at, and one number an image and radius.

    Attributes:
        index: (n,) of the images in the task's data.
        classes: (n,) predicted before the attack, which the maps explain.
        right: bool (n,), before the attack; ``fallen`` bool (E, n), under it.
        clean: float16 (n, H, W), the maps before the attack; NaN where invalid.
        attacked: float16 (E, n, H, W), for the class predicted before the attack.
        change: float32 (n, C, H, W), the perturbation at the radius ``shown``.
        names: of the measures; ``before`` (M, n) and ``after`` (M, E, n) hold them.
    """

    index: np.ndarray
    classes: np.ndarray
    right: np.ndarray
    fallen: np.ndarray
    clean: np.ndarray
    attacked: np.ndarray
    change: np.ndarray
    shown: np.ndarray
    names: np.ndarray
    before: np.ndarray
    after: np.ndarray

    def measure(self, name: str, radius: int | None = None) -> np.ndarray:
        """One measure (n,), before the attack or at a radius."""
        number = list(self.names).index(name)
        return self.before[number] if radius is None else self.after[number, radius]

    def maps(self, radius: int | None = None) -> Maps:
        """The maps again as ``cam_plots.explanations`` takes them."""
        found = (self.clean if radius is None else self.attacked[radius]).astype(np.float32)
        valid = np.isfinite(found).all((1, 2))
        reasons = tuple("" if ok else "constant, empty or not finite" for ok in valid)
        return Maps(found, valid, reasons, self.classes, "")


def explain(
    arm: Arm,
    model: MedicalModel,
    settings: Mapping,
    ladder: Radii,
    folder: Path,
    *,
    shown: int,
    seed: int,
) -> Explained:
    """Attack ``settings["explained"]`` images at every radius and explain each, or read it back.

    Args:
        shown: position of the radius whose perturbation is kept to be drawn.
    """
    task = arm.task
    index = some(task.attacked, settings["explained"], seed)
    name = fingerprint(
        index.tolist(),
        ladder.values,
        shown,
        seed,
        STEPS,
        REL_STEP,
        VERSION,
        str(precision(settings, model)),
    )
    path = folder / f"explained-{name}.npz"
    if not path.exists():
        found = _explain(arm, model, settings, ladder, index, shown, seed)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **{f.name: getattr(found, f.name) for f in fields(found)})
        write_atomic(path, buffer.getvalue())
    try:
        with np.load(path, allow_pickle=False) as file:
            return Explained(**{f.name: file[f.name] for f in fields(Explained)})
    except Exception as error:  # zip, zlib and numpy raise many types for a damaged file
        raise RunError(
            f"{path}: cannot be read ({error}). Delete it to compute it again."
        ) from error


def _explain(
    arm: Arm,
    model: MedicalModel,
    settings: Mapping,
    ladder: Radii,
    index: np.ndarray,
    shown: int,
    seed: int,
) -> Explained:
    task, device = arm.task, env.pick_device()
    model.to(device)
    images = to_float(task.data.images[index]).to(device)
    labels = torch.from_numpy(task.data.targets[index]).to(device)
    masks = _masks(arm, index)
    logits = ask(model, images)
    right, classes = correct(logits, labels).cpu().numpy(), logits.argmax(1).cpu().numpy()
    clean = grad_cam(model, images, classes).maps
    fallen, attacked, after, change = [], [], [], None
    rungs = climb(
        model,
        images,
        labels,
        ladder.values,
        rows=index,
        mode="independent",
        steps=STEPS,
        rel_step=REL_STEP,
        seed=seed,
        dtype=precision(settings, model),
    )
    bar = env.progress(rungs, total=len(ladder.values), desc=f"{arm.key}: explaining")
    for place, rung in enumerate(bar):
        maps = grad_cam(model, rung.images, classes).maps
        own = grad_cam(model, rung.images).maps
        moved = (rung.images - images).cpu().numpy()
        found = _of_maps(maps, masks) | _of_pairs(clean, maps)
        found |= _of_change(moved, images.cpu().numpy(), rung.eps, masks)
        # for the class predicted under attack, as published figures are mostly made: where the
        # attack succeeds, the question changes together with the image
        found["map_correlation_own_class"] = measures.correlation(clean, own)
        after.append(found)
        fallen.append(~correct(rung.logits, labels).cpu().numpy())
        attacked.append(maps)
        change = moved if place == shown else change
    before = _of_maps(clean, masks) | {
        # maps of two different images: what a correlation of unrelated maps looks like
        "map_correlation_other_image": measures.correlation(clean, np.roll(clean, 1, axis=0))
    }
    names = sorted(set(before) | set(after[0]))
    nothing = np.full(len(index), np.nan)
    return Explained(
        index=index,
        classes=classes,
        right=right,
        fallen=np.stack(fallen),
        clean=clean.astype(np.float16),
        attacked=np.stack(attacked).astype(np.float16),
        change=change,
        shown=np.array(shown),
        names=np.array(names),
        before=np.stack([before.get(name, nothing) for name in names]),
        after=np.stack([[one.get(name, nothing) for one in after] for name in names]),
    )


def _masks(arm: Arm, index: np.ndarray) -> np.ndarray | None:
    """Lesions where they were outlined, the eye in fundus images, else None."""
    if arm.task.role == "fundus":
        return perturbations.eye_masks(to_float(arm.task.raw.images[index]))
    masks = arm.task.data.masks
    return None if masks is None else np.asarray(masks[index]) > 0


def _of_maps(maps: np.ndarray, masks: np.ndarray | None) -> dict[str, np.ndarray]:
    found = {
        "map_entropy": measures.entropy(maps),
        "map_regions": measures.regions(maps),
        "map_valid": np.isfinite(maps).all((1, 2)).astype(float),
    }
    if masks is not None:
        share = masks.mean((1, 2))
        found |= {
            "map_energy_inside": measures.energy_inside(maps, masks),
            "map_pointing": measures.pointing(maps, masks),
            "map_overlap": measures.mask_overlap(maps, masks),
            "mask_share": np.where(share > 0, share, np.nan),
        }
    return found


def _of_pairs(clean: np.ndarray, attacked: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "map_correlation": measures.correlation(clean, attacked),
        "map_ssim": measures.similarity(clean, attacked),
        "map_top_overlap": measures.top_overlap(clean, attacked),
    }


def _of_change(
    change: np.ndarray, images: np.ndarray, eps: float, masks: np.ndarray | None
) -> dict[str, np.ndarray]:
    if masks is None:
        return {}
    strength = perturbations.relative(change, images, eps)
    zones, spots = perturbations.density(strength, masks), perturbations.splotches(change, masks)
    return {
        "ring_over_centre": zones.ring,
        "ring_over_outside": zones.ring / zones.ellipse,
        "outside_over_centre": zones.ellipse,
        "sparse_shape": perturbations.sparse_shape(strength, masks),
        "dark_less_bright": spots.inside - spots.bright,
        "dark_patches": spots.count,
        "dark_patch_size": spots.size,
    }


def average(values: np.ndarray, arm: Arm, explained: Explained, seed: int) -> Estimate:
    """Mean of one number an image, NaN left out, with an interval over patients or lesions."""
    groups = arm.task.data.groups[explained.index]
    weights = metrics.group_weights(groups, [seed, ROLES.index(arm.task.role)])
    known = np.isfinite(values)
    if not known.any():
        return Estimate(float("nan"), np.full(len(weights) - 1, np.nan))
    with np.errstate(invalid="ignore"):  # a draw may hold none of the known images
        return metrics.weighted_mean(np.where(known, values, 0)[known], weights[:, known])
