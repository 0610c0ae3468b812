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
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import hostile
import numpy as np
import small_trees
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from PIL import Image

from medrobust_utils import data
from medrobust_utils.core.errors import MedrobustError

SIZE, SECONDS = 16, 20
KINDS = {".csv": hostile.TABLE, ".npy": hostile.ARRAY, ".npz": hostile.ARCHIVE}
PLACES = {  # where the images lie, and what in their names is no image
    "ham10000": (r"HAM10000_images_part_[^/]*/", None),
    "nih": (r"images_[^/]*/images/", None),
    "retinopathy": (r"train/", None),
    "brain_mri": (r"Training/(notumor|glioma|meningioma|pituitary)/", None),
    "kermany": (r"(?:train|val|test)/(NORMAL|PNEUMONIA)/", None),
    "iq_othnccd": (r"(Normal|Bengin|Malignant) cases/", None),
    "busi": (r"(normal|benign|malignant)/", r"_mask(_\d+)?\.png$"),
    "consep": (r"(?:train|test)/images/", None),
    "isic": (r"images[^/]*/", None),
    "own": (r"images/(?:[^/.][^/]*/)*", None),
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


def entries(root: Path) -> list[str]:
    """Every file, link, pipe and folder below ``root`` by its relative path; links not followed."""
    found = []
    for folder, folders, files in os.walk(root):
        found += [os.path.relpath(os.path.join(folder, name), root) for name in folders + files]
    return sorted(found)


def snapshot(root: Path) -> dict[str, tuple[int, int, int]]:
    """What shows that somebody wrote into the tree: kind, size and time of change of everything."""
    states = {name: os.lstat(root / name) for name in entries(root)}
    return {name: (s.st_mode, s.st_size, s.st_mtime_ns) for name, s in states.items()}


def images_in(reader: str, root: Path) -> dict[str, Path]:
    """Image id -> file (for arrays: the folder of the fold), counted without the kit's own code."""
    folder = root / small_trees.FOLDERS[reader]
    if reader == "pannuke":
        return _rows_of_arrays(folder)
    if reader == "breastmnist":
        with np.load(folder / "breastmnist.npz", allow_pickle=False) as file:
            counts = {part: len(file[f"{part}_images"]) for part in ("train", "val", "test")}
        return {f"{part}_{row:05d}": folder for part in counts for row in range(counts[part])}
    place, no_image = PLACES[reader]
    by_folder = reader in CLASSES
    found = {}
    for name in entries(folder):
        base = os.path.basename(name)
        if not re.match(f"{place}[^/]+$", name, re.DOTALL) or base.startswith("."):
            continue
        if base == "Thumbs.db" or (no_image and re.search(no_image, base, re.IGNORECASE)):
            continue
        if reader == "own" and (folder / name).is_dir():
            continue
        stem = os.path.splitext(name if by_folder or reader == "own" else base)[0]
        stem = stem.removeprefix("images/") if reader == "own" else stem
        assert stem not in found, f"{stem} lies in two places, yet the set was read"
        found[stem] = folder / name
    return found


def _rows_of_arrays(folder: Path) -> dict[str, Path]:
    found = {}
    for path in folder.rglob("images.npy"):
        fold = folder / path.relative_to(folder).parts[0]
        number = int(re.search(r"\d+$", fold.name)[0])
        rows = len(np.load(path, mmap_mode="r", allow_pickle=False))
        found |= {f"fold{number}_{row:04d}": fold for row in range(rows)}
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
    others = on_disk.keys() if census.get("other_diagnoses") else set()
    assert 0 <= len(on_disk) - census["images_listed"] <= census.get("other_diagnoses", 0)
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
        _check_pixels(found, on_disk, others)
    _check_labels(model, found, root)


def _check_pixels(found: data.ImageSet, on_disk: dict[str, Path], others: Container[str]) -> None:
    """Each image shows its own file, and what was taken out is a copy."""
    channels = found.images.shape[3]
    names = set(found.ids) | {name for name in on_disk if name not in others}
    truth = {name: pixels_of(on_disk[name], channels) for name in names}
    for row, name in enumerate(found.ids):
        assert (found.images[row] == truth[name]).all(), f"{name} shows another file"
    for name in truth.keys() - set(found.ids):
        twins = [other for other in truth if other != name and (truth[other] == truth[name]).all()]
        assert twins, f"{name} was taken out, though it has no copy"


def _check_labels(model: Model, found: data.ImageSet, root: Path) -> None:
    classes = CLASSES.get(model.reader)
    same_tables = all(
        (root / name).is_file() and (root / name).read_bytes() == content
        for name, content in model.tables.items()
    )
    for row, name in enumerate(found.ids):
        if classes:
            label = re.match(PLACES[model.reader][0], name)[1]
            assert found.targets[row] == classes.index(label), f"{name}: wrong class"
        elif model.tables and same_tables:
            assert (found.targets[row] == model.labels[name]).all(), f"{name}: wrong label"


def damage(root: Path, mutations: list[tuple[Callable, int]]) -> list[Path]:
    """Apply mutations to files that they suit; returns the files."""
    touched = []
    for mutation, number in mutations:
        rng = np.random.default_rng(number)
        suited = [root / name for name in entries(root) if _suits(mutation, root / name)]
        if suited:
            path = suited[rng.integers(len(suited))]
            with suppress(OSError):  # a name that the file system refuses is no mutation
                mutation(path, rng)
            touched.append(path)
    return touched


def _suits(mutation: Callable, path: Path) -> bool:
    if path.is_dir() or not path.suffix:
        return False
    known = KINDS.get(path.suffix.lower(), hostile.IMAGE)
    return mutation in known or mutation in hostile.TREE


def read(reader: str, root: Path, duplicates: bool) -> data.ImageSet:
    """The data set below ``root``, by the kit's own way in."""
    if reader == "own":
        folder = root / small_trees.FOLDERS[reader]
        return data.load(f"folder:{folder}", size=SIZE, duplicates=duplicates)
    return data.READERS[reader](root, SIZE, duplicates=duplicates)


def check(model: Model, mutations: list[tuple[Callable, int]], duplicates: bool) -> str:
    """Read one damaged copy; ``read`` or ``refused``. Anything else is an AssertionError.

    ``unchanged`` is what no mutation suited, such as a copy onto itself.
    """
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch, "data")
        shutil.copytree(model.root, root)
        touched = damage(root, mutations)
        before = snapshot(root)
        os.environ["MEDROBUST_HOME"] = f"{scratch}/home"
        with deadline(SECONDS):
            try:
                found = read(model.reader, root, duplicates)
                if found.masks is not None:
                    found.masks[:]
            except MedrobustError as error:
                _check_message(str(error), root, model.reader, touched, mutations)
                outcome = "refused"
            else:
                check_set(model, found, root, duplicates)
                outcome = "read"
        assert snapshot(root) == before, "something was written into the tree"
        assert not Path(hostile.Trap.marker).exists(), "code in a file was run"
        return outcome if before != snapshot(model.root) else "unchanged"


def _check_message(message: str, root: Path, reader: str, touched: list[Path], mutations) -> None:
    folder = root / small_trees.FOLDERS[reader]
    assert str(folder) in message, f"names no place in the tree: {message}"
    content = (*hostile.IMAGE, *hostile.ARRAY, *hostile.ARCHIVE)
    if len(touched) == 1 and mutations[0][0] in content and mutations[0][0] not in hostile.TABLE:
        path = touched[0]  # one bad file: a message that names it spares a search of thousands
        assert path.stem in message or str(path.parent) in message, (
            f"{path} is not named: {message}"
        )


def model_of(reader: str, root: Path) -> Model:
    """A valid tree of ``reader`` below ``root``, which is read to learn its labels."""
    small_trees.BUILDERS[reader](root)
    os.environ["MEDROBUST_HOME"] = f"{root}-home"
    found = read(reader, root, True)
    tables = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.csv")}
    model = Model(reader, root, dict(zip(found.ids, found.targets, strict=True)), tables)
    check_set(model, found, root, True)
    return model


def strategy(model: Model) -> st.SearchStrategy:
    """One to three mutations that suit the tree's files, each with the seed of its choices."""
    kinds = {path.suffix for path in model.root.rglob("*") if path.is_file()}
    groups = {KINDS.get(kind, hostile.IMAGE) for kind in kinds} | {hostile.TREE}
    one = st.sampled_from(sorted(groups, key=len)).flatmap(st.sampled_from)
    return st.lists(st.tuples(one, st.integers(0, 2**32 - 1)), min_size=1, max_size=3)


def fuzz(
    examples: int,
    seed: int | None = None,
    readers: list[str] | None = None,
    told: Callable[[str, dict], None] = lambda reader, counts: None,
) -> dict[str, dict[str, int]]:
    """Read ``examples`` damaged trees, shared evenly by the readers.

    Args:
        seed: of hypothesis; None draws the same examples every time.
        told: is called after each reader, to show progress.

    Returns:
        Reader -> how many trees were ``mutated``, and of them ``read`` and ``refused``.

    Raises:
        AssertionError, or what the reader raised: with the mutations that led to it.
    """
    readers, result = readers or list(small_trees.BUILDERS), {}
    before = dict(os.environ)
    try:
        for number, reader in enumerate(readers):
            share = examples // len(readers) + (number < examples % len(readers))
            result[reader] = _fuzz_one(reader, share, seed)
            told(reader, result[reader])
    finally:
        os.environ.clear()
        os.environ.update(before)
    return result


def _fuzz_one(reader: str, examples: int, seed: int | None) -> dict[str, int]:
    counts = {"mutated": 0, "read": 0, "refused": 0}
    with tempfile.TemporaryDirectory() as scratch:
        model = model_of(reader, Path(scratch, "valid"))

        @settings(
            max_examples=examples,
            derandomize=seed is None,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy(model), st.booleans())
        def run(mutations: list, duplicates: bool) -> None:
            outcome = check(model, mutations, duplicates)
            if outcome != "unchanged":
                counts["mutated"] += 1
                counts[outcome] += 1

        (run if seed is None else seeded(seed)(run))()
    return counts
