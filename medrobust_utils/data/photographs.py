"""A handful of everyday photographs, to stand beside medical images.

They come inside the scikit-image and scikit-learn packages, so nothing is downloaded. Eight
photographs are no sample of the world's: forty crops of eight scenes say whether a difference
from medical images is large, not how large it is. Take intervals over ``groups``, the eight.
"""

from __future__ import annotations

import hashlib
from importlib.resources import as_file, files

import numpy as np
from PIL import Image

from .decoding import open_image
from .imageset import ImageSet

# Left out: textures without an object, pictures through a telescope or microscope, drawings,
# and the motorcycle's second, nearly equal view. The camera is gray, chelsea a cat.
SCIKIT_IMAGE = "astronaut.png camera.png chelsea.png coffee.png motorcycle_left.png rocket.jpg"
SCIKIT_LEARN = "china.jpg flower.jpg"
CROP = 0.75  # side of a crop as a share of the photograph's shorter side
PLACES = {  # shares of the way down and across that a crop leaves free
    "centre": (0.5, 0.5),
    "top-left": (0.0, 0.0),
    "top-right": (0.0, 1.0),
    "bottom-left": (1.0, 0.0),
    "bottom-right": (1.0, 1.0),
}


def natural_photos(size: int) -> ImageSet:
    """Eight photographs, five overlapping square crops each, as RGB at ``size`` x ``size``.

    Nobody labelled them: all targets are 0, "photograph". Before a loss is computed, put in what
    the network itself says (``dataclasses.replace(photos, targets=...)``).

    Returns:
        40 images; ``groups`` tells the photographs apart, ``ids`` reads "coffee/top-left".

    Raises:
        DataError: naming the file, if an installed package lacks it.
    """
    images, ids = [], []
    names = [files("skimage.data") / name for name in SCIKIT_IMAGE.split()]
    names += [files("sklearn.datasets.images") / name for name in SCIKIT_LEARN.split()]
    for name in names:
        with as_file(name) as path:
            photograph = open_image(path, "RGB")
        side = round(CROP * min(photograph.size))
        across, down = (room - side for room in photograph.size)
        for place, (lower, right) in PLACES.items():
            left, top = round(right * across), round(lower * down)
            crop = photograph.crop((left, top, left + side, top + side))
            images.append(np.asarray(crop.resize((size, size), Image.Resampling.BICUBIC)))
            ids.append(f"{path.stem}/{place}")
    pixels = np.stack(images)
    return ImageSet(
        name="natural-photographs",
        images=pixels,
        targets=np.zeros(len(ids), np.int64),
        classes=("photograph",),
        groups=np.arange(len(names)).repeat(len(PLACES)),
        ids=tuple(ids),
        synthetic=False,
        complete=True,
        checksum=hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest(),
        census={"photographs": len(names), "crops of each": len(PLACES)},
    )
