"""Numbers for what papers 2 (section 5.1.1) and 3 read off activation maps, one for each image.

All take maps float (N, H, W) in [0, 1], as ``cams.grad_cam`` returns them. A map that is invalid
(NaN), or for which a measure has no meaning, gives NaN: leave it out of the mean and say so.

Maps come at the size of the images, but enlarging a coarse grid smooths it: compare entropy only
between networks whose own grids are equal.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from skimage.metrics import structural_similarity

from ..core.errors import ContractError

TOP_SHARE = 0.2
TIE = 1e-6  # enlarged maps repeat their largest value up to rounding


def correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pearson's correlation (N,) of two maps: 1 for the same shape, about 0 for unrelated ones.

    "The activation maps for the dermatoscopic and fundoscopic image models were invariant to
    perturbation": compare a clean image's map with that of its attacked twin. Maps of different
    images of one data set correlate too, so print that value beside it.
    """

    def of(a: np.ndarray, b: np.ndarray) -> float:
        flat = not np.ptp(a) or not np.ptp(b)
        return np.nan if flat else np.corrcoef(a.ravel(), b.ravel())[0, 1]

    return _measure(of, _checked(first), _checked(second))


def similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Structural similarity SSIM (N,) of two maps (Wang et al. 2004): 1 if they are equal.

    Unlike ``correlation`` it compares neighbourhood by neighbourhood, and notices a map that
    kept its shape but lost its contrast.

    Raises:
        ContractError: below 11 x 11 pixels, the window of the measure.
    """
    if min(np.shape(first)[1:], default=0) < 11:
        raise ContractError(f"maps of shape {np.shape(first)} are too small for SSIM: 11 pixels.")

    def of(a: np.ndarray, b: np.ndarray) -> float:
        return structural_similarity(
            a, b, data_range=1, gaussian_weights=True, use_sample_covariance=False
        )

    return _measure(of, _checked(first), _checked(second))


def top_overlap(first: np.ndarray, second: np.ndarray, share: float = TOP_SHARE) -> np.ndarray:
    """Intersection over union (N,) of the brightest fifth (or other ``share``) of two maps.

    "In most cases, the regions of highest activation did not match across models." Two shares s
    that are laid at random overlap by s / (2 - s): fifths by 0.11, tenths by 0.05.
    """

    def of(a: np.ndarray, b: np.ndarray) -> float:
        return _overlap(*(_brightest(m, round(share * m.size)) for m in (a, b)))

    return _measure(of, _checked(first), _checked(second))


def energy_inside(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Share (N,) of a map's sum that lies in the mask.

    A flat map reaches the mask's share of the image: a hit is more than that.
    """

    def of(m: np.ndarray, inside: np.ndarray) -> float:
        return m[inside].sum() / m.sum()

    return _measure(of, _checked(maps), np.asarray(masks).astype(bool))


def pointing(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The pointing game (Zhang et al. 2018), without tolerance: is the brightest place in the mask?

    Returns (N,) of 1 and 0, or the share in the mask where several pixels are equally bright. A
    random place scores the mask's share of the image.
    """

    def of(m: np.ndarray, inside: np.ndarray) -> float:
        return inside[m >= m.max() - TIE].mean()

    return _measure(of, _checked(maps), np.asarray(masks).astype(bool))


def entropy(maps: np.ndarray) -> np.ndarray:
    """Shannon entropy (N,) of a map taken as a distribution: 0 for one pixel, 1 for a flat map.

    "The activation maps for the chest x-ray model with attention were highly focused": lower
    than for the model without.
    """

    def of(m: np.ndarray) -> float:
        share = m[m > 0] / m.sum()
        return abs(share @ np.log(share)) / np.log(m.size)

    return _measure(of, _checked(maps))


def area(maps: np.ndarray) -> np.ndarray:
    """Share (N,) of the image where a map reaches at least half of its largest value.

    The "large attention region" that the slides of paper 3 (after Ma et al. 2021) see in medical
    images: 1 for a flat map.
    """

    def of(m: np.ndarray) -> float:
        return (m >= m.max() / 2).mean()

    return _measure(of, _checked(maps))


def _checked(maps: np.ndarray) -> np.ndarray:
    maps = np.asarray(maps, np.float64)
    if maps.ndim != 3:
        raise ContractError(f"maps have shape {maps.shape}; expected (N, H, W).")
    if (maps < 0).any() or (maps > 1 + TIE).any():
        raise ContractError("maps leave [0, 1]; expected those of cams.grad_cam.")
    return maps


def _measure(of: Callable, maps: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """``of`` each map (and its partner, a map or a mask), float64 (N,); NaN where one says nothing.

    Nothing is said by a map that is invalid or zero, and by a mask that marks nothing.
    """
    rows = [maps] if others is None else [maps, others]
    if rows[0].shape != rows[-1].shape:
        raise ContractError(
            f"shapes {rows[0].shape} and {rows[-1].shape} do not belong together. Compare the "
            "same images at the same size."
        )
    usable = np.all([np.isfinite(row).all((1, 2)) & row.any((1, 2)) for row in rows], axis=0)
    return np.array(
        [of(*pair) if ok else np.nan for ok, *pair in zip(usable, *rows, strict=True)], np.float64
    )


def _brightest(values: np.ndarray, count: int) -> np.ndarray:
    """Mask of the ``count`` largest values; fewer where the rest is zero, for zeros do not rank."""
    order = np.argsort(values, axis=None, kind="stable")[::-1][:count]
    mask = np.zeros(values.size, bool)
    mask[order] = values.ravel()[order] > 0
    return mask.reshape(values.shape)


def _overlap(first: np.ndarray, second: np.ndarray) -> float:
    return (first & second).sum() / (first | second).sum()
