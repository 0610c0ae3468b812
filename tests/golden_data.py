"""What the readers make of the eight real sets, in hashes: ``tests/golden/real_sets.json``.

A set is read whole (``make soak``) or as a tree of links to about 200 of its images (the tests).
Pixels are hashed after decoding, so the libraries of the lock decide. The record is written anew by
``python tests/golden_data.py --write [SET ...]``, which takes minutes; whatever changes in it has a
reason that the commit names.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from medrobust_utils import data
from medrobust_utils.data import ImageSet

RECORD = Path(__file__).parent / "golden" / "real_sets.json"
FOLDERS = {
    "brain_mri": "brain_tumor_mri",
    "busi": "Dataset_BUSI_with_GT",
    "consep": "consep_patches",
    "ham10000": "ham10000",
    "iq_othnccd": "The IQ-OTHNCCD lung cancer dataset",
    "kermany": "chest_xray",
    "nih": "nih_chestxray14",
    "retinopathy": "diabetic_retinopathy",
}
# set -> its table, and the columns of images and of labels
TABLES = {
    "ham10000": ("HAM10000_metadata.csv", "image_id", "dx"),
    "nih": ("Data_Entry_2017_v2020.csv", "Image Index", "Finding Labels"),
    "retinopathy": ("trainLabels.csv", "image", "level"),
}
IMAGES = (".jpg", ".jpeg", ".png")
FEW, TOGETHER = 200, 4  # images of a part; so many neighbours, who share patients, tiles, lesions
SIZES = {"part": 32, "whole": 64}  # pixels a side; near duplicates are found at that size
SEEDS = {"part": (0,), "whole": range(5)}


def few(root: Path, name: str, into: Path) -> Path:
    """A tree below ``into`` with links to about 200 images of a set, every class among them."""
    folder, place = root / FOLDERS[name], into / FOLDERS[name]
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    labels = {_stem(path): str(path.parent) for path in files if path.parent.name != "labels"}
    if name in TABLES:
        table, images, kinds = TABLES[name]
        rows = pd.read_csv(folder / table)
        stems = rows[images].str.removesuffix(".png")
        labels = dict(zip(stems, rows[kinds].astype(str).str.split("|").str[0], strict=True))
    classes: dict[str, list[str]] = {}
    for stem, label in labels.items():
        classes.setdefault(label, []).append(stem)
    chosen: set[str] = set()
    for done, names in enumerate(sorted(classes.values(), key=len)):
        chosen |= _spread(names, (FEW - len(chosen)) // (len(classes) - done))
    for path in files:
        link = place / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix not in IMAGES or _stem(path) in chosen:
            link.symlink_to(path)
    if name in TABLES:
        (place / table).unlink()
        rows[stems.isin(chosen)].to_csv(place / table, index=False)
    return into


def _stem(path: Path) -> str:
    """The image that a file belongs to, be it an outline."""
    return path.stem.partition("_mask")[0].removesuffix("_segmentation")


def _spread(names: list[str], count: int) -> set[str]:
    """About ``count`` of the names, in blocks of neighbours at regular distances."""
    blocks = max(1, count // TOGETHER)
    starts = [i * len(names) // blocks for i in range(blocks)]
    return {name for start in starts for name in names[start : start + TOGETHER]}


def facts(root: Path, name: str, extent: str) -> dict:
    """Counts and hashes of one set below ``root``: of a ``part`` or ``whole``."""
    images = data.READERS[name](root, SIZES[extent])
    first, member = np.unique(images.groups, return_index=True, return_inverse=True)[1:]
    found = {
        "files": _files(root / FOLDERS[name]),
        "images": len(images),
        "census": images.census,
        "names and labels": _hash([*images.ids, *images.classes], images.targets),
        "groups": _hash([], first[member]),  # whatever their numbers
        "pixels": _hash([], *(images.images[i : i + 512] for i in range(0, len(images), 512))),
    }
    if images.masks is not None and extent == "part":
        found["outlines"] = _hash([], images.masks[:])
    for seed in SEEDS[extent]:
        for kind, sides in _splits(images, seed):
            found[kind] = [
                f"{len(side)} {_hash(sorted(images.ids[i] for i in side))}" for side in sides
            ]
    return json.loads(json.dumps(found))  # as they come back from the record


def _splits(images: ImageSet, seed: int) -> Iterator[tuple[str, Iterable[np.ndarray]]]:
    """Every split that the studies make of a set."""
    folds = 8 if images.name in ("brain_mri", "busi", "iq_othnccd", "kermany") else 10
    made: dict[str, Callable] = {
        "by group": data.split_by_group,
        "three ways by group": partial(data.split_three_ways, val_folds=folds),
    }
    if images.targets.ndim == 1:
        made["by image"] = data.split_by_image
    if images.name == "ham10000":
        made["like Datta"] = data.split_like_datta
    if images.name == "consep":
        made["official"] = data.split_official
    for kind, split in made.items():
        yield f"{kind}, seed {seed}", split(images, seed=seed)


def _files(folder: Path) -> str:
    """The copy that is read: names and bytes of its images, tables left out."""
    paths = (path for path in sorted(folder.rglob("*")) if path.suffix in IMAGES)
    return _hash([f"{path.relative_to(folder)} {path.stat().st_size}" for path in paths])


def _hash(names: Iterable[str], *arrays: np.ndarray) -> str:
    digest = hashlib.sha256("\n".join(names).encode())
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape[1:]}".encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()[:16]


def recorded(extent: str) -> dict[str, dict]:
    """Set -> the facts that were committed."""
    return json.loads(RECORD.read_text())[extent]


def recorded_copy(root: Path, name: str) -> bool:
    """Whether the files of a set are those that the record was made of."""
    was = recorded("whole").get(name)
    return was is not None and _files(root / FOLDERS[name]) == was["files"]


def write(root: Path, names: Iterable[str]) -> None:
    """The record of some sets anew, each kept as it is done."""
    record = json.loads(RECORD.read_text())
    with tempfile.TemporaryDirectory() as home:
        os.environ["MEDROBUST_HOME"] = home
        for name in names:
            part = few(root, name, Path(home, "few"))
            record["part"][name] = facts(part, name, "part")
            record["whole"][name] = facts(root, name, "whole")
            RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
            print(name, record["whole"][name], flush=True)


if __name__ == "__main__" and sys.argv[1:2] == ["--write"]:
    write(Path(os.environ["MEDROBUST_DATA"]), sys.argv[2:] or FOLDERS)
