"""The ISIC Archive over its API: a list of each diagnosis, then one image after another.

The archive names diagnoses in a tree since 2024, ``diagnosis_1`` to ``diagnosis_5``; the queries
below ask for what the ten older names became.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from ...core.errors import DataError
from ...core.storage import write_atomic
from ..catalogue import RemoteFile
from .subset import shares
from .transfer import Patience, fetch

SEARCH = "https://api.isic-archive.com/api/v2/images/search/"
PAGE = "https://www.isic-archive.com"
QUERIES = {
    "nevus": "diagnosis_3:Nevus",
    "melanoma": "diagnosis_3:Melanoma*",
    "basal cell carcinoma": 'diagnosis_3:"Basal cell carcinoma"',
    "seborrheic keratosis": 'diagnosis_3:"Seborrheic keratosis"',
    "actinic keratosis": 'diagnosis_3:"Solar or actinic keratosis"',
    "squamous cell carcinoma": "diagnosis_3:Squamous*",
    "pigmented benign keratosis": 'diagnosis_3:"Pigmented benign keratosis"',
    "solar lentigo": 'diagnosis_3:"Solar lentigo"',
    "vascular lesion": 'diagnosis_2:"Benign soft tissue proliferations - Vascular"',
    "dermatofibroma": "diagnosis_3:Dermatofibroma",
}
COLUMNS = ("isic_id", "diagnosis", "lesion_id", "patient_id", "copyright_license")


def download(
    folder: Path,
    share: int | None,
    patience: Patience | None = None,
    say: Callable[[str], None] = print,
    search: str = SEARCH,
) -> None:
    """Write ``folder/metadata.csv`` and ``folder/images/<isic_id>.jpg``; images there are kept.

    Args:
        share: how many images, in equal shares of the ten diagnoses; None for all there are.
        search: address of the API's search.

    Raises:
        DataError: naming the image or the list, if one cannot be had whole.
    """
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    work = folder.parent.parent / "isic_lists"
    records: dict[str, dict] = {}
    for name, query in QUERIES.items():
        for record in _listed(name, query, search, work, share, patience):
            records.setdefault(record["isic_id"], record)  # the first diagnosis that asked
    if not records:
        raise DataError(f"isic: the archive lists no image of the ten diagnoses. See {PAGE}.")
    chosen = list(records)
    if share is not None:
        chosen = shares({key: record["diagnosis"] for key, record in records.items()}, share)
    say(f"isic: {len(chosen):,} images")
    for key in chosen:
        if not (images / f"{key}.jpg").exists():
            remote = RemoteFile(f"{key}.jpg", (records[key]["url"],), records[key]["size"])
            got = fetch(remote, work / "coming", check=_decoded, patience=patience, page=PAGE)
            got.path.rename(images / remote.name)
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records[key] for key in sorted(chosen))
    write_atomic(folder / "metadata.csv", table.getvalue().encode())


def _listed(
    name: str, query: str, url: str, work: Path, share: int | None, patience: Patience | None
) -> list[dict]:
    """All records of a diagnosis, in the archive's order; kept, so that a new call does not ask."""
    kept = work / f"{name}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    host, records = urlsplit(url).netloc, []
    url = f"{url}?{urlencode({'query': query, 'limit': 100})}"
    while url and (share is None or len(records) < share):
        if urlsplit(url).netloc != host:
            raise DataError(f"isic: the list of {name} goes on at {url}, which is not the archive.")
        (work / "page.json").unlink(missing_ok=True)
        got = fetch(RemoteFile("page.json", (url,)), work, patience=patience, page=PAGE)
        try:
            answer = json.loads(got.path.read_bytes())
            records += [_record(item, name) for item in answer["results"]]
            url = answer["next"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"isic: the archive's list of {name} cannot be read ({error!r}). See {PAGE}."
            ) from error
    write_atomic(kept, json.dumps(records).encode())
    return records


def _record(item: dict, diagnosis: str) -> dict:
    key = item["isic_id"]
    if not (key.startswith("ISIC_") and key[5:].isalnum()):
        raise ValueError(f"an image is called {key!r}")
    known = item.get("metadata") or {}
    known = (known.get("clinical") or {}) | {"lesion_id": known.get("lesion_id")} | known
    return {
        "isic_id": key,
        "diagnosis": diagnosis,
        "lesion_id": item.get("lesion_id") or known.get("lesion_id"),
        "patient_id": item.get("patient_id") or known.get("patient_id"),
        "copyright_license": item.get("copyright_license"),
        "url": item["files"]["full"]["url"],
        "size": item["files"]["full"].get("size"),
    }


def _decoded(path: Path) -> None:
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path.name}: cannot be decoded ({error})") from error
