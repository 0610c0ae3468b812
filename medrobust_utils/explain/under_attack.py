"""The perturbations and Grad-CAM maps of a few images at every radius, one number an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..attacks import at_radii
from ..core import env
from ..core.contracts import ask
from ..core.losses import correct
from ..core.storage import cached_arrays, fingerprint
from ..models import MedicalModel
from . import measures, perturbations
from .cams import Maps, grad_cam

VERSION = 3  # of the measures: raise it when one of them changes, and cached ones are made anew
STEPS, REL_STEP = 10, 0.25  # of the attack whose perturbations are looked at: afresh at each radius


@dataclass(frozen=True)
class Explained:
    """What was seen of n images at E radii.

    Attributes:
        index: (n,) of the images in their data set.
        classes: (n,) predicted before the attack, which the maps explain.
        right: bool (n,), before the attack; ``fooled`` bool (E, n), under it.
        clean: float16 (n, H, W), the maps before the attack; NaN where invalid.
        attacked: float16 (E, n, H, W), for the class predicted before the attack.
        change: float32 (n, C, H, W), the perturbation at the position ``shown``.
        names: of the measures; ``before`` (M, n) and ``after`` (M, E, n) hold them, NaN where one
            does not exist.
    """

    index: np.ndarray
    classes: np.ndarray
    right: np.ndarray
    fooled: np.ndarray
    clean: np.ndarray
    attacked: np.ndarray
    change: np.ndarray
    shown: np.ndarray
    names: np.ndarray
    before: np.ndarray
    after: np.ndarray

    def measure(self, name: str, radius: int | None = None) -> np.ndarray:
        """One measure (n,), before the attack or at the position of a radius."""
        number = list(self.names).index(name)
        return self.before[number] if radius is None else self.after[number, radius]

    def maps(self, radius: int | None = None, first: int | None = None) -> Maps:
        """The maps of the ``first`` images again, as ``explanations`` takes them."""
        maps = self.clean if radius is None else self.attacked[radius]
        maps = maps[:first].astype(np.float32)
        valid = np.isfinite(maps).all((1, 2))
        reasons = tuple("" if ok else "constant, empty or not finite" for ok in valid)
        return Maps(maps, valid, reasons, self.classes[:first], "")

    def rows(
        self, mean: Callable[[np.ndarray], object], radii: Sequence[float], half: int | None
    ) -> pd.DataFrame:
        """Tidy rows, one a measure before the attack, and one a measure and radius under it.

        Where an attack succeeds and where it fails, maps are compared at the radius ``half``.

        Args:
            mean: makes an estimate of one number an image (n,), NaN left out.
            radii: (E,), in gray levels of 255.
            half: position of the radius that fools half of what was right, if any does.
        """
        lines = []
        for name, before, after in zip(self.names, self.before, self.after, strict=True):
            lines.append({"metric": name, "estimate": mean(before), "attack": "none"})
            for k, (radius, values) in enumerate(zip(radii, after, strict=True)):
                cell = {"attack": "independent", "radius_255": radius, "half_fooled": k == half}
                lines.append({"metric": name, "estimate": mean(values), **cell})
        lines = [
            one | {"n": len(self.index)} for one in lines if np.isfinite(one["estimate"].value)
        ]
        for name in ("map_correlation", "map_correlation_own_class") if half is not None else ():
            for outcome, which in {"successful": 1, "failed": 0}.items():
                chosen = self.right & (self.fooled[half] == which)
                values = np.where(chosen, self.measure(name, half), np.nan)
                n = int(np.isfinite(values).sum())
                lines.append({"metric": f"{name}_{outcome}", "estimate": mean(values), "n": n})
        return pd.DataFrame(lines)


def between(
    first: Explained, second: Explained, mean: Callable[[np.ndarray], object]
) -> pd.DataFrame:
    """Tidy rows on how alike the clean maps of two networks are, where both predict one class.

    Maps for two classes answer two questions.
    """
    clean = [one.clean.astype(float) for one in (first, second)]
    agree = np.where(first.classes == second.classes, 1, np.nan)
    alike = {"correlation": measures.correlation, "top_overlap": measures.top_overlap}
    lines = []
    for name, how in alike.items():
        values = how(*clean) * agree
        about = {"metric": f"map_{name}_between_models", "n": int(np.isfinite(values).sum())}
        lines.append(about | {"estimate": mean(values), "attack": "none"})
    return pd.DataFrame(lines)


def explain(
    model: MedicalModel,
    images: torch.Tensor,
    labels: torch.Tensor,
    index: np.ndarray,
    radii: Sequence[float],
    masks: np.ndarray | None,
    folder: Path,
    *,
    shown: int,
    seed: int,
    dtype: torch.dtype,
    desc: str = "",
) -> Explained:
    """Attack images at every radius and explain each, or read it back from ``folder``.

    Args:
        images: (n, C, H, W) in [0, 1]; ``labels`` (n,).
        index: (n,), their positions in the data set, which fix the random starts.
        masks: bool (n, H, W), of the lesions or of the eye, or None.
        folder: of one trained network.
        shown: position of the radius whose perturbation is kept to be drawn.
        dtype: of the attack's gradients.
    """
    radii = [float(radius) for radius in radii]
    what = (index.tolist(), radii, shown, seed, STEPS, REL_STEP, VERSION, str(dtype))

    def compute() -> dict[str, np.ndarray]:
        device = env.pick_device()
        here = images.to(device), labels.to(device)
        how = dict(rows=index, steps=STEPS, rel_step=REL_STEP, seed=seed, dtype=dtype)
        rungs = at_radii(model.to(device), *here, radii, mode="independent", **how)
        return _explain(model, *here, masks, env.progress(rungs, total=len(radii), desc=desc))

    def with_change() -> dict[str, np.ndarray]:
        found = compute()
        changes = found.pop("changes")
        return found | {"index": index, "shown": np.array(shown), "change": changes[shown]}

    return Explained(**cached_arrays(folder / f"explained-{fingerprint(*what)}.npz", with_change))


def _explain(
    model: MedicalModel,
    images: torch.Tensor,
    labels: torch.Tensor,
    masks: np.ndarray | None,
    rungs: Sequence,
) -> dict[str, np.ndarray]:
    logits = ask(model, images)
    right, classes = correct(logits, labels).cpu().numpy(), logits.argmax(1).cpu().numpy()
    clean = grad_cam(model, images, classes).maps
    fooled, attacked, after, changes = [], [], [], []
    for rung in rungs:
        maps = grad_cam(model, rung.images, classes).maps
        changes.append((rung.images - images).cpu().numpy())
        seen = {"map_correlation": measures.correlation(clean, maps)}
        if masks is not None:
            seen["map_energy_inside"] = measures.energy_inside(maps, masks)
        seen |= _of_change(changes[-1], images.cpu().numpy(), rung.eps, masks)
        # for the class predicted under attack, as published figures are mostly made: where the
        # attack succeeds, the question changes together with the image
        own = grad_cam(model, rung.images).maps
        seen["map_correlation_own_class"] = measures.correlation(clean, own)
        after.append(seen)
        fooled.append(~correct(rung.logits, labels).cpu().numpy())
        attacked.append(maps)
    before = _of_maps(clean, masks) | {
        # maps of two different images: what a correlation of unrelated maps looks like
        "map_correlation_other_image": measures.correlation(clean, np.roll(clean, 1, axis=0))
    }
    names = sorted(set(before) | set(after[0]))
    nothing = np.full(len(images), np.nan)
    return {
        "classes": classes,
        "right": right,
        "fooled": np.stack(fooled),
        "clean": clean.astype(np.float16),
        "attacked": np.stack(attacked).astype(np.float16),
        "changes": changes,
        "names": np.array(names),
        "before": np.stack([before.get(name, nothing) for name in names]),
        "after": np.stack([[one.get(name, nothing) for one in after] for name in names]),
    }


def _of_maps(maps: np.ndarray, masks: np.ndarray | None) -> dict[str, np.ndarray]:
    count = measures.regions(maps)
    seen = {
        "map_entropy": measures.entropy(maps),
        "map_valid": np.isfinite(maps).all((1, 2)).astype(float),
        "single_region": np.where(np.isfinite(count), count == 1, np.nan),
    }
    if masks is not None:
        share = masks.mean((1, 2))
        seen |= {
            "map_energy_inside": measures.energy_inside(maps, masks),
            "mask_share": np.where(share > 0, share, np.nan),
        }
    return seen


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
    }
