"""The numbers of one look, named so that they can be read years later."""

from __future__ import annotations

import numpy as np
import torch

from ..core import storage
from ..core.losses import IGNORED
from ..explain import measures
from . import answers
from .attacking import ONE_STEP, STEPS
from .scene import Network, Sample, Scene
from .seen import Choice, Seen

CLASSES, FINDINGS, PIXELS = "one class", "findings", "pixels"  # what a network answers with


def write(
    scene: Scene,
    network: Network,
    sample: Sample,
    choice: Choice,
    seen: Seen,
    logits: tuple[torch.Tensor, torch.Tensor],
    kind: int,
    notes: tuple[str, ...],
) -> dict:
    """All choices and numbers of a look in types of strict JSON; None for what has no value.

    ``correlation``, ``similarity`` (SSIM) and ``top_overlap`` compare the two maps; ``inside`` is
    the share of a map that lies in the mask, to be held against ``mask_share``, and ``pointing``
    whether its brightest place does (see ``cam_measures``). Of a segmentation ``probabilities`` are
    shares of the pixels, ``dice`` is that of the explained class in this image against its label
    map, and ``pixels_changed`` the share of pixels with another class after the attack; whether
    the answer ``changed`` is not asked there, since some pixel nearly always does.

    Args:
        seen: the look, still without its record.
        logits: of the clean and of the attacked image.
        kind: the class that was explained.
    """
    heads = {scene.data.multi_label: FINDINGS, scene.data.segmentation: PIXELS}
    taken = choice.eps_255 > 0
    probabilities = [answers.probabilities(scene, one) for one in logits]
    given = [answers.given(scene, one) for one in logits]
    said = [
        answers.in_words(scene, one, ranks) for one, ranks in zip(given, probabilities, strict=True)
    ]
    found = {
        "paper": scene.paper,
        "task": scene.key,
        "data": scene.data.name,
        "synthetic": scene.data.synthetic,
        "head": heads.get(True, CLASSES),
        "network": network.name,
        "weights": network.identity,
        "network_facts": network.facts,
        "image": sample.name,
        "label": None if sample.label is None else answers.in_words(scene, sample.label),
        "attack": choice.attack if taken else None,
        "steps": (1 if choice.attack in ONE_STEP else STEPS) if taken else None,
        "eps_255": choice.eps_255,
        "largest_change_255": float(np.abs(seen.change).max() * 255),
        "explained": scene.data.classes[kind],
        "layer": seen.before.layer,
        "method": choice.method,
        "answer_before": said[0],
        "answer_after": said[1],
        "changed": None if scene.data.segmentation else not torch.equal(*given),
        "probabilities_before": probabilities[0],
        "probabilities_after": probabilities[1],
        "no_map_before": seen.before.reasons[0],
        "no_map_after": seen.after.reasons[0],
        **_maps(seen),
        **_pixels(scene, sample, seen, logits),
        "warnings": list(scene.warnings),
        "notes": [*notes, *answers.nowhere(scene, sample, kind, given[0])],
    }
    return storage.plain(found)[0]


def _maps(seen: Seen) -> dict[str, float | None]:
    """How alike the maps are, and how far they hit the mask."""
    before, after = seen.before.maps, seen.after.maps
    found = {
        name: float(getattr(measures, name)(before, after)[0])
        for name in ("correlation", "similarity", "top_overlap")
    }
    found["mask_share"] = None if seen.mask is None else float(seen.mask.mean())
    for name, measure in (("inside", "energy_inside"), ("pointing", "pointing")):
        for side, maps in (("before", before), ("after", after)):
            found[f"{name}_{side}"] = None
            if seen.mask is not None:
                hit = getattr(measures, measure)(maps, seen.mask[None])
                found[f"{name}_{side}"] = float(hit[0])
    return found


def _pixels(
    scene: Scene, sample: Sample, seen: Seen, logits: tuple[torch.Tensor, torch.Tensor]
) -> dict[str, float]:
    """What is said of a segmentation only."""
    if not scene.data.segmentation:
        return {}
    first, second = (one.argmax(1) for one in logits)
    found = {"pixels_changed": (first != second).float().mean().item()}
    if sample.label is not None:
        known = (sample.label[0] != IGNORED).numpy()
        truth = seen.mask if seen.mask is not None else np.zeros_like(known)
        for side, region in (("before", seen.region_before), ("after", seen.region_after)):
            both = truth.sum() + (region & known).sum()
            found[f"dice_{side}"] = float(2 * (truth & region).sum() / both) if both else None
    return found
