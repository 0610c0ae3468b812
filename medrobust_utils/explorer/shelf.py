"""Where the explorer's networks come from: earlier runs, or a small pair on phantoms.

A study builds the same arms from the same settings. So a network is found by the card beside its
checkpoint, its arm is planned again, and the images on offer are that arm's test images, which
it was never trained on.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import RunError
from ..reporting import protocol
from ..training import cards
from . import ready
from .opening import as_it_began, check_images, described, plan, with_weights
from .scene import Network, Scene, Shelved
from .studies import STUDIES, Arm, Study

OFFERED = 60  # test images in a list that people scroll
IN_MEMORY = 4  # networks of earlier runs at a time; a place may have dozens


@dataclass(frozen=True)
class Place:
    """A task of a paper for which there are networks, or for which a pair can be trained.

    Attributes:
        title: what a reader chooses by.
        synthetic: whether its images are phantoms.
        finished: folder and card of its networks, the newest first; empty: train a pair.
    """

    paper: str
    key: str
    title: str
    synthetic: bool
    finished: tuple[tuple[Path, cards.Card], ...] = field(default=(), repr=False, compare=False)

    @property
    def arms(self) -> set[str]:
        """Keys of its networks' arms."""
        return {card.arm for _, card in self.finished}


class Shelf:
    """Networks of earlier runs in a folder of checkpoints, and room for those trained here.

    Args:
        checkpoints: the folder that the papers' notebooks train into.
        seed: of the networks that are trained here.
        synthetic: offer only what was trained on phantoms.
    """

    def __init__(self, checkpoints: Path, *, seed: int = 0, synthetic: bool = False) -> None:
        self.checkpoints, self.seed, self.synthetic = checkpoints, seed, synthetic
        self._open: dict[Place, Scene] = {}
        self._loading = threading.Lock()
        self._loaded: OrderedDict[Path, Network] = OrderedDict()
        self._opening = threading.Lock()  # a panel opens in a thread, the cells below it as well

    def papers(self) -> dict[str, str]:
        """Name and title of every paper."""
        return {paper: protocol.load(paper).title for paper in STUDIES}

    def places(self, paper: str) -> list[Place]:
        """What there is to open for a paper: earlier runs, the newest first, and the small pair.

        Raises:
            ProtocolError: for a paper that the kit does not know.
        """
        protocol.load(paper)  # refuses what is no paper
        groups: dict[tuple, list] = {}
        for folder, card in cards.find(self.checkpoints):
            if card.paper == paper:
                # Under another split, what one network was trained on would test the other.
                key = (card.task, card.seed, card.checksum, card.split)
                groups.setdefault(key, []).append((folder, card))
        found = [_place(paper, *key, finished) for key, finished in groups.items()]
        titles = [place.title for place in found]
        found = [
            replace(place, title=f"{place.title}, split {place.key[-4:]}")
            if titles.count(place.title) > 1
            else place
            for place in found
        ]
        found.sort(key=lambda place: place.synthetic)
        pair = Place(paper, "pair", "PHANTOMS, a small pair", True)
        return [place for place in [*found, pair] if place.synthetic or not self.synthetic]

    def first(self, paper: str = "") -> Place:
        """What to open first: an earlier run, on real images if there is one, else a small pair.

        With two networks or more if possible, and of those the newest. A shelf of phantoms alone
        always opens its own pair, whatever else has been trained meanwhile.

        Args:
            paper: look at this one alone; without one, at all.
        """
        places = [place for name in [paper] if paper for place in self.places(name)]
        places = places or [place for name in STUDIES for place in self.places(name)]
        earlier = [place for place in places if place.finished and not self.synthetic]
        full = [place for place in earlier if len(place.arms) > 1]
        real = [[one for one in some if not one.synthetic] for some in (full, earlier)]
        for choice in (*real, full):
            if choice:
                return max(choice, key=lambda place: cards.finished_at(place.finished[0][0]))
        wanted = paper or "3_domain_assimilation"  # its pair ships ready
        return next(p for p in places if not p.finished and p.paper == wanted)

    def open(self, place: Place) -> Scene:
        """Plan the networks and read the images of a place; the last is kept.

        A pair that does not ship ready is trained.

        The weights of an earlier run's networks are read when somebody looks at them.

        Raises:
            MedrobustError: if the images are missing or have changed.
        """
        with self._opening:
            if place not in self._open:
                self._open.clear()  # one at a time: images are large
                study = STUDIES[place.paper]
                found = self._read(study, place) if place.finished else self._pair(study)
                self._open[place] = _scene(place, study, found)
            return self._open[place]

    def _read(self, study: Study, place: Place) -> list[tuple[Arm, Network]]:
        """In the order in which the study plans its arms."""
        planned, newest = {}, {}
        for folder, card in place.finished:
            if card.arm not in planned:  # runs of a task may differ in their arms
                planned |= plan(study, folder, card)
            newest.setdefault(card.arm, (folder, card))
        found = []
        for key in filter(newest.__contains__, planned):
            folder, card = newest[key]
            arm = as_it_began(planned[key], card)
            check_images(arm, folder, card)

            def read(arm: Arm = arm, folder: Path = folder, card: cards.Card = card) -> Network:
                return self._network(study, arm, folder, card)

            found.append((arm, Shelved(arm.title, read)))
        return found

    def _network(self, study: Study, arm: Arm, folder: Path, card: cards.Card) -> Network:
        """A network of an earlier run, with its weights; the last few are kept."""
        with self._loading:
            if folder not in self._loaded:
                self._loaded[folder] = with_weights(study, arm, folder, card)
            self._loaded.move_to_end(folder)
            while len(self._loaded) > IN_MEMORY:
                self._loaded.popitem(last=False)
            return self._loaded[folder]

    def _pair(self, study: Study) -> list[tuple[Arm, Network]]:
        settings = protocol.load(study.paper).settings("smoke", study.longer)
        found = []
        for arm in study.arms(settings, self.seed, study.role):
            if getattr(arm, study.kind) in study.pair:
                model, folder = ready.network(study, arm, settings, self.seed), Path("ready")
                if model is None:
                    model, folder = study.train(arm, settings, self.checkpoints, self.seed)
                if hasattr(arm, "start"):  # it may not have been what was planned
                    arm = replace(arm, start=model.start)
                found.append((arm, described(arm, model, folder)))
        return found


def _place(paper: str, task: str, seed: int, checksum: str, split: str, finished: list) -> Place:
    number, synthetic = len({card.arm for _, card in finished}), "phantom-" in task
    title = f"{'PHANTOMS: ' if synthetic else ''}{task}, {number} network{'s' * (number > 1)}"
    title += f", seed {seed}" * bool(seed)
    key = f"{task}-{seed}-{checksum[:6]}-{split[:4]}"
    return Place(paper, key, title, synthetic, tuple(finished))


def _scene(place: Place, study: Study, found: Sequence[tuple[Arm, Network]]) -> Scene:
    """The undefended network first, and next to it what it is best compared with."""
    kinds = [getattr(arm, study.kind) for arm, _ in found]
    common = [study.alike(arm) for arm, _ in found]
    partners = {common[i] for i, kind in enumerate(kinds) if kind == study.pair[1]}
    plain = [i for i, kind in enumerate(kinds) if kind == study.pair[0]]
    first = next((i for i in plain if common[i] in partners), plain[0] if plain else 0)

    def rank(i: int) -> tuple:
        return (
            i != first,
            kinds[i] == study.pair[0],
            common[i] != common[first],
            (kinds[i] != study.pair[1]),
        )

    task = found[first][0].task
    rows = _unseen(task, study.tested(task))
    rows = rows[np.linspace(0, len(rows) - 1, min(OFFERED, len(rows))).round().astype(int)]
    networks = tuple(found[i][1] for i in sorted(range(len(found)), key=rank))
    warnings = [caveat] if (caveat := study.caveat(task)) else []
    if not place.finished:
        warnings += [text for one in networks for text in one.model.warnings]
    prepare, prepared = study.filter(task) or (None, "")
    known = tuple(dict.fromkeys(warnings))
    return Scene(place.paper, task.key, task.data, rows, networks, known, prepare, prepared)


def _unseen(task: Any, rows: np.ndarray) -> np.ndarray:
    """``rows`` without exact copies of training images, where a set keeps its duplicates."""
    if "duplicates_kept" not in task.data.census:
        return rows

    def pixels(row: int) -> bytes:
        return np.ascontiguousarray(task.data.images[row : row + 1]).tobytes()

    groups, train = task.data.groups, task.split.train
    # Copies share a group, so only its training images need be read.
    trained = {pixels(row) for row in train[np.isin(groups[train], groups[rows])]}
    unseen = np.array([pixels(row) not in trained for row in rows], bool)
    if not unseen.any():
        raise RunError(
            f"{task.key}: every test image has an exact copy among the training images. Choose a "
            "run with the honest split."
        )
    return rows[unseen]
