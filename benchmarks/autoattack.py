"""AutoAttack of ten classes: the kit beside pyautoattack, the packaged original.

ResNet-18 on drawn skin lesions of ISIC's ten diagnoses at 64 pixels, which cost as much as real
ones. Both run the standard version, 100 steps and 5,000 queries, on the same images; the share
left standing must be the same, one image apart at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from pyautoattack import AutoAttack

from medrobust_utils.attacks import autoattack_sweep
from medrobust_utils.core import env
from medrobust_utils.data import ImageSet, phantom_set, split_by_group, to_float
from medrobust_utils.models import MedicalModel, build
from medrobust_utils.scoring.predict import predict
from medrobust_utils.training.fit import fit

from .networks import plain
from .timing import Comparison, judge, take_turns

SIZE, PHANTOMS, IMAGES = 64, 800, 32
RECIPE = dict(
    epochs=4, batch=32, lr=0.001, weight_decay=0.0, warmup_epochs=0.0, clip=0.0, flips="both"
)
ROUNDS = {8: 3, 5: 2}  # for each size in 255ths: at 5/255 some stand, each for minutes
FASTER, APART = 2, 1  # times as fast; images that may end differently


def measure() -> Iterator[Comparison]:
    """The standard AutoAttack at one size after the other, each on its own."""
    model, data, rows = _trained()
    for size, rounds in ROUNDS.items():
        eps, left = size / 255, {}
        sides = {
            "pyautoattack": _theirs(model, data, rows, eps, left),
            "kit": _ours(model, data, rows, eps, left),
        }
        theirs, ours = take_turns(list(sides.values()), rounds, warm=False)
        spent = left.pop("spent")
        yield judge(
            f"AutoAttack at {size}/255, ResNet-18, ten classes, {len(rows)} drawn lesions of "
            f"{SIZE} px",
            ("pyautoattack", theirs),
            ("kit", ours),
            at_least=FASTER,
            facts={f"{name}_robust_accuracy": share for name, share in left.items()},
            kept=round(abs(left["kit"] - left["pyautoattack"]) * len(rows)) <= APART,
            bound=f"{spent:.0%} of the kit's passes go to images that stand to the end, where both "
            "do the same.",
        )


def _theirs(
    model: MedicalModel, data: ImageSet, rows: np.ndarray, eps: float, left: dict
) -> Callable[[], None]:
    device = env.pick_device()
    peer = plain(model)
    images = to_float(data.images[rows]).to(device).contiguous()
    labels = torch.from_numpy(data.targets[rows]).to(device)

    def attack() -> None:
        job = AutoAttack(peer, eps=eps, seed=0, device=device)
        found = job.run_standard_evaluation(images, labels, batch_size=len(images))
        moved = found[0] if isinstance(found, tuple) else found
        with torch.no_grad():
            left["pyautoattack"] = (peer(moved).argmax(1) == labels).float().mean().item()

    return attack


def _ours(
    model: MedicalModel, data: ImageSet, rows: np.ndarray, eps: float, left: dict
) -> Callable[[], None]:
    how = dict(batch=len(rows), dtype=env.training_dtype(env.pick_device()))

    def attack() -> None:
        found = autoattack_sweep(model, data, rows, [eps], **how)
        left["kit"] = float(found.stands.mean())
        left["spent"] = float(found.queries[found.stands].sum() / found.queries.sum())

    return attack


def _trained() -> tuple[MedicalModel, ImageSet, np.ndarray]:
    """A network, its data, and validation images that it has right."""
    data = phantom_set("dermatoscopy10", PHANTOMS, size=SIZE)
    split = split_by_group(data, seed=0)
    env.seed_everything(0)
    model = build("resnet18", len(data.classes), start="scratch")
    with TemporaryDirectory() as folder:
        fit(model, data, split, RECIPE, Path(folder), seed=0, validate=lambda model: {})
    right = predict(model, data, split.val).argmax(1) == data.targets[split.val]
    return model, data, split.val[right][:IMAGES]
