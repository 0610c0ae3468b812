"""What a paper did and what it says: profiles of settings, and claims fixed before any run.

Each paper has one file, ``papers/<paper>.yaml``. This module reads it, checks it, expands its
tables into one claim per cell, and hands the notebook its settings.
"""

import copy
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import yaml

from ..core.errors import ProtocolError
from .protocol_file import number, parse, suggest


@dataclass(frozen=True)
class Claim:
    """One checkable number or statement of a paper.

    A result row speaks to the claim when it has the claim's ``metric`` and every tag of
    ``select``; it may settle the claim only when it also has every tag of ``requires``.
    ``expect`` is ``{value, tolerance}``, ``{above}`` or ``{below}``. ``command`` is the run that
    would settle the claim; ``needs`` says what the kit still lacks for that, empty when nothing.
    ``robust`` claims say that something is robust, or makes robust, and count as reproduced only
    if they survive AutoAttack (see ``verdicts``).
    """

    id: str
    text: str
    where: str
    metric: str
    expect: dict[str, float]
    command: str
    select: dict[str, Any] = field(default_factory=dict)
    requires: dict[str, Any] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    needs: str = ""
    robust: bool = False

    @property
    def value(self) -> float | None:
        """The number the paper prints, or None for a statement of direction."""
        return self.expect.get("value")


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


@dataclass(frozen=True)
class Protocol:
    """One paper: its name, title, citation, profiles, claims and notes on what stays untested."""

    name: str
    title: str
    citation: str
    profiles: dict[str, dict[str, Any]]
    claims: tuple[Claim, ...]
    notes: tuple[str, ...] = ()

    def settings(self, profile: str, overrides: str = "") -> Settings:
        """The settings of ``profile`` with ``overrides`` such as ``"epochs=3 training.lr=0.01"``.

        Overrides are separated by blanks and read as YAML scalars or ``[a,b]`` lists. A name that
        the profile lacks, or a value of another type than the one it replaces, raises
        ProtocolError; an integer is accepted for a float.
        """
        if profile not in self.profiles:
            raise ProtocolError(
                f"{self.name} has no profile {profile!r}{suggest(profile, self.profiles)}"
            )
        values = copy.deepcopy(self.profiles[profile])
        try:
            words = shlex.split(overrides)
        except ValueError as error:
            raise ProtocolError(f"cannot read the overrides {overrides!r}: {error}") from None
        for word in words:
            _override(values, word)
        return Settings(values)

    def reported(self, **tags: Any) -> list[Claim]:
        """The paper's numbers that carry all ``tags``; each number once, by rising noise.

        ``metric`` and ``where`` may be given as tags too. A number printed in two figures (the
        clean row of a noise table repeats the clean table) is returned once.

        Example:
            >>> [(c.select["noise"], c.value) for c in
            ...  load("1_swin_noise").reported(metric="top1", role="nih", model="swin")]
            [(0.0, 0.484), (0.025, 0.467), (0.1, 0.455), (0.4, 0.426)]
        """
        found = {}
        for claim in self.claims:
            have = {**claim.select, "metric": claim.metric, "where": claim.where}
            if claim.value is not None and tags.items() <= have.items():
                key = (claim.metric, claim.value, frozenset(claim.select.items()))
                found.setdefault(key, claim)
        return sorted(found.values(), key=lambda claim: claim.select.get("noise", 0.0))


def list_papers() -> list[str]:
    """The names of the papers the package knows, in order."""
    folder = resources.files("medrobust_utils") / "papers"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name[-5:] == ".yaml")


def load(paper: str) -> Protocol:
    """Read and check ``papers/<paper>.yaml``; every fault raises ProtocolError with file and key"""
    if paper not in list_papers():
        raise ProtocolError(f"there is no paper {paper!r}{suggest(paper, list_papers())}")
    text = (resources.files("medrobust_utils") / "papers" / f"{paper}.yaml").read_text("utf-8")
    return from_text(paper, text)


def from_text(paper: str, text: str) -> Protocol:
    """Turn the text of a protocol file into a Protocol; see `load`."""
    content = parse(text, f"{paper}.yaml")
    claims = tuple(Claim(**entry) for entry in content["claims"])
    about, notes = content["paper"], tuple(content["notes"])
    return Protocol(paper, about["title"], about["citation"], content["profiles"], claims, notes)


def _override(values: dict[str, Any], word: str) -> None:
    """Apply one ``name=value`` or ``group.name=value`` in place."""
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
        new = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ProtocolError(f"cannot read the value of the override {word!r}") from None
    if isinstance(old, float) and not isinstance(new, bool | None):
        new = float(new) if isinstance(new, int) else number(new) if isinstance(new, str) else new
    if isinstance(old, str) and isinstance(new, int | float) and not isinstance(new, bool):
        new = text  # a name that happens to look like a number
    if old is not None and type(new) is not type(old):
        raise ProtocolError(
            f"{name}={text}: the setting is of type {type(old).__name__} (now {old!r}), "
            f"not {type(new).__name__}"
        )
    values[last] = new
