"""Paper 4: what one U-Net scores clean and attacked, and what the two methods do and cost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from skimage.metrics import structural_similarity
from torch import nn

from .. import segmentation
from ..attacks import Attack, Selective, layered_pgd, madry_step, selective_fgsm
from ..attacks.layered import BALLS
from ..attacks.selective import SEARCHES
from ..core import env
from ..core.contracts import ask
from ..core.gate import check_steady, once
from ..core.storage import cached_arrays, fingerprint
from ..data import ImageSet, to_float
from ..models import digest
from ..scoring import metrics
from ..scoring import segmentation as scoring
from ..scoring.metrics import Estimate
from ..scoring.segmentation import Tally
from . import tables
from .common import precision, some
from .unet_adversarial import CLASSES, Arm, Trained


class Cell(NamedTuple):
    """One way of being tested.

    Attributes:
        attack: ``none``, one of ``attacks.segmenting.ATTACKS``, or ``worst`` (see ``INSIDE``).
        reading: of "an epsilon of 1 %": the ``total``, or each ``step`` with no bound on the sum.
        made_for: whose gradients were followed: the network's ``own``, or those of the ``clean``
            one of the same seed, as if one attacked test set had been shown to all four.
    """

    attack: str
    reading: str = "total"
    made_for: str = "own"


CLEAN, WORST = Cell("none", "none", "none"), Cell("worst")
BACKGROUND, PGD, SEGPGD = Cell("background"), Cell("pgd"), Cell("segpgd")
PER_STEP, TRANSFERRED = Cell("background", "step"), Cell("background", made_for="clean")
# The worst of these, image by image, is what `robust` means here: all keep to the same ball.
INSIDE = (CLEAN, BACKGROUND, PGD, SEGPGD)
TITLES = {  # in the order of the paper, the attacks that it does not have after its own
    CLEAN: "clean",
    BACKGROUND: "to background, 1 % in all",
    PER_STEP: "to background, 1 % a step",
    TRANSFERRED: "to background, made for model 1",
    PGD: "away from the truth (PGD)",
    SEGPGD: "SegPGD",
    WORST: "worst of all, image by image",
}
GATES = {"beats_prior": "mean_iou", "beats_majority": "pixel_accuracy"}
TIMED = 2  # images a cost is measured on


def attack_of(cell: Cell, settings: Mapping) -> Attack:
    """The attack of a cell, as hard as the profile says."""
    eps, steps = settings["attack"]["eps"], settings["attack"]["steps"]
    bounds = {"eps": 1.0, "step_size": eps} if cell.reading == "step" else {"eps": eps}
    return Attack(cell.attack, steps=steps, **bounds)


def attacked(source: Trained, cell: Cell, settings: Mapping) -> ImageSet:
    """The test images under attack against ``source``; kept if figures will show them."""
    task, folder = source.arm.task, source.folder if cell in (BACKGROUND, TRANSFERRED) else None
    how = {"dtype": precision(settings, source.model), "folder": folder}
    attack = attack_of(cell, settings)
    return segmentation.attack(source.model, task.data, task.attacked, attack, **how)


@dataclass(frozen=True)
class Evaluation:
    """What one network scored: for each cell what was counted on the attacked test images."""

    arm: Arm
    tallies: dict[Cell, Tally]

    def _score(self, counts: Tally) -> dict[str, Estimate]:
        return scoring.score(counts, self.weights, self.arm.task.data.classes)

    @cached_property
    def weights(self) -> np.ndarray:
        """(1 + draws, N) of the attacked images; equal for all arms of a task."""
        return metrics.group_weights(self.arm.task.data.groups[self.arm.task.attacked])

    @cached_property
    def majority(self) -> dict[str, Estimate]:
        """The scores of answering "background" everywhere, which no attack changes."""
        found = self._score(scoring.constant(self.tallies[CLEAN]))
        return {name: value for name, value in found.items() if name != "loss"}  # infinite

    @cached_property
    def gates(self) -> dict[str, bool]:
        """Whether the network learnt enough for a verdict on its robustness.

        ``beats_prior``: the interval of its clean mean IoU lies above that of "background"
        everywhere, paired; ``beats_majority``: that of its pixel accuracy does.
        """
        clean, told = self._score(self.tallies[CLEAN]), GATES.items()
        return {gate: bool((clean[name] - self.majority[name]).low > 0) for gate, name in told}

    def scores(self) -> pd.DataFrame:
        """Tidy rows: every score of every cell, and how often each attack was the worst.

        Under ``WORST`` each score is that of the attacks that hurt it most, image by image.
        """
        found = {cell: self._score(counts) for cell, counts in self.tallies.items()}
        inside, classes = [self.tallies[cell] for cell in INSIDE], self.arm.task.data.classes
        found[WORST] = scoring.score_worst(inside, self.weights, classes)
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
        parts = []
        for cell, counts in {**self.tallies, WORST: worst}.items():
            scores = {name: one.round(4) for name, one in scoring.per_image(counts).items()}
            parts.append(pd.DataFrame({**about, **cell._asdict(), **images, **scores}))
        return pd.concat(parts, ignore_index=True)


def score_rows(scores: Mapping[str, Estimate]) -> pd.DataFrame:
    """Scores as rows; ``dice_<class>`` is the metric ``dice`` with a tag ``kind``."""
    names = [("dice", name[5:]) if name.startswith("dice_") else (name, None) for name in scores]
    table = pd.DataFrame(names, columns=["metric", "kind"])
    return table.assign(estimate=list(scores.values()))


def evaluate(trained: Trained, settings: Mapping, clean: Trained) -> Evaluation:
    """Attack one network with everything; what was done before is read back.

    Args:
        clean: the clean network of the same seed, which may be ``trained`` itself.
    """
    task, model, tallies = trained.arm.task, trained.model, {}
    cells = [*INSIDE, PER_STEP] + [TRANSFERRED] * (trained.arm.scheme != "clean")
    for cell in cells:
        source = clean if cell is TRANSFERRED else trained
        key = fingerprint(
            task.data.checksum,
            task.attacked.tolist(),
            repr(attack_of(cell, settings)) if cell != CLEAN else "",
            str(precision(settings, source.model)),
            digest(model),
            digest(source.model),
        )

        def compute(cell: Cell = cell, source: Trained = source) -> dict[str, np.ndarray]:
            shown, index = task.data, task.attacked
            if cell != CLEAN:
                shown, index = attacked(source, cell, settings), np.arange(len(index))
            return segmentation.tallied(model, shown, index, desc="score").arrays()

        path = trained.folder / f"scored-{'-'.join(cell)}-{key}.npz"
        tallies[cell] = Tally(**cached_arrays(path, compute))
    return Evaluation(trained.arm, tallies)


def precision_differs(trained: Trained, settings: Mapping, index: np.ndarray) -> pd.DataFrame:
    """Rows on what gradients in the training's precision cost an attack, on images of ``index``.

    A network can look robust because its gradients vanish in bfloat16. Loss (nats) and foreground
    accuracy under SegPGD with float32 gradients minus those with the profile's.
    """
    model, data, found = trained.model, trained.arm.task.data, []
    attack = attack_of(SEGPGD, settings)
    for dtype in (torch.float32, precision(settings, model)):
        how = {"dtype": dtype, "folder": trained.folder}
        shown = segmentation.attack(model, data, index, attack, **how)
        counts = segmentation.tallied(model, shown, np.arange(len(index)))
        found.append(scoring.per_image(counts))
    names = ("loss", "foreground_accuracy")
    values = {f"precision_{name}_difference": found[0][name] - found[1][name] for name in names}
    return tables.means(values, data.groups[index]).assign(**trained.arm.tags)


def probed(clean: Trained, settings: Mapping) -> np.ndarray:
    """The training images that the measurements below look at."""
    return some(clean.arm.task.split.train, settings["probe"], clean.arm.seed)


def shapes(clean: Trained, settings: Mapping) -> pd.DataFrame:
    """Rows on what predictions look like after plain and after layered PGD against a network.

    ``<measure>_above_plain`` is layered minus plain, image by image, ``<measure>_above_strong``
    minus plain, K times. ``target_area``: share of the image given the (last) class it was pushed
    to; ``largest_area``: that of the largest class; ``regions``: connected areas of one class;
    ``classes``: how many occur; ``moved``: mean change of a pixel.
    """
    data, index, model = clean.arm.task.data, probed(clean, settings), clean.model
    one, dtype = settings["method_one"], precision(settings, model)
    key = fingerprint(digest(model), data.checksum, index.tolist(), dict(one), str(dtype))

    def compute() -> dict[str, np.ndarray]:
        found: dict[str, list[np.ndarray]] = {}
        images = to_float(data.images[index]).to(env.pick_device()).split(segmentation.PART)
        labels = torch.from_numpy(data.targets[index]).split(segmentation.PART)
        for name, target, how in env.progress([*_pushes(one, len(data.classes))], desc="shapes"):
            parts = []
            for before, truth in zip(images, labels, strict=True):
                after = layered_pgd(model, before, truth, **how, dtype=dtype) if how else before
                maps = ask(model, after).argmax(1).cpu().numpy()
                moved = (after - before).abs().mean((1, 2, 3)).cpu().numpy()
                parts.append(
                    pd.DataFrame([_shape(one, target) for one in maps]).assign(moved=moved)
                )
            for measure, values in pd.concat(parts).items():
                found.setdefault(f"{name}/{measure}", []).append(values.to_numpy(float))
        return {name: np.mean(values, axis=0) for name, values in found.items()}

    found = cached_arrays(clean.folder / f"shapes-{key}.npz", compute)
    table = tables.means(found, data.groups[index])
    table[["perturbed", "metric"]] = table["metric"].str.split("/", expand=True)
    layered = [name for name in table["perturbed"].unique() if name.startswith("layered")]
    rivals = {"plain": "{}_above_plain", "plain, K times": "{}_above_strong"}
    pairs = product(layered, rivals.items())
    pairs = [tables.compare(table, "perturbed", name, *rival) for name, rival in pairs]
    return pd.concat([table, *pairs])


def _pushes(one: Mapping, classes: int) -> Iterator[tuple[str, int | None, dict]]:
    """What ``shapes`` compares: name, the class pushed to (None: each image its own), and how.

    ``plain`` goes from the image to one class, once for each class; ``plain, K times`` to the last
    one, with the steps and the radius that the layers have together.
    """
    how = {"eps": one["eps"], "steps": one["steps"]}
    how["step_size"], last = madry_step(**how), classes - 1
    yield "clean", 0, {}
    for kind in range(classes):
        yield "plain", kind, how | {"classes": [kind]}
    strong = {"eps": classes * one["eps"], "steps": classes * one["steps"], "classes": [last]}
    yield "plain, K times", last, how | strong
    for ball, which in product(BALLS, CLASSES):
        reading = {"classes": range(classes), "ball": ball, "present": which == "present"}
        yield f"layered, {ball}, {which}", last if which == "all" else None, how | reading


def _shape(label_map: np.ndarray, target: int | None) -> dict[str, float]:
    kinds, counts = np.unique(label_map, return_counts=True)
    found = {} if target is None else {"target_area": (label_map == target).mean()}
    found |= {"largest_area": counts.max() / label_map.size, "classes": len(kinds)}
    return found | {"regions": regions(label_map)}


def regions(label_map: np.ndarray) -> int:
    """Connected areas of one class each (neighbours share an edge) in a map (H, W)."""
    return sum(ndimage.label(label_map == kind)[1] for kind in np.unique(label_map))


def searches(clean: Trained, settings: Mapping) -> pd.DataFrame:
    """Method two with each search: a line an image, with ``loss``, ``before``, ``evaluations``."""
    two, index, parts = settings["method_two"], probed(clean, settings), []
    how = {"folder": clean.folder, "dtype": precision(settings, clean.model)}
    for search in SEARCHES:
        method = Selective(two["step_size"], two["bound"], search)
        _, told = segmentation.harden(clean.model, clean.arm.task.data, index, method, **how)
        columns = {name: told[name].astype(float) for name in ("loss", "before", "evaluations")}
        parts.append(pd.DataFrame({"search": search, **columns}))
    return pd.concat(parts)


def search_rows(found: pd.DataFrame, groups: np.ndarray) -> pd.DataFrame:
    """Rows on ``searches``: loss, what is missed of the least, what is saved, evaluations."""
    parts, least = [], found.loc[found["search"].eq("exhaustive"), "loss"].to_numpy()
    for search, of_search in found.groupby("search", sort=False):
        loss = of_search["loss"].to_numpy()
        values = {"selected_loss": loss, "loss_above_least": loss - least}
        values["loss_saved"] = of_search["before"].to_numpy() - loss
        exact = {
            "misses": (loss > least + 1e-6).sum(),
            "evaluations": of_search["evaluations"].mean(),
        }
        exact = pd.DataFrame(exact.items(), columns=["metric", "estimate"]).assign(n=len(loss))
        parts.append(pd.concat([tables.means(values, groups), exact]).assign(search=search))
    return pd.concat(parts)


def costs(clean: Trained, settings: Mapping) -> pd.DataFrame:
    """Rows on what both methods cost with the first 1, 2, ..., K classes, and how that grows.

    An image's ``cost_gradients`` (forward and backward passes), ``cost_evaluations`` (forward
    passes alone, those that only check or score the outcome included) and ``cost_seconds``, counted
    and timed here and now. Method two searches exhaustively, whatever the profile trains with.
    """
    data, model, one = clean.arm.task.data, clean.model, settings["method_one"]
    index, two = probed(clean, settings)[:TIMED], settings["method_two"]
    images = to_float(data.images[index]).to(env.pick_device())
    labels, passes, lines = torch.from_numpy(data.targets[index]), Counter(), []
    first = {"eps": one["eps"], "steps": one["steps"], "dtype": precision(settings, model)}
    first["step_size"] = madry_step(one["eps"], one["steps"])
    second = {"step_size": two["step_size"], "bound": two["bound"]}
    ways = {"layered": (layered_pgd, first), "selective": (selective_fgsm, second)}

    def count(_: nn.Module, given: tuple[torch.Tensor]) -> None:
        passes["gradients" if given[0].requires_grad else "evaluations"] += len(given[0])

    with once():  # whether answers are steady is asked beforehand: that is no cost of a method
        check_steady(model, images)
        hook = model.register_forward_pre_hook(count)
        for kinds, method in product([1, *range(1, len(data.classes) + 1)], ways):
            passes.clear()
            start, (call, how) = time.perf_counter(), ways[method]
            call(model, images, labels, classes=range(kinds), **how)
            found = {name: passes[name] for name in ("gradients", "evaluations")}
            found["seconds"] = time.perf_counter() - start
            lines += [(method, kinds, name, one / len(index)) for name, one in found.items()]
        hook.remove()
    table = pd.DataFrame(lines, columns=["method", "count", "metric", "estimate"])
    table = table.drop_duplicates(["method", "count", "metric"], keep="last")  # the first warms up
    table["count"] = table["count"].astype(object)
    ends = table.groupby(["method", "metric"], sort=False)["estimate"].agg(["first", "last"])
    growth = (ends["last"] / ends["first"])[ends["first"] > 0].rename("estimate").reset_index()
    growth["metric"] = growth["metric"].str[:-1] + "_growth"
    return pd.concat([table.assign(metric="cost_" + table["metric"]), growth])


def likeness(data: ImageSet, index: np.ndarray, perturbed: ImageSet) -> pd.DataFrame:
    """Rows on how much perturbed images (one for each of ``index``) resemble their originals.

    ``similarity``: structural similarity (Wang et al. 2004) as scikit-image computes it, 1 for
    equal images; ``largest`` and ``mean``: change of a pixel, in units of the full range.
    """
    before = to_float(data.images[index]).permute(0, 2, 3, 1).numpy()
    change, how = np.abs(perturbed.images - before), {"data_range": 1.0, "channel_axis": 2}
    pairs = zip(before, perturbed.images, strict=True)
    found = {"similarity": np.array([structural_similarity(*pair, **how) for pair in pairs])}
    found |= {"largest": change.max((1, 2, 3)), "mean": change.mean((1, 2, 3))}
    return tables.means(found, data.groups[index])


def sign_rows(signs: np.ndarray, classes: Sequence[str]) -> list[dict]:
    """What method two chose (N, K): the share of images with each sign of each class, and with
    0, 1, ..., K signs that are not 0."""
    rows = [
        {"metric": "sign_share", "value": (signs[:, place] == sign).mean(), "kind": k, "sign": sign}
        for place, k in enumerate(classes)
        for sign in (-1, 0, 1)
    ]
    used = np.bincount(np.abs(signs).sum(1), minlength=len(classes) + 1) / len(signs)
    return rows + [{"metric": "signs_used", "value": v, "used": k} for k, v in enumerate(used)]
