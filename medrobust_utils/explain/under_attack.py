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

VERSION = 4  # of the measures: raise it when one of them changes, and cached ones are made anew
CURVES = ("map_correlation", "map_correlation_own_class", "map_energy_inside")  # told by radius
ZONES = (
    "ring_over_centre",
    "ring_over_outside",
    "outside_over_centre",
)  # told of the images that the attack fooled
OTHER_IMAGE, OTHER_OUTLINE = "map_correlation_other_image", "ring_over_centre_other_outline"
TENTH = 0.1  # of highest activation: what is compared across models
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
        change: float32 (n, C, H, W), the perturbation at the position ``shown``, and ``strength``
            float16 (n, H, W), how much of what it might have been it is; zeros without masks.
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
    strength: np.ndarray
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
        """Tidy rows: measures before the attack, some at every radius, all at one of them.

        That is the radius ``half``, or the largest; ZONES are of the images that are fooled there.
        Rows with the tag ``baseline`` are what unrelated images would show.

        Args:
            mean: makes an estimate of one number an image (n,), NaN left out.
            radii: (E,), in gray levels of 255.
            half: position of the radius that fools half of what was right, if any does.
        """
        place = len(radii) - 1 if half is None else half
        fooled = self.right & self.fooled[place]
        at = {"attack": "independent", "radius_255": radii[place], "half_fooled": half is not None}
        lines = []
        for name in self.names:
            lines.append((name, self.measure(name), {"attack": "none"}))
            for k, radius in enumerate(radii) if name in CURVES else ():
                here = {"attack": "independent", "radius_255": radius}
                lines.append((f"{name}_by_radius", self.measure(name, k), here))
            values = self.measure(name, place)
            if name in (*ZONES, OTHER_OUTLINE):
                values = np.where(fooled, values, np.nan)
            if name == OTHER_OUTLINE:
                other = {"baseline": "outline of another image"}
                lines.append(("ring_over_centre", values, at | other))
            else:
                lines.append((name, values, at))
        if OTHER_IMAGE in self.names:
            other = {"baseline": "map of another image"}
            lines.append(("map_correlation", self.measure(OTHER_IMAGE), at | other))
        for name in CURVES[:2] if half is not None and CURVES[0] in self.names else ():
            for outcome, which in {"successful": fooled, "failed": self.right & ~fooled}.items():
                values = np.where(which, self.measure(name, half), np.nan)
                lines.append((f"{name}_{outcome}", values, {}))
        return _told(lines, mean)


def _told(lines: Sequence[tuple], mean: Callable) -> pd.DataFrame:
    """Rows of metric, one number an image, and tags; a row without any number is left out."""
    known = [(name, values, int(np.isfinite(values).sum()), tags) for name, values, tags in lines]
    return pd.DataFrame(
        [{"metric": m, "estimate": mean(v), "n": n} | tags for m, v, n, tags in known if n]
    )


def between(
    first: Explained, second: Explained, mean: Callable[[np.ndarray], object]
) -> pd.DataFrame:
    """Tidy rows on how alike the clean maps of two networks are, where both predict one class.

    Maps for two classes answer two questions. The baseline: maps of two images by the second.
    """
    ours, theirs = second.clean.astype(float), first.clean.astype(float)
    agree = np.where(first.classes == second.classes, 1, np.nan)
    other = np.roll(ours, 1, axis=0)
    lines = [
        ("map_correlation_between_models", measures.correlation(ours, theirs) * agree, {}),
        ("map_top_overlap_between_models", measures.top_overlap(ours, theirs) * agree, {}),
        ("map_top_mismatch", _mismatch(ours, theirs) * agree, {}),
        ("map_top_mismatch", _mismatch(ours, other), {"baseline": "two images"}),
    ]
    return _told(lines, mean).assign(attack="none")


def across_seeds(
    one: Explained, other: Explained, masks: np.ndarray | None, mean: Callable
) -> pd.DataFrame:
    """Baselines from a network that differs in its training seed alone.

    Its maps of the same images, and its perturbation of another image under each outline.

    Args:
        masks: as ``explain`` took them.
    """
    seed = {"baseline": "another seed"}
    ours, theirs = one.clean.astype(float), other.clean.astype(float)
    lines = [
        ("map_correlation", measures.correlation(ours, theirs), seed),
        ("map_top_mismatch", _mismatch(ours, theirs), seed),
    ]
    if masks is not None:
        moved = np.roll(other.strength.astype(float), 1, axis=0)[:, None]
        lines.append(("ring_over_centre", perturbations.density(moved, masks).ring, seed))
    return _told(lines, mean)


def _mismatch(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return 1 - measures.top_overlap(first, second, share=TENTH)


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
        change = found.pop("changes")[shown]
        strength = np.zeros((len(index), *change.shape[2:]), np.float16)
        if masks is not None:
            strength = perturbations.relative(change, images.cpu().numpy(), radii[shown])[:, 0]
        kept = {"index": index, "shown": np.array(shown), "change": change}
        return found | kept | {"strength": strength.astype(np.float16)}

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
        OTHER_IMAGE: measures.correlation(clean, np.roll(clean, 1, axis=0))
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
    seen = {
        "map_entropy": measures.entropy(maps),
        "map_valid": np.isfinite(maps).all((1, 2)).astype(float),
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
    zones = perturbations.density(strength, masks)
    return {
        "ring_over_centre": zones.ring,
        "ring_over_outside": zones.ring / zones.ellipse,
        "outside_over_centre": zones.ellipse,
        OTHER_OUTLINE: perturbations.density(strength, np.roll(masks, 1, axis=0)).ring,
    }
