"""HAM10000's files: Harvard Dataverse lists them itself, with their checksums."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from ...core.errors import DataError
from ..catalogue import DataSet, RemoteFile
from .transfer import Patience, fetch

SERVER = "https://dataverse.harvard.edu/api"
WANTED = ("HAM10000_images_part_", "HAM10000_metadata")


def list_url(dataset: DataSet) -> str:
    """Where the list of the files of a set with a DOI as its page lies."""
    doi = "doi:" + dataset.page.removeprefix("https://doi.org/")
    return f"{SERVER}/datasets/:persistentId/versions/:latest/files?persistentId={doi}"


def files(dataset: DataSet, patience: Patience | None = None) -> tuple[RemoteFile, ...]:
    """The archives of images and the table of lesions, as the repository lists them now.

    Raises:
        DataError: if the list cannot be read, or names none of them.
    """
    folder = Path(tempfile.mkdtemp(prefix="medrobust-"))
    try:
        listing = RemoteFile("files.json", (list_url(dataset),))
        got = fetch(listing, folder, patience=patience, page=dataset.page)
        entries = [entry["dataFile"] for entry in json.loads(got.path.read_bytes())["data"]]
        found = tuple(map(_remote, entries))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{dataset.name}: the list of files cannot be read ({error!r}). See {dataset.page}."
        ) from error
    finally:
        shutil.rmtree(folder)
    found = tuple(file for file in found if file.name.startswith(WANTED))
    if len(found) < 3:
        raise DataError(
            f"{dataset.name}: the repository lists {len(found)} of its three files. "
            f"See {dataset.page}."
        )
    return found


def _remote(entry: dict) -> RemoteFile:
    name = str(entry.get("originalFileName") or entry["filename"])
    if Path(name).name != name:
        raise ValueError(f"a file is called {name!r}")
    url = f"{SERVER}/access/datafile/{int(entry['id'])}"
    if "originalFileFormat" in entry:  # a table; its checksum is of the converted one
        return RemoteFile(name.removesuffix(".csv") + ".csv", (f"{url}?format=original",))
    stem = name.removesuffix(".zip")
    return RemoteFile(
        name, (url,), entry.get("filesize"), entry.get("md5"), unpack=stem if stem != name else None
    )
