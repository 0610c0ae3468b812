"""Whether the quick attacks are as strong: accuracy under attack beside Foolbox's, eps by eps.

Foolbox's attack is ``LinfPGD`` itself, with the kit's random starts (``engine="foolbox"``), in
float32. An image that is wrong before the attack counts as wrong for all and is not attacked.
What Foolbox found is kept, a few images at a time; the kit's own modes are run anew each time. A
benchmark compares as many images as are kept, and a few in any case. More of them, for as long as
you like: ``python -m benchmarks.strength resnet 224``, which goes on where it was stopped. The
independent mode takes Foolbox's own steps and is compared on a few images only.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import numpy as np

from medrobust_utils import env
from medrobust_utils.attacks import Plan, attack_sweep, engine
from medrobust_utils.attacks.sweep import identity_of
from medrobust_utils.evaluation import predict

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
# Images at a time: nested and Foolbox, and independent.
CHUNK = {"cpu": {64: (25, 10), 224: (4, 2)}, "cuda": {64: (100, 100), 224: (100, 100)}}


@dataclass(frozen=True)
class Strength:
    """Who stands under each attack, of the first held-out images.

    Attributes:
        clean: bool (n,): right before the attack.
        standing: for ``foolbox``, ``nested`` and ``independent`` bool (E, m): right at each eps;
            the time may not have sufficed for all.
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


def measure(
    attacked: Victim, epsilons: Sequence[float], steps: int, *, all_of_them: bool = False
) -> Strength:
    """Attack the held-out images that Foolbox has attacked before, or the first few, or all."""
    few = limits.by_device(CHUNK)[attacked.data.images.shape[1]]
    quick = env.training_dtype(env.pick_device())
    plans = {
        "nested": dict(mode="nested", dtype=quick),
        "foolbox": dict(mode="independent", steps=steps, engine="foolbox"),
        "independent": dict(mode="independent", steps=steps, dtype=quick),
    }
    chosen = attacked.held_out[:WANTED]
    logits = predict(attacked.model, attacked.data, chosen)
    clean = logits.argmax(1) == attacked.data.targets[chosen]

    def ask(name: str, part: slice) -> np.ndarray:
        folder = attacked.folder if name == "foolbox" else None
        how = plans[name] | {"folder": folder}
        return _standing(attacked, chosen[part], clean[part], epsilons, how)

    found: dict[str, list[np.ndarray]] = {name: [] for name in plans}
    parts = [slice(start, start + few[0]) for start in range(0, len(chosen), few[0])]
    count = [0]
    for part in env.progress(parts, desc=f"nested and Foolbox, {attacked.title}"):
        rows = chosen[part][clean[part]]
        if part.start and not all_of_them and not _known(attacked, rows, epsilons, plans):
            break
        found["foolbox"].append(ask("foolbox", part))
        with _counted(count):
            found["nested"].append(ask("nested", part))
    found["independent"].append(ask("independent", slice(few[1])))
    standing = {name: np.concatenate(every, 1) for name, every in found.items()}
    right = clean[: standing["nested"].shape[1]].sum()
    return Strength(clean, standing, count[0] / max(1, right))


def _known(attacked: Victim, rows: np.ndarray, epsilons: Sequence[float], plans: Mapping) -> bool:
    """Whether Foolbox has attacked these rows before."""
    identity = identity_of(attacked.model, attacked.data, rows, epsilons, Plan(**plans["foolbox"]))
    return not len(rows) or any((attacked.folder / f"pgd-{identity}").glob("*.npz"))


@contextmanager
def _counted(count: list[int]) -> Iterator[None]:
    """Add to ``count`` how many images the engine takes gradients of."""
    real = engine.gradient

    def counting(model: object, images: np.ndarray, *rest: object) -> object:
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
        right[:, clean] = attack_sweep(
            attacked.model, attacked.data, rows[clean], epsilons, batch=len(rows),
            **how,
        ).right  # fmt: skip
    return right


def main() -> None:
    """Compare all held-out images of a network, however long Foolbox takes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.strength", description=__doc__)
    parser.add_argument("name", choices=("resnet", "swin"))
    parser.add_argument("size", type=int, choices=(64, 224))
    given = parser.parse_args()
    attacked, epsilons = (
        victim(given.name, given.size),
        [level / 255 for level in LADDERS[given.name, given.size]],
    )
    print(measure(attacked, epsilons, STEPS, all_of_them=True).facts("nested"))


if __name__ == "__main__":
    main()
