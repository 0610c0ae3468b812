"""Who stands under which attack, image by image and eps by eps, kept as it is found.

What each side found of a network has a file of its own beside the network's weights. Its name
changes with weights, images, ladder, settings, torch and device, and with what computes it:
Foolbox's version and our way of calling it, or the sources of the kit's attacks. Files of other
names are left where they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

import medrobust_utils
from medrobust_utils.attacks import AttackConfig, attack_sweep
from medrobust_utils.attacks.radius_sweep import TOGETHER, identify
from medrobust_utils.core import env
from medrobust_utils.core.errors import RunError
from medrobust_utils.core.storage import fingerprint, read_arrays, write_arrays
from medrobust_utils.scoring.predict import predict

from . import by_device
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
BATCH = {"cpu": {64: 16, 224: 4}, "cuda": {64: 100, 224: 100}}
FOOLBOX, BISECTION, INDEPENDENT = SIDES = ("foolbox", "bisection", "independent")
UNKNOWN, FELLED, STANDS = -1, 0, 1


def _sources(*patterns: str) -> list[str]:
    root = Path(medrobust_utils.__file__).parent
    return [path.read_text("utf-8") for pattern in patterns for path in sorted(root.glob(pattern))]


# Read once: what is edited while a measurement runs is not what runs.
SOURCES = dict.fromkeys((BISECTION, INDEPENDENT), _sources("attacks/**/*.py", "core/losses.py"))
SOURCES[FOOLBOX] = _sources(*(f"attacks/{name}.py" for name in ("foolbox", "radii", "noise")))


@dataclass(frozen=True)
class Contest:
    """One network's first held-out images, and who was found to stand.

    Attributes:
        epsilons: (E,), rising.
        chosen, clean: the rows that are compared (n,), and which are right before the attack.
        plans: what each side does, see ``plans``.
        paths: where each side's findings are kept.
        found: of each side int8 (E, n): UNKNOWN, FELLED or STANDS. Who was wrong before counts as
            fooled, and is not attacked.
    """

    attacked: Victim
    epsilons: Sequence[float]
    chosen: np.ndarray
    clean: np.ndarray
    plans: Mapping[str, Mapping]
    paths: Mapping[str, Path]
    found: dict[str, np.ndarray]

    @property
    def batch(self) -> int:
        """Images that go through the network together."""
        return by_device(BATCH)[self.attacked.data.images.shape[1]]

    def ask(self, side: str, wanted: np.ndarray, desc: str = "") -> None:
        """Attack what is ``wanted``, bool (E, n), and not known yet; keep it batch by batch.

        Bisection takes all radii of an image or none of them.
        """
        wanted = wanted & (self.found[side] == UNKNOWN)
        silent = not (desc and wanted.any())
        with env.progress(total=int(wanted.sum()), desc=desc, disable=silent) as bar:
            for rungs, images in _jobs(wanted, self.batch, whole=side == BISECTION):
                result = attack_sweep(
                    self.attacked.model,
                    self.attacked.data,
                    self.chosen[images],
                    [self.epsilons[rung] for rung in rungs],
                    batch=self.batch,
                    **self.plans[side],
                )
                self._keep(side, rungs, images, result.right)
                bar.update(len(rungs) * len(images))

    def _keep(self, side: str, rungs: list[int], images: np.ndarray, right: np.ndarray) -> None:
        """Put it beside what there is, which may have come from another process by now."""
        path, found = self.paths[side], self.found[side]
        found[np.ix_(rungs, images)] = right
        found = np.where(found == UNKNOWN, _read(path, found), found)
        self.found[side] = found
        write_arrays(path, {"found": found})


def _jobs(wanted: np.ndarray, batch: int, whole: bool) -> Iterator[tuple[list[int], np.ndarray]]:
    """Rungs and images to attack together: a few images first, at all eps, then the next."""
    rungs = list(range(len(wanted)))
    for start in range(0, wanted.shape[1], batch * TOGETHER):
        here = wanted[:, start : start + batch * TOGETHER]
        if whole:
            if here.any():
                yield rungs, start + here.any(0).nonzero()[0]
            continue
        for rung in rungs:
            images = start + here[rung].nonzero()[0]
            for first in range(0, len(images), batch):
                yield [rung], images[first : first + batch]


def plans(steps: int) -> dict[str, dict]:
    """What each side does, as ``attack_sweep`` takes it: what is timed and what is judged."""
    dtype = env.training_dtype(env.pick_device())
    cold = dict(mode="independent", steps=steps)
    return {
        FOOLBOX: cold | dict(engine="foolbox"),
        BISECTION: dict(mode="bisection", dtype=dtype),
        INDEPENDENT: cold | dict(dtype=dtype),
    }


def known(attacked: Victim, epsilons: Sequence[float], steps: int) -> Contest:
    """What is known of a network so far.

    Raises:
        RunError: for a file that is damaged or holds something else.
    """
    chosen = attacked.held_out[:WANTED]
    logits = predict(attacked.model, attacked.data, chosen)
    clean = logits.argmax(1) == attacked.data.targets[chosen]
    what = identify(attacked.model, attacked.data, chosen, list(epsilons), {})
    where = [clean.tolist(), version("torch"), version("foolbox"), env.pick_device().type]
    sides = plans(steps)
    paths = {}
    for side, plan in sides.items():
        name = fingerprint(what, where, asdict(AttackConfig(**plan)), SOURCES[side])
        paths[side] = attacked.folder / f"strength-{side}-{name}.npz"
    start = np.where(clean, UNKNOWN, FELLED).astype(np.int8)
    start = np.repeat(start[None], len(epsilons), 0)
    found = {side: _read(path, start) for side, path in paths.items()}
    return Contest(attacked, epsilons, chosen, clean, sides, paths, found)


def _read(path: Path, start: np.ndarray) -> np.ndarray:
    """What is kept, else ``start``."""
    if not path.exists():
        return start.copy()
    found = read_arrays(path).get("found", np.empty(0))
    if found.shape != start.shape or not np.isin(found, (UNKNOWN, FELLED, STANDS)).all():
        raise RunError(f"{path}: holds something else. Delete it to attack again.")
    return found.astype(start.dtype)
