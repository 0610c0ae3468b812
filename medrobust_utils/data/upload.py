"""Pictures that somebody uploads, made to fit what the networks see.

A picture that is not quite right is made right, and every step is put into words, because a
network answers for what it was shown, not for the file. What cannot be made right is refused.
"""

from __future__ import annotations

import io
import unicodedata

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..core.errors import DataError
from .decoding import to_square
from .pictures import COLOURS, GRAY, TOO_LARGE, Opened, eight_bits, open_upright

MOST_BYTES = 50_000_000
AGAIN = "Open it in an image viewer, save it as PNG, and choose that file."
UNKNOWN = "not a PNG, JPEG, TIFF, BMP or WEBP picture, or damaged at its beginning."
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
    _check_bytes(file, content)
    try:
        opened = open_upright(io.BytesIO(content), file)
        notes, ends = _steps(file, opened, channels)
        image = eight_bits(opened, "L" if channels == 1 else "RGB", ends)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        medical = file.lower().endswith((".dcm", ".dicom"))  # some lack the mark in their bytes
        raise DataError(f"{file}: {DICOM if medical else f'{UNKNOWN} {AGAIN}'}") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{file}: {TOO_LARGE}") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise DataError(f"{file}: truncated or damaged, so it cannot be read. {AGAIN}") from error
    width, height = image.size
    if width != height:
        notes.append(
            f"squeezed from {width} x {height} to {size} x {size} pixels, as in the papers"
        )
    elif width != size:
        notes.append(f"resized from {width} x {width} to {size} x {size} pixels")
    pixels, _ = to_square(image, size)
    return pixels.reshape(size, size, channels).copy(), tuple(notes)


def readable(name: str) -> str:
    """A file name that is safe to show: at most 60 characters, without markup or controls."""
    known = unicodedata.normalize("NFC", name)
    plain = "".join(c if c.isalnum() or c in " ._-+()" else "?" for c in known).strip()
    if len(plain) > 60:
        plain = f"{plain[:44]}...{plain[-13:]}"
    return plain or "the file"


def _check_bytes(file: str, content: bytes) -> None:
    if not len(content):
        raise DataError(f"{file}: empty. Choose another file, or save this one again.")
    if len(content) > MOST_BYTES:
        raise DataError(
            f"{file}: {len(content) / 1e6:.0f} MB, more than the {MOST_BYTES // 10**6} MB that are "
            "taken. Save it smaller; the networks see only a few hundred pixels a side."
        )
    if bytes(content[128:132]) == b"DICM":
        raise DataError(f"{file}: {DICOM}")


def _steps(
    file: str, opened: Opened, channels: int
) -> tuple[list[str], tuple[float, float] | None]:
    """What will be done to a picture, in words, and the ends of its gray where it is deep."""
    notes, ends, mode = [], None, opened.mode
    if opened.several:
        notes.append("the first of several pictures in the file")
    if opened.shortened:
        notes.append("16 bits a colour shortened to 8")
    if opened.turned:
        notes.append("turned upright, as its camera noted")
    if mode[0] in "IF":
        ends = _ends(file, opened.image, notes)
        mode = "L"
    elif mode not in (*GRAY, *COLOURS):
        raise DataError(f"{file}: its colours are kept as {mode}. {AGAIN}")
    if opened.image.has_transparency_data:
        layered = opened.image.convert("LA") if mode == "La" else opened.image
        if layered.convert("RGBA").getchannel("A").getextrema() != (255, 255):
            notes.append("transparent parts laid on white")
    if mode in ("CMYK", "YCbCr"):
        notes.append(f"turned from {mode} into RGB")
    if mode == "1":
        notes.append("black and white only, without grays")
    if channels == 1 and mode not in GRAY:
        notes.append("made gray")
    if channels == 3 and mode in GRAY:
        notes.append("gray, so all three colours are alike")
    return notes, ends


def _ends(file: str, image: Image.Image, notes: list[str]) -> tuple[float, float]:
    """The darkest and the brightest number of gray of 16 or 32 bits."""
    pixels = np.asarray(image)
    known = np.isfinite(pixels)
    seen = pixels[known] if known.any() else np.zeros(1)
    low, high = float(seen.min()), float(seen.max())
    if low == high:
        raise DataError(
            f"{file}: the same value everywhere, so there is nothing to see. Export it again, "
            "with the window you would read it in."
        )
    notes.append(f"gray values from {low:g} to {high:g} stretched to fill black to white")
    if not known.all():
        notes.append("pixels without a number taken for the darkest")
    return low, high
