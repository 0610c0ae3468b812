"""What to look at, and what was seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.errors import ContractError
from ..explain import cams
from . import answers
from .attacking import NAMES


@dataclass(frozen=True)
class Choice:
    """What to look at.

    Attributes:
        attack: one of ``attacking.NAMES``; which of them a scene takes, ``attacks_for`` tells.
        eps_255: how far a pixel may move, in gray levels of 255; 0 attacks nothing.
        target: which class to explain: ``answer`` (what the network says of the clean image),
            ``label`` (what the image shows) or the name of a class.
        layer: a module of the network; empty for the usual one (``cams.target_layer``).
        method: one of ``cams.METHODS``.
    """

    attack: str = "pgd"
    eps_255: float = 0.0
    target: str = answers.ANSWER
    layer: str = ""
    method: str = "grad-cam"

    def __post_init__(self) -> None:
        if self.attack not in NAMES:
            raise ContractError(f"attack {self.attack!r}: choose one of {', '.join(NAMES)}.")


@dataclass(frozen=True, eq=False)
class Seen:
    """What one look found.

    Attributes:
        image, attacked: float32 (C, H, H) in [0, 1].
        before, after: activation maps of the two, one each, for the same class.
        mask: bool (H, H), what the map should hit: the outlined finding, or where the label map
            has the class; None without one.
        region_before, region_after: bool (H, H), the pixels that a segmentation gives to the class;
            None for other networks.
        record: all numbers and choices, ready for strict JSON; see ``record.write``.
    """

    image: np.ndarray
    attacked: np.ndarray
    before: cams.Maps
    after: cams.Maps
    mask: np.ndarray | None
    region_before: np.ndarray | None
    region_after: np.ndarray | None
    record: dict

    @property
    def change(self) -> np.ndarray:
        """``attacked - image``."""
        return self.attacked - self.image
