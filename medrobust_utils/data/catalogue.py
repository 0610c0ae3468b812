"""What is known about every data set: source, terms, contents, leaks (``catalogue.yaml``).

``python -m medrobust_utils data`` downloads from it, and DATA.md is written from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path

import yaml

from ..core.errors import ProtocolError

PATH = Path(__file__).with_name("catalogue.yaml")
ACCESS = ("open", "kaggle")


@dataclass(frozen=True)
class RemoteFile:
    """A file that can be fetched.

    Attributes:
        name: what the file is called.
        urls: where it lies; the first is the publisher's, the others are mirrors.
        bytes: its size, where known.
        md5, sha256: its checksum, where known.
        unpack: folder below the set's own that the archive is unpacked into, ``.`` for that folder
            itself; None for a file that stays as it is.
    """

    name: str
    urls: tuple[str, ...]
    bytes: int | None = None
    md5: str | None = None
    sha256: str | None = None
    unpack: str | None = None


@dataclass(frozen=True)
class DataSet:
    """One entry of the catalogue; ``catalogue.yaml`` says what its fields mean.

    Attributes:
        name: what the command line calls it.
        reader: key of ``data.READERS``.
        folder: folder below the root of the data sets.
        lift: a leading folder in archives that is dropped when they are unpacked.
        kaggle: ``datasets/<owner>/<slug>`` or ``competitions/<slug>``, empty where there is none.
        prepare: what is made of the unpacked archives, e.g. ``consep_patches``, empty for nothing.
        by_hand: what remains to be done by hand, empty where nothing does.
        counts: class -> images in the publisher's whole set, duplicates included.
    """

    name: str
    title: str
    reader: str
    folder: str
    publisher: str
    page: str
    licence: str
    cite: str
    size: str
    access: str
    terms: str
    use: str
    layout: tuple[str, ...]
    splits: str
    leaks: str
    treatment: str
    by_hand: str
    counts: dict[str, int]
    kaggle: str = ""
    lift: str = ""
    prepare: str = ""
    files: tuple[RemoteFile, ...] = field(default=())


@cache
def load() -> dict[str, DataSet]:
    """Name -> data set, in the order of the file.

    Raises:
        ProtocolError: naming the entry, if one lacks a field, has an unknown one, or an unknown
            way of access.
    """
    content = yaml.safe_load(PATH.read_text(encoding="utf-8"))
    return {name: _entry(name, dict(entry)) for name, entry in content.items()}


def _entry(name: str, entry: dict) -> DataSet:
    unknown = sorted(set(entry) - {item.name for item in fields(DataSet)})
    if unknown or entry.get("access") not in ACCESS:
        raise ProtocolError(
            f"{PATH}: {name} has unknown fields {unknown} or an access that is none of {ACCESS}."
        )
    files = tuple(
        RemoteFile(**{**item, "urls": tuple(item["urls"])}) for item in entry.pop("files", ())
    )
    try:
        return DataSet(name, **entry | {"layout": tuple(entry["layout"])}, files=files)
    except (TypeError, KeyError) as error:
        raise ProtocolError(f"{PATH}: {name} is incomplete ({error}).") from error
