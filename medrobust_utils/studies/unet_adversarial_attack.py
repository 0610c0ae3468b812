"""Paper 4: what one U-Net scores clean and attacked, and what the two methods do and cost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from .. import segmentation
from ..attacks import Attack, Selective, layered, madry_step, selective
from ..core import env
from ..core.contracts import ask
from ..core.gate import check_steady, once
from ..core.storage import cached_arrays, fingerprint
from ..data import ImageSet, to_float
from ..data.imageset import rows_of
from ..models import digest
from ..scoring import metrics
from ..scoring import segmentation as scoring
from . import tables
from .common import precision
from .unet_adversarial import CLASSES, Arm, Trained, probed


class Cell(NamedTuple):
    """One way of being tested: an attack; a reading of "an epsilon of 1 %", the ``total`` or each
    ``step`` with no bound on the sum; and whose gradients it follows, those of the network's
    ``own`` or of the ``clean`` one of its seed, as if one attacked test set were shown to all."""

    attack: str
    reading: str = "total"
    made_for: str = "own"


CLEAN, WORST = Cell("none", "none", "none"), Cell("worst")
BACKGROUND, PGD, SEGPGD = Cell("background"), Cell("pgd"), Cell("segpgd")
PER_STEP, TRANSFERRED = Cell("background", "step"), Cell("background", made_for="clean")
# The worst of these, image by image, is what `robust` means here: all keep to the same ball.
INSIDE = (CLEAN, BACKGROUND, PGD, SEGPGD)
GATES = {"beats_prior": "mean_iou", "beats_majority": "pixel_accuracy"}


def attack_of(cell: Cell, settings: Mapping) -> Attack:
    """The attack of a cell, as hard as the profile says."""
    eps, steps = settings["attack"]["eps"], settings["attack"]["steps"]
    bounds = {"eps": 1.0, "step_size": eps} if cell.reading == "step" else {"eps": eps}
    return Attack(cell.attack, steps=steps, **bounds)


def attacked(source: Trained, cell: Cell, settings: Mapping) -> ImageSet:
    """The test images under attack against ``source``; kept if figures will show them."""
    images = source.arm.task.data, source.arm.task.attacked
    if cell == CLEAN:
        return rows_of(*images)
    how = {"folder": source.folder if cell in (BACKGROUND, TRANSFERRED) else None}
    how["dtype"] = precision(settings, source.model)
    return segmentation.attack(source.model, *images, attack_of(cell, settings), **how)


@dataclass(frozen=True)
class Evaluation:
    """What one network scored: for each cell what was counted on the attacked test images."""

    arm: Arm
    tallies: dict[Cell, scoring.Tally]

    def _score(self, counts: object, how: Callable = scoring.score) -> dict[str, metrics.Estimate]:
        data, index = self.arm.task.data, self.arm.task.attacked
        return how(counts, metrics.group_weights(data.groups[index]), data.classes)

    @cached_property
    def majority(self) -> dict[str, metrics.Estimate]:
        """The scores of "background" everywhere, which no attack changes; its loss is infinite."""
        return self._score(scoring.constant(self.tallies[CLEAN]))

    @cached_property
    def gates(self) -> dict[str, bool]:
        """Whether the network learnt enough for a verdict: it beats ``majority``, paired."""
        clean, told = self._score(self.tallies[CLEAN]), GATES.items()
        return {gate: bool((clean[name] - self.majority[name]).low > 0) for gate, name in told}

    def scores(self) -> pd.DataFrame:
        """Tidy rows: every score of every cell, and how often each attack was the worst.

        Under ``WORST`` each score is that of the attacks that hurt it most, image by image.
        """
        found = {cell: self._score(counts) for cell, counts in self.tallies.items()}
        inside = [self.tallies[cell] for cell in INSIDE]
        found[WORST] = self._score(inside, scoring.score_worst)
        for place, cell in enumerate(INSIDE):
            found[cell]["worst_of_all"] = float((scoring.worst(inside)[1] == place).mean())
        parts = [score_rows(one).assign(**cell._asdict()) for cell, one in found.items()]
        about = {**self.arm.tags, **self.gates, "seed": self.arm.seed}
        return pd.concat(parts).assign(n=len(self.arm.task.attacked), **about)

    def per_image(self) -> pd.DataFrame:
        """A row for each cell and test image: its scores, and the attack that was the worst."""
        task, (worst, by) = self.arm.task, scoring.worst([self.tallies[cell] for cell in INSIDE])
        about = {**self.arm.own, "variant": self.arm.variant, "seed": self.arm.seed}
        images = {"image": [task.data.ids[row] for row in task.attacked]}
        images["worst_by"] = [INSIDE[place].attack for place in by]
        parts = [
            pd.DataFrame({**about, **cell._asdict(), **images, **scoring.per_image(counts)})
            for cell, counts in {**self.tallies, WORST: worst}.items()
        ]
        return pd.concat(parts, ignore_index=True).round(4)


def score_rows(scores: Mapping[str, metrics.Estimate]) -> pd.DataFrame:
    """Scores as rows; ``dice_<class>`` is the metric ``dice`` with a tag ``kind``."""
    names = [("dice", name[5:]) if name.startswith("dice_") else (name, None) for name in scores]
    return pd.DataFrame(names, columns=["metric", "kind"]).assign(estimate=[*scores.values()])


def evaluate(trained: Trained, settings: Mapping, clean: Trained) -> Evaluation:
    """Attack one network with everything, or read back; ``clean`` is the clean one of its seed."""
    task, model, tallies = trained.arm.task, trained.model, {}
    images, how = (task.data.checksum, task.attacked.tolist()), settings["attack"]
    for cell in [*INSIDE, PER_STEP] + [TRANSFERRED] * (trained.arm.scheme != "clean"):
        source = clean if cell is TRANSFERRED else trained
        weights, dtype = (digest(model), digest(source.model)), precision(settings, source.model)
        key = fingerprint(*images, how["eps"], how["steps"], str(dtype), *weights)

        def compute(cell: Cell = cell, source: Trained = source) -> dict[str, np.ndarray]:
            shown = attacked(source, cell, settings)
            return segmentation.tallied(model, shown, np.arange(len(shown)), desc="score").arrays()

        path = trained.folder / f"scored-{'-'.join(cell)}-{key}.npz"
        tallies[cell] = scoring.Tally(**cached_arrays(path, compute))
    return Evaluation(trained.arm, tallies)


def precision_differs(trained: Trained, settings: Mapping, index: np.ndarray) -> pd.DataFrame:
    """Rows on whether a network looks robust as its gradients vanish in bfloat16: its scores under
    SegPGD with float32 gradients minus those with the profile's, on the images of ``index``."""
    model, data, names = trained.model, trained.arm.task.data, ("loss", "foreground_accuracy")
    given, found = (model, data, index, attack_of(SEGPGD, settings)), []
    for dtype in (torch.float32, precision(settings, model)):
        shown = segmentation.attack(*given, dtype=dtype, folder=trained.folder)
        found.append(scoring.per_image(segmentation.tallied(model, shown, np.arange(len(index)))))
    values = {f"precision_{name}_difference": found[0][name] - found[1][name] for name in names}
    return tables.image_means(values, data.groups[index]).assign(**trained.arm.tags)


def shapes(clean: Trained, settings: Mapping) -> pd.DataFrame:
    """Rows on what predictions look like after plain and after layered PGD against a network.

    ``plain`` goes from the image to one class, a mean over the classes; ``plain, K times`` to the
    last one, with the steps and the radius of all layers; ``_above_plain`` and ``_above_strong``
    are layered minus these. ``target_area``: share of the image given the (last) class.
    """
    data, index, model = clean.arm.task.data, probed(clean, settings), clean.model
    how, every = dict(settings["method_one"]), [*range(len(data.classes))]  # radius and steps
    many = {name: len(every) * value for name, value in how.items()}
    length = {"step_size": madry_step(**how), "dtype": precision(settings, model)}
    key = fingerprint(digest(model), data.checksum, index.tolist(), how, str(length["dtype"]))
    ways = [("clean", {**how, "classes": []})]
    ways += [("plain", {**how, "classes": [kind]}) for kind in every]
    ways += [("plain, K times", {**many, "classes": every[-1:]})]
    for ball, which in product(layered.BALLS, CLASSES):
        layers = {**how, "classes": every, "ball": ball, "present": which == "present"}
        ways.append((f"layered, {ball}, {which}", layers))

    def compute() -> dict[str, np.ndarray]:
        found: dict[str, list[np.ndarray]] = {}
        images = to_float(data.images[index]).to(env.pick_device()).split(segmentation.PART)
        labels = torch.from_numpy(data.targets[index]).split(segmentation.PART)
        for name, way in env.progress(ways, desc="plain and layered PGD"):
            parts = []
            for before, truth in zip(images, labels, strict=True):
                after = layered.layered_pgd(model, before, truth, **way, **length)
                maps = ask(model, after).argmax(1).cpu().numpy()
                moved = (after - before).abs().mean((1, 2, 3)).cpu().numpy()
                parts.append(pd.DataFrame({**scoring.shape(maps), "moved": moved}))
                if not way.get("present"):  # else the last class differs from image to image
                    parts[-1]["target_area"] = (maps == [0, *way["classes"]][-1]).mean((1, 2))
            for measure, values in pd.concat(parts).items():
                found.setdefault(f"{name}/{measure}", []).append(values.to_numpy(float))
        return {name: np.mean(values, axis=0) for name, values in found.items()}

    found = cached_arrays(clean.folder / f"shapes-{key}.npz", compute)
    table = tables.image_means(found, data.groups[index])
    table[["perturbed", "metric"]] = table["metric"].str.split("/", expand=True)
    rivals = {"plain": "{}_above_plain", "plain, K times": "{}_above_strong"}
    pairs = product([name for name, _ in ways if name.startswith("layered")], rivals.items())
    pairs = [tables.compare(table, "perturbed", name, *rival) for name, rival in pairs]
    return pd.concat([table, *pairs])


def searches(clean: Trained, settings: Mapping) -> pd.DataFrame:
    """Rows on method two with each search: loss, what is missed of the least, what is saved."""
    index, parts = probed(clean, settings), []
    given, dtype = (clean.model, clean.arm.task.data, index), precision(settings, clean.model)
    ways = {k: Selective(**{**settings["method_two"], "search": k}) for k in selective.SEARCHES}
    told = {k: segmentation.harden(*given, ways[k], clean.folder, dtype=dtype)[1] for k in ways}
    for search, found in told.items():
        loss, least = (told[name]["loss"].astype(float) for name in (search, "exhaustive"))
        values = {"selected_loss": loss, "loss_above_least": loss - least}
        values["loss_saved"] = found["before"].astype(float) - loss
        table = tables.image_means(values, clean.arm.task.data.groups[index])
        table.loc[len(table)] = ["misses", (loss > least + 1e-6).sum(), len(index)]
        table.loc[len(table)] = ["evaluations", found["evaluations"].mean(), len(index)]
        parts.append(table.assign(search=search))
    return pd.concat(parts)


def costs(clean: Trained, settings: Mapping) -> pd.DataFrame:
    """Rows on what both methods cost with the first 1, 2, ..., K classes, and how that grows.

    An image's gradients (forward and backward passes), evaluations (forward passes alone, those
    that only check or score the outcome included) and seconds, counted and timed here and now.
    Method two searches exhaustively, whatever the profile trains with.
    """
    data, model, index = clean.arm.task.data, clean.model, probed(clean, settings)[:2]
    images = to_float(data.images[index]).to(env.pick_device())
    given, passes, lines = (model, images, torch.from_numpy(data.targets[index])), Counter(), []
    one, two = settings["method_one"], {**settings["method_two"], "search": "exhaustive"}
    length = {"step_size": madry_step(**one), "dtype": precision(settings, model)}
    layers = partial(layered.layered_pgd, *given, **one, **length)
    ways = {"layered": layers, "selective": partial(selective.selective_fgsm, *given, **two)}
    counted = ("gradients", "evaluations", "seconds")

    def count(_: torch.nn.Module, given: tuple[torch.Tensor]) -> None:
        passes["gradients" if given[0].requires_grad else "evaluations"] += len(given[0])

    with once():  # whether answers are steady is asked beforehand: that is no cost of a method
        check_steady(model, images)
        hook = model.register_forward_pre_hook(count)
        for kinds, method in product([1, *range(1, len(data.classes) + 1)], ways):
            passes.clear()
            start = time.perf_counter()
            ways[method](classes=range(kinds))
            passes["seconds"] = time.perf_counter() - start
            lines += [(method, kinds, name, passes[name] / len(index)) for name in counted]
        hook.remove()
    del lines[:6]  # these calls warmed up
    table = pd.DataFrame(lines, columns=["method", "count", "metric", "estimate"], dtype=object)
    ends = table.groupby(["method", "metric"], sort=False)["estimate"].agg(["first", "last"])
    ends = ends[ends["first"] > 0]
    growth = (ends["last"] / ends["first"]).reset_index(name="estimate")
    growth["metric"] = growth["metric"].str[:-1] + "_growth"
    return pd.concat([table.assign(metric="cost_" + table["metric"]), growth])
