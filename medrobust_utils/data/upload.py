"""Pictures that somebody uploads, made to fit what the networks see.

A picture that is not quite right is made right, and every step is put into words, because a
network answers for what it was shown, not for the file. What cannot be made right is refused.
"""

from __future__ import annotations

import io
import unicodedata

import numpy as np
from PIL import Image

from ..core.errors import DataError
from .decoding import to_square
from .pictures import COLOURS, GRAY, TOO_LARGE, eight_bits, open_upright

MOST_BYTES = 50_000_000
AGAIN = "Open it in an image viewer, save it as PNG, and choose that file."
DICOM = (
    "a DICOM file, not a picture. Export it as PNG from a DICOM viewer, with the window you "
    "would read it in, and without the patient's name."
)


def picture(
    name: str, content: bytes, *, size: int, channels: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The picture in ``content``, as the readers would have decoded it from a file.

    Its kind is told from the bytes, never from the name: PNG, JPEG, TIFF, BMP and WEBP are
    taken. Like the papers' images it is resized to a square without keeping the aspect ratio
    (see ``decoding.decode``). Transparent parts are laid on white, as a web page shows them; 16
    and 32 bits of gray are stretched from the darkest to the brightest pixel.

    Args:
        name: what the user calls it; only for messages.
        size: side of the square in pixels.
        channels: 1 (gray) or 3 (RGB).

    Returns:
        uint8 (size, size, channels), and a few words for each step of the conversion.

    Raises:
        DataError: for empty, damaged or truncated content, for what is no such picture, more
            than 50 MB or 25 million pixels, fewer than 8 pixels a side, and 16 or 32 bits that
            are the same everywhere.
    """
    file = readable(name)
    if not 0 < len(content) <= MOST_BYTES:
        raise DataError(
            f"{file}: empty, or more than the {MOST_BYTES // 10**6} MB that are taken. Choose "
            "another file, or save it smaller: the networks see a few hundred pixels a side."
        )
    if bytes(content[128:132]) == b"DICM":
        raise DataError(f"{file}: {DICOM}")
    try:
        image, negative, notes = open_upright(io.BytesIO(content), file)
        more, ends = _steps(file, image, channels)
        image = eight_bits(image, negative, "L" if channels == 1 else "RGB", ends)
        notes += more
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{file}: {TOO_LARGE}") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        medical = file.lower().endswith((".dcm", ".dicom"))  # some lack the mark in their bytes
        other = f"not a PNG, JPEG, TIFF, BMP or WEBP picture, truncated or damaged. {AGAIN}"
        raise DataError(f"{file}: {DICOM if medical else other}") from error
    if image.width != image.height:
        notes.append(
            f"squeezed from {image.width} x {image.height} to {size} x {size} pixels, as in the "
            "papers"
        )
    elif image.width != size:
        notes.append(f"resized from {image.width} x {image.width} to {size} x {size} pixels")
    pixels, _ = to_square(image, size)
    return pixels.reshape(size, size, channels).copy(), tuple(notes)


def readable(name: str) -> str:
    """A file name that is safe to show: at most 60 characters, without markup or controls."""
    known = unicodedata.normalize("NFC", name)
    plain = "".join(c if c.isalnum() or c in " ._-+()" else "?" for c in known).strip()
    return (plain if len(plain) <= 60 else f"{plain[:44]}...{plain[-13:]}") or "the file"


def _steps(
    file: str, image: Image.Image, channels: int
) -> tuple[list[str], tuple[float, float] | None]:
    """What will be done to a picture, in words, and the ends of its gray where it is deep."""
    notes, ends, mode = [], None, "L" if image.mode[0] in "IF" else image.mode
    if mode not in (*GRAY, *COLOURS):
        raise DataError(f"{file}: its colours are kept as {mode}. {AGAIN}")
    if image.mode[0] in "IF":
        pixels = np.asarray(image)
        seen = pixels[np.isfinite(pixels)]
        ends = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 0.0)
        if ends[0] == ends[1]:
            raise DataError(
                f"{file}: the same value everywhere, so there is nothing to see. Export it again, "
                "with the window you would read it in."
            )
        notes.append(
            f"gray values from {ends[0]:g} to {ends[1]:g} stretched to fill black to white"
        )
        if seen.size < pixels.size:
            notes.append("pixels without a number taken for the darkest")
    seen_through = False
    if image.has_transparency_data:
        layered = image.convert("LA") if mode == "La" else image
        seen_through = layered.convert("RGBA").getchannel("A").getextrema() != (255, 255)
    told = {
        "transparent parts laid on white": seen_through,
        f"turned from {mode} into RGB": mode in ("CMYK", "YCbCr"),
        "black and white only, without grays": mode == "1",
        "made gray": channels == 1 and mode not in GRAY,
        "gray, so all three colours are alike": channels == 3 and mode in GRAY,
    }
    return [*notes, *(words for words, done in told.items() if done)], ends
