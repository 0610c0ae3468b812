"""What logits say in words and numbers: one class, several findings, or a class for every pixel."""

from __future__ import annotations

import numpy as np
import torch

from ..core.errors import ContractError
from ..core.losses import BACKGROUND, IGNORED, as_classes
from .scene import Sample, Scene

ANSWER, LABEL = "answer", "label"  # targets of a look beside the names of classes
NOTHING = "nothing"


def given(scene: Scene, logits: torch.Tensor) -> torch.Tensor:
    """The answer as a label: index (1,), zeros and ones (1, K), or a label map (1, H, W)."""
    if scene.data.segmentation:
        return logits.argmax(1)
    if scene.data.multi_label:
        return (logits > 0).to(torch.uint8)
    return as_classes(logits).argmax(1)


def probabilities(scene: Scene, logits: torch.Tensor) -> dict[str, float]:
    """Softmax, or a sigmoid for each finding; of a segmentation the share of the pixels."""
    if scene.data.segmentation:
        values = _shares(logits.argmax(1), len(scene.data.classes))
    elif scene.data.multi_label:
        values = logits.sigmoid()[0].tolist()
    else:
        values = as_classes(logits).softmax(1)[0].tolist()
    return dict(zip(scene.data.classes, values, strict=True))


def in_words(scene: Scene, label: torch.Tensor, ranks: dict[str, float] | None = None) -> str:
    """A label or an answer for a reader; several findings by their rank, the first ones first.

    Of a label map the class of most pixels other than the background.
    """
    classes = scene.data.classes
    if scene.data.multi_label:
        found = [name for name, here in zip(classes, label[0].tolist(), strict=True) if here]
        return ", ".join(sorted(found, key=lambda name: -(ranks or {}).get(name, 0))) or NOTHING
    return classes[_main(scene, label, ranks or {})]


def explained(
    scene: Scene, sample: Sample, target: str, logits: torch.Tensor
) -> tuple[int, tuple[str, ...]]:
    """Which class is to be explained, and a word where it is not the one asked for.

    Args:
        target: ``answer``, ``label`` or the name of a class.
        logits: of the clean image, so that the question stays the same when the answer changes.

    Raises:
        ContractError: for a class that the networks do not know.
    """
    classes, ranks = scene.data.classes, probabilities(scene, logits)
    if target not in (ANSWER, LABEL, *classes):
        raise ContractError(f"class {target!r}: choose {ANSWER}, {LABEL} or {', '.join(classes)}.")
    answer = _main(scene, given(scene, logits), ranks)
    if target == ANSWER:
        return answer, ()
    if target != LABEL:
        return classes.index(target), ()
    if sample.label is None:
        return answer, ("This image has no label: the map explains the network's own answer.",)
    if scene.data.multi_label and not sample.label.any():
        return answer, ("The label names no finding: the map explains the likeliest one.",)
    return _main(scene, sample.label, ranks), ()


def nowhere(scene: Scene, sample: Sample, kind: int, given: torch.Tensor) -> tuple[str, ...]:
    """A word where a segmentation has no pixel of the class, so that its maps must be empty.

    Args:
        kind: the class that is explained.
        given: the network's answer to the clean image.
    """
    if not scene.data.segmentation or (given == kind).any():
        return ()
    if sample.label is None:
        who, pixels = "The network gives", "no pixel"
    elif (sample.label == kind).any():
        return ()
    else:
        who, pixels = "Neither the network nor the label gives", "any pixel"
    return (f"{who} {scene.data.classes[kind]} to {pixels} of the image: no map can explain it.",)


def _main(scene: Scene, label: torch.Tensor, ranks: dict[str, float]) -> int:
    """The one class that stands for a label or an answer."""
    if scene.data.segmentation:
        shares = np.array(_shares(label, len(scene.data.classes)))
        shares[BACKGROUND] = 0
        return int(shares.argmax()) if shares.any() else BACKGROUND
    if scene.data.multi_label:
        values = np.array([ranks.get(name, 0) for name in scene.data.classes])
        here = label[0].cpu().numpy().astype(bool)
        return int(np.where(here, values, -1).argmax() if here.any() else values.argmax())
    return int(label[0])


def _shares(label_map: torch.Tensor, classes: int) -> list[float]:
    """Share of the labelled pixels of each class; all zero where no pixel is labelled."""
    known = label_map[label_map != IGNORED].long()
    return (torch.bincount(known, minlength=classes) / max(1, len(known))).tolist()
