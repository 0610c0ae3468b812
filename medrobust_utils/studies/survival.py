"""What AutoAttack leaves of a gain under attack, and what that means for a verdict.

A gain in accuracy under PGD may be a weakness of PGD. So the networks of a pair are attacked once
more, by the four attacks of AutoAttack, on the same images at the radii that decide; what PGD has
fooled there stays fooled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..attacks import AutoAttackConfig, AutoResult, autoattack_sweep
from ..attacks.config import MEMBERS, WRONG
from ..attacks.sweep_result import EARLIER
from ..data.splits import some
from ..reporting.results import Run
from ..reporting.rows import write_autoattack as decide  # noqa: F401  where the studies look
from ..scoring.robustness import robust
from .evaluation import Evaluation, budget, in_gray_levels
from .experiment import Trained
from .tables import over_seeds

GAINS = {"accuracy_pgd": "gain_before_autoattack", "accuracy_autoattack": "autoattack_gain"}
FOOLED_BY = (WRONG, EARLIER, *MEMBERS)  # who may have fooled an image, in order


@dataclass(frozen=True)
class Survival:
    """What AutoAttack left of one network, of R radii and n images.

    Attributes:
        found: what earlier attacks left of it.
        index: (n,) of the images in the task's data.
        before: bool (R, n): right under the earlier attacks, at this radius and every smaller one.
        how: the settings of AutoAttack.
    """

    found: Evaluation
    index: np.ndarray
    before: np.ndarray
    result: AutoResult
    how: AutoAttackConfig

    def scores(self, size: str = "radius_255") -> pd.DataFrame:
        """Tidy rows: what was right before and after, and the share that each attack fooled.

        An image counts as fooled by one attack also where that was at a smaller radius.

        Args:
            size: the tag that tells the radii, in gray levels of 255.
        """
        mean, result, rows = self.found.mean(self.index), self.result, []
        for k, eps in enumerate(result.epsilons):
            outcomes = {"accuracy_pgd": self.before[k], "accuracy_autoattack": result.right[k]}
            outcomes |= {member: result.won[k] == member for member in FOOLED_BY}
            cell = "autoattack", in_gray_levels(eps), self.index
            rows += [(*cell, name, mean(outcome)) for name, outcome in outcomes.items()]
        table = self.found.table(rows).rename(columns={"radius_255": size})
        fooled = table["metric"].isin(FOOLED_BY)
        metric = table["metric"].mask(fooled, "autoattack_fooled_by")
        return table.assign(member=table["metric"].where(fooled), metric=metric)

    def note(self, run: Run, size: str = "radius_255") -> None:
        """Write into the record what was attacked, and signs of hidden gradients."""
        arm, n = self.found.arm, len(self.index)
        sizes = [in_gray_levels(eps) for eps in self.result.epsilons]
        tags = {**arm.tags, "n": n, "attack": "autoattack", size: sizes[-1]}
        for flag in self.result.flags():
            if flag.raised:
                run.add("red_flag", 1.0, flag=flag.name, measured=flag.measured, **tags)
        radii = ", ".join(f"{size:.3g}" for size in sizes)
        less = self.how.shortened(max(self.result.clean.shape[1] - 1, 1))
        run.deviation(
            f"AutoAttack on {arm.group}: {n} of {len(arm.task.attacked)} attacked "
            f"images, at {radii} gray levels of 255" + f"; {less}" * bool(less)
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
    before = robust(found.sweep, radii)[:, np.isin(found.index, index)]
    asked = (trained.model, task.data, index, radii)
    where = {"folder": trained.folder, "desc": "AutoAttack", "seed": seed}
    result = autoattack_sweep(*asked, fooled=~before, **where, **plan)
    trained.model.cpu()  # make room for the next
    return Survival(found, index, before, result, AutoAttackConfig(**plan))


def gained(pairs: pd.DataFrame) -> pd.DataFrame:
    """What networks gain before and under AutoAttack, over the seeds.

    Args:
        pairs: scores of ``Survival`` held against each other (see ``tables.compare``), the
            metric's name as it was.
    """
    table = over_seeds(pairs[pairs["metric"].isin(GAINS)].drop(columns="member"))
    return table.assign(metric=table["metric"].map(GAINS)).drop(columns="seeds")
