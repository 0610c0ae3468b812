"""DICOM files as pictures: one frame, gray through one pipeline of stages with explicit ranges.

Stored numbers -> modality (rescaling or LUT) -> VOI (LUT, else window, else the range of the whole
set) -> black to white. PS3.3 C.11 is the source. Nothing but pixels leaves this module, and what
tells one patient from another, as a number that does not say who it is.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from PIL import Image
from pydicom.pixels import pixel_array
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from ..core.disk import blamed
from ..core.errors import DataError

SUFFIXES = (".dcm", ".dicom")
GRAY = ("MONOCHROME1", "MONOCHROME2")
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
# X-ray angiography and fluoroscopy: their modality LUT is not meant for display (C.8.7.1.1.2)
ANGIOGRAPHY = ("1.2.840.10008.5.1.4.1.1.12.1", "1.2.840.10008.5.1.4.1.1.12.2")
FRAME_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
MACROS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")

# Without the error's own words: they may quote what stands in the file.
DAMAGED = "cannot be read as DICOM ({kind}). Export it again, or as PNG."
LEAST_LEVELS = 32  # gray levels that a set must keep of what it has
SAMPLED = 2**16  # pixels of a picture whose levels are counted


class Header(NamedTuple):
    """What is known of a file before its pixels are decoded.

    ``patient``: digits that are the same for one PatientID, or empty; never the PatientID.
    ``rule``: how gray becomes 8 bits: ``lut``, ``window``, ``bits`` (8 or fewer are stored),
    ``range`` (of the whole set), or ``colour``.
    """

    width: int
    height: int
    gray: bool
    patient: str
    rule: str


def header(path: Path) -> Header:
    """Size, colours, patient and rule of one file.

    Raises:
        DataError: for a file that is no DICOM picture, or holds several frames.
    """
    found = _read(path, pixels=False)
    with blamed(path, DAMAGED):  # damaged elements fail when they are looked at
        frames, kind = int(found.get("NumberOfFrames") or 1), found.PhotometricInterpretation
        size, patient = (int(found.Columns), int(found.Rows)), str(found.get("PatientID") or "")
        rule = _rule(found) if kind in GRAY else "colour"
    if frames != 1:
        raise DataError(f"{path}: holds {frames} frames. Export the one you mean as a file.")
    if kind not in GRAY + COLOURS:
        raise DataError(
            f"{path}: its colours are kept as {str(kind)[:20]}. Export it as PNG, or as "
            f"{' or '.join(GRAY)}."
        )
    digits = hashlib.sha256(f"medrobust {patient.strip()}".encode()).hexdigest()[:12]
    return Header(*size, kind in GRAY, digits if patient.strip() else "", rule)


def picture(path: Path) -> Image.Image:
    """The picture of one file, 8 bits, gray or RGB; see ``shown``."""
    return shown(path)[0]


def shown(path: Path, ends: tuple[float, float] | None = None) -> tuple[Image.Image, str]:
    """The picture of one file, 8 bits, gray or RGB, and the hash of its gray numbers.

    Args:
        ends: what becomes black and white without a window; by default the file's own range.

    Raises:
        DataError: for damaged pixels, or a compression for which no decoder is installed.
    """
    found, values, padding = _numbers(path)
    with blamed(path, DAMAGED):
        if values.ndim == 3:
            low, high = (0, 255) if values.dtype == np.uint8 else _stored(found)
            light, digest = (values.astype(np.float64) - low) / (high - low), ""
        else:
            kind = found.PhotometricInterpretation
            about = f"{kind} {values.shape}".encode()
            digest = hashlib.sha256(about + values.tobytes()).hexdigest()
            light = np.clip(_voi(values, padding, found, ends), 0, 1)
            light = 1 - light if kind == "MONOCHROME1" else light  # 0 is white
            light[padding] = 0
        return Image.fromarray(np.rint(light * 255).astype(np.uint8)), digest


def numbers(path: Path) -> np.ndarray:
    """The gray numbers of a file after its modality stage, float64 (P,), without padding."""
    _, values, padding = _numbers(path)
    return values[~padding]


def _rule(found: pydicom.Dataset) -> str:
    if _lut(found, "VOILUTSequence") is not None:
        return "lut"
    if _window(found):
        return "window"
    plain = "RescaleSlope" not in found and _lut(found, "ModalityLUTSequence") is None
    return "bits" if plain and int(found.BitsStored) <= 8 else "range"


def _lut(found: pydicom.Dataset, name: str) -> pydicom.Dataset | None:
    """The first LUT of a sequence that holds one."""
    return next((item for item in found.get(name) or () if item.get("LUTData")), None)


def _window(found: pydicom.Dataset) -> tuple[float, float] | None:
    """Centre and width of the first window that is one."""
    centres, widths = (np.atleast_1d(found.get(name)) for name in ("WindowCenter", "WindowWidth"))
    for centre, width in zip(centres, widths, strict=False):
        with suppress(TypeError, ValueError):  # empty
            if np.isfinite(float(centre)) and 0 < float(width) < np.inf:
                return float(centre), float(width)
    return None


def _modality(values: np.ndarray, found: pydicom.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Numbers that mean the same in all files of a device, float64 (H, W), and what is padding."""
    padding = np.zeros(values.shape, bool)
    if isinstance(one := found.get("PixelPaddingValue"), int):
        other = found.get("PixelPaddingRangeLimit")
        other = other if isinstance(other, int) else one
        # an element of the other sign than its pixels is how some devices write it
        one, other = (
            n - 2**16 if values.dtype.kind == "i" and n >= 2**15 else n for n in (one, other)
        )
        padding = (values >= min(one, other)) & (values <= max(one, other))
        padding &= not padding.all()
    lut = _lut(found, "ModalityLUTSequence")
    if lut is not None:
        angiography = str(found.get("SOPClassUID")) in ANGIOGRAPHY
        return values.astype(np.float64) if angiography else _look_up(values, lut)[0], padding
    slope, intercept = found.get("RescaleSlope"), found.get("RescaleIntercept")
    return values * (float(slope or 0) or 1.0) + float(intercept or 0), padding


def _look_up(values: np.ndarray, item: pydicom.Dataset) -> tuple[np.ndarray, float]:
    """Numbers through a LUT, float64, and the largest number it can give."""
    count, first, bits = (int(one) for one in item.LUTDescriptor)
    entries = item.LUTData
    if isinstance(entries, bytes):
        entries = np.frombuffer(entries, np.uint8 if len(entries) <= (count or 2**16) else "<u2")
    table = np.atleast_1d(np.asarray(entries)).astype(np.float64)
    if first >= 2**15 and values.min() < 0:  # written unsigned, meant signed
        first -= 2**16
    index = np.clip(np.rint(values).astype(np.int64) - first, 0, len(table) - 1)
    # 16 is how wide the entries are, often wider than what is in them
    used = max(8, int(table.max()).bit_length())
    return table[index], 2.0 ** (bits if used <= bits < 16 else used) - 1


def _voi(
    numbers: np.ndarray,
    padding: np.ndarray,
    found: pydicom.Dataset,
    ends: tuple[float, float] | None,
) -> np.ndarray:
    """What is to be seen of the numbers, from 0 (black) to 1."""
    rule = _rule(found)
    if rule == "lut":
        values, top = _look_up(numbers, _lut(found, "VOILUTSequence"))
        return values / top
    if rule == "window":
        centre, width = _window(found)
        function = str(found.get("VOILUTFunction") or "LINEAR")
        if function == "SIGMOID":
            return 1 / (1 + np.exp(np.clip(-4 * (numbers - centre) / width, -700, 700)))
        if function == "LINEAR_EXACT" or width < 1:
            return (numbers - centre) / width + 0.5
        if width == 1:
            return (numbers > centre - 0.5).astype(np.float64)
        return (numbers - (centre - 0.5)) / (width - 1) + 0.5
    if rule == "bits":
        ends = _stored(found)
    elif ends is None:
        own = Range()
        own.add(numbers[~padding])
        ends = own.ends()
    return (numbers - ends[0]) / (ends[1] - ends[0])


def _stored(found: pydicom.Dataset) -> tuple[int, int]:
    """The least and the largest number that a stored pixel can be."""
    bits, signed = int(found.BitsStored), int(found.PixelRepresentation)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def _read(path: Path, *, pixels: bool) -> pydicom.FileDataset:
    """A file by its content: some devices leave out the preamble, and the rest is whole."""
    with blamed(path, DAMAGED):
        found = pydicom.dcmread(path, stop_before_pixels=not pixels, force=True)
        picture = "Rows" in found and "Columns" in found
        for groups in FRAME_GROUPS:  # enhanced files say there how their frames are shown
            for macro in MACROS if found.get(groups) else ():
                found.update((found[groups][0].get(macro) or [{}])[0])
        if not picture and "SOPClassUID" not in found:
            raise ValueError("no elements")
        if not found.file_meta.get("TransferSyntaxUID"):
            implicit, little = found.original_encoding
            explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
            found.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    if not picture:
        raise DataError(f"{path}: holds no picture (a report, a plan). Move it elsewhere.")
    return found


def _numbers(path: Path) -> tuple[pydicom.FileDataset, np.ndarray, np.ndarray]:
    """A file, its gray after the modality stage, or its colours as RGB, and what is padding."""
    found = _read(path, pixels=True)
    syntax, said = found.file_meta.get("TransferSyntaxUID"), DAMAGED
    if getattr(syntax, "is_compressed", False):
        said = (
            f"its pixels are compressed as {syntax.name} and cannot be decoded ({{kind}}). Install "
            "pydicom's plugins (pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg), or "
            "export it uncompressed."
        )
    with blamed(path, said):
        values = pixel_array(found)
        colours = values.ndim == 3
        return found, *((values, np.zeros(0, bool)) if colours else _modality(values, found))


class Range:
    """The numbers of all pictures of a set, and the powers of two between which they lie.

    Gray of more than 8 bits is shown by one rule in all of them, never by each picture's own
    extremes, which would turn brightness into noise.
    """

    def __init__(self) -> None:
        self.low, self.high, self.whole = 0.0, 0.0, True
        self._values = np.zeros(0)

    def add(self, numbers: np.ndarray) -> None:
        """Take in the numbers of one picture."""
        flat = numbers.ravel()
        if not flat.size:
            return
        self.low = min(self.low, float(flat.min()))
        self.high = max(self.high, float(flat.max()))
        some = flat[:: max(1, flat.size // SAMPLED)]
        self.whole = self.whole and bool((some == np.rint(some)).all())
        if len(self._values) < SAMPLED:
            self._values = np.union1d(self._values, some)

    def ends(self, least: float = 0) -> tuple[float, float]:
        """What becomes black and white: 0 and the largest number of as many bits as are used.

        Args:
            least: that white is at least.
        """
        low = -_power(-self.low) if self.low < 0 else 0.0
        high = _power(self.high, self.whole) - self.whole if self.high > 0 else 0.0
        high = max(high, least)
        return low, high if high > low else low + 1

    def lost(self, ends: tuple[float, float]) -> int:
        """Gray levels that are left, if few are and many were there; else 0."""
        shown = np.clip((self._values - ends[0]) / (ends[1] - ends[0]), 0, 1)
        levels = len(np.unique(np.rint(shown * 255)))
        return levels if levels < LEAST_LEVELS and len(self._values) > 2 * levels else 0


def _power(value: float, above: bool = False) -> float:
    """The smallest power of two that is at least ``value``, or greater than it."""
    fraction, exponent = np.frexp(value)
    return float(2.0 ** (exponent if fraction > 0.5 or above else exponent - 1))
