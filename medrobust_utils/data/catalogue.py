"""What is known about every data set: source, terms, contents, leaks (``catalogue.yaml``).

``python -m medrobust_utils data`` downloads from it, and DATA.md is written from it.
"""

from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from ..core.schema import Texts, checked

PATH = Path(__file__).with_name("catalogue.yaml")
_EXACT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_EXACT)
class RemoteFile:
    """A file that can be fetched: ``urls``, the publisher's first, then mirrors.

    ``bytes``, ``md5`` and ``sha256`` are None where unknown. ``unpack`` is the folder below the
    set's own that the archive is unpacked into, ``.`` for that folder itself; None for a file that
    stays as it is.
    """

    name: str
    urls: Texts
    bytes: int | None = None
    md5: str | None = None
    sha256: str | None = None
    unpack: str | None = None


@dataclass(frozen=True, config=_EXACT)
class DataSet:
    """One entry of the catalogue; the head of ``catalogue.yaml`` says what its fields mean."""

    name: str
    title: str
    reader: str  # key of data.READERS
    folder: str  # below the root of the data sets
    publisher: str
    page: str
    licence: str
    cite: str
    size: str
    access: Literal["open", "kaggle"]
    terms: str
    use: str
    layout: Texts
    splits: str
    leaks: str
    treatment: str
    by_hand: str  # what remains to be done by hand, empty where nothing does
    counts: dict[str, int]  # class -> images in the publisher's whole set, duplicates included
    kaggle: str = ""  # datasets/<owner>/<slug> or competitions/<slug>
    lift: str = ""  # a leading folder in archives that is dropped when they are unpacked
    prepare: str = ""  # what is made of the unpacked archives, e.g. consep_patches
    files: Annotated[tuple[RemoteFile, ...], Field(strict=False)] = ()


@cache
def load() -> dict[str, DataSet]:
    """Name -> data set, in the order of the file; ProtocolError names the field at fault."""
    return from_text(PATH.read_text(encoding="utf-8"))


def from_text(text: str) -> dict[str, DataSet]:
    """The data sets that the text of a catalogue describes; see `load`."""
    return checked(Annotated[dict[str, DataSet], BeforeValidator(_named)], PATH.name, text)


def _named(sets: dict) -> dict:
    return {name: {"name": name, **entry} for name, entry in sets.items()}
