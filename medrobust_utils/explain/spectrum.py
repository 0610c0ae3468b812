"""At which spatial frequencies a network is sensitive: "vision transformers act as low-pass, CNNs
as high-pass filters" (paper 1, section 2). Park & Kim 2022, "How Do Vision Transformers Work?", say
so of attention and convolution: of what they do to feature maps, and of which noise harms them.

Frequencies are radial, in cycles per pixel, whatever the direction: 1/32 is a wave 32 pixels long,
0.5 the finest one along a row or a column, and diagonal ones reach 0.71. The mean of an image has
no wave and counts nowhere. A field is anything laid out like images (N, C, H, W), e.g. a gradient;
all are square, and energy is added over the channels, on the CPU in float64, which MPS lacks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..attacks.autoattack.members import margins
from ..attacks.engine import extremes, gradient
from ..attacks.noise import gaussian
from ..core import env
from ..core.contracts import ask, check_finite, check_labels, check_logits
from ..core.errors import ContractError
from ..core.gate import admit, gate
from ..core.losses import correct
from ..core.storage import cached_arrays, fingerprint
from ..data import ImageSet, to_float
from ..scoring.predict import predict


def rings(side: int, bands: int) -> torch.Tensor:
    """Number of the band of each coefficient of ``torch.fft.fft2``, int64 (side, side).

    Band b holds the frequencies above b / (2 * bands) up to (b + 1) / (2 * bands); the corners
    above 0.5 belong to the last band, the mean to none (-1).

    Raises:
        ContractError: for less than 1 band, or for more than ``side / 2``, where some are empty.
    """
    if not 1 <= bands <= side / 2:
        raise ContractError(
            f"{bands} bands for images of {side} pixels a side. Choose 1 or more, and at most half "
            "as many as pixels a side, so that each holds a wave."
        )
    # In whole numbers, so that a frequency on the edge of a band is never a matter of rounding.
    edges = (side * torch.arange(1, bands)) ** 2
    found = torch.bucketize(4 * bands**2 * _squared(side), edges)
    found[0, 0] = -1
    return found


def centres(bands: int) -> np.ndarray:
    """Middle of each band in cycles per pixel, float64 (bands,); the last one's without corners."""
    if bands < 1:
        raise ContractError(f"bands={bands}: choose 1 or more, e.g. 8.")
    return (np.arange(bands) + 0.5) / (2 * bands)


def spectrum(fields: torch.Tensor, bands: int) -> np.ndarray:
    """Share of each field's energy in each band, float64 (N, bands), rows adding up to 1.

    Energy is the squared magnitude of the Fourier coefficients, the mean's left out. Outer bands
    hold more coefficients, so even white noise has most of its energy there: see ``density``. A
    field without energy, a constant one, gets a row of NaN.

    Raises:
        ContractError: for fields that are not square or not finite, or bands that do not fit.
    """
    place = rings(_side(fields.shape, 4), bands).flatten().numpy() + 1
    sums = [np.bincount(place, power.ravel(), bands + 1)[1:] for power in _powers(fields)]
    energy = np.array(sums).reshape(-1, bands)
    total = energy.sum(1, keepdims=True)
    return energy / np.where(total > 0, total, np.nan)


def density(fields: torch.Tensor, bands: int) -> np.ndarray:
    """Mean energy of a coefficient in each band over that in all bands, float64 (N, bands).

    White noise is flat at 1. NaN and errors as in ``spectrum``.
    """
    shares = spectrum(fields, bands)
    counts = np.bincount(rings(fields.shape[-1], bands).flatten().numpy() + 1)[1:]
    return shares * counts.sum() / counts


def centroid(fields: torch.Tensor) -> np.ndarray:
    """Mean frequency of each field, weighted by energy: float64 (N,) in cycles per pixel.

    Of white noise 0.38 in large images. NaN and errors as in ``spectrum``.
    """
    radius = _radius(_side(fields.shape, 4))
    found = [(power.sum(), (power * radius).sum()) for power in _powers(fields)]
    total, weighted = np.array(found).reshape(-1, 2).T
    return weighted / np.where(total > 0, total, np.nan)


def band_noise(
    shape: Sequence[int], rows: Sequence[int], band: int, bands: int, seed: int
) -> torch.Tensor:
    """Gaussian noise of one band alone, float32 (len(rows), *shape), on the CPU.

    It is ``attacks.gaussian`` of the same seed without the other bands, so an image gets the same
    noise whatever the batch it comes in. Every image is scaled to a root mean square of 1 over all
    its channels, exactly but for rounding. After Yin et al. 2019, "A Fourier Perspective on Model
    Robustness in Computer Vision", who add one wave at a time to find what each does.

    Args:
        shape: (C, H, W) with H = W.
        rows: numbers of the images.
        band: from 0, the lowest, to ``bands - 1``.

    Raises:
        ContractError: for a shape that is not square, or bands that do not fit.
    """
    ring = rings(_side(shape, 3), bands)
    if not 0 <= band < bands:
        raise ContractError(f"band={band} is none of {bands}: choose one from 0 to {bands - 1}.")
    waves = torch.fft.fft2(gaussian(shape, rows, seed).double()) * (ring == band)
    noise = torch.fft.ifft2(waves).real  # a ring is symmetric: the rest is rounding
    return (noise / noise.square().mean((1, 2, 3), keepdim=True).sqrt()).float()


def margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """How far an image is from being misclassified in the nearest way, (N,); ``margins``."""
    return margins(logits, labels).amin(1)


@gate()
def sensitivity(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, *, batch: int = 16
) -> torch.Tensor:
    """Gradient of each image's ``margin`` by its pixels, float32 (N, C, H, W), in logits a unit.

    To first order, noise n changes the margin by the sum over pixels of g n, g being this gradient:
    by the sum over coefficients of conj(G) N / P (Parseval), with P pixels, G and N the transforms.
    White noise in a band of k coefficients has independent ones of equal variance, which a root
    mean square of 1 makes P**2 / k. So the change has the variance (sum of abs(G)**2 there) / k,
    the mean energy of a coefficient. The root of the ``density`` is thus the standard deviation of
    the change over that under noise of all bands with the same root mean square.

    Args:
        model: in evaluation mode, returns logits (N, K).
        images: float32 (N, C, H, W) in [0, 1], on the model's device.
        labels: the truth: classes (N,), or zeros and ones (N,) or (N, K) (see ``losses``).

    Raises:
        ContractError: for a breach of the contract, or a gradient that is not finite.
    """
    labels = admit(model, images, labels)
    if not len(images) or labels.ndim > 2:
        raise ContractError(
            f"{len(images)} images but labels {tuple(labels.shape)}. Give one answer an image, for "
            "at least one; a label map has many."
        )
    parts = zip(images.split(batch), labels.split(batch), strict=True)
    found = [gradient(model, x, y, extremes(y), loss=margin) for x, y in parts]
    slopes, logits = (torch.cat(part) for part in zip(*found, strict=True))
    check_logits(logits, labels.ndim == 2)
    check_finite(slopes.isfinite().all())
    return slopes


def under_band_noise(
    model: nn.Module,
    data: ImageSet,
    index: np.ndarray,
    *,
    bands: int,
    rms: float,
    seed: int,
    batch: int = 64,
) -> np.ndarray:
    """Whether each image is judged right with noise of each band, bool (bands, len(index)).

    Noisy images are clipped to [0, 1], as models ask for. Where an image is black or white this
    cuts off half of the noise, however weak, and what is left has other frequencies as well, low
    ones among them. The bands are clean only as far as images keep off both ends.

    Args:
        rms: root mean square of the noise before clipping, in [0, 1]; one gray level is 1/255.
        seed: see ``band_noise``; the noise has the channels of the images, one for gray ones.

    Raises:
        ContractError: for a breach of the contract, label maps, or bands that do not fit.
    """
    if data.segmentation:
        raise ContractError(f"{data.name} has label maps. Take a set with one answer an image.")
    if not 0 <= rms <= 1:  # also catches NaN
        raise ContractError(f"rms={rms} lies outside [0, 1]. Eight gray levels are 8/255, not 8.")
    rings(_side(data.images.shape[1:3], 2), bands)  # refuses before the network runs
    targets = torch.from_numpy(np.ascontiguousarray(data.targets[index]))

    def judged(band: int) -> torch.Tensor:
        def forward(images: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
            noise = band_noise(images.shape[1:], rows, band, bands, seed).to(images.device)
            return ask(model, (images + rms * noise).clamp(0, 1))

        logits = torch.from_numpy(predict(model, data, index, batch=batch, forward=forward))
        check_labels(targets, logits, extremes(targets))
        return correct(logits, targets)

    return torch.stack([judged(band) for band in range(bands)]).numpy()


def heard(
    model: nn.Module,
    untrained: nn.Module,
    data: ImageSet,
    index: np.ndarray,
    folder: Path,
    *,
    bands: int,
    rms: float,
    seed: int,
) -> list[tuple[str, np.ndarray, dict[str, float]]]:
    """At which frequencies a network listens: metric, one number an image (n,), tags.

    ``centroid`` is that of its ``sensitivity``, ``centroid_learnt`` less that of the untrained
    network. A tag ``band`` tells the middle of a band. Kept in ``folder``, which belongs to the
    network; see ``under_band_noise`` for the rest.
    """
    device, images = env.pick_device(), to_float(data.images[index])
    labels = torch.from_numpy(data.targets[index])

    def compute() -> dict[str, np.ndarray]:
        both = [
            sensitivity(net.to(device), images.to(device), labels) for net in (model, untrained)
        ]
        noise = under_band_noise(model, data, index, bands=bands, rms=rms, seed=seed)
        shares = density(both[0], bands).T
        found = {"centroid": centroid(both[0]), "untrained": centroid(both[1])}
        return found | {"sensitivity_density": shares, "accuracy_band_noise": noise}

    name = fingerprint(index.tolist(), bands, rms, seed)
    found = cached_arrays(folder / f"frequencies-{name}-learnt.npz", compute)
    rows = [("centroid", found["centroid"], {})]
    rows.append(("centroid_learnt", found["centroid"] - found["untrained"], {}))
    for metric in ("sensitivity_density", "accuracy_band_noise"):
        middles = zip(centres(bands), found[metric], strict=True)
        rows += [(metric, values, {"band": float(middle)}) for middle, values in middles]
    return rows


def _squared(side: int) -> torch.Tensor:
    """Squared waves across the image of each coefficient, int64 (side, side)."""
    waves = torch.arange(side)
    waves = torch.minimum(waves, side - waves) ** 2  # the upper half are negative frequencies
    return waves[:, None] + waves


def _radius(side: int) -> np.ndarray:
    return _squared(side).double().sqrt().numpy() / side


def _powers(fields: torch.Tensor) -> Iterator[np.ndarray]:
    """Energy (H, W) of each field's coefficients, 0 for the mean; one by one to spare memory."""
    if not fields.isfinite().all():
        raise ContractError("fields have NaN or infinity, so no spectrum. Leave those images out.")
    for field in fields.detach().cpu():
        # The mean does not count, so any constant may go. Less its first pixel, a constant field
        # is exactly nothing; less its mean it would be rounding, with a spectrum.
        field = field.double() - field[:, :1, :1].double()
        power = torch.fft.fft2(field).abs().square().sum(0)
        power[0, 0] = 0
        yield power.numpy()


def _side(shape: Sequence[int], ndim: int) -> int:
    """Side of square images of so many dimensions."""
    if len(shape) != ndim or shape[-1] != shape[-2] or shape[-1] < 2:
        raise ContractError(
            f"shape {tuple(shape)}: expected {ndim} dimensions, height and width last, equal and "
            "at least 2 pixels. Crop or resize to a square; for one image use image[None]."
        )
    return shape[-1]
