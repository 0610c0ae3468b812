"""Downloads that arrive whole: fetched, checked, unpacked safely, and put in place at once."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from unittest.mock import patch
from urllib.parse import urlencode, urlsplit

import pandas as pd

from ...core.disk import SENTENCES
from ...core.errors import DataError
from ...core.storage import write_atomic
from ..catalogue import DataSet, RemoteFile
from . import placing
from .transfer import fetch

DATAVERSE = "https://dataverse.harvard.edu/api"
HAM10000 = ("HAM10000_metadata", "HAM10000_images_part_1", "HAM10000_images_part_2")
ISIC = "https://api.isic-archive.com/api/v2/images/search/"
ISIC_COLUMNS = ("isic_id", "diagnosis", "lesion_id", "patient_id", "copyright_license")
# The archive names diagnoses in a tree since 2024: what the ten older names became.
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
# Of EyePACS' competition only these are read; all of it would be more than twice as much.
EYEPACS = (*(f"train.zip.00{number}" for number in range(1, 6)), "trainLabels.csv.zip")


def download_set(dataset: DataSet, root: Path, only: str = "", share: int | None = None) -> None:
    """Download, unpack and place a data set below ``root``; what is there already is kept.

    Killed at any moment and called again, it goes on, and ends with the same files.

    Args:
        only: name of one file of the set, where not all are wanted.
        share: how many images of the ISIC Archive, in equal shares of the classes as far as
            possible.

    Raises:
        DataError: naming the file and the remedy; nothing unfinished is in place then.
    """
    folder = root / dataset.folder
    key = "@".join(filter(None, (dataset.name, only, str(share or ""))))
    with placing.exclusive(root) as staging:
        placed, work, record = staging / "placed.json", staging / key, {}
        with suppress(FileNotFoundError, ValueError):
            record = json.loads(placed.read_text())
        known = Counter(record.get(dataset.name) or record.get(key))
        if not known or not known <= placing.measure(folder):
            work.mkdir(exist_ok=True)
            if not (work / "ready").exists():
                _gather(dataset, work, only, share)
                tree = placing.lifted(work / "tree", dataset.lift)
                if dataset.prepare == "consep_patches" and not (work / "cut").exists():
                    from ..nuclei import cut  # brings torch, which the help must not wait for

                    cut(tree, work / "cut")
                tree = work / "cut" if dataset.prepare else tree
                record[key] = placing.measure(tree)
                write_atomic(placed, json.dumps(record, indent=1, sort_keys=True).encode())
                tree.rename(work / "ready")
            placing.place(work / "ready", folder)
        shutil.rmtree(work, ignore_errors=True)
    print(f"{key} is in place: {folder}")


def _gather(dataset: DataSet, work: Path, only: str, share: int | None) -> None:
    """Fetch and unpack all that is wanted into ``work/tree``."""
    if dataset.access == "kaggle":
        return _from_kaggle(dataset, work)
    tree, new = work / "tree", work / "new"
    try:
        for file in dataset.files or LISTS[dataset.name](dataset, work, share):
            done = work / f"{file.name}.got" if file.unpack else tree / file.name
            if only not in ("", file.name) or done.exists():
                continue
            if file.unpack:
                print(f"{dataset.name}: {file.name}")
            check = partial(placing.unpack, target=new, into=file.unpack) if file.unpack else None
            path = fetch(file, work / "coming" / file.name, check)
            placing.place(*((new, tree) if file.unpack else (path, tree / file.name)))
            done.touch()
            shutil.rmtree(work / "coming")
    except DataError as error:
        if not dataset.kaggle or not has_credentials():
            raise
        print(f"{error}\nThe copy on Kaggle is tried instead.")
        _from_kaggle(dataset, work)


def has_credentials() -> bool:
    """Whether kagglehub finds credentials; they are neither asked for, printed nor stored."""
    from kagglehub.config import get_kaggle_credentials

    try:
        return get_kaggle_credentials() is not None
    except (ValueError, OSError) as error:
        raise DataError(f"{error}. Get another at https://www.kaggle.com/settings.") from None


def _from_kaggle(dataset: DataSet, work: Path) -> None:
    """Through kagglehub, and unpacked."""
    raw, whole, joining = work / "raw", work / "raw" / "train.zip", work / "joining"
    if not raw.exists() and not (work / "tree").exists():
        _ask_kaggle(dataset, work / "cache").rename(raw)
    placing.tidy(raw)
    parts = sorted(raw.glob("train.zip.*"))
    if parts and not whole.exists():  # a file that was cut up
        placing.need_room(work, sum(part.stat().st_size for part in parts), whole.name)
        with joining.open("wb") as out:
            for part in parts:
                with part.open("rb") as source:
                    shutil.copyfileobj(source, out, 1 << 20)
        joining.rename(whole)
    for part in parts:
        part.unlink()
    for archive in sorted(raw.glob("*.zip")):  # what a competition's files are
        placing.unpack(archive, work / "new")
        placing.place(work / "new", raw)
        archive.unlink()
    placing.place(raw, work / "tree")


def _ask_kaggle(dataset: DataSet, cache: Path) -> Path:
    import kagglehub

    print(f"{dataset.name}: from https://www.kaggle.com/{dataset.kaggle}")
    kind, _, handle = dataset.kaggle.partition("/")
    # A cache of ours, on the disk where the set goes, and no other.
    ours = {"KAGGLEHUB_CACHE": str(cache), "KAGGLEHUB_VERBOSITY": "warning"}
    ours |= {"DISABLE_COLAB_CACHE": "true", "DISABLE_KAGGLE_CACHE": "true"}
    try:
        with patch.dict(os.environ, ours):
            if kind == "datasets":
                return Path(kagglehub.dataset_download(handle))
            paths = [kagglehub.competition_download(handle, path=name) for name in EYEPACS]
            return Path(paths[0]).parent
    except Exception as error:  # kagglehub's errors have no common base
        if isinstance(error, OSError) and error.errno in SENTENCES:
            raise
        status = getattr(getattr(error, "response", None), "status_code", "")
        # Not the whole message: it may hold a signed address, which is as good as a credential.
        raise DataError(
            f"{dataset.name}: Kaggle does not give it ({type(error).__name__} {status}). Accept "
            f"its terms at https://www.kaggle.com/{dataset.kaggle}, check your credentials, retry."
        ) from None


def _listed(dataset: DataSet, url: str, parse: Callable, work: Path):
    """What ``parse`` makes of the JSON at ``url``."""
    shutil.rmtree(work / "list", ignore_errors=True)  # no earlier answer
    answer = fetch(RemoteFile("list.json", (url,)), work / "list")
    try:
        return parse(json.loads(answer.read_bytes()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        text = f"{dataset.name}: the list at {url} cannot be read ({error!r}). See {dataset.page}."
        raise DataError(text) from error


def _list_dataverse(dataset: DataSet, work: Path, _: int | None) -> list[RemoteFile]:
    """HAM10000's archives and its table, as the repository lists them, with their checksums."""
    doi = "doi:" + dataset.page.removeprefix("https://doi.org/")
    url = f"{DATAVERSE}/datasets/:persistentId/versions/:latest/files?persistentId={doi}"
    return _listed(dataset, url, _dataverse_files, work)


def _dataverse_files(answer: dict) -> list[RemoteFile]:
    files = []
    for entry in (entry["dataFile"] for entry in answer["data"]):
        stem, url = Path(entry["filename"]).stem, f"{DATAVERSE}/access/datafile/{entry['id']}"
        if stem == HAM10000[0]:  # a table; the checksum is of its converted form
            files.append(RemoteFile(f"{stem}.csv", (f"{url}?format=original",)))
        elif stem in HAM10000:
            files.append(RemoteFile(f"{stem}.zip", (url,), md5=entry.get("md5"), unpack=stem))
    if len(files) != len(HAM10000):
        raise ValueError(f"it has {len(files)} of three files")
    return files


def _list_isic(dataset: DataSet, work: Path, share: int | None) -> list[RemoteFile]:
    """The images of ten diagnoses in the ISIC Archive, whose table is made of their lists."""
    listed, rows = work / "isic.json", {}
    if not listed.exists():
        for diagnosis, query in QUERIES.items():
            url, found = f"{ISIC}?{urlencode({'query': query, 'limit': 100})}", 0
            while url and (share is None or found < share):
                page, url = _listed(dataset, url, partial(_isic_page, diagnosis), work)
                found, rows = found + len(page), page | rows  # the first diagnosis that asked
        if not rows:
            text = f"isic: the archive lists no image of the ten diagnoses. See {dataset.page}."
            raise DataError(text)
        write_atomic(listed, json.dumps(rows).encode())
    rows = json.loads(listed.read_bytes())
    chosen = shares({key: row["diagnosis"] for key, row in rows.items()}, share)
    print(f"isic: {len(chosen):,} images")
    table = pd.DataFrame([rows[key] for key in chosen], columns=ISIC_COLUMNS)
    (work / "tree").mkdir(exist_ok=True)
    write_atomic(work / "tree" / "metadata.csv", table.to_csv(index=False).encode())
    files = ((f"images/{key}.jpg", rows[key]["url"], rows[key]["size"]) for key in chosen)
    return [RemoteFile(name, (url,), size) for name, url, size in files]


def _isic_page(diagnosis: str, answer: dict) -> tuple[dict[str, dict], str | None]:
    rows = {}
    for item in answer["results"]:
        if not re.fullmatch(r"ISIC_\w+", item["isic_id"]):
            raise ValueError(f"an image is called {item['isic_id']!r}")
        full, known = item["files"]["full"], item.get("metadata") or {}
        known = known | (known.get("clinical") or {}) | item | {"diagnosis": diagnosis}
        row = {column: known.get(column) for column in ISIC_COLUMNS}
        rows[item["isic_id"]] = row | {"url": full["url"], "size": full.get("size")}
    after = answer["next"]
    if after and urlsplit(after).netloc != urlsplit(ISIC).netloc:
        raise ValueError(f"it goes on at {after}, which is not the archive")
    return rows, after


LISTS = {"ham10000": _list_dataverse, "isic": _list_isic}


def shares(classes: dict[str, str], count: int | None) -> list[str]:
    """``count`` of the names in ``classes`` (name -> class), in equal shares as far as possible.

    The same each time. Classes that have too few give what they have, and the others fill up.
    """
    names, seen = sorted(classes), Counter()
    random.Random(0).shuffle(names)
    turns = []
    for name in names:
        seen[classes[name]] += 1
        turns.append((seen[classes[name]], classes[name], name))  # each class gives one a turn
    return sorted(name for *_, name in sorted(turns)[:count])
