"""The settings of a profile: read by name, changed only by overrides of the same type.

Also the networks that a profile names: those that a run trains, and where it leaves the paper.
"""

import copy
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from ..core.errors import ProtocolError
from ..core.schema import read_yaml, suggest


class Settings(Mapping):
    """The settings of one profile: ``settings.epochs`` and ``settings["epochs"]`` are the same.

    Read-only at the top level; nested mappings stay plain dictionaries.
    """

    def __init__(self, values: Mapping[str, Any]):
        object.__setattr__(self, "_values", copy.deepcopy(dict(values)))

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __getattr__(self, name: str) -> Any:
        # copy and pickle probe private names before _values exists
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self._values:
            raise AttributeError(f"no setting {name!r}; there are {', '.join(self._values)}")
        return self._values[name]

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"settings are read-only; set {name!r} with the SET parameter")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Settings({self._values!r})"


def overridden(profile: Mapping[str, Any], overrides: str) -> dict[str, Any]:
    """A copy of ``profile`` with ``overrides`` (see ``Protocol.settings``), or ProtocolError."""
    values = copy.deepcopy(dict(profile))
    try:
        words = shlex.split(overrides)
    except ValueError as error:
        raise ProtocolError(f"cannot read the overrides {overrides!r}: {error}") from None
    for word in words:
        _override(values, word)
    return values


def _override(values: dict[str, Any], word: str) -> None:
    """Apply ``name=value`` or ``group.name=value`` in place; ProtocolError if it does not fit."""
    name, equals, text = word.partition("=")
    if not equals:
        raise ProtocolError(f"the override {word!r} is not of the form name=value")
    *groups, last = name.split(".")
    for group in groups:
        if not isinstance(values.get(group), dict):
            raise ProtocolError(f"there is no setting {name!r}{suggest(group, values)}")
        values = values[group]
    if last not in values:
        raise ProtocolError(f"there is no setting {name!r}{suggest(last, values)}")
    old = values[last]
    try:
        new = read_yaml(text)
    except ValueError:
        raise ProtocolError(f"cannot read the value of the override {word!r}") from None
    if type(old) is float and type(new) is int:
        new = float(new)
    if type(old) is str and type(new) in (int, float):
        new = text  # a name that happens to look like a number
    if old is not None and type(new) is not type(old):
        raise ProtocolError(
            f"{name}={text}: the setting is of type {type(old).__name__} (now {old!r}), "
            f"not {type(new).__name__}"
        )
    values[last] = new


def differing(ours: Mapping, paper: Mapping, aside: Collection[str] = ()) -> list[str]:
    """A sentence for each setting that differs from the paper's profile, by its dotted name.

    Args:
        aside: parts of names that are left out.
    """
    one, other = _leaves(ours), _leaves(paper)
    names = [name for name in {**one, **other} if not set(name.split(".")) & set(aside)]
    values = {name: (one.get(name, "not set"), other.get(name, "not set")) for name in names}
    return [f"{name}: {a} (paper: {b})." for name, (a, b) in values.items() if a != b]


def _leaves(settings: Mapping, above: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for name, value in settings.items():
        inside = isinstance(value, Mapping)
        leaves |= _leaves(value, f"{above}{name}.") if inside else {f"{above}{name}": value}
    return leaves


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
