"""Fuzzing of the readers: hostile trees go in, a true data set or a documented error comes out.

``fuzz`` draws a valid tree of each data set, damages copies of it in one to three ways
(``hostile.py``), reads them, and holds each result against the files themselves:

* a data set lists every image file once, keeps or counts every one of them, shows the pixels of
  that very file and the label of that very file;
* or a MedrobustError names the place in the tree;
* nothing hangs, nothing is run, nothing is written into the tree.
"""

from __future__ import annotations

import faulthandler
import os
import re
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import hostile
import numpy as np
import small_trees
from PIL import Image

from medrobust_utils import data
from medrobust_utils.core.errors import MedrobustError

SIZE, SECONDS = 16, 20
KINDS = {".csv": hostile.TABLE, ".npy": hostile.ARRAY, ".npz": hostile.ARCHIVE}
CONTENT = {*hostile.IMAGE, *hostile.ARRAY, *hostile.ARCHIVE} - {*hostile.TABLE}
PLACES = {  # where the images lie; a class that is told by the folder is the first group
    "ham10000": r"HAM10000_images_part_[^/]*/",
    "nih": r"images_[^/]*/images/",
    "retinopathy": r"train/",
    "brain_mri": r"Training/(notumor|glioma|meningioma|pituitary)/",
    "kermany": r"(?:train|val|test)/(NORMAL|PNEUMONIA)/",
    "iq_othnccd": r"(Normal|Bengin|Malignant) cases/",
    "busi": r"(normal|benign|malignant)/(?!.*(?i:_mask(?:_\d+)?\.png)$)",
    "consep": r"(?:train|test)/images/",
    "isic": r"images[^/]*/",
    "own": r"images/(?:[^/.][^/]*/)*",
}
CLASSES = {
    "brain_mri": ("notumor", "glioma", "meningioma", "pituitary"),
    "kermany": ("NORMAL", "PNEUMONIA"),
    "iq_othnccd": ("Normal", "Bengin", "Malignant"),
    "busi": ("normal", "benign", "malignant"),
}


class Hang(BaseException):
    """Raised by the alarm; no ``except Exception`` keeps it."""


class Model(NamedTuple):
    """A valid tree, and what it holds as long as nobody changes it."""

    reader: str
    root: Path
    labels: dict[str, np.ndarray]
    tables: dict[str, bytes]


@contextmanager
def deadline(seconds: int) -> Iterator[None]:
    """An alarm after ``seconds``; if a thread that waits for a pipe hides it, the process ends."""

    def ring(*_: object) -> None:
        raise Hang(f"no result after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    faulthandler.dump_traceback_later(2 * seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def entries(root: Path) -> dict[str, os.stat_result]:
    """Every file, link, pipe and folder below ``root`` by its relative path; links not followed."""
    found = {}
    for folder, folders, files in os.walk(root):
        for path in (os.path.join(folder, name) for name in folders + files):
            found[os.path.relpath(path, root)] = os.lstat(path)
    return dict(sorted(found.items()))


def snapshot(root: Path) -> dict[str, tuple[int, int, int]]:
    """What shows that somebody wrote into the tree: kind, size and time of change of everything."""
    found = entries(root).items()
    return {name: (s.st_mode, s.st_size, s.st_mtime_ns) for name, s in found}


def images_in(reader: str, root: Path) -> dict[str, Path]:
    """Image id -> file (for arrays: the folder), counted without the kit's own code."""
    folder, found = root / small_trees.FOLDERS[reader], {}
    if reader == "pannuke":
        for path in folder.rglob("images.npy"):
            fold = folder / path.relative_to(folder).parts[0]
            rows = len(np.load(path, mmap_mode="r", allow_pickle=False))
            number = int(re.search(r"\d+$", fold.name)[0])
            found |= {f"fold{number}_{row:04d}": fold for row in range(rows)}
        return found
    if reader == "breastmnist":
        with np.load(folder / "breastmnist.npz", allow_pickle=False) as file:
            parts = {part: len(file[f"{part}_images"]) for part in ("train", "val", "test")}
        return {f"{part}_{row:05d}": folder for part, n in parts.items() for row in range(n)}
    pattern = re.compile(rf"{PLACES[reader]}(?!\.|Thumbs\.db$)[^/]+$", re.DOTALL)
    by_folder = reader in (*CLASSES, "own")
    for name in filter(pattern.match, entries(folder)):
        if reader == "own" and (folder / name).is_dir():
            continue
        stem = os.path.splitext(name if by_folder else os.path.basename(name))[0]
        stem = stem.removeprefix("images/") if reader == "own" else stem
        assert stem not in found, f"{stem} lies in two places, yet the set was read"
        found[stem] = folder / name
    return found


def pixels_of(path: Path, channels: int) -> np.ndarray:
    """One file at the size of the set, decoded here."""
    with Image.open(path) as file:
        image = file.convert("L" if channels == 1 else "RGB")
    if image.size != (SIZE, SIZE):
        image = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.asarray(image).reshape(SIZE, SIZE, channels)


def check_set(model: Model, found: data.ImageSet, root: Path, duplicates: bool) -> None:
    """Hold a data set against the files it was read from."""
    on_disk, census = images_in(model.reader, root), found.census
    assert len(set(found.ids)) == len(found.ids) == len(found.images) == len(found.targets)
    assert set(found.ids) <= on_disk.keys(), set(found.ids) - on_disk.keys()
    # ISIC: what has another diagnosis than the ten is counted, whether it has a file or not
    others = census.get("other_diagnoses", 0)
    assert 0 <= len(on_disk) - census["images_listed"] <= others
    gone = census.get("exact_duplicates_removed", 0) + census.get("contradictory_labels_dropped", 0)
    assert len(found) + gone == census["images_listed"]
    assert not (duplicates and gone)
    assert np.isfinite(found.targets).all() and found.groups.min() >= 0
    if found.masks is not None:
        assert set(np.unique(found.masks[:])) <= {0, 1}
    if not found.segmentation:
        assert found.targets.min() >= 0
        assert found.multi_label or found.targets.max() < len(found.classes)
    if model.reader not in ("pannuke", "breastmnist", "own"):  # those are not plain 8-bit files
        _check_pixels(found, {k: v for k, v in on_disk.items() if k in found.ids or not others})
    _check_labels(model, found, root)


def _check_pixels(found: data.ImageSet, files: dict[str, Path]) -> None:
    """Each image shows its own file, and what was taken out is a copy."""
    truth = {name: pixels_of(path, found.images.shape[3]) for name, path in files.items()}
    for row, name in enumerate(found.ids):
        assert (found.images[row] == truth[name]).all(), f"{name} shows another file"
    for name in truth.keys() - set(found.ids):
        twins = [other for other in truth if other != name and (truth[other] == truth[name]).all()]
        assert twins, f"{name} was taken out, though it has no copy"


def _check_labels(model: Model, found: data.ImageSet, root: Path) -> None:
    classes, tables = CLASSES.get(model.reader), model.tables.items()
    same = all((root / name).is_file() and (root / name).read_bytes() == t for name, t in tables)
    for row, name in enumerate(found.ids):
        if classes:
            label = re.match(PLACES[model.reader], name)[1]
            assert found.targets[row] == classes.index(label), f"{name}: wrong class"
        elif tables and same:
            assert (found.targets[row] == model.labels[name]).all(), f"{name}: wrong label"


def damage(root: Path, rng: np.random.Generator) -> list[tuple[Callable, Path]]:
    """Damage one to three files, each in a way that suits it."""
    done = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        files = [root / name for name in entries(root)]
        files = [path for path in files if path.suffix and not path.is_dir()]
        if not files:
            break
        kinds = sorted({path.suffix.lower() for path in files})  # a table among many images, too
        kind = kinds[rng.integers(len(kinds))]
        files = [path for path in files if path.suffix.lower() == kind]
        path = files[rng.integers(len(files))]
        ways = (KINDS.get(kind, hostile.IMAGE), hostile.TREE)[int(rng.random() < 0.4)]
        done.append((ways[rng.integers(len(ways))], path))
        with suppress(OSError):  # a name that the file system refuses is no mutation
            done[-1][0](path, rng)
    return done


def read(reader: str, root: Path, duplicates: bool) -> data.ImageSet:
    """The data set below ``root``, by the kit's own way in."""
    if reader == "own":
        folder = root / small_trees.FOLDERS[reader]
        return data.load(f"folder:{folder}", size=SIZE, duplicates=duplicates)
    return data.READERS[reader](root, SIZE, duplicates=duplicates)


def check(model: Model, rng: np.random.Generator) -> str:
    """Read one damaged copy; ``read`` or ``refused``. Anything else is an AssertionError.

    ``unchanged`` is what no mutation suited, such as a copy onto itself.
    """
    with tempfile.TemporaryDirectory() as scratch:
        root, duplicates = Path(scratch, "data"), rng.random() < 0.5
        shutil.copytree(model.root, root)
        done, before = damage(root, rng), snapshot(root)
        os.environ["MEDROBUST_HOME"] = f"{scratch}/home"
        with deadline(SECONDS):
            try:
                found = read(model.reader, root, duplicates)
                if found.masks is not None:
                    found.masks[:]
            except MedrobustError as error:
                outcome, said = "refused", str(error)
                assert str(root / small_trees.FOLDERS[model.reader]) in said, f"no place: {said}"
                if len(done) == 1 and done[0][0] in CONTENT:  # one bad file of thousands is named
                    path = done[0][1]
                    assert path.stem in said or str(path.parent) in said, f"{path}: {said}"
            else:
                check_set(model, found, root, duplicates)
                outcome = "read"
        assert snapshot(root) == before, "something was written into the tree"
        assert not Path(hostile.Trap.marker).exists(), "code in a file was run"
        return outcome if before != snapshot(model.root) else "unchanged"


def model_of(reader: str, root: Path) -> Model:
    """A valid tree of ``reader`` below ``root``, which is read to learn its labels."""
    small_trees.BUILDERS[reader](root)
    os.environ["MEDROBUST_HOME"] = f"{root}-home"
    found = read(reader, root, True)
    tables = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.csv")}
    model = Model(reader, root, dict(zip(found.ids, found.targets, strict=True)), tables)
    check_set(model, found, root, True)
    return model


def fuzz(examples: int, seed: int = 0) -> Iterator[tuple[str, Counter]]:
    """Read ``examples`` damaged trees, shared evenly by the readers, each of which is told.

    Yields:
        A reader, and how many trees were ``read`` and ``refused``; ``unchanged`` are no mutations.

    Raises:
        AssertionError, or what the reader raised: with the number of the tree that led to it.
    """
    for order, reader in enumerate(small_trees.BUILDERS):
        counts, home = Counter(), os.environ.get("MEDROBUST_HOME")
        with tempfile.TemporaryDirectory() as scratch:
            model = model_of(reader, Path(scratch, "valid"))
            for number in range(order, examples, len(small_trees.BUILDERS)):
                try:
                    counts[check(model, np.random.default_rng([seed, number]))] += 1
                except BaseException as error:
                    error.add_note(f"{reader}, tree {number} of seed {seed}")
                    raise
        os.environ.pop("MEDROBUST_HOME")
        os.environ |= {"MEDROBUST_HOME": home} if home else {}
        yield reader, counts
