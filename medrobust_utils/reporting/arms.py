"""The networks that a profile names: those that a run trains, and where it leaves the paper."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from ..core.errors import ProtocolError
from .settings import differing


def pick(known: Mapping[str, object], what: str, name: str) -> object:
    """One of several by name, or ProtocolError."""
    if name not in known:
        raise ProtocolError(f"{what}={name!r}: choose among {', '.join(known)}.")
    return known[name]


def grid(
    settings: Mapping, own: Sequence[str], *, seed: int, role: str = "", model: str = ""
) -> list[tuple[dict, int]]:
    """Every arm that a profile names, with its training seed; a list multiplies out.

    An arm may have ``seeds`` of its own.

    Args:
        own: what tells an arm from others on its task, its network first.
        role: picks the arms of one role by name; empty picks all.
        model: picks by words between hyphens, the network first, then values of ``own`` or a
            training seed: ``resnet``, ``resnet-released-2`` for one arm with one seed, or
            ``any-2`` for every arm with that seed.

    Raises:
        ProtocolError: for a name that the profile does not have, or a negative seed.
    """
    if seed < 0:
        raise ProtocolError(f"SEED={seed}: choose 0 or more.")
    specs = []
    for spec in settings["arms"]:
        if lacking := [name for name in ("role", *own) if name not in spec]:
            raise ProtocolError(f"the arm {spec} of this profile lacks {', '.join(lacking)}.")
        choices = [value if isinstance(value, list) else [value] for value in spec.values()]
        specs += [dict(zip(spec, values, strict=True)) for values in product(*choices)]
    first, *words = model.removeprefix("any").split("-")
    for asked, value, key in (("DATASET", role, "role"), ("MODEL", first, own[0])):
        if value:
            pick(dict.fromkeys(sorted({str(spec[key]) for spec in specs})), asked, value)
    found = [
        (spec, number)
        for spec in specs
        if role in ("", spec["role"]) and first in ("", str(spec[own[0]]))
        for number in range(seed, seed + spec.get("seeds", settings["seeds"]))
        if set(words) <= {str(number), *(str(spec[name]) for name in own)}
    ]
    if not found:
        known = dict.fromkeys("-".join(str(spec[name]) for name in own) for spec in specs)
        raise ProtocolError(
            f"no network of this profile is DATASET={role!r} and MODEL={model!r}. There are "
            f"{', '.join(known)}, each followed by - and a training seed if you like."
        )
    return found


def deviations(
    settings: Mapping, paper: Mapping, arms: Iterable[Any], attack: str = ""
) -> list[str]:
    """Where this run departs from the profile ``paper``, from what was really run.

    Every setting that differs by its name, except those of roles and models that were not run.

    Args:
        arms: what was run (see ``studies.experiment.Arm``).
        attack: what was chosen in place of the profile's own, if anything.
    """
    arms = list(arms)
    found = [f"attack: {attack} in place of the profile's."] if attack else []
    for key, task in {arm.task.key: arm.task for arm in arms}.items():
        data, wanted = task.data, paper["datasets"].get(task.role)
        if data.synthetic:
            found.append(f"{key}: {len(data)} phantoms, not real images.")
        elif not data.complete:
            listed = data.census["images_listed"]
            found.append(f"{key}: a subset of {listed} images of {data.name}.")
        if not data.synthetic and settings["datasets"].get(task.role) != wanted:
            found.append(f"{key}: {data.name} stands in for {wanted}.")
        if len(task.attacked) < len(task.split.test):
            attacked = f"{len(task.attacked)} of {len(task.split.test)}"
            found.append(f"{key}: {attacked} test images attacked.")
    run = {value for arm in arms for value in arm.tags.values()}
    named = {*settings["datasets"], *settings.get("models", ())}
    named |= {value for spec in paper["arms"] for value in spec.values() if isinstance(value, str)}
    found += differing(settings, paper, {"arms", "datasets", "phantoms", "seeds"} | (named - run))
    missing = {spec["role"] for spec in paper["arms"]} - {arm.task.role for arm in arms}
    return found + [f"{role}: not run." for role in sorted(missing)]
