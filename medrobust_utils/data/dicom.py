"""DICOM files as pictures: one frame, in the window that the file asks for.

Nothing but pixels leaves this module, and what tells one patient from another, as a number that
does not say who it is. What else stands in a file (names, dates, places) is never read out.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.pixels import apply_modality_lut, apply_windowing, pixel_array

from ..core.errors import DataError

SUFFIXES = (".dcm", ".dicom")
GRAY = ("MONOCHROME1", "MONOCHROME2")
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


@dataclass(frozen=True)
class Header:
    """What is known of a file before its pixels are decoded.

    Attributes:
        patient: digits that are the same for one PatientID, or empty; never the PatientID.
    """

    width: int
    height: int
    gray: bool
    patient: str


def header(path: Path) -> Header:
    """Size, colours and patient of one file.

    Raises:
        DataError: for a file that is no DICOM picture, or holds several frames.
    """
    found = _read(path, pixels=False)
    try:
        frames, kind = int(found.get("NumberOfFrames") or 1), found.PhotometricInterpretation
        width, height = int(found.Columns), int(found.Rows)
        patient = str(found.get("PatientID") or "").strip()
    except Exception as error:  # damaged elements fail when they are looked at, in many ways
        raise _damaged(path, error) from error
    if frames != 1:
        raise DataError(f"{path}: holds {frames} frames. Export the one you mean as a file.")
    if kind not in GRAY + COLOURS:
        raise DataError(
            f"{path}: its colours are kept as {str(kind)[:20]}. Export it as PNG, or as "
            f"{' or '.join(GRAY)}."
        )
    digits = hashlib.sha256(f"medrobust {patient}".encode()).hexdigest()[:12] if patient else ""
    return Header(width, height, kind in GRAY, digits)


def picture(path: Path) -> Image.Image:
    """The picture of one file, 8 bits, gray or RGB.

    Gray values are rescaled as the file says and shown in its (first) window. Without a window
    the whole range that its number of bits can hold becomes black to white: a rule that does not
    depend on what is in the picture, so that it is the same for all files of one kind.

    Raises:
        DataError: for damaged pixels, or a compression for which no decoder is installed.
    """
    found = _read(path, pixels=True)
    try:
        values = pixel_array(found)  # colours come as RGB
    except Exception as error:  # pydicom's decoders raise nearly anything on damaged bytes
        raise _undecodable(path, found, error) from error
    try:
        if values.ndim == 3:
            return Image.fromarray(_eight_bits(values, found))
        shown = _shown(values, found)
    except DataError:
        raise
    except Exception as error:
        raise _damaged(path, error) from error
    return Image.fromarray(shown)


def _shown(values: np.ndarray, found: pydicom.Dataset) -> np.ndarray:
    """Gray values in the file's window, uint8, with white as the brightest."""
    low, high = _range(found)
    rescaled = np.asarray(apply_modality_lut(values, found), np.float64)
    if "WindowCenter" in found and "WindowWidth" in found:
        rescaled = np.asarray(apply_windowing(rescaled, found, index=0), np.float64)
    ends = np.asarray(apply_modality_lut(np.array([low, high], values.dtype), found), np.float64)
    low, high = ends.min(), ends.max()
    shown = np.clip((rescaled - low) / (high - low), 0, 1)
    if found.PhotometricInterpretation == "MONOCHROME1":  # 0 is white
        shown = 1 - shown
    return np.rint(shown * 255).astype(np.uint8)


def _range(found: pydicom.Dataset) -> tuple[int, int]:
    """The least and the largest number that a stored pixel can be."""
    bits, signed = int(found.BitsStored), int(found.PixelRepresentation)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def _eight_bits(values: np.ndarray, found: pydicom.Dataset) -> np.ndarray:
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    low, high = _range(found)
    return np.rint((values.astype(np.float64) - low) / (high - low) * 255).astype(np.uint8)


def _read(path: Path, *, pixels: bool) -> pydicom.FileDataset:
    try:
        return pydicom.dcmread(path, stop_before_pixels=not pixels)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image. Correct the label file.") from error
    except Exception as error:  # damaged files fail in many ways
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DataError:
    """Without the error's own words: they may quote what stands in the file."""
    return DataError(
        f"{path}: cannot be read as DICOM ({type(error).__name__}). Export it again, or as PNG."
    )


def _undecodable(path: Path, found: pydicom.FileDataset, error: Exception) -> DataError:
    syntax = getattr(found.file_meta, "TransferSyntaxUID", None)
    if syntax is not None and getattr(syntax, "is_compressed", False):
        return DataError(
            f"{path}: its pixels are compressed as {syntax.name} and cannot be decoded "
            f"({type(error).__name__}). Install pydicom's plugins (pip install pylibjpeg "
            "pylibjpeg-libjpeg pylibjpeg-openjpeg), or export it uncompressed."
        )
    return _damaged(path, error)
