"""Does a defence survive AutoAttack? What the studies of papers 2 and 3 ask alike.

A gain in accuracy under PGD may be a weakness of PGD. So both networks of a pair are attacked once
more, by the four attacks of AutoAttack, on the same images and at the sizes that claims are judged
at; what PGD has fooled there stays fooled.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from ..attacks import AutoAttackConfig, AutoResult, autoattack_sweep
from ..attacks.config import MEMBERS, WRONG
from ..attacks.sweep_result import EARLIER, RANDOM_SEARCH
from ..reporting.results import Run
from ..scoring import metrics
from ..scoring.metrics import Estimate
from .common import budget, in_gray_levels, some
from .evaluation import Evaluation
from .experiment import Trained
from .tables import compare, over_seeds

# Values of the tag ``autoattack``. A shortened attack may undo a gain and cannot prove it.
SURVIVES, SHORTENED, LOST, UNCLEAR = "survives", "survives a shortened one", "lost", "unclear"
SHOWN = (
    "accuracy_pgd",
    "accuracy_autoattack",
    "autoattack_fooled_by",
    "autoattack_gain",
    "red_flag",
)
FOOLED_BY = (WRONG, EARLIER, *MEMBERS)  # who may have fooled an image, in order


@dataclass(frozen=True)
class Survival:
    """What AutoAttack left of one network, of E sizes and n images.

    Attributes:
        before: bool (E, n): right under the earlier attacks, at this size and every smaller one.
        shortened: what was less than the published settings (see ``AutoAttackConfig.shortened``).
        weights: (1 + draws, n); equal for all arms of a task.
    """

    arm: Any
    gates: dict[str, bool]
    before: np.ndarray
    result: AutoResult
    weights: np.ndarray
    shortened: str

    @property
    def epsilons(self) -> np.ndarray:
        """(E,), for images in [0, 1]."""
        return self.result.epsilons

    def earlier(self, k: int) -> Estimate:
        """Accuracy that the earlier attacks left on these images at one size."""
        return metrics.weighted_mean(self.before[k], self.weights)

    def accuracy(self, k: int) -> Estimate:
        """Accuracy that AutoAttack left at one size."""
        return metrics.weighted_mean(self.result.right[k], self.weights)

    def fooled_by(self, k: int, member: str) -> Estimate:
        """Share of all images that one attack fooled, at this size or a smaller one."""
        return metrics.weighted_mean(self.result.won[k] == member, self.weights)

    def scores(self, size: str = "radius_255") -> pd.DataFrame:
        """Tidy rows: what was right before and after, and who fooled it.

        Args:
            size: the tag that tells the sizes, in gray levels of 255.
        """
        rows = []
        for k, eps in enumerate(self.epsilons):
            values = {"accuracy_pgd": self.earlier(k), "accuracy_autoattack": self.accuracy(k)}
            rows += [(in_gray_levels(eps), name, np.nan, one) for name, one in values.items()]
            fooled = {member: self.fooled_by(k, member) for member in FOOLED_BY}
            rows += [
                (in_gray_levels(eps), "autoattack_fooled_by", member, one)
                for member, one in fooled.items()
            ]
        table = pd.DataFrame(rows, columns=[size, "metric", "member", "estimate"])
        tags = self.arm.tags | self.gates | {"seed": self.arm.seed, "attack": "autoattack"}
        return table.assign(**tags, n=len(self.result.labels))

    def note(self, run: Run, size: str = "radius_255") -> None:
        """Write into the record what was attacked, and signs of hidden gradients."""
        sizes, n = [in_gray_levels(eps) for eps in self.epsilons], len(self.result.labels)
        tags = self.arm.tags | self.gates | {"n": n, "attack": "autoattack"}
        for flag in self.result.flags():
            if flag.raised:
                told = {"flag": flag.name, "measured": flag.measured}
                run.add("red_flag", 1.0, **{size: sizes[-1]}, **told, **tags)
        radii = ", ".join(f"{size:.3g}" for size in sizes)
        run.deviation(
            f"AutoAttack on {self.arm.group}: {n} of {len(self.arm.task.attacked)} attacked "
            f"images, at {radii} gray levels of 255" + f"; {self.shortened}" * bool(self.shortened)
        )


def robust(
    ladder: np.ndarray, right: np.ndarray, clean: np.ndarray, epsilons: Sequence[float]
) -> np.ndarray:
    """Bool (E, n): right before the attack and at every size of the ladder up to each of E.

    What fools an image at one size lies in every larger ball.

    Args:
        ladder: sizes (L,), rising.
        right: bool (L, n).
        clean: bool (n,).
        epsilons: (E,), on the ladder or between its rungs.
    """
    ever = np.logical_and.accumulate(np.concatenate([clean[None], right]))
    rungs = np.searchsorted(ladder, np.array(epsilons) * (1 + 1e-9), side="right")
    return ever[rungs]


def attack_again(
    robust: Any,
    model: nn.Module,
    how: Mapping,
    index: np.ndarray,
    epsilons: Sequence[float],
    before: np.ndarray,
    folder: Path,
    *,
    seed: int,
    draw: Sequence[int],
) -> Survival:
    """AutoAttack on the images of ``index`` that stand, its finished batches kept in ``folder``.

    Gradients are float32: nothing is to survive by rounding.

    Args:
        robust: what the network scored, with its ``arm`` and ``gates``.
        how: ``steps``, ``targets`` and ``queries`` (see ``attacks.AutoAttackConfig``).
        before: see ``Survival``.
        draw: seed of the bootstrap, the same for all arms of a task.
    """
    data = robust.arm.task.data
    plan = budget(how)
    result = autoattack_sweep(
        model,
        data,
        index,
        epsilons,
        fooled=~before,
        folder=folder,
        desc="AutoAttack",
        seed=seed,
        **plan,
    )
    weights = metrics.group_weights(data.groups[index], draw)
    ways = max(result.clean.shape[1] - 1, 1)
    shortened = AutoAttackConfig(**plan).shortened(ways)
    return Survival(robust.arm, robust.gates, before, result, weights, shortened)


def survive(
    trained: Trained, found: Evaluation, how: Mapping, radii: Sequence[float], *, seed: int
) -> Survival:
    """AutoAttack on ``how["images"]`` of a network's attacked images (0: all) at some radii.

    Args:
        found: what an earlier attack left of them.
        how: see ``attack_again``.
        radii: rising, for images in [0, 1].
    """
    index, sweep = some(found.arm.task.attacked, how["images"], seed), found.sweep
    before = robust(sweep.epsilons, sweep.right, sweep.clean_right, radii)
    again = attack_again(
        found,
        trained.model,
        how,
        index,
        radii,
        before[:, np.isin(found.index, index)],
        trained.folder,
        seed=seed,
        draw=found.draw,
    )
    trained.model.cpu()
    return again


def gained(
    scores: pd.DataFrame,
    column: str,
    plain: str,
    shortened: str,
    how: Callable[[Estimate, Estimate], Estimate] = operator.sub,
    apart: Iterable[str] = (),
) -> pd.DataFrame:
    """What networks gain over their plain twins before and under AutoAttack, over the seeds.

    The gains under it have their outcome as the tag ``autoattack``.

    Args:
        column: that tells the networks of a pair apart; ``plain`` is its value of the plain one.
        how: what counts as a gain.
        apart: what else may differ between the two.
    """
    names = {"accuracy_pgd": "gain_before_autoattack", "accuracy_autoattack": "autoattack_gain"}
    scores = scores[scores["metric"].isin(names)].drop(columns="member")
    pairs = [
        compare(scores, column, value, plain, "{}", how, apart) for value in scores[column].unique()
    ]
    table = over_seeds(pd.concat(pairs))
    table = table[table[column].ne(plain)].reset_index(drop=True).assign(against=plain)
    says = [outcome(one, shortened) for one in table["estimate"]]
    under = table["metric"].eq("accuracy_autoattack")
    return table.assign(metric=table["metric"].map(names), autoattack=pd.Series(says).where(under))


def mark_gains(
    run: Run, gains: pd.DataFrame, names: Sequence[str], keys: Sequence[str], size: str = ""
) -> None:
    """Tag rows of the record with what AutoAttack made of the same gain, at the same radius.

    Args:
        gains: see ``gained``.
        names: metrics of the rows to be marked, which agree with a gain in all of ``keys``.
        size: the tag that tells sizes, where it has to agree too.
    """
    for gain in gains[gains["autoattack"].notna()].to_dict("records"):
        for row in run.record["rows"]:
            here = row["metric"] in names and all(row.get(key) == gain[key] for key in keys)
            if here and (not size or np.isclose(row.get(size, -1), gain[size], atol=1e-6)):
                row["autoattack"] = gain["autoattack"]


def effort(found: Iterable[Survival]) -> str:
    """How hard AutoAttack tried, for the reader of a notebook."""
    less = dict.fromkeys(one.shortened for one in found if one.shortened)
    return f"AutoAttack with {'; '.join(less) or 'its published settings'}"


def outcome(gain: Estimate, shortened: str) -> str:
    """Whether a gain survives, by its interval: above 0, not above it anywhere, or else.

    Returns:
        One of ``SURVIVES`` (``SHORTENED`` if the attack was), ``LOST`` and ``UNCLEAR``.
    """
    if gain.low > 0:
        return SHORTENED if shortened else SURVIVES
    return LOST if gain.high <= 0 else UNCLEAR


def overview(rows: pd.DataFrame, index: Sequence[str]) -> pd.DataFrame:
    """What a reader wants to know of each network and size: one line for each ``index``.

    Args:
        rows: of the metrics SHOWN, with value and interval as text in the column ``ours``.
    """

    def texts(metric: str, column: str = "ours") -> pd.Series:
        chosen = rows[rows["metric"].eq(metric)]
        return chosen.groupby(list(index), sort=False)[column].first()

    columns = dict.fromkeys([*rows.columns, "flag", "autoattack"])
    rows = rows.reindex(columns=list(columns))
    rows = rows[rows["metric"].ne("red_flag") | rows["flag"].eq(RANDOM_SEARCH)]
    fooled = rows[rows["metric"].eq("autoattack_fooled_by") & rows["value"].gt(0)]
    words = fooled["member"].astype(str) + " " + fooled["value"].map("{:.0%}".format)
    keys = [fooled[name] for name in index]
    table = {
        "PGD leaves": texts("accuracy_pgd"),
        "AutoAttack leaves": texts("accuracy_autoattack"),
        "fooled by": words.groupby(keys, sort=False).agg(", ".join),
        "gain": texts("autoattack_gain"),
        "survives?": texts("autoattack_gain", "autoattack"),
    }
    if rows["metric"].eq("red_flag").any():
        table["RED FLAG"] = texts("red_flag", "measured")
    order = table["AutoAttack leaves"].index
    return pd.DataFrame(
        {name: column.reindex(order).astype(object) for name, column in table.items()}
    ).fillna("")
