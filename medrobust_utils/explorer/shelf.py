"""Where the explorer's networks come from: earlier runs, or a small pair trained on the spot.

A study builds the same arms from the same settings. So a network is found by the card beside its
checkpoint, its arm is planned again, and the images on offer are that arm's test images, which
it was never trained on.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from .. import cards, env, protocol
from ..errors import MedrobustError, RunError
from ..models import MedicalModel, digest
from .scene import Network, Scene
from .studies import STUDIES, Arm, Study

OFFERED = 60  # test images in a list that people scroll


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
                # Another seed is another split: what one network was trained on tests the other.
                groups.setdefault((card.task, card.seed, card.checksum), []).append((folder, card))
        found = [_place(paper, *key, finished) for key, finished in groups.items()]
        found.sort(key=lambda place: place.synthetic)
        pair = Place(paper, "pair", "PHANTOMS, a small pair trained here", True)
        return [place for place in [*found, pair] if place.synthetic or not self.synthetic]

    def first(self, paper: str = "") -> Place:
        """What to open first: an earlier run on real images, or a small pair.

        Args:
            paper: look at this one alone; without one, at the one with the newest run.
        """
        places = [place for name in [paper] if paper for place in self.places(name)]
        places = places or [place for name in STUDIES for place in self.places(name)]
        # With a single network there is nothing to compare.
        real = [place for place in places if not place.synthetic and len(place.arms) > 1]
        if real:
            return max(real, key=lambda place: cards.finished_at(place.finished[0][0]))
        wanted = paper or "3_domain_assimilation"  # its pair is trained soonest
        return next(p for p in places if not p.finished and p.paper == wanted)

    def open(self, place: Place) -> Scene:
        """Read the networks and images of a place, or train its pair; the last one is kept.

        Raises:
            MedrobustError: if the images or weights are missing or have changed.
        """
        with self._opening:
            if place not in self._open:
                self._open.clear()  # one at a time: networks and images are large
                study = STUDIES[place.paper]
                found = self._read(study, place) if place.finished else self._train(study)
                self._open[place] = _scene(place, study, found)
            return self._open[place]

    def _read(self, study: Study, place: Place) -> list[tuple[Arm, Network]]:
        planned, found = {}, {}
        for folder, card in place.finished:
            if card.arm not in planned:  # runs of a task may differ in their arms
                planned |= _plan(study, folder, card)
            found.setdefault(card.arm, (planned[card.arm], folder, card))
        return [(arm, _network(study, arm, folder, card)) for arm, folder, card in found.values()]

    def _train(self, study: Study) -> list[tuple[Arm, Network]]:
        settings = protocol.load(study.paper).settings("smoke", study.longer)
        found = []
        for arm in study.arms(settings, self.seed, study.role):
            if getattr(arm, study.kind) in study.pair:
                model, folder = study.train(arm, settings, self.checkpoints, self.seed)
                found.append((arm, _described(arm, model, folder)))
        return found


def _place(paper: str, task: str, seed: int, checksum: str, finished: list) -> Place:
    number, synthetic = len({card.arm for _, card in finished}), "phantom-" in task
    title = f"{'PHANTOMS: ' if synthetic else ''}{task}, {number} network{'s' * (number > 1)}"
    title += f", seed {seed}" * bool(seed)
    key = f"{task}-{seed}-{checksum[:6]}"
    return Place(paper, key, title, synthetic, tuple(finished))


def _plan(study: Study, folder: Path, card: cards.Card) -> dict[str, Arm]:
    """The arms of a card's run by key, its own among them."""
    try:
        arms = study.arms(protocol.Settings(card.settings), card.seed, card.role)
        planned = {arm.key: arm for arm in arms}
        if card.arm not in planned:
            raise KeyError(card.arm)
    except MedrobustError:
        raise
    except Exception as error:  # settings of another version fail in many ways
        raise RunError(
            f"{folder / cards.NAME}: does not fit this version of the kit "
            f"({type(error).__name__}). Run the paper's notebook again, or delete the folder."
        ) from error
    return planned


def _network(study: Study, arm: Arm, folder: Path, card: cards.Card) -> Network:
    """A network of an earlier run, with its weights."""
    if arm.task.data.checksum != card.checksum:
        raise RunError(
            f"{folder.name}: was trained on other images than {arm.task.data.name} has now. "
            "Run the paper's notebook again."
        )
    model = study.build(arm, protocol.Settings(card.settings), card.seed)
    if model.source != card.source:  # its normalisation is that of the weights it began with
        raise RunError(
            f"{folder.name}: began with {card.source}, and {model.source} is at hand. Set "
            "MEDROBUST_WEIGHTS as it was for its training."
        )
    try:
        model.load_state_dict(cards.weights(folder))
    except RuntimeError as error:
        raise RunError(
            f"{folder}: its weights do not fit its card. Delete the folder, and run the paper's "
            "notebook again."
        ) from error
    model.to(env.pick_device(), memory_format=torch.channels_last)  # as after a training
    return _described(arm, model.eval(), folder)


def _described(arm: Arm, model: MedicalModel, folder: Path) -> Network:
    if hasattr(arm, "start"):  # it may not have been what was planned
        arm = replace(arm, start=model.start)
    facts = {"folder": folder.name, "source": model.source}
    return Network(arm.title, model, digest(model), facts)


def _scene(place: Place, study: Study, found: Sequence[tuple[Arm, Network]]) -> Scene:
    """The undefended network first, and next to it what it is best compared with."""
    kinds = [getattr(arm, study.kind) for arm, _ in found]
    plain = kinds.index(study.pair[0]) if study.pair[0] in kinds else 0
    alike = [study.alike(arm) == study.alike(found[plain][0]) for arm, _ in found]

    def rank(i: int) -> tuple:
        return i != plain, kinds[i] == study.pair[0], not alike[i], kinds[i] != study.pair[1]

    task = found[plain][0].task
    rows = study.tested(task)
    rows = rows[np.linspace(0, len(rows) - 1, min(OFFERED, len(rows))).round().astype(int)]
    networks = tuple(found[i][1] for i in sorted(range(len(found)), key=rank))
    warnings = dict.fromkeys(text for one in networks for text in one.model.warnings)
    return Scene(place.paper, task.key, task.data, rows, networks, tuple(warnings))
