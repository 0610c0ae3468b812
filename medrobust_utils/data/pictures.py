"""Pictures from outside, opened in one way: files of one's own data and uploads alike.

A set is treated by one rule: gray of 16 bits is scaled by a range that all its pictures share.
Pictures are turned upright as their camera noted, and what shows through is laid on white.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..core import env
from ..core.disk import blamed
from ..core.errors import DataError
from . import dicom
from .decoding import DAMAGED, FORMATS

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", *dicom.SUFFIXES)
MOST_PIXELS = 25_000_000
LEAST_SIDE = 8  # pixels
GRAY = ("1", "L", "LA", "La")
DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I")  # modes of 16 bits; ``I`` too, in older files
COLOURS = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
ORIENTATION = 0x0112  # the EXIF tag; 1 is upright, from 5 on the sides are swapped
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # a tag of TIFF, and its value for negatives
Size = tuple[int, int]  # width, height


@dataclass(frozen=True)
class Scan:
    """What was found in the files of a set.

    Attributes:
        channels: 1 where all pictures are gray, else 3.
        ends: what becomes black and white in gray of 16 bits: 0 and the largest number of as many
            bits as the brightest pixel of the whole set needs.
        dicom_ends: the same for the rescaled numbers of DICOM files without a window.
        patients: of each file: digits that stand for a DICOM's PatientID, or empty.
        census: how many pictures of which kind, and the rules they are shown by.
    """

    channels: int
    ends: tuple[float, float]
    dicom_ends: tuple[float, float]
    patients: tuple[str, ...]
    census: dict[str, int | str]

    def open(self, path: Path, mode: str) -> tuple[Image.Image, str]:
        """One picture in 8 bits, upright, in ``mode``, and the hash of what 8 bits do not hold.

        Raises:
            DataError: naming the file, if it is damaged.
        """
        if is_dicom(path):
            image, digest = dicom.shown(path, self.dicom_ends)
            return image.convert(mode), digest
        with blamed(path, DAMAGED), Image.open(path, formats=FORMATS) as file:
            image, digest = _upright(file), ""
            if image.mode in DEEP:
                negative = getattr(file, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO
                pixels = np.asarray(image).astype(np.int64)
                about = f"{negative} {pixels.shape}".encode()
                digest = hashlib.sha256(about + pixels.tobytes()).hexdigest()
                low, high = self.ends
                light = np.clip((np.arange(2**16) - low) / (high - low), 0, 1)
                table = np.rint(255 * light).astype(np.uint8)
                # Pillow has inverted negatives where there are only 8 bits
                image = Image.fromarray((255 - table if negative else table)[pixels])
            if image.has_transparency_data:
                image = image.convert("LA") if image.mode == "La" else image
                gray, layered = image.mode in GRAY, image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered)
                image = image.convert("L" if gray else "RGB")
            return image.convert(mode), digest


def scan(paths: Sequence[Path]) -> Scan:
    """Look at every file: its kind, and the range of the pixels where there are 16 bits.

    Raises:
        DataError: naming the file that is no picture, is too large or small, or holds several; or
            if the range leaves a set of many grays with few.
    """
    counts: Counter[str] = Counter()
    patients, deep, medical = [], dicom.Range(), dicom.Range()
    bar = env.progress(paths, desc="looking at the files", leave=False, disable=len(paths) < 2)
    for path in bar:
        patient = ""
        if is_dicom(path):
            found = dicom.header(path)
            check_size(path, found.width, found.height)
            gray, patient = found.gray, found.patient
            counts.update(["dicom", f"dicom_by_{found.rule}"])
            if found.rule == "range":
                medical.add(dicom.numbers(path))
        else:
            gray = _look(path, deep, counts)
        counts["gray" if gray else "colour"] += 1
        patients.append(patient)
    ends, dicom_ends = deep.ends(least=255), medical.ends()
    for values, shown_by in ((deep, ends), (medical, dicom_ends)):
        if levels := values.lost(shown_by):
            raise DataError(
                f"{paths[0].parent}: shown from {shown_by[0]:g} to {shown_by[1]:g}, the range of "
                f"the whole set, its pictures keep {levels} gray levels: a few pixels are far "
                "brighter than all others. Export them with a window, or as PNG of 8 bits."
            )
    kinds = ("gray", "colour", "sixteen_bits", "first_of_several", "dicom")
    census: dict[str, int | str] = {f"files_{kind}": counts[kind] for kind in kinds}
    census["channels"] = 3 if counts["colour"] else 1
    if counts["sixteen_bits"]:
        census["sixteen_bit_rule"] = f"0 to {ends[1]:.0f} in all pictures becomes black to white"
    census |= {f"files_{rule}": n for rule, n in counts.items() if rule.startswith("dicom_by")}
    if counts["dicom_by_range"]:
        census["dicom_range"] = f"{dicom_ends[0]:g} to {dicom_ends[1]:g} becomes black to white"
    return Scan(int(census["channels"]), ends, dicom_ends, tuple(patients), census)


def sizes(path: Path) -> tuple[Size, Size]:
    """Width and height of a picture as it is shown and as its file has it."""
    if is_dicom(path):
        found = dicom.header(path)
        return ((found.width, found.height),) * 2
    with blamed(path, DAMAGED), Image.open(path, formats=FORMATS) as file:  # reads the header only
        swapped = file.format != "TIFF" and _orientation(file) >= 5
        return (file.size[::-1] if swapped else file.size), file.size


def check_size(name: object, width: int, height: int) -> None:
    """Raise DataError for a picture that is too large or too small."""
    if width * height > MOST_PIXELS:
        raise DataError(
            f"{name}: {width} x {height} pixels, more than the {MOST_PIXELS // 10**6} million "
            "pixels that are taken. Save it smaller."
        )
    if min(width, height) < LEAST_SIDE:
        raise DataError(
            f"{name}: {width} x {height} pixels, too small: at least {LEAST_SIDE} a side are "
            "needed. Save it larger, or choose another."
        )


def is_dicom(path: Path) -> bool:
    """Whether a file is called like DICOM."""
    return path.suffix.lower() in dicom.SUFFIXES


def _look(path: Path, deep: dicom.Range, counts: Counter[str]) -> bool:
    """Whether a picture is gray; its numbers go into ``deep`` if it has 16 bits."""
    with blamed(path, DAMAGED), Image.open(path, formats=FORMATS) as file:
        mode, telephone = file.mode, file.format == "MPO"
        check_size(path, *file.size)
        pixels = np.asarray(file) if mode in DEEP else None
        several = _has_another(file)
    if mode not in (*GRAY, *DEEP, *COLOURS):
        raise DataError(f"{path}: its pixels are kept as {mode}. Save it as PNG of 8 or 16 bits.")
    if pixels is not None:
        counts["sixteen_bits"] += 1
        if pixels.min() < 0 or pixels.max() > 65535:
            raise DataError(
                f"{path}: holds values from {pixels.min()} to {pixels.max()}, and 0 to 65535 are "
                "taken. Save it with 16 bits."
            )
        deep.add(pixels)
    if several and not telephone:  # whose second picture is a small one, or the depth
        raise DataError(f"{path}: holds several pictures. Save the one you mean as a file.")
    counts["first_of_several"] += several
    return mode not in COLOURS


def _upright(file: Image.Image) -> Image.Image:
    """The first picture of a file, turned as its camera noted."""
    turn, image = _orientation(file), file.copy()
    if turn == 1 or file.format == "TIFF":  # Pillow turns these while it decodes them
        return image
    # Without the camera's other notes, which Pillow would write anew, or fail to.
    image.info = {key: v for key, v in image.info.items() if key == "transparency"}
    image.getexif()[ORIENTATION] = turn
    return ImageOps.exif_transpose(image)


def _orientation(file: Image.Image) -> int:
    try:
        turn = file.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged notes of a camera; the picture itself may be whole
        return 1
    return turn if turn in range(2, 9) else 1


def _has_another(file: Image.Image) -> bool:
    """Whether a second picture follows. Counting them all could take minutes."""
    try:
        file.seek(1)
    except Exception:  # none, or one that is damaged: the first is whole and all that is used
        return False
    return True
