"""What the explorer looks at: networks that answer the same question, and images to ask them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch

from ..core.errors import ContractError
from ..data import ImageSet, to_float
from ..models import MedicalModel


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network in evaluation mode.

    Attributes:
        name: what a reader calls it, e.g. ``vanilla`` or ``adversarial training``.
        identity: digest of its weights: names what was computed with them.
        facts: where it comes from, for the record (JSON).
    """

    name: str
    model: MedicalModel = field(repr=False)
    identity: str
    facts: dict = field(default_factory=dict)


class Shelved(Network):
    """A network that is read when somebody first asks for more than its name.

    Args:
        read: gives the network; asked for its model again and again, so it keeps what it can.
    """

    def __init__(self, name: str, read: Callable[[], Network]) -> None:
        vars(self).update(name=name, _read=read)  # the class is frozen

    def __repr__(self) -> str:
        return f"Shelved({self.name!r})"

    @property
    def model(self) -> MedicalModel:
        """Its model; of many networks not all stay in memory."""
        return self._read().model

    @cached_property
    def identity(self) -> str:
        """See ``Network``."""
        return self._read().identity

    @cached_property
    def facts(self) -> dict:
        """See ``Network``."""
        return self._read().facts


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
        key: the task, as the names of its networks' folders begin.
        data: the images as the networks see them.
        rows: test images on offer.
        networks: the undefended one first.
        warnings: what a reader must know, e.g. that the split leaks.
        prepare: what the task does to a raw image, uint8 (H, W, C) both ways, before a network
            sees it, as it was done to ``data``; None for nothing.
        prepared: what that is, in a few words.
    """

    paper: str
    key: str
    data: ImageSet
    rows: np.ndarray
    networks: tuple[Network, ...]
    warnings: tuple[str, ...] = ()
    prepare: Callable[[np.ndarray], np.ndarray] | None = None
    prepared: str = ""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """A line for each image on offer: its number, what it shows, its name."""
        shown = self.data.shown(self.rows).astype(bool)
        wanted = np.array(self.data.classes)
        return tuple(
            f"{number}: {', '.join(wanted[row]) or 'nothing'} ({self.data.ids[place]})"
            for number, (place, row) in enumerate(zip(self.rows, shown, strict=True))
        )

    @property
    def pair(self) -> Scene:
        """The same with its first two networks alone."""
        return replace(self, networks=self.networks[:2])

    def sample(self, number: int) -> Sample:
        """The image in place ``number`` of ``rows``.

        Raises:
            ContractError: if there is no such place.
        """
        if not 0 <= number < len(self.rows):
            raise ContractError(
                f"image {number}: {self.key} offers {len(self.rows)}. Choose 0 to "
                f"{len(self.rows) - 1}."
            )
        row = self.rows[number : number + 1]
        target = torch.from_numpy(np.ascontiguousarray(self.data.targets[row]))
        masks = self.data.masks
        mask = np.asarray(masks[row])[0] > 0 if masks is not None else None
        if mask is not None and not mask.any():
            mask = None
        name = self.data.ids[int(row[0])]
        return Sample(name, to_float(self.data.images[row]), target, mask)
