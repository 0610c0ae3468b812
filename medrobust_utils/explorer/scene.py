"""What the explorer looks at: networks that answer the same question, and images to ask them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch

from ..core.errors import ContractError
from ..data import ImageSet, to_float, upload
from ..data.views import enhanced_pixels
from ..models import MedicalModel, digest

CONTRAST = "seen through the paper's contrast filter"
CLASSES, FINDINGS, PIXELS = "one class", "findings", "pixels"  # what networks answer with


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network in evaluation mode.

    Attributes:
        name: what a reader calls it, e.g. ``vanilla``.
        read: gives the model; asked again and again, so it keeps what it can.
        facts: where it comes from, for the record (JSON).
    """

    name: str
    read: Callable[[], MedicalModel] = field(repr=False)
    facts: dict = field(default_factory=dict)

    @property
    def model(self) -> MedicalModel:
        """Its model; of many networks not all stay in memory."""
        return self.read()

    @cached_property
    def weights(self) -> str:
        """Digest of its weights."""
        return digest(self.model)


@dataclass(frozen=True, eq=False)
class Sample:
    """One image to look at.

    Attributes:
        name: the publisher's name of it, or that of an uploaded file.
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

    Attributes:
        paper: name of the protocol, e.g. ``2_attentive_cnn``.
        key: of the task.
        data: the images on offer, as the networks see them.
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
    def head(self) -> str:
        """What its networks answer with."""
        return PIXELS if self.data.segmentation else FINDINGS if self.data.multi_label else CLASSES

    @property
    def pair(self) -> Scene:
        """The same with its first two networks alone."""
        return replace(self, networks=self.networks[:2])

    @cached_property
    def samples(self) -> tuple[Sample, ...]:
        """The images on offer."""
        images, targets = to_float(self.data.images[:]), torch.from_numpy(self.data.targets)
        masks = [None] * len(images) if self.data.masks is None else self.data.masks > 0
        return tuple(
            Sample(
                self.data.ids[n],
                images[n : n + 1],
                targets[n : n + 1],
                mask if mask is not None and mask.any() else None,
            )
            for n, mask in enumerate(masks)
        )

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
        if not 0 <= number < len(self.samples):
            raise ContractError(
                f"image {number}: {self.key} offers {len(self.samples)}. Choose 0 to "
                f"{len(self.samples) - 1}."
            )
        return self.samples[number]

    def uploaded(self, name: str, content: bytes) -> Sample:
        """A picture that somebody brought, made to fit; DataError for what is none."""
        _, height, _, channels = self.data.images.shape
        pixels, notes = upload.picture(name, content, size=height, channels=channels)
        if self.enhanced:
            pixels, notes = enhanced_pixels(pixels[None])[0], (*notes, CONTRAST)
        shown = f"uploaded: {upload.readable(name)}"
        return Sample(shown, to_float(pixels[None]), notes=notes)
