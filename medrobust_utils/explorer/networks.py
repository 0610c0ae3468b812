"""Networks of earlier runs, found by their cards, and small pairs that ship ready.

A finished training leaves a card and test images beside its weights (``training.cards``). The pairs
in ``ready`` are such folders too, trained on phantoms by ``tools/ready_pairs.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

from ..core.errors import RunError
from ..reporting import protocol
from ..training import cards
from .scene import Network, Scene

PAIR = "PHANTOMS, a small pair"
READY = Path(__file__).parent / "ready"
FIRST = "2_attentive_cnn"  # opens without earlier runs: both networks look at their lesions
# What a paper compares: the field of its arms, the undefended kind, the one to set beside it, and
# the fields that such two have in common.
COMPARED = {
    "1_swin_noise": ("model", "resnet", "swin", ("start", "seed")),
    "2_attentive_cnn": ("attention", "none", "released", ("model", "start", "seed")),
    "3_domain_assimilation": ("defence", "none", "adversarial", ("backbone", "start", "seed")),
    "4_unet_adversarial_training": ("scheme", "clean", "selective", ("seed",)),
}
NO_TEST = "validation images: paper 1 has no test set."
LEAKS = {  # what a reader of test images must know, by the split
    "datta": "datta split: these test images chose the epoch, and near duplicates of them may have "
    "been trained on: too good to be true.",
    "by image": "split by image: duplicates, and slices of one patient, lie on both sides: the "
    "networks may have been trained on pictures like these.",
}
_model = lru_cache(maxsize=4)(cards.network)  # of a folder; an entry may have dozens


@dataclass(frozen=True)
class Entry:
    """Networks of a paper that were trained on the same images.

    Attributes:
        title: what a reader chooses by.
        synthetic: whether the images are phantoms.
        found: folder and card of each network, the newest first.
    """

    paper: str
    title: str
    synthetic: bool
    found: tuple[tuple[Path, cards.Card], ...] = field(repr=False, compare=False)

    def open(self) -> Scene:
        """The networks and images; weights are read when somebody looks at them.

        Raises:
            RunError: for a network that does not say how it is built, or images that are missing.
        """
        for folder, card in self.found:
            if card.built is None:
                raise RunError(f"{folder.name}: was trained by an earlier version. {cards.AGAIN}")
        newest = {card.arm: (folder, card) for folder, card in reversed(self.found)}
        found, networks = _ranked(self.paper, list(newest.values())), []
        for folder, card in found:
            facts = {"folder": folder.name, "source": card.source}
            networks.append(Network(card.title, partial(_model, folder), facts))
        folder, card = found[0]
        warnings = LEAKS.get(card.tags.get("split")), NO_TEST if self.paper[0] == "1" else ""
        return Scene(
            self.paper,
            card.task,
            cards.samples(folder, card),
            tuple(networks),
            tuple(filter(None, warnings)),
            card.tags.get("filter") == "contrast",
        )


class Index:
    """Networks of earlier runs in a folder of checkpoints, and the pairs that ship ready.

    Args:
        synthetic: offer only what was trained on phantoms, and open a ready pair first.
    """

    def __init__(self, checkpoints: Path, *, synthetic: bool = False) -> None:
        self.checkpoints, self.synthetic = checkpoints, synthetic

    def papers(self) -> dict[str, str]:
        """Name and title of every paper."""
        return {paper: protocol.load(paper).title for paper in COMPARED}

    def entries(self, paper: str) -> list[Entry]:
        """What there is to open for a paper: earlier runs, real images first, and the ready pair.

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
        found = []
        for (task, seed, _, split), group in groups.items():
            synthetic, number = "phantom-" in task, len({card.arm for _, card in group})
            title = f"{'PHANTOMS: ' * synthetic}{task}, {number} network{'s' * (number > 1)}"
            title += f", seed {seed}, split {split[:4]}"
            found.append(Entry(paper, title, synthetic, tuple(group)))
        found.sort(key=lambda entry: entry.synthetic)
        ready = tuple(one for one in cards.find(READY) if one[1].paper == paper)
        found.append(Entry(paper, PAIR, True, ready))
        return [one for one in found if one.synthetic or not self.synthetic]

    def first(self, paper: str = "") -> Entry:
        """What to open first, of one paper or of all: the newest run, else a ready pair.

        Real images go before phantoms, and two networks or more before one.
        """
        entries = [one for name in ([paper] if paper else COMPARED) for one in self.entries(name)]
        if self.synthetic:
            entries = [one for one in entries if one.title == PAIR]

        def rank(entry: Entry) -> tuple:
            alone = len({card.arm for _, card in entry.found}) < 2
            pair = entry.title == PAIR
            other = pair and entry.paper != (paper or FIRST)
            return entry.synthetic, alone, pair, other, -cards.finished_at(entry.found[0][0])

        return min(entries, key=rank)


def _ranked(paper: str, found: list[tuple[Path, cards.Card]]) -> list[tuple[Path, cards.Card]]:
    """The undefended network first, and next to it what it is best compared with."""
    name, plain, partner, alike = COMPARED[paper]

    def kind(one: tuple) -> str:
        return one[1].own[name]

    def common(one: tuple) -> list:
        return [one[1].own[other] for other in alike]

    def rank(one: tuple) -> tuple:
        return one is not first, kind(one) == plain, common(one) != common(first)

    partners = [common(one) for one in found if kind(one) == partner]
    first = min(found, key=lambda one: (kind(one) != plain, common(one) not in partners))
    return sorted(found, key=lambda one: (*rank(one), kind(one) != partner))
