"""Paper 4: what its two ways of perturbing an image do, and what they cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from scipy import ndimage
from skimage.metrics import structural_similarity

from .. import segmentation
from ..attacks import layered_pgd, madry_step, pgd, selective_fgsm
from ..attacks.layered import BALLS, full_area
from ..attacks.selective import SEARCHES
from ..core import env
from ..core.contracts import ask
from ..core.errors import RunError
from ..core.gate import check_steady, once
from ..core.storage import cached_arrays, fingerprint
from ..data import ImageSet, to_float
from ..models import digest
from ..segmentation import PART, Layered
from .common import precision, some
from .unet_adversarial import CLASSES, Trained

SHAPES = ("target_area", "largest_area", "regions", "classes")
TIMED = 2  # images a cost is measured on


def probed(clean: Trained, settings: Mapping) -> np.ndarray:
    """The training images that the measurements below look at."""
    return some(clean.arm.task.split.train, settings["probe"], clean.arm.seed)


def shapes(clean: Trained, settings: Mapping) -> dict[str, dict[str, np.ndarray]]:
    """What predictions look like after plain and after layered PGD against the clean network.

    Returns:
        Keys ``clean``; ``plain`` (PGD from the image to one class, mean over the K classes);
        ``plain, K times`` (to the last class, with the steps and the radius that the layers have
        together); ``layered, <ball>, <classes>``. Each a dict of per-image values (N,):
        ``target_area``, the share of the image given the (last) class it was pushed to, NaN where
        that differs from image to image; ``largest_area``, that of the largest class;
        ``regions``, connected areas of one class; ``classes``, how many occur; and ``moved``, mean
        change of a pixel.
    """
    task, one = clean.arm.task, settings["method_one"]
    rows, dtype = probed(clean, settings), precision(settings, clean.model)
    weights = digest(clean.model)
    key = fingerprint(weights, task.data.checksum, rows.tolist(), one, str(dtype), SHAPES)

    def compute() -> dict[str, np.ndarray]:
        parts = [
            _shapes(clean, settings, rows[start : start + PART], dtype)
            for start in range(0, len(rows), PART)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    table: dict[str, dict[str, np.ndarray]] = {}
    for name, values in cached_arrays(clean.folder / f"shapes-{key}.npz", compute).items():
        what, _, measure = name.rpartition("/")
        table.setdefault(what, {})[measure] = values
    return table


def _shapes(
    clean: Trained, settings: Mapping, rows: np.ndarray, dtype: torch.dtype
) -> dict[str, np.ndarray]:
    """The values of ``shapes`` for some images, under ``<key>/<measure>``."""
    data, one = clean.arm.task.data, settings["method_one"]
    eps, steps, kinds = one["eps"], one["steps"], range(len(data.classes))
    images = to_float(data.images[rows]).to(env.pick_device())
    labels = torch.from_numpy(data.targets[rows])
    measured: dict[str, np.ndarray] = {}

    def note(name: str, moved: torch.Tensor, target: int | None) -> None:
        for measure, values in _shape(clean.model, images, moved, target).items():
            measured[f"{name}/{measure}"] = measured.get(f"{name}/{measure}", 0) + values

    def plain(kind: int, times: int) -> torch.Tensor:
        how = dict(steps=times * steps, step_size=madry_step(eps, steps), random_start=False)
        target = full_area(images, kind)
        return pgd(clean.model, images, target, times * eps, targeted=True, dtype=dtype, **how)

    note("clean", images, 0)
    for kind in env.progress(kinds, desc="plain PGD"):
        note("plain", plain(kind, 1), kind)
    for name in [name for name in measured if name.startswith("plain/")]:
        measured[name] = measured[name] / len(kinds)
    note("plain, K times", plain(kinds[-1], len(kinds)), kinds[-1])
    ways = [(ball, which) for ball in BALLS for which in CLASSES]
    for ball, which in env.progress(ways, desc="layered PGD"):
        how = Layered(eps, steps, ball, which == "present")
        moved = how(clean.model, images, labels, dtype)["images"]
        note(f"layered, {ball}, {which}", moved, kinds[-1] if which == "all" else None)
    return measured


def _shape(
    model: torch.nn.Module, images: torch.Tensor, moved: torch.Tensor, target: int | None
) -> dict[str, np.ndarray]:
    """The measures of ``shapes`` for one perturbation; ``target``: None if images differ in it."""
    maps = ask(model, moved).argmax(1).cpu().numpy()
    counts = [np.bincount(one.ravel(), minlength=(target or 0) + 1) for one in maps]
    pixels = maps[0].size
    area = [np.nan if target is None else count[target] / pixels for count in counts]
    return {
        "target_area": np.array(area),
        "largest_area": np.array([count.max() / pixels for count in counts]),
        "regions": np.array([regions(one) for one in maps], float),
        "classes": np.array([np.count_nonzero(count) for count in counts], float),
        "moved": (moved - images).abs().mean((1, 2, 3)).cpu().numpy().astype(float),
    }


def regions(label_map: np.ndarray) -> int:
    """Connected areas of one class each (neighbours share an edge) in a map (H, W)."""
    return sum(ndimage.label(label_map == kind)[1] for kind in np.unique(label_map))


def searches(clean: Trained, settings: Mapping) -> dict[str, dict[str, np.ndarray]]:
    """Method two with each search on the same images: ``loss``, ``evaluations`` (N,), ``signs``."""
    task, two = clean.arm.task, settings["method_two"]
    rows, found = probed(clean, settings), {}
    for search in SEARCHES:
        how = segmentation.Selective(two["step_size"], two["bound"], search)
        _, found[search] = segmentation.harden(
            clean.model, task.data, rows, how, clean.folder, dtype=precision(settings, clean.model)
        )
    return found


def costs(clean: Trained, settings: Mapping) -> list[dict]:
    """What both methods cost with the first 1, 2, ..., K classes, counted and timed here and now.

    Method two searches exhaustively, whatever the profile trains with.

    Returns:
        One dict a method and number of classes: ``method``, ``classes``, and an image's
        ``gradients`` (forward and backward passes), ``evaluations`` (forward passes alone, those
        that only check or score the outcome included) and ``seconds``.
    """
    task, one, two = clean.arm.task, settings["method_one"], settings["method_two"]
    rows = probed(clean, settings)[:TIMED]
    images = to_float(task.data.images[rows]).to(env.pick_device())
    labels, table = torch.from_numpy(task.data.targets[rows]), []
    first = dict(steps=one["steps"], step_size=madry_step(one["eps"], one["steps"]))
    first["dtype"] = precision(settings, clean.model)
    second = dict(step_size=two["step_size"], bound=two["bound"])
    for count in [1, *range(1, len(task.data.classes) + 1)]:  # the first warms up
        kinds = range(count)
        for method, call in (
            ("layered", partial(layered_pgd, eps=one["eps"], classes=kinds, **first)),
            ("selective", partial(selective_fgsm, classes=kinds, **second)),
        ):
            passes = _passes(clean.model, images, partial(call, clean.model, images, labels))
            shares = {name: value / len(rows) for name, value in passes.items()}
            table.append({"method": method, "classes": count, **shares})
    return table[2:]


def _passes(
    model: torch.nn.Module, images: torch.Tensor, call: Callable[[], object]
) -> dict[str, float]:
    """How many images went through ``model`` during a call, by kind, and how long it took."""
    found = {"gradients": 0, "evaluations": 0}

    def count(_: torch.nn.Module, given: tuple[torch.Tensor]) -> None:
        found["gradients" if given[0].requires_grad else "evaluations"] += len(given[0])

    with once():  # the first call asks whether answers are steady, which is no cost of a method
        check_steady(model, images)
        hook = model.register_forward_pre_hook(count)
        start = time.perf_counter()
        try:
            call()
        finally:
            hook.remove()
        return found | {"seconds": time.perf_counter() - start}


def likeness(data: ImageSet, rows: np.ndarray, perturbed: ImageSet) -> dict[str, np.ndarray]:
    """How much perturbed images (one for each of ``rows``) resemble their originals, (N,) each.

    ``similarity``: structural similarity (Wang et al. 2004) as scikit-image computes it, 1 for
    equal images; ``largest`` and ``mean``: change of a pixel, in units of the full range.
    """
    if len(rows) != len(perturbed):
        raise RunError(f"{len(perturbed)} perturbed images for {len(rows)} originals.")
    before = to_float(data.images[rows]).permute(0, 2, 3, 1).numpy()
    change = np.abs(perturbed.images - before)
    alike = [
        structural_similarity(a, b, data_range=1.0, channel_axis=2)
        for a, b in zip(before, perturbed.images, strict=True)
    ]
    return {
        "similarity": np.array(alike),
        "largest": change.max((1, 2, 3)),
        "mean": change.mean((1, 2, 3)),
    }
