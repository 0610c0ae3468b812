"""What the explorer looks at: networks that answer the same question, and images to ask them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch

from ..core.errors import ContractError
from ..core.losses import BACKGROUND, IGNORED, as_classes
from ..data import ImageSet, to_float, upload
from ..data.views import enhanced_pixels
from ..models import MedicalModel, digest

CONTRAST = "seen through the paper's contrast filter"


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network in evaluation mode; ``read`` gives the model, again and again."""

    name: str
    read: Callable[[], MedicalModel] = field(repr=False)
    facts: dict = field(default_factory=dict)  # where it comes from, for the record (JSON)

    @cached_property
    def weights(self) -> str:
        """Digest of its weights."""
        return digest(self.read())


@dataclass(frozen=True, eq=False)
class Sample:
    """One image to look at.

    Attributes:
        image: float32 (1, C, H, H) in [0, 1], on the CPU.
        label: class index (1,), zeros and ones (1, K), or a label map (1, H, H); None where nobody
            knows: an uploaded image.
        mask: bool (H, H), where the finding was outlined or drawn; None without one.
        notes: what was done to the image to make it fit.
    """

    name: str
    image: torch.Tensor
    label: torch.Tensor | None = None
    mask: np.ndarray | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Scene:
    """Networks of one paper for one task, and images that none of them was trained on.

    Answers are scores (K,): softmax, or a sigmoid for each finding; of a segmentation the shares of
    the pixels.

    Attributes:
        networks: the undefended one first, then what it is best compared with.
        warnings: what a reader must know, e.g. that the split leaks.
        enhanced: whether the networks see images through a contrast filter.
    """

    paper: str
    key: str
    data: ImageSet
    networks: tuple[Network, ...]
    warnings: tuple[str, ...] = ()
    enhanced: bool = False

    @property
    def pair(self) -> Scene:
        """The same with its first two networks alone."""
        return replace(self, networks=self.networks[:2])

    @cached_property
    def samples(self) -> tuple[Sample, ...]:
        """The images on offer."""
        data, images = self.data, to_float(self.data.images[:]).split(1)
        labels = torch.from_numpy(data.targets).split(1)
        masks = [None] * len(data) if data.masks is None else data.masks > 0
        masks = [mask if mask is not None and mask.any() else None for mask in masks]
        return tuple(map(Sample, data.ids, images, labels, masks))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """A line for each image on offer: its number, what it shows, its name."""
        wanted, shown = np.array(self.data.classes), self.data.shown().astype(bool)
        return tuple(
            f"{number}: {', '.join(wanted[row]) or 'nothing'} ({self.data.ids[number]})"
            for number, row in enumerate(shown)
        )

    def sample(self, number: int) -> Sample:
        """The image of this number; ContractError if there is none."""
        if not 0 <= number < len(self.data):
            last = len(self.data) - 1
            raise ContractError(f"image {number}: {self.key} has others. Choose 0 to {last}.")
        return self.samples[number]

    def uploaded(self, name: str, content: bytes) -> Sample:
        """A picture that somebody brought, made to fit; DataError for what is none."""
        _, height, _, channels = self.data.images.shape
        pixels, notes = upload.picture(name, content, size=height, channels=channels)
        if self.enhanced:
            pixels, notes = enhanced_pixels(pixels[None])[0], (*notes, CONTRAST)
        shown = f"uploaded: {upload.readable(name)}"
        return Sample(shown, to_float(pixels[None]), notes=notes)

    def answers(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits as labels: indices (N,), zeros and ones (N, K), or label maps (N, H, W)."""
        if self.data.multi_label:
            return (logits > 0).to(torch.uint8)
        return as_classes(logits).argmax(1)

    def scores(self, logits: torch.Tensor) -> np.ndarray:
        """Logits as scores (N, K)."""
        if self.data.segmentation:
            return np.stack([self.of_label(one[None]) for one in logits.argmax(1).cpu()])
        logits = as_classes(logits.double()).cpu()
        return (logits.sigmoid() if self.data.multi_label else logits.softmax(1)).numpy()

    def of_label(self, label: torch.Tensor) -> np.ndarray:
        """A label as scores (K,)."""
        count = len(self.data.classes)
        if self.data.segmentation:
            known = label[label != IGNORED].long()
            return np.bincount(known, minlength=count) / max(1, len(known))
        return label[0].double().numpy() if self.data.multi_label else np.eye(count)[int(label)]

    def main(self, scores: np.ndarray) -> int:
        """The one class that stands for an answer; the background only where nothing else is."""
        if self.data.segmentation:
            scores = np.where(np.arange(len(scores)) == BACKGROUND, 0, scores)
        return int(scores.argmax())

    def words(self, scores: np.ndarray) -> str:
        """An answer for a reader; several findings by their rank."""
        classes = self.data.classes
        if not self.data.multi_label:
            return classes[self.main(scores)]
        ranked = np.argsort(-scores, kind="stable")
        return ", ".join(classes[n] for n in ranked if scores[n] > 0.5) or "nothing"
