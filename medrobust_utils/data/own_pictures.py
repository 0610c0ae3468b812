"""Pictures of one's own: which files are taken, and how all of a set become 8 bits alike.

Unlike ``outside``, which does its best for one picture, a set is treated by one rule: gray of 16
bits is scaled by a ceiling that all its pictures share, never by each picture's own extremes,
which would turn brightness into noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..core import env
from ..core.errors import DataError
from . import dicom
from .upload import FORMATS, LEAST_SIDE, MOST_PIXELS, TOO_LARGE

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", *dicom.SUFFIXES)
GRAY = ("1", "L", "LA", "La")
DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I")  # modes of 16 bits; ``I`` too, in older files
COLOURS = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
PASSED_OVER = ("Thumbs.db", "desktop.ini")
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # a tag of TIFF, and its value for negatives


@dataclass(frozen=True)
class Scan:
    """What was found in the files of a set.

    Attributes:
        channels: 1 where all pictures are gray, else 3.
        ceiling: what becomes white in gray of 16 bits: the largest number of as many bits as the
            brightest pixel of the whole set needs; 0 without such pictures.
        patients: of each file: digits that stand for a DICOM's PatientID, or empty.
        census: how many pictures of which kind, and the rules they are shown by.
    """

    channels: int
    ceiling: int
    patients: tuple[str, ...]
    census: dict[str, int | str]

    def open(self, path: Path, mode: str) -> Image.Image:
        """One picture in 8 bits, upright, in ``mode`` (``L`` or ``RGB``)."""
        return open_picture(path, mode, ceiling=self.ceiling)


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, sorted, but for hidden files and what Windows leaves there."""
    return [
        path
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".") and path.name not in PASSED_OVER
    ]


def scan(paths: Sequence[Path]) -> Scan:
    """Look at every file: the headers, and the brightest pixel where there are 16 bits.

    Raises:
        DataError: naming the file that is no picture, is too large or small, or holds several.
    """
    counts = {"gray": 0, "colour": 0, "sixteen_bits": 0, "dicom": 0}
    patients, ceiling = [], 0
    for path in env.progress(paths, desc="looking at the files", leave=False):
        if path.suffix.lower() in dicom.SUFFIXES:
            found = dicom.header(path)
            _check_size(path, found.width, found.height)
            gray, patient = found.gray, found.patient
            counts["dicom"] += 1
        else:
            gray, brightest = _look(path)
            counts["sixteen_bits"] += brightest is not None
            ceiling, patient = max(ceiling, brightest or 0), ""
        counts["gray" if gray else "colour"] += 1
        patients.append(patient)
    if ceiling or counts["sixteen_bits"]:
        ceiling = 2 ** max(8, int(ceiling).bit_length()) - 1
    census: dict[str, int | str] = {f"files_{kind}": count for kind, count in counts.items()}
    census["channels"] = 3 if counts["colour"] else 1
    if ceiling:
        census["sixteen_bit_rule"] = f"0 to {ceiling} in all pictures becomes black to white"
    if counts["dicom"]:
        census["dicom_rule"] = "the window in the file, else the whole range of its bits"
    return Scan(int(census["channels"]), ceiling, tuple(patients), census)


def open_picture(path: Path, mode: str, *, ceiling: int) -> Image.Image:
    """See ``Scan.open``.

    Raises:
        DataError: naming the file, if it is damaged.
    """
    if path.suffix.lower() in dicom.SUFFIXES:
        return dicom.picture(path).convert(mode)
    with _opened(path) as file:
        try:
            tags = getattr(file, "tag_v2", {})
            negative = file.mode in DEEP and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO
            upright = file.copy() if file.format == "TIFF" else ImageOps.exif_transpose(file)
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
            raise _damaged(path, error) from error
    if upright.mode in DEEP:
        shown = np.clip(np.asarray(upright).astype(np.float64) / ceiling, 0, 1)
        upright = Image.fromarray(
            np.rint((1 - shown if negative else shown) * 255).astype(np.uint8)
        )
    if upright.has_transparency_data:  # laid on white, as a web page shows it
        layered = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered)
    return upright.convert(mode)


def _look(path: Path) -> tuple[bool, int | None]:
    """Whether a picture is gray, and its brightest pixel if it has 16 bits."""
    with _opened(path) as file:
        _check_size(path, *file.size)
        if file.mode not in (*GRAY, *DEEP, *COLOURS):
            raise DataError(
                f"{path}: its pixels are kept as {file.mode}. Save it as PNG of 8 or 16 bits."
            )
        if file.mode not in DEEP:
            several, brightest = _has_another(file), None
            gray = file.mode in GRAY
        else:
            gray = True
            try:
                least, brightest = map(int, file.getextrema())
            except Exception as error:  # as above
                raise _damaged(path, error) from error
            several = _has_another(file)
            if least < 0 or brightest > 65535:
                raise DataError(
                    f"{path}: holds values from {least} to {brightest}, and 0 to 65535 are taken. "
                    "Save it with 16 bits."
                )
    if several:
        raise DataError(f"{path}: holds several pictures. Save the one you mean as a file.")
    return gray, brightest


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=FORMATS)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image. Correct the label file.") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: {TOO_LARGE}") from error
    except Exception as error:  # as above
        raise _damaged(path, error) from error


def _has_another(file: Image.Image) -> bool:
    try:
        file.seek(1)
    except Exception:  # none, or a damaged one: the first is all that is used
        return False
    return True


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise DataError(f"{path}: {width} x {height} pixels, {TOO_LARGE}")
    if min(width, height) < LEAST_SIDE:
        raise DataError(
            f"{path}: {width} x {height} pixels; at least {LEAST_SIDE} a side are needed. "
            "Remove it, or bring it larger."
        )


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path}: cannot be read as an image ({type(error).__name__}: {error}). Save it again as "
        "PNG, or remove it."
    )
