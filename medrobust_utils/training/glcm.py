"""Gray-level co-occurrence: second-order texture that a network can be trained by.

Paper 3 compares textures by five numbers of the gray-level co-occurrence matrix (GLCM) of each
small area of an image. A matrix of counts has no gradient; here every pixel may belong to two
neighbouring gray levels by a share that changes with its value, and the shares sharpen to the
hard counts as ``softness`` goes to 0.
"""

from __future__ import annotations

import numpy as np
import torch

from ..core.errors import ContractError
from ..data import to_float

DISTANCE = 3  # pixels, slides "Experiments"
AREA = 20  # pixels, slides "GLCM"
LEVELS = 8  # the slides do not say; 256 soft levels are too heavy
# 0, 45, 90 and 135 degrees as (rows, columns) in units of the distance. The four orientations
# opposite to these transpose the matrix, which changes none of the five features.
DIRECTIONS = ((0.0, 1.0), (0.5**0.5, 0.5**0.5), (1.0, 0.0), (0.5**0.5, -(0.5**0.5)))
OPPOSITE = 2  # so each distinct orientation stands for two of the paper's eight
FEATURES = ("asm", "contrast", "homogeneity", "correlation", "dissimilarity")
# Product of the two standard deviations, in levels squared, below which an area has no texture.
# One odd pixel gives more than that under hard levels, in areas of up to 32 pixels a side.
FLAT = 1e-3
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow and torchvision turn colour into gray
ROWS = ("areas", "orientations")
BATCH = 64  # images of a set in memory at once
AT_A_TIME = 4  # images, on a CPU: what they need fits its caches, which halves the time


def grayscale(images: torch.Tensor) -> torch.Tensor:
    """Gray images (N, 1, H, W) of gray or RGB ones (N, 1 or 3, H, W), by ITU-R BT.601 luma."""
    if images.shape[1] == 1:
        return images
    channels = images.split(1, 1)
    return sum(w * channel for w, channel in zip(LUMA, channels, strict=True))


def areas(images: torch.Tensor, area: int = AREA) -> torch.Tensor:
    """Gray images (N, 1, H, W) cut into areas (N, T, area, area) that do not overlap.

    What does not fill an area is cropped evenly from all sides: 224 pixels hold 11 x 11 areas of
    20, and 2 pixels go on each side.
    """
    height, width = images.shape[2] // area, images.shape[3] // area
    top, left = (images.shape[2] - height * area) // 2, (images.shape[3] - width * area) // 2
    inner = images[:, 0, top : top + height * area, left : left + width * area]
    cut = inner.reshape(len(images), height, area, width, area).transpose(2, 3)
    return cut.reshape(len(images), height * width, area, area)


def memberships(gray: torch.Tensor, levels: int, softness: float) -> torch.Tensor:
    """Share of each pixel in every gray level: (..., levels, H, W) of values (..., H, W) in [0, 1].

    Level k spans values from k / levels to (k + 1) / levels. With ``softness`` 1 a pixel is shared
    between the two levels whose centres it lies between, in proportion; smaller values keep the
    sharing to a band around the border between them, and 0 gives the hard levels. (A value on the
    border itself is shared evenly until then; of the 8-bit ones, only 51 k for 5 levels and such.)
    """
    place = (gray * levels - 0.5).clamp(0, levels - 1)  # the levels' centres are whole numbers
    below = place.detach().long().clamp(0, levels - 2)  # NaN is no index: it stays in the shares
    above = place - below
    if softness == 0:
        above = (above >= 0.5).to(gray.dtype)
    else:
        above = (above / softness + (0.5 - 0.5 / softness)).clamp(0, 1)
    # Two levels share a pixel, so two are written, and the gradient reads two.
    shares = gray.new_zeros(*gray.shape[:-2], levels, *gray.shape[-2:])
    where = torch.stack([below, below + 1], -3)
    return shares.scatter(-3, where, torch.stack([1 - above, above], -3))


def matrices(
    gray: torch.Tensor, *, levels: int, softness: float, distance: int = DISTANCE
) -> torch.Tensor:
    """Co-occurrence matrices (M, 4, levels, levels) of areas (M, H, W), each summing to 1.

    Entry (i, j) is the share of pixel pairs with level i at the first and level j at the second
    place; orientations as in ``DIRECTIONS``, with scikit-image's rounding of the offsets.
    """
    shares, found = memberships(gray, levels, softness), []
    precise = torch.promote_types(gray.dtype, torch.float32)
    for down, right in DIRECTIONS:
        first, second = _pairs(shares, round(down * distance), round(right * distance))
        counts = first.flatten(2) @ second.flatten(2).transpose(1, 2)
        found.append(counts.to(precise) / first[0, 0].numel())
    return torch.stack(found, 1)


def _pairs(shares: torch.Tensor, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All places with a partner ``rows`` below and ``columns`` to the right, and the partners."""
    height, width = shares.shape[2] - rows, shares.shape[3] - abs(columns)
    here, there = (0, columns) if columns >= 0 else (-columns, 0)
    first = shares[:, :, :height, here : here + width]
    return first, shares[:, :, rows:, there : there + width]


def second_order(matrix: torch.Tensor) -> torch.Tensor:
    """The five features (..., 5) of co-occurrence matrices (..., L, L), in the order of FEATURES.

    As on the slides: homogeneity divides by 1 + |i - j|, where scikit-image squares the
    difference. Where an area has no texture the correlation is 1, as in scikit-image. One flat gray
    that soft bins share between two levels has no correlation: 0.
    """
    levels = matrix.shape[-1]
    number = torch.arange(levels, device=matrix.device, dtype=matrix.dtype)
    apart = (number[:, None] - number).abs()
    weights = torch.stack([apart**2, 1 / (1 + apart), apart], -1).flatten(0, 1)
    contrast, homogeneity, dissimilarity = (matrix.flatten(-2) @ weights).unbind(-1)
    first, first_variance = _centred(matrix.sum(-1), number)
    second, second_variance = _centred(matrix.sum(-2), number)
    shared = (matrix * first.unsqueeze(-1) * second.unsqueeze(-2)).sum((-2, -1))
    product = first_variance * second_variance
    textured = product > FLAT**2
    # The root of 0 has no finite gradient, so it is never taken.
    scale = torch.where(textured, product, torch.ones_like(product)).sqrt()
    correlation = torch.where(textured, shared / scale, torch.ones_like(shared))
    asm = (matrix**2).sum((-2, -1))
    return torch.stack([asm, contrast, homogeneity, correlation, dissimilarity], -1)


def _centred(shares: torch.Tensor, number: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The levels' distances from their mean (..., L), and their variance (...)."""
    centred = number - (shares * number).sum(-1, keepdim=True)
    return centred, (shares * centred**2).sum(-1)


def texture(
    images: torch.Tensor,
    *,
    levels: int = LEVELS,
    softness: float = 1.0,
    distance: int = DISTANCE,
    area: int = AREA,
) -> torch.Tensor:
    """Second-order texture (N, T, 4, 5) of gray images: T areas, orientations, FEATURES.

    Args:
        images: (N, 1, H, W) in [0, 1]; at least one area each way. Their float type is the one
            that pairs are counted in, autocast or not; the features are float32 or better.
        levels: gray levels, 2 or more.
        softness: see ``memberships``.
        distance: of the two pixels of a pair, in pixels.
        area: side of an area in pixels, larger than ``distance``.

    Raises:
        ContractError: for bad settings, and images that are not gray, too small, out of range or
            NaN. The pixels of images that need a gradient are not read: in every training step
            that would make a GPU wait. There, NaN ends up in the features.
    """
    _check(images, levels, softness, distance, area)
    found = []
    with torch.autocast(images.device.type, enabled=False):
        for part in images.split(AT_A_TIME if images.device.type == "cpu" else len(images)):
            tiles = areas(part, area)
            matrix = matrices(
                tiles.flatten(0, 1), levels=levels, softness=softness, distance=distance
            )
            found.append(second_order(matrix).unflatten(0, tiles.shape[:2]))
    return torch.cat(found)


def texture_distance(ours: torch.Tensor, theirs: torch.Tensor, rows: str = "areas") -> torch.Tensor:
    """The GLCM loss (N,): largest row sum of |difference| of two textures (N, T, 4, 5).

    Args:
        rows: what the rows of the slides' matrix are: ``areas`` (then the worst area decides, and
            its columns are the eight orientations times five features) or ``orientations`` (the
            columns are areas times features). The slides do not say.
    """
    if rows not in ROWS:
        raise ContractError(f"rows={rows!r}: choose one of {', '.join(ROWS)}.")
    apart = (ours - theirs).abs()
    if rows == "areas":
        return OPPOSITE * apart.sum((2, 3)).amax(1)
    return apart.sum((1, 3)).amax(1)


def texture_of_set(images: np.ndarray, **how: float) -> torch.Tensor:
    """``texture`` of many gray uint8 images (N, H, W, 1), in float32, batch by batch."""
    batches = (to_float(images[i : i + BATCH]) for i in range(0, len(images), BATCH))
    return torch.cat([texture(batch, **how) for batch in batches])


def _check(images: torch.Tensor, levels: int, softness: float, distance: int, area: int) -> None:
    if images.ndim != 4 or images.shape[1] != 1:
        raise ContractError(
            f"images have shape {tuple(images.shape)}; texture is measured on gray ones, "
            "(N, 1, H, W). Use glcm.grayscale first."
        )
    if levels < 2 or not 0 <= softness <= 1:
        raise ContractError(
            f"levels={levels}, softness={softness}: take 2 gray levels or more, and a softness "
            "from 0 (hard) to 1."
        )
    if not 1 <= distance < area:
        raise ContractError(f"distance={distance}, area={area}: pairs must fit into an area.")
    if min(images.shape[2:]) < area:
        raise ContractError(
            f"images of {images.shape[2]} x {images.shape[3]} pixels hold no area of {area} x "
            f"{area}. Use larger images or a smaller area."
        )
    if images.requires_grad:
        return  # a network's output: reading it back would make a GPU wait in every step
    low, high = torch.stack(images.aminmax()).tolist()
    if not (low >= 0 and high <= 1):  # also catches NaN
        raise ContractError(f"images range over [{low:.3g}, {high:.3g}]; expected [0, 1], no NaN.")
