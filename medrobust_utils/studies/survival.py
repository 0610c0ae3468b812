"""Does a defence survive AutoAttack?

A gain in accuracy under PGD may be a weakness of PGD. So both networks of a pair are attacked once
more, by the four attacks of AutoAttack, on the same images and at the sizes that claims are judged
at; what PGD has fooled there stays fooled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..attacks import AutoAttackConfig, AutoResult, autoattack_sweep
from ..attacks.config import MEMBERS, WRONG
from ..attacks.sweep_result import EARLIER
from ..reporting.results import Run
from ..scoring.metrics import Estimate
from .common import budget, in_gray_levels, some
from .evaluation import Evaluation
from .experiment import Trained
from .tables import over_seeds

# Values of the tag ``autoattack``. A shortened attack may undo a gain and cannot prove it.
SURVIVES, SHORTENED, LOST, UNCLEAR = "survives", "survives a shortened one", "lost", "unclear"
GAINS = {"accuracy_pgd": "gain_before_autoattack", "accuracy_autoattack": "autoattack_gain"}
FOOLED_BY = (WRONG, EARLIER, *MEMBERS)  # who may have fooled an image, in order


@dataclass(frozen=True)
class Survival:
    """What AutoAttack left of one network, of R sizes and n images.

    Attributes:
        found: what earlier attacks left of it.
        index: (n,) of the images in the task's data.
        before: bool (R, n): right under the earlier attacks, at this size and every smaller one.
        shortened: what was less than the published settings (see ``AutoAttackConfig.shortened``).
    """

    found: Evaluation
    index: np.ndarray
    before: np.ndarray
    result: AutoResult
    shortened: str

    def scores(self, size: str = "radius_255") -> pd.DataFrame:
        """Tidy rows: what was right before and after, and the share that each attack fooled.

        An image counts as fooled by one attack also where that was at a smaller size.

        Args:
            size: the tag that tells the sizes, in gray levels of 255.
        """
        mean, rows, members = self.found.mean(self.index), [], []
        for k, eps in enumerate(self.result.epsilons):
            values = [("accuracy_pgd", np.nan, self.before[k])]
            values += [("accuracy_autoattack", np.nan, self.result.right[k])]
            values += [("autoattack_fooled_by", w, self.result.won[k] == w) for w in FOOLED_BY]
            here = ("autoattack", in_gray_levels(eps), self.index)
            rows += [(*here, metric, mean(one)) for metric, _, one in values]
            members += [member for _, member, _ in values]
        return self.found.table(rows).rename(columns={"radius_255": size}).assign(member=members)

    def note(self, run: Run, size: str = "radius_255") -> None:
        """Write into the record what was attacked, and signs of hidden gradients."""
        arm, n = self.found.arm, len(self.index)
        sizes = [in_gray_levels(eps) for eps in self.result.epsilons]
        tags = {**arm.tags, **self.found.gates, "n": n, "attack": "autoattack", size: sizes[-1]}
        for flag in self.result.flags():
            if flag.raised:
                run.add("red_flag", 1.0, flag=flag.name, measured=flag.measured, **tags)
        radii = ", ".join(f"{size:.3g}" for size in sizes)
        run.deviation(
            f"AutoAttack on {arm.group}: {n} of {len(arm.task.attacked)} attacked "
            f"images, at {radii} gray levels of 255" + f"; {self.shortened}" * bool(self.shortened)
        )


def survive(
    trained: Trained, found: Evaluation, how: Mapping, radii: Sequence[float], *, seed: int
) -> Survival:
    """AutoAttack on ``how["images"]`` of a network's attacked images (0: all) at some radii.

    Gradients are float32: nothing is to survive by rounding. Finished batches are kept in the
    network's folder.

    Args:
        found: what earlier attacks left of them.
        how: also ``steps``, ``targets`` and ``queries`` (see ``attacks.AutoAttackConfig``).
        radii: rising, for images in [0, 1].
    """
    task, plan = found.arm.task, budget(how)
    index = some(task.attacked, how["images"], seed)
    before = found.robust(radii)[:, np.isin(found.index, index)]
    result = autoattack_sweep(
        trained.model,
        task.data,
        index,
        radii,
        fooled=~before,
        folder=trained.folder,
        desc="AutoAttack",
        seed=seed,
        **plan,
    )
    trained.model.cpu()  # make room for the next
    shortened = AutoAttackConfig(**plan).shortened(max(result.clean.shape[1] - 1, 1))
    return Survival(found, index, before, result, shortened)


def gained(pairs: pd.DataFrame, shortened: str) -> pd.DataFrame:
    """What networks gain before and under AutoAttack, over the seeds.

    The gains under it have their outcome as the tag ``autoattack``.

    Args:
        pairs: scores of ``Survival`` held against each other (see ``tables.against``), the
            metric's name as it was.
    """
    pairs = pairs[pairs["metric"].isin(GAINS)].drop(columns="member")
    table = over_seeds(pairs).drop(columns=["seeds", "alive"])
    says = [outcome(one, shortened) for one in table["estimate"]]
    under = table["metric"].eq("accuracy_autoattack")
    return table.assign(metric=table["metric"].map(GAINS), autoattack=pd.Series(says).where(under))


def outcome(gain: Estimate, shortened: str) -> str:
    """Whether a gain survives, by its interval: above 0, not above it anywhere, or else.

    Returns:
        One of ``SURVIVES`` (``SHORTENED`` if the attack was), ``LOST`` and ``UNCLEAR``.
    """
    if gain.low > 0:
        return SHORTENED if shortened else SURVIVES
    return LOST if gain.high <= 0 else UNCLEAR


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
