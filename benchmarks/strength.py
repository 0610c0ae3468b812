"""Whether the quick attacks are as strong: accuracy under attack beside Foolbox's, eps by eps.

Foolbox's attack is ``LinfPGD`` itself, with the kit's random starts (``engine="foolbox"``), in
float32. An image that is wrong before the attack counts as wrong for all and is not attacked.
What Foolbox found is kept, a few images at a time, and so is what the kit's independent mode, with
the same steps, found, as long as the attacks' source stays the same. A benchmark compares as many
images as are kept, and a few in any case. ``python -m benchmarks.strength resnet 224`` attacks all
the others, which may take hours, and goes on where it was stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import nn

from medrobust_utils import attacks, env
from medrobust_utils.attacks import Plan, attack_sweep, engine
from medrobust_utils.attacks.sweep import kept_in
from medrobust_utils.errors import DataError
from medrobust_utils.evaluation import predict
from medrobust_utils.storage import fingerprint

from . import limits
from .networks import Victim, victim

STEPS = 40
# Sizes of the ladder in gray levels of 255, where each network falls from all to none.
LADDERS = {
    ("resnet", 64): (0.05, 0.1, 0.15, 0.25, 0.4, 0.6, 1, 1.6),
    ("swin", 64): (0.5, 1, 1.6, 2.5, 3.2, 4, 5, 8),
    ("resnet", 224): (0.04, 0.07, 0.1, 0.14, 0.18, 0.24, 0.32, 0.5),
    ("swin", 224): (0.7, 1, 1.5, 2.2, 3, 3.8, 4.6, 6),
}
WANTED = 200  # held-out images
SLACK = 0.01  # share of the images by which an attack may leave more standing than Foolbox
INSIDE, ENOUGH = (0.2, 0.8), 3  # at three eps or more Foolbox leaves such a share of the clean
KEPT = ("foolbox", "independent")
# Images that are kept together, at most; a batch of the attacks has as many as in a sweep.
CHUNK = {
    "cpu": {
        64: {"foolbox": 25, "independent": 10},
        224: {"foolbox": 4, "independent": 2},
    },
    "cuda": {size: dict.fromkeys(KEPT, 100) for size in (64, 224)},
}
BATCH = {"cpu": {64: 16, 224: 4}, "cuda": {64: 100, 224: 100}}


@dataclass(frozen=True)
class Strength:
    """Who stands under each attack, of the first held-out images.

    Attributes:
        clean: bool (n,): right before the attack.
        standing: for ``foolbox``, ``nested`` and ``independent`` bool (E, m): right at each eps,
            of the first m images.
        gradients: how many the nested mode took of each image that was right before, on average.
    """

    clean: np.ndarray
    standing: Mapping[str, np.ndarray]
    gradients: float = 0.0

    def images(self, mode: str) -> int:
        """How many images a mode was compared with Foolbox on."""
        return min(self.standing[name].shape[1] for name in (mode, "foolbox"))

    def accuracy(self, name: str, images: int) -> np.ndarray:
        """Share (E,) of the first images that stand."""
        return self.standing[name][:, :images].mean(1)

    def inside(self, mode: str) -> int:
        """At how many eps Foolbox leaves 20 to 80 % of those right before."""
        count = self.images(mode)
        share = self.accuracy("foolbox", count) / self.clean[:count].mean()
        return int(((share >= INSIDE[0]) & (share <= INSIDE[1])).sum())

    def above(self, mode: str) -> float:
        """The largest share of the images that a mode leaves standing and Foolbox does not."""
        count = self.images(mode)
        return float((self.accuracy(mode, count) - self.accuracy("foolbox", count)).max())

    def weaker(self, mode: str) -> bool:
        """Whether more stand than Foolbox leaves, beyond SLACK."""
        return self.above(mode) > SLACK + 1e-9  # two images in 200 are just that

    def kept(self, mode: str) -> bool:
        """Whether the mode is as strong, on enough images and eps to tell."""
        enough = self.images(mode) >= WANTED and self.inside(mode) >= ENOUGH
        return enough and not self.weaker(mode)

    def facts(self, mode: str) -> dict:
        """For the record."""
        count = self.images(mode)
        shares = {name: self.accuracy(name, count).round(4).tolist() for name in (mode, "foolbox")}
        return {
            "images": count,
            "clean_accuracy": float(self.clean[:count].mean()),
            "eps_inside": self.inside(mode),
            "above_foolbox": self.above(mode),
            **({"gradients_an_image": self.gradients} if mode == "nested" else {}),
            **{f"{name}_accuracy": share for name, share in shares.items()},
        }


def measure(attacked: Victim, epsilons: Sequence[float], steps: int) -> Strength:
    """Compare the images that have been attacked before, and the first few in any case."""
    plans = _plans(attacked, steps)
    chosen, clean = _clean(attacked)
    standing, count = {}, [0]
    for name in KEPT:
        found = []
        for part in _parts(attacked, name):
            rows = chosen[part][clean[part]]
            if part.start and not _known(attacked, rows, epsilons, plans[name]):
                break
            found.append(_standing(attacked, chosen[part], clean[part], epsilons, plans[name]))
        standing[name] = np.concatenate(found, 1)
    met = standing["foolbox"].shape[1]
    with _counted(count):
        standing["nested"] = _standing(
            attacked, chosen[:met], clean[:met], epsilons, plans["nested"]
        )
    return Strength(clean, standing, count[0] / max(1, clean[:met].sum()))


def extend(attacked: Victim, epsilons: Sequence[float], steps: int) -> None:
    """Attack all held-out images by Foolbox and in the independent mode, and keep what is found."""
    plans = _plans(attacked, steps)
    chosen, clean = _clean(attacked)
    for name in KEPT:
        for part in env.progress(_parts(attacked, name), desc=f"{name}, {attacked.title}"):
            _standing(attacked, chosen[part], clean[part], epsilons, plans[name])


def _plans(attacked: Victim, steps: int) -> dict[str, dict]:
    """What each side does, and where what it finds is kept."""
    sources = sorted(Path(attacks.__file__).parent.glob("*.py"))
    todays = fingerprint(*(path.read_text("utf-8") for path in sources))
    quick = env.training_dtype(env.pick_device())
    cold = dict(mode="independent", steps=steps)
    return {
        "foolbox": cold | dict(engine="foolbox", folder=attacked.folder),
        "independent": cold | dict(dtype=quick, folder=attacked.folder / f"kit-{todays}"),
        "nested": dict(mode="nested", dtype=quick, folder=None),
    }


def _clean(attacked: Victim) -> tuple[np.ndarray, np.ndarray]:
    """The rows that are compared, and which of them are right before the attack."""
    chosen = attacked.held_out[:WANTED]
    logits = predict(attacked.model, attacked.data, chosen)
    return chosen, logits.argmax(1) == attacked.data.targets[chosen]


def _parts(attacked: Victim, name: str) -> list[slice]:
    size = limits.by_device(CHUNK)[attacked.data.images.shape[1]][name]
    return [slice(start, start + size) for start in range(0, WANTED, size)]


def _known(attacked: Victim, rows: np.ndarray, epsilons: Sequence[float], plan: Mapping) -> bool:
    """Whether these rows have been attacked so before."""
    how = {key: value for key, value in plan.items() if key != "folder"}
    folder = kept_in(plan["folder"], attacked.model, attacked.data, rows, epsilons, Plan(**how))
    return not len(rows) or any(folder.glob("*.npz"))


@contextmanager
def _counted(count: list[int]) -> Iterator[None]:
    """Add to ``count`` how many images the engine takes gradients of."""
    real = engine.gradient

    def counting(model: nn.Module, images: torch.Tensor, *rest: object) -> object:
        count[0] += len(images)
        return real(model, images, *rest)

    with mock.patch.object(engine, "gradient", counting):
        yield


def _standing(
    attacked: Victim, rows: np.ndarray, clean: np.ndarray, epsilons: Sequence[float], how: dict
) -> np.ndarray:
    """Bool (E, n): right at each eps, of these rows."""
    right = np.zeros((len(epsilons), len(rows)), bool)
    if clean.any():
        batch = limits.by_device(BATCH)[attacked.data.images.shape[1]]
        right[:, clean] = attack_sweep(
            attacked.model, attacked.data, rows[clean], epsilons, batch=batch, **how
        ).right
    return right


def main(arguments: list[str] | None = None) -> None:
    """Attack all held-out images of a network, however long that takes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.strength", description=__doc__)
    parser.add_argument("name", choices=sorted({name for name, _ in LADDERS}))
    parser.add_argument("size", type=int, choices=sorted({size for _, size in LADDERS}))
    given = parser.parse_args(arguments)
    epsilons = [level / 255 for level in LADDERS[given.name, given.size]]
    try:
        extend(victim(given.name, given.size), epsilons, STEPS)
    except DataError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
