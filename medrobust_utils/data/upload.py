"""A picture that somebody uploads, read as a file of one's own folder and fitted to the networks.

What is done to it is put into words, because a network answers for what it was shown, not for the
file. What an own folder would refuse is refused.
"""

from __future__ import annotations

import tempfile
import unicodedata
from pathlib import Path

import numpy as np

from ..core.errors import DataError
from .decoding import to_square
from .dicom import SUFFIXES
from .pictures import scan

MOST_BYTES = 50_000_000


def picture(
    name: str, content: bytes, *, size: int, channels: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The picture in ``content``, as a set of one would have been decoded from its file.

    PNG, JPEG, TIFF, BMP, WebP and DICOM are taken; see ``pictures`` for what becomes of them. Like
    the papers' images it is resized to a square without keeping the aspect ratio.

    Args:
        name: what the user calls it; for messages, and to tell DICOM without its mark.
        size: side of the square in pixels.
        channels: 1 (gray) or 3 (RGB).

    Returns:
        uint8 (size, size, channels), and a few words for each step of the conversion.

    Raises:
        DataError: for empty or damaged content, for what is no such picture, for several in one
            file, more than 50 MB or 25 million pixels, and fewer than 8 pixels a side.
    """
    file = readable(name)
    if not 0 < len(content) <= MOST_BYTES:
        raise DataError(
            f"{file}: empty, or more than the {MOST_BYTES // 10**6} MB that are taken. Choose "
            "another file, or save it smaller: the networks see a few hundred pixels a side."
        )
    medical = bytes(content[128:132]) == b"DICM" or name.lower().endswith(SUFFIXES)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"upload{SUFFIXES[0] if medical else '.png'}")
        try:
            path.write_bytes(content)
            found = scan([path])
            image, _ = found.open(path, "L" if channels == 1 else "RGB")
        except DataError as error:
            said = str(error).replace(str(path), file).replace(folder, file)
            raise DataError(said) from error
    census, sides = found.census, f"{image.width} x {image.height}"
    told = {
        f"16 bits: 0 to {found.ends[1]:.0f} becomes black to white": census["files_sixteen_bits"],
        f"no window: {census.get('dicom_range')}": "dicom_range" in census,
        "the first of several pictures in the file": census["files_first_of_several"],
        "made gray": (channels, found.channels) == (1, 3),
        "gray, so all three colours are alike": (channels, found.channels) == (3, 1),
        f"squeezed from {sides} to {size} x {size} pixels, as in the papers": (
            image.width != image.height
        ),
        f"resized from {sides} to {size} x {size} pixels": image.width == image.height != size,
    }
    pixels, _ = to_square(image, size)
    done = tuple(words for words, true in told.items() if true)
    return pixels.reshape(size, size, channels).copy(), done


def readable(name: str) -> str:
    """A file name that is safe to show: at most 60 characters, without markup or controls."""
    known = unicodedata.normalize("NFC", name)
    plain = "".join(c if c.isalnum() or c in " ._-+()" else "?" for c in known).strip()
    return (plain if len(plain) <= 60 else f"{plain[:44]}...{plain[-13:]}") or "the file"
