"""The settings of a profile: read by name, changed only by overrides of the same type."""

import copy
import shlex
from collections.abc import Collection, Iterator, Mapping
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
