"""What the networks of paper 4 gain over one another, and rows on their data and training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pandas as pd
from scipy.signal import detrend

from ..data.masks import pixel_counts
from ..data.splits import leaks
from ..reporting.results import Run
from ..scoring.metrics import DRAWS, Estimate
from . import survival, tables
from .experiment import Task, Trained
from .segmented import BACKGROUND, PROBES, SEEN, answers, within

FLUCTUATES = 0.05  # standard deviation over mean of a validation loss that does
FOUR = ("clean", "layered", "selective", "union")  # the schemes of models 1 to 4
# Which networks are held against which, with the one that is to gain last.
RIVALS = {
    "clean": ["layered", "selective", "union", "adversarial", "clean_layered", "on_the_fly"],
    "layered": ["selective", "union", "clean_layered", "on_the_fly"],
    "selective": ["union"],
    "clean_layered": ["union"],
}


def compared(scores: pd.DataFrame) -> pd.DataFrame:
    """Rows of single networks, with what they gain over one another, over the training seeds.

    A ``_gain`` is a network's score minus that of another (``against``, see RIVALS): of models as
    the paper has them, and over the clean one of other readings too.
    """
    scores = pd.concat([scores, within(scores)])
    few = scores["metric"].isin([*SEEN, "band_noise"]) & ~scores["attack"].isin(PROBES)
    main = scores["variant"].eq("main")
    # one attacked test set for all: the clean network meets it as its own
    own = {"scheme": "clean", **BACKGROUND._asdict()}
    theirs = scores[few & main]
    theirs = pd.concat([theirs, tables.chosen(theirs, own).assign(made_for="clean")])
    return tables.over_seeds(pd.concat([scores, *_rivalries(scores[few], theirs)]))


def _rivalries(scores: pd.DataFrame, theirs: pd.DataFrame) -> Iterator[pd.DataFrame]:
    for rival, schemes in RIVALS.items():
        ours = scores[scores["scheme"].isin(schemes)]
        ours = ours[ours["variant"].eq("main") | (rival == "clean")]
        old = theirs[theirs["scheme"].eq(rival)]
        pairs = tables.paired(ours, old, apart=["scheme", "ball", "classes", "variant"])
        yield pairs.assign(against=rival)


def decided(run: Run, left: pd.DataFrame, settings: Mapping) -> None:
    """Write what networks gain under the ensemble, and beside gains what a verdict asks of it.

    Args:
        left: rows of every network (see ``segmented.under_ensemble``).
    """
    steps = settings["attack"]["ensemble"]["steps"]
    gains = tables.over_seeds(pd.concat(_rivalries(left, left[left["variant"].eq("main")])))
    tables.record(run, gains)
    for attack in ("background", "worst"):
        of = (f"mean_iou_{attack}_gain", "mean_iou_ensemble_gain")
        where = {"attack": attack, "reading": "total", "made_for": "own"}
        told = gains[gains["metric"].isin(of)].assign(**where)
        keys = ["scheme", "variant", "against", *where]
        survival.decide(run, told, ["mean_iou_gain"], keys, steps, of=of)


def agreement(trained: Iterable[Trained]) -> pd.DataFrame:
    """Rows on whether models 2 and 3 of a seed answer alike: the share of the clean test pixels
    that they give one class, minus that of two seeds of model 2; none where there is one seed."""
    main = {(one.arm.scheme, one.arm.seed): one for one in trained if one.arm.variant == "main"}
    seeds = [seed for scheme, seed in main if scheme == "selective" and ("layered", seed) in main]
    parts = [pd.DataFrame()]
    for seed, other in zip(seeds, seeds[1:] + seeds[:1], strict=True):
        if seed != other:
            three, task = main["selective", seed], main["selective", seed].arm.task
            two, rival = (answers(main["layered", number]) for number in (seed, other))
            gain = (two == answers(three)).mean((1, 2)) - (two == rival).mean((1, 2))
            rows = tables.image_means({"agreement_gain": gain}, task.data.groups[task.attacked])
            tags = {"against": "layered", "attack": "none", "seed": seed}
            parts.append(rows.assign(**three.arm.tags, **tags))
    return pd.concat(parts)


def fluctuations(trained: Iterable[Trained]) -> pd.DataFrame:
    """Rows on the validation loss in the second half of the epochs: its standard deviation over
    its mean (``val_loss_spread``); about a straight line, of the least of the four models, minus
    FLUCTUATES (``val_loss_spread_above``)."""
    rows, least = [], defaultdict(list)
    for one in trained:
        arm, loss = one.arm, np.array([row["val_loss"] for row in one.history])
        half, about = loss[len(loss) // 2 :], {"n": len(arm.task.chosen), "seed": arm.seed}
        spread = {"metric": "val_loss_spread", "estimate": half.std() / half.mean()}
        rows.append(spread | about | arm.tags)
        if arm.scheme in FOUR and arm.variant == "main":
            least[arm.seed].append(detrend(half).std() / half.mean() - FLUCTUATES)
    four = {"metric": "val_loss_spread_above", "schemes": "four", **about, **arm.task.tags}
    rows += [four | {"estimate": min(k), "seed": s} for s, k in least.items() if len(k) == 4]
    table = pd.DataFrame(rows)  # no images, hence no variance of theirs
    sure = [Estimate(value, np.full(DRAWS, value)) for value in table["estimate"]]
    return table.assign(estimate=sure)


def task_rows(task: Task) -> pd.DataFrame:
    """Rows on the data: images and groups of each side, shares of the classes, leaks."""
    data = task.data
    leaked = {"metric": "test_images_leaked", "estimate": leaks(data, task.split)}
    rows = [leaked | {"n": len(task.split.test)}]
    sides = {**task.split._asdict(), "attacked": task.attacked, "all": np.arange(len(data))}
    for side, index in sides.items():
        found = {"images": len(index), "groups": len(np.unique(data.groups[index]))}
        rows += [{"metric": name, "estimate": one, "side": side} for name, one in found.items()]
        counts = pixel_counts(data.targets[index])[: len(data.classes)]
        shares = dict(zip(data.classes, (counts / counts.sum()).tolist(), strict=True))
        about = {"metric": "pixel_share", "side": side}
        rows += [{**about, "estimate": share, "kind": kind} for kind, share in shares.items()]
    return pd.DataFrame(rows, dtype=object).assign(**task.tags)
