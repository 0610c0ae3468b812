"""What strength is compared on: networks, sizes of the ladder, and what each side finds, kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medrobust_utils import attacks, env
from medrobust_utils.attacks import Plan, attack_sweep
from medrobust_utils.attacks.sweep import kept_in
from medrobust_utils.evaluation import predict
from medrobust_utils.storage import fingerprint

from . import limits
from .networks import Victim

STEPS = 40
# Sizes of the ladder in gray levels of 255, where each network falls from all to none.
LADDERS = {
    ("resnet", 64): (0.05, 0.1, 0.15, 0.25, 0.4, 0.6, 1, 1.6),
    ("swin", 64): (0.5, 1, 1.6, 2.5, 3.2, 4, 5, 8),
    ("resnet", 224): (0.04, 0.07, 0.1, 0.14, 0.18, 0.24, 0.32, 0.5),
    ("swin", 224): (0.7, 1, 1.5, 2.2, 3, 3.8, 4.6, 6),
}
WANTED = 200  # held-out images
FOOLBOX, NESTED, INDEPENDENT = KEPT = ("foolbox", "nested", "independent")
# Images that are kept together, at most; a batch of the attacks has as many as in a sweep.
CHUNK = {
    "cpu": {
        64: {"foolbox": 25, "nested": 64, "independent": 10},
        224: {"foolbox": 4, "nested": 16, "independent": 2},
    },
    "cuda": {size: dict.fromkeys(KEPT, 100) for size in (64, 224)},
}
BATCH = {"cpu": {64: 16, 224: 4}, "cuda": {64: 100, 224: 100}}


@dataclass(frozen=True)
class Contest:
    """One network's images, and what each side does with them.

    Attributes:
        chosen, clean: the rows that are compared (n,), and which are right before the attack.
        plans: what each side does, and the folder that keeps what it finds.
    """

    attacked: Victim
    epsilons: Sequence[float]
    chosen: np.ndarray
    clean: np.ndarray
    plans: Mapping[str, Mapping]

    @property
    def size(self) -> int:
        """Pixels of a side."""
        return self.attacked.data.images.shape[1]

    def parts(self, name: str) -> list[slice]:
        """Which images are kept together."""
        size = limits.by_device(CHUNK)[self.size][name]
        return [slice(start, start + size) for start in range(0, WANTED, size)]

    def known(self, name: str, part: slice) -> bool:
        """Whether a part's images have been attacked so before."""
        return self._known(name, self._right(part), self.epsilons)

    def standing(self, name: str, part: slice) -> np.ndarray:
        """Bool (E, n): who stands at each eps, of a part's images; none that was wrong before."""
        clean = self.clean[part]
        stands = np.zeros((len(self.epsilons), len(clean)), bool)
        stands[:, clean] = self._attack(name, self._right(part), self.epsilons)
        return stands

    def known_where_left(self, part: slice, nested: np.ndarray) -> bool:
        """Whether Foolbox has attacked those of a part that the nested mode leaves (E, n)."""
        return all(self._known(FOOLBOX, *left) for left in self._left(part, nested))

    def missed(self, part: slice, nested: np.ndarray) -> np.ndarray:
        """Bool (E, n): who stands under the nested mode (E, n) and falls to Foolbox there."""
        missed = np.zeros_like(nested)
        for row, stands, left in zip(missed, nested, self._left(part, nested), strict=True):
            row[stands] = ~self._attack(FOOLBOX, *left)[0]
        return missed

    def _right(self, part: slice) -> np.ndarray:
        return self.chosen[part][self.clean[part]]

    def _left(self, part: slice, nested: np.ndarray) -> list[tuple[np.ndarray, list[float]]]:
        rows = self.chosen[part]
        return [(rows[row], [eps]) for row, eps in zip(nested, self.epsilons, strict=True)]

    def _known(self, name: str, rows: np.ndarray, epsilons: Sequence[float]) -> bool:
        how = {key: value for key, value in self.plans[name].items() if key != "folder"}
        folder = kept_in(
            self.plans[name]["folder"], self.attacked.model, self.attacked.data, rows, epsilons,
            Plan(**how),
        )  # fmt: skip
        return not len(rows) or any(folder.glob("*.npz"))

    def _attack(self, name: str, rows: np.ndarray, epsilons: Sequence[float]) -> np.ndarray:
        if not len(rows):
            return np.zeros((len(epsilons), 0), bool)
        batch = limits.by_device(BATCH)[self.size]
        return attack_sweep(
            self.attacked.model, self.attacked.data, rows, epsilons, batch=batch,
            **self.plans[name],
        ).right  # fmt: skip


def contest(attacked: Victim, epsilons: Sequence[float], steps: int) -> Contest:
    """The first held-out images of a network, and what each side does with them."""
    sources = sorted(Path(attacks.__file__).parent.glob("*.py"))
    todays = fingerprint(*(path.read_text("utf-8") for path in sources))
    quick = dict(
        dtype=env.training_dtype(env.pick_device()), folder=attacked.folder / f"kit-{todays}"
    )
    cold = dict(mode="independent", steps=steps)
    plans = {
        FOOLBOX: cold | dict(engine="foolbox", folder=attacked.folder),
        NESTED: dict(mode="nested") | quick,
        INDEPENDENT: cold | quick,
    }
    chosen = attacked.held_out[:WANTED]
    logits = predict(attacked.model, attacked.data, chosen)
    clean = logits.argmax(1) == attacked.data.targets[chosen]
    return Contest(attacked, epsilons, chosen, clean, plans)
