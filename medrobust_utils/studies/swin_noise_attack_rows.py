"""Paper 1: from the attacked thousands to rows, and the comparison its author wanted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np

from ..attacks import Flag
from ..explain import spectrum
from ..models import MedicalModel
from ..reporting.results import Run
from ..scoring.metrics import Estimate, weighted_mean
from .common import add, gates, in_gray_levels
from .swin_noise_attack import Attack
from .swin_noise_thousand import Arm, Thousand
from .tables import NOTHING_LEFT


def add_attack(run: Run, attack: Attack) -> None:
    """Rows of one network: clean scores, accuracy by eps and attack, who fooled what, spectra."""
    tags = attack.arm.tags | attack.gates | {"n": len(attack.centroid)}
    for name, value in attack.clean.items():
        add(run, name, value, attack="none", eps_255=0.0, **tags)
    run.add("accuracy_constant", attack.constant, **tags)
    add(run, "accuracy_attacked", attack.start, attack="none", eps_255=0.0, **tags)
    for kind, curve in attack.curves.items():
        for eps, value in zip(attack.epsilons, curve, strict=True):
            add(run, "accuracy_attacked", value, attack=kind, eps_255=in_gray_levels(eps), **tags)
    for place, (eps, shares) in enumerate(zip(attack.epsilons, attack.auto.shares(), strict=True)):
        cell = tags | {"eps_255": in_gray_levels(eps)}
        gap = attack.noise[place].mean(0) - attack.auto.right[place]
        add(run, "accuracy_noise_minus_adversarial", attack.mean(gap), **cell)
        for member, share in shares.items():
            run.add("fooled_by", share, member=member, **cell)
        asked = attack.auto.queries[place]
        if asked.any():
            run.add("autoattack_queries", float(asked[asked > 0].mean()), **cell)
    for finding, (before, under) in attack.aucs.items():
        for kind, value in (("none", before), ("autoattack", under)):
            add(run, "auc_attacked", value, attack=kind, finding=finding, **tags)
    _add_spectrum(run, attack, tags)


def _add_spectrum(run: Run, attack: Attack, tags: Mapping) -> None:
    known = np.isfinite(attack.centroid)  # an image without a gradient has no frequency
    if known.any():
        weights = attack.weights[:, known]
        value = weighted_mean(attack.centroid[known], weights)
        add(run, "sensitivity_centroid", value, **tags | {"n": int(known.sum())})
    bands = attack.density.shape[1]
    for band, centre in enumerate(spectrum.centres(bands)):
        cell = tags | {"band": float(centre)}
        if known.any():
            add(
                run,
                "sensitivity_density",
                weighted_mean(attack.density[known, band], weights),
                **cell,
            )
        add(run, "accuracy_band_noise", attack.mean(attack.in_bands[band]), **cell)


def add_flags(run: Run, attack: Attack, flags: Sequence[Flag]) -> None:
    """A row for each sign; 1 where it was seen."""
    for flag in flags:
        run.add(
            "red_flag",
            float(flag.raised),
            flag=flag.name,
            measured=flag.measured,
            **attack.arm.tags,
        )


def add_comparisons(run: Run, attacks: Sequence[Attack]) -> None:
    """Every pair compared; a warning where there is none, although both networks were attacked."""
    found = list(pairs(attacks))
    for swin, resnet in found:
        add_comparison(run, swin, resnet)
    if not found and {"swin", "resnet"} <= {a.arm.model for a in attacks}:
        run.warn(
            "Swin-T and ResNet-50 were attacked but began from different weights or images: "
            "they are not compared."
        )


def pairs(attacks: Sequence[Attack]) -> Iterator[tuple[Attack, Attack]]:
    """Swin-T and ResNet-50 on the same thousand from the same kind of start."""
    for a, b in product(attacks, attacks):
        if (a.arm.model, b.arm.model) == ("swin", "resnet") and (
            a.arm.task.key,
            a.arm.start,
            a.arm.before,
        ) == (b.arm.task.key, b.arm.start, b.arm.before):
            yield a, b


def add_comparison(run: Run, swin: Attack, resnet: Attack) -> None:
    """Paired: both networks had the same images, and each attack the same seeds.

    Above 0 speaks for Swin-T throughout. ``kept`` counts only what both networks had right before,
    so that neither the better one is called the more robust for that alone, nor the worse one
    because it had only the easy images right.
    """
    tags = {k: v for k, v in swin.arm.tags.items() if k != "model"} | gates([swin], [resnet])
    tags |= {"n": len(swin.centroid)}
    both = swin.pgd.clean_right & resnet.pgd.clean_right
    for place, eps in enumerate(swin.epsilons):
        cell = tags | {"eps_255": in_gray_levels(eps)}
        for kind in ("noise", "pgd", "autoattack"):
            one, other = (a.curves[kind][place] for a in (swin, resnet))
            cell["alive"] = max(one.value, other.value) > NOTHING_LEFT
            add(run, "accuracy_swin_minus_resnet", one - other, attack=kind, **cell)
            lost = (resnet.start - other) - (swin.start - one)
            add(run, "drop_resnet_minus_swin", lost, attack=kind, **cell)
            if both.any():
                one, other = (_kept(a, kind, place, both) for a in (swin, resnet))
                held = cell | {"n": int(both.sum())}
                add(run, "retained_swin_minus_resnet", one - other, attack=kind, **held)
    known = np.isfinite(swin.centroid) & np.isfinite(resnet.centroid)
    if known.any():
        # low-pass is a low mean frequency of what the answer listens to
        gap = weighted_mean((resnet.centroid - swin.centroid)[known], swin.weights[:, known])
        add(run, "lowpass_swin_minus_resnet", gap, **tags | {"n": int(known.sum())})


def _kept(attack: Attack, kind: str, place: int, before: np.ndarray) -> Estimate:
    """Share of the images of ``before`` that are right under the attack."""
    right = {
        "noise": attack.noise[place].mean(0),
        "pgd": attack.pgd.right[place],
        "autoattack": attack.auto.right[place],
    }[kind]
    with np.errstate(invalid="ignore"):  # a draw may hold none of the images that were right
        return weighted_mean(right[before].astype(float), attack.weights[:, before])


def add_thousand(run: Run, task: Thousand) -> None:
    """How many images did what, and which data set they are of."""
    run.dataset(task.data)
    sides = {"fit": task.fit, "attacked": task.attacked}
    if task.before is not None:
        sides["before"] = task.before_split.train
    for side, index in sides.items():
        run.add(
            "images", len(index), side=side, role=task.role, dataset=task.data.name, thousand=True
        )


def describe(arm: Arm, model: MedicalModel, history: Sequence[Mapping], settings: Mapping) -> dict:
    """What the record says about a network."""
    task, how = arm.task, settings["thousand"]
    before = [row for row in history if row["part"] == "before"]
    return {
        "backbone": how["models"][arm.model]["backbone"],
        "start": arm.start,
        "source": model.source,
        "trained before on": arm.before,
        "images before": len(task.before_split.train) if before else 0,
        "epochs before": len(before),
        "images fitted": len(task.fit),
        "epochs fitted": len(history) - len(before),
        "size": how["size"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "training_seconds": round(sum(row["seconds"] for row in history)),
        "precision": sorted({row["precision"] for row in history}),
        "warnings": model.warnings,
    }


def deviations(
    settings: Mapping, original: Mapping, fitted: Iterable[tuple[Arm, MedicalModel, Path]]
) -> list[str]:
    """Where the attacks depart from the published settings and from the plan of the paper."""
    how, full, found = settings["thousand"], original["thousand"], []
    fitted = list(fitted)
    if not fitted:
        return found
    for name in ("steps", "targets", "queries"):
        used, published = how["attack"][name], full["attack"][name]
        if used != published:
            found.append(f"AutoAttack: {used} {name} instead of the published {published}.")
    if how["size"] != full["size"]:
        found.append(f"attacks: images of {how['size']} pixels, not {full['size']}.")
    for task in {arm.task.role: arm.task for arm, _, _ in fitted}.values():
        sizes = f"{len(task.fit)} images to fit and {len(task.attacked)} to attack"
        if (len(task.fit), len(task.attacked)) != (full["fit"], full["attacked"]):
            found.append(f"{task.role}: {sizes}, not {full['fit']} and {full['attacked']}.")
    for arm, model, _ in fitted:
        if arm.before != "nothing":
            found.append(
                f"{arm.task.role}, {arm.model}, attacked: began from {model.source} and learnt "
                f"{len(arm.task.before_split.train)} images of {arm.before} first."
            )
    return found
