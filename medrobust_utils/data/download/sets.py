"""One data set, from its publisher's servers to its place: all of it, or nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import DataError
from ...core.storage import write_atomic
from ..catalogue import DataSet, RemoteFile
from . import access, dataverse, isic, kaggle, place, subset
from .lock import Lock, exclusive
from .transfer import Patience, fetch
from .unpack import check, is_archive, unpack


def download_set(
    dataset: DataSet,
    root: Path,
    *,
    only: Sequence[str] = (),
    share: int | None = None,
    patience: Patience | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Download, unpack and place a data set below ``root``; what is there already is kept.

    Killed at any moment and called again, it goes on, and ends with the same files.

    Args:
        only: names of files of the set, where not all of them are wanted.
        share: how many images are kept, in equal shares of the classes as far as possible.
        say: told what happens, in lines.

    Returns:
        The set's folder.

    Raises:
        DataError: naming the file and the remedy; nothing unfinished is in place then.
    """
    with exclusive(root) as staging:
        work = _Work(dataset, root, staging / dataset.name, tuple(only), share, patience, say)
        if not work.done():
            work.gather()
            work.shape()
            work.settle()
    return root / dataset.folder


@dataclass
class _Work:
    """The steps; ``step.json`` in the staging folder says which of them are behind."""

    dataset: DataSet
    root: Path
    staging: Path
    only: tuple[str, ...]
    share: int | None
    patience: Patience | None
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        self.lock = Lock(self.root)
        self.folder = self.root / self.dataset.folder
        self.tree, self.steps_file = self.staging / "tree", self.staging / "step.json"
        self.order = {"only": sorted(self.only), "share": self.share}
        self.steps = self._steps()

    def _steps(self) -> dict:
        try:
            steps = json.loads(self.steps_file.read_text())
            if steps["order"] == self.order:
                return steps
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return {"order": self.order}

    def _step(self, **facts: object) -> None:
        self.steps |= facts
        write_atomic(self.steps_file, json.dumps(self.steps).encode())

    def done(self) -> bool:
        """Whether an earlier call put all of this in place and it still is there."""
        known = self.lock.sets.get(self.dataset.name, {})
        order = known.get("order", {"only": None, "share": None})
        covers = order["share"] == self.share and (
            order["only"] == [] or (self.only and set(self.only) <= set(order["only"] or ()))
        )
        if covers and place.still_there(self.folder, known.get("placed", {})):
            self.say(f"{self.dataset.name} is in place: {self.folder}")
            return True
        if known and order["share"] != self.share:
            raise DataError(
                f"{self.folder}: holds {_amount(order['share'])} already. Move it away "
                f"and delete its entry in {self.lock.path} to download {_amount(self.share)}."
            )
        return False

    def gather(self) -> None:
        """Fetch every file and unpack it; afterwards all of the set lies in the staging folder."""
        if "gathered" in self.steps:
            return
        if self.tree.exists():  # left by a call that wanted something else
            shutil.rmtree(self.staging)
        whole = self.staging / "whole"
        whole.mkdir(parents=True, exist_ok=True)
        if self.dataset.name == "isic":
            isic.download(whole / "isic", self.share, self.patience, self.say)
            where = {"isic": "."}
        elif self.dataset.access == "kaggle":
            where = self._from_kaggle(whole)
        else:
            where = self._from_publisher(whole)
        self._step(gathered=where)

    def _from_kaggle(self, whole: Path) -> dict[str, str]:
        kaggle.download(self.dataset, whole / "kaggle", self.say)
        return {"kaggle": "."}

    def _from_publisher(self, whole: Path) -> dict[str, str]:
        """Folder below ``whole`` -> where it belongs in the set."""
        files = self._wanted()
        try:
            for file in files:
                self._one(file, whole / file.name)
        except DataError as error:
            if not self.dataset.kaggle or not access.has_credentials():
                raise
            self.say(f"{error}\nThe copy on Kaggle is tried instead.")
            return self._from_kaggle(whole)
        return {file.name: file.unpack or "." for file in files}

    def _wanted(self) -> list[RemoteFile]:
        files = self.dataset.files
        if not files and self.dataset.access == "open" and self.dataset.name != "isic":
            files = dataverse.files(self.dataset, self.patience)
        unknown = sorted(set(self.only) - {file.name for file in files})
        if unknown:
            names = ", ".join(file.name for file in files)
            raise DataError(f"{self.dataset.name}: no file {unknown}. Known: {names}.")
        return [file for file in files if not self.only or file.name in self.only]

    def _one(self, file: RemoteFile, whole: Path) -> None:
        if whole.is_dir() and self.lock.held(self.dataset.name, file.name):
            return
        self.say(f"{self.dataset.name}: {file.name}")
        tested = check if is_archive(file.name) else None
        got = fetch(
            file,
            self.staging,
            held=self.lock.held(self.dataset.name, file.name),
            check=tested,
            patience=self.patience,
            page=self.dataset.page,
        )
        if file.unpack is None:
            shutil.rmtree(whole, ignore_errors=True)
            if tested:
                tested(got.path)
            whole.mkdir()
            shutil.copystat(got.path, whole)
            (self.staging / file.name).rename(whole / file.name)
        else:
            unpack(got.path, whole, lift=self.dataset.lift)
        note = {"url": got.url, "size": got.bytes, "sha256": got.sha256}
        self.lock.note_file(self.dataset.name, file.name, **note)
        got.path.unlink(missing_ok=True)

    def shape(self) -> None:
        """Join what was unpacked into one tree, in the layout that is read."""
        for name, where in self.steps["gathered"].items():
            place.place(self.staging / "whole" / name, self.tree / where)
        if "shaped" not in self.steps:
            place.lift(self.tree, self.dataset.lift)
            self._prepare()
            self._step(shaped=True)
        if self.share is not None and self.dataset.name != "isic":
            if "chosen" not in self.steps:
                self._step(chosen=subset.choose(self.dataset, self.tree, self.folder, self.share))
            subset.cut(self.dataset, self.tree, set(self.steps["chosen"]))

    def _prepare(self) -> None:
        if self.dataset.prepare != "consep_patches":
            return
        from .. import consep_patches

        cut = self.staging / "cut"
        if "prepared" not in self.steps:
            shutil.rmtree(cut, ignore_errors=True)
            consep_patches.cut(self.tree, cut)
            self._step(prepared=True)
        if cut.exists():
            shutil.rmtree(self.tree, ignore_errors=True)
            cut.rename(self.tree)

    def settle(self) -> None:
        """Put the tree in place and write down what lies there now."""
        if "placed" not in self.steps:
            self._step(placed=place.summary(self.tree))
        if self.share is not None:
            subset.set_aside(self.dataset, self.tree, self.folder)
        place.place(self.tree, self.folder)
        before = self.lock.sets.get(self.dataset.name, {})
        kept = before.get("placed", {}) if self.only else {}
        order = self.order
        if self.only and before:
            order = {**order, "only": sorted({*self.only, *before["order"]["only"]})}
        facts = {"order": order, "placed": kept | self.steps["placed"]}
        if self.share is not None:
            facts["subset"] = {"images": self.share, "seed": subset.SEED}
        self.lock.note_set(self.dataset.name, **facts)
        shutil.rmtree(self.staging)
        self.say(f"{self.dataset.name} is in place: {self.folder}")


def _amount(share: int | None) -> str:
    return "the whole set" if share is None else f"a part of {share} images"
