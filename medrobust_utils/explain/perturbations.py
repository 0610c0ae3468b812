"""What paper 2 (section 5.1.1) sees in its perturbation maps, as numbers: one for each image.

A perturbation is ``adversarial - clean``, float (N, C, H, W), on the CPU. Its strength at a pixel
is the mean of its absolute value over the channels. Masks are (N, H, W), nonzero inside.

Where the image is black or white already, half of all changes are clipped away: the black around
an eye halves the strength there whatever the attack does. Compare attacks on the same images.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import binary_opening, distance_transform_edt, gaussian_filter, label
from skimage.metrics import structural_similarity
from skimage.morphology import convex_hull_image, disk

from ..core.errors import ContractError

RIM = 0.2  # half the width of the rim, as a share of the radius of a disc of the mask's area
SPOT = 0.02  # standard deviation of the low pass as a share of the image: half a cotton-wool spot
DIM = 0.15  # of the brightest percentile: darker than a retina, brighter than compressed black


class Density(NamedTuple):
    """Mean strength (N,) of a perturbation in the centre of a mask, along its rim and outside."""

    centre: np.ndarray
    rim: np.ndarray
    outside: np.ndarray

    @property
    def ring(self) -> np.ndarray:
        """Rim over centre (N,): above 1 for "a densely perturbed ring enclosing a sparsely
        perturbed center", 1 for an even perturbation."""
        return _ratio(self.rim, self.centre)

    @property
    def ellipse(self) -> np.ndarray:
        """Outside over centre (N,): above 1 for the "sparsely perturbed ellipse" of an eye."""
        return _ratio(self.outside, self.centre)


def likeness(
    images: np.ndarray | torch.Tensor, perturbed: np.ndarray | torch.Tensor
) -> dict[str, np.ndarray]:
    """How much perturbed images (N, C, H, W) in [0, 1] resemble their originals: (N,) each.

    ``similarity``: structural similarity (Wang et al. 2004) as scikit-image computes it, 1 for
    equal images; ``largest`` and ``mean``: change of a pixel, in units of the full range.
    """
    images, perturbed = (np.asarray(one, np.float32) for one in (images, perturbed))
    how = {"data_range": 1.0, "channel_axis": 0}
    pairs = zip(images, perturbed, strict=True)
    change = np.abs(perturbed - images)
    return {
        "similarity": np.array([structural_similarity(*pair, **how) for pair in pairs]),
        "largest": change.max((1, 2, 3)),
        "mean": change.mean((1, 2, 3)),
    }


def relative(
    perturbations: np.ndarray | torch.Tensor, images: np.ndarray | torch.Tensor, eps: float
) -> np.ndarray:
    """Strength as a share of what an even attack would reach: float64 (N, 1, H, W).

    An even attack moves each pixel by eps, up or down by chance, and clipping to [0, 1] takes its
    part: in black and in white half of the changes come to nothing. Divided by that, random
    signs have strength 1 everywhere, around an eye too.

    Args:
        images: float (N, C, H, W) in [0, 1], before the attack.
        eps: radius of the attack, above 0.
    """
    change, images = np.abs(_array(perturbations)), _array(images)
    even = (np.minimum(eps, images) + np.minimum(eps, 1 - images)) / 2
    return (change / even).mean(1, keepdims=True)


def density(perturbations: np.ndarray | torch.Tensor, masks: np.ndarray) -> Density:
    """Strength in, along and around a lesion or an eye.

    The rim reaches to both sides of the outline, by a fifth of the radius of a disc of the
    mask's area; centre and outside are what lies beyond it. NaN where one of them has no pixel:
    an empty mask, or a lesion that fills the image.
    """
    strength, masks = _pairs(perturbations, masks)
    rows = np.full((3, len(masks)), np.nan)
    for row, (values, mask) in enumerate(zip(strength, masks, strict=True)):
        if mask.all() or not mask.any():
            continue
        reach = RIM * np.sqrt(mask.sum() / np.pi)
        depth = distance_transform_edt(mask) - distance_transform_edt(~mask)
        for zone, where in enumerate((depth > reach, abs(depth) <= reach, depth < -reach)):
            rows[zone, row] = values[where].mean() if where.any() else np.nan
    return Density(*rows)


def eye_masks(images: np.ndarray | torch.Tensor) -> np.ndarray:
    """Where the retina is in fundus photographs: the hull of the largest bright region.

    The visible retina is a disc, sometimes cut off above and below, so it is convex; its dark
    rim and vessels do not count against it. An image without a bright region gets an empty mask.

    Args:
        images: float (N, C, H, W) in [0, 1], before any contrast filter: that one turns the black
            around the eye gray.

    Returns:
        bool (N, H, W).
    """
    masks = []
    for image in _array(images):
        smooth = gaussian_filter(image.max(0), _sigma(image) / 4)
        bright = smooth > DIM * np.quantile(smooth, 0.99)
        # Compression leaves speckles in the black; they hang on to the eye by thin bridges.
        bright = binary_opening(bright, disk(max(1, round(_sigma(image)))))
        found, count = label(bright)
        largest = np.bincount(found.ravel())[1:].argmax() + 1 if count else -1
        masks.append(convex_hull_image(found == largest) if count else bright)
    return np.stack(masks)


def to_be_seen(perturbations: np.ndarray | torch.Tensor) -> np.ndarray:
    """Each perturbation scaled until its largest change is black or white; no change is gray.

    The paper scaled its changes "to a range of [0, 255]"; between the least and the greatest,
    gray would mean something else in each image.

    Returns:
        float32 (N, C, H, W) in [0, 1].
    """
    change = _array(perturbations)
    largest = np.abs(change).max((1, 2, 3), keepdims=True)
    return (0.5 + 0.5 * change / np.where(largest > 0, largest, 1)).astype(np.float32)


def _array(images: np.ndarray | torch.Tensor) -> np.ndarray:
    images = np.asarray(images, np.float64)
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ContractError(f"shape {images.shape}: expected (N, C, H, W) with C = 1 or 3.")
    return images


def _pairs(
    perturbations: np.ndarray | torch.Tensor, masks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Strength float64 (N, H, W) and masks bool of the same shape."""
    strength = np.abs(_array(perturbations)).mean(1)
    if strength.shape != np.shape(masks):
        raise ContractError(
            f"masks have shape {np.shape(masks)}, perturbations {strength.shape}. Give one mask "
            "an image, at the size of the image."
        )
    return strength, np.asarray(masks).astype(bool)


def _sigma(image: np.ndarray) -> float:
    return SPOT * image.shape[-1]


def _ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """NaN where ``under`` is zero: an image that was not perturbed there shows no contrast."""
    return np.divide(over, under, out=np.full_like(over, np.nan), where=under > 0)
