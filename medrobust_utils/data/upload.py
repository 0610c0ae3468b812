"""Pictures from outside: bytes that somebody uploads, made to fit what the networks see.

The readers know their data sets; here anything can come. A picture that is not quite right is
made right, and every step is put into words, because a network answers for what it was shown,
not for the file. What cannot be made right is refused with a sentence.
"""

from __future__ import annotations

import io
import unicodedata

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..core.errors import DataError
from .decoding import to_square

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
MOST_BYTES = 50_000_000
MOST_PIXELS = 25_000_000
LEAST_SIDE = 8  # pixels
GRAY = ("1", "L", "LA", "La")
DEEP = ("I", "F")  # modes that begin so have 16 or 32 bits a pixel, all of them gray
READABLE = (*GRAY, "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
ORIENTATION = 0x0112  # the EXIF tag; 1 is upright
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # a tag of TIFF, and its value for negatives
TOO_LARGE = f"more than the {MOST_PIXELS // 10**6} million pixels that are taken. Save it smaller."
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
    (see ``cache.decode``). Transparent parts are laid on white, as a web page shows them; 16 and
    32 bits of gray are stretched from the darkest to the brightest pixel.

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
        image, notes = _decode(file, content)
        image = _coloured(file, _opaque(image, notes), channels, notes)
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


def _decode(file: str, content: bytes) -> tuple[Image.Image, list[str]]:
    """The first picture, upright, in 8 bits, and words about what was done."""
    notes: list[str] = []
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        _check_size(file, *image.size)  # before anything is decoded
        if image.mode[0] not in DEEP and ";16" in str(image.tile):
            notes.append("16 bits a colour shortened to 8")
        first = _upright(image, notes)
        if image.mode[0] in DEEP:
            first = _stretched(file, first, notes)
            if getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO:
                first = ImageOps.invert(first)  # Pillow has done so where there are only 8 bits
        if _has_another(image):
            notes.insert(0, "the first of several pictures in the file")
    return first, notes


def _upright(image: Image.Image, notes: list[str]) -> Image.Image:
    """A decoded copy, turned as the camera noted in the EXIF data."""
    try:
        turn = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged notes of a camera; the picture itself may be whole
        turn = 1
    decoded = image.copy()
    if turn not in range(2, 9):
        return decoded
    notes.append("turned upright, as its camera noted")
    if image.format == "TIFF":
        return decoded  # Pillow turns these while it decodes them
    # Without the camera's other notes, which Pillow would write anew, or fail to.
    decoded.info = {key: value for key, value in decoded.info.items() if key == "transparency"}
    decoded.getexif()[ORIENTATION] = turn
    return ImageOps.exif_transpose(decoded)


def _check_size(file: str, width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise DataError(f"{file}: {width} x {height} pixels, {TOO_LARGE}")
    if min(width, height) < LEAST_SIDE:
        raise DataError(
            f"{file}: {width} x {height} pixels, too small to show anything. "
            f"Choose one with at least {LEAST_SIDE} pixels a side."
        )


def _has_another(image: Image.Image) -> bool:
    """Whether a second picture follows. Counting them all could take minutes."""
    try:
        image.seek(1)
    except Exception:  # none, or one that is damaged: the first is whole and all that is used
        return False
    return True


def _stretched(file: str, image: Image.Image, notes: list[str]) -> Image.Image:
    """Gray of 16 or 32 bits, from its darkest to its brightest pixel, in 8 bits."""
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
    stretched = np.empty(pixels.size, np.uint8)
    for start in range(0, pixels.size, 2**20):  # in parts: eight bytes a pixel would be a lot
        part = slice(start, start + 2**20)
        values = np.where(known.flat[part], pixels.flat[part], low).astype(np.float64)
        stretched[part] = np.rint((values - low) * (255 / (high - low)))
    return Image.fromarray(stretched.reshape(pixels.shape))


def _opaque(image: Image.Image, notes: list[str]) -> Image.Image:
    """Without transparency: what shows through is white."""
    if not image.has_transparency_data:
        return image
    if image.mode == "La":
        image = image.convert("LA")  # the only way that Pillow knows
    gray = image.mode in GRAY
    layered = image.convert("RGBA")
    if layered.getchannel("A").getextrema() != (255, 255):
        notes.append("transparent parts laid on white")
    ground = Image.new("RGBA", layered.size, "white")
    return Image.alpha_composite(ground, layered).convert("L" if gray else "RGB")


def _coloured(file: str, image: Image.Image, channels: int, notes: list[str]) -> Image.Image:
    """In one channel or three, as the networks of the data set see their images."""
    if image.mode not in READABLE:
        raise DataError(f"{file}: its colours are kept as {image.mode}. {AGAIN}")
    if image.mode in ("CMYK", "YCbCr"):
        notes.append(f"turned from {image.mode} into RGB")
    if image.mode == "1":
        notes.append("black and white only, without grays")
    if channels == 1 and image.mode not in GRAY:
        notes.append("made gray")
    if channels == 3 and image.mode in GRAY:
        notes.append("gray, so all three colours are alike")
    return image.convert("L" if channels == 1 else "RGB")
