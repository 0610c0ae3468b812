"""What a paper did and what it says: settings, claims and headlines, all fixed before any run.

Each paper has one file, ``papers/<paper>.yaml``. This module reads it, checks it, expands its
tables into one claim per cell, and hands the notebook its settings.
"""

from functools import cache
from importlib import resources
from itertools import product
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, PlainValidator, model_validator
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from ..core.errors import ProtocolError
from ..core.schema import NonNegative, Number, Strict, Tag, Texts, checked, fault, suggest
from .headlines import Anchor, Headline
from .settings import Settings, overridden

_PAPERS = resources.files("medrobust_utils") / "papers"
_FORMS = ({"value", "tolerance"}, {"above"}, {"below"})


def _form(expect: Any) -> Any:
    if not isinstance(expect, dict) or set(expect) not in _FORMS:
        raise ValueError("must be exactly one of value with tolerance, above, below")
    return expect


class _Limits(TypedDict, total=False):
    value: Number
    tolerance: NonNegative
    above: Number
    below: Number


class _Part(Strict):
    id: str
    select: dict[str, Tag] = {}
    doubts: Texts = ()


class _Statement(_Part):
    text: str
    where: str


class Claim(_Statement):
    """A number or statement that a paper reports, for curves and evidence.

    A result row speaks to it when it has its ``metric`` and every tag of ``select``. ``expect`` is
    ``{value, tolerance}``, ``{above}`` or ``{below}``. Verdicts are given on headlines alone.
    """

    metric: str
    expect: Annotated[_Limits, BeforeValidator(_form)]

    @property
    def value(self) -> float | None:
        """The number the paper prints, or None for a statement of direction."""
        return self.expect.get("value")


class _Column(Strict):
    id: str
    metric: str
    tolerance: NonNegative
    doubts: Texts = ()


class _Row(_Part):
    values: list[Number | None]  # null: a dash in the paper


class _Table(_Statement):
    columns: dict[Tag, _Column]
    rows: dict[Tag, _Row]

    def claims(self) -> list[Claim]:
        """One claim per cell, row by row."""
        found = []
        for title, row in self.rows.items():
            if len(row.values) != len(self.columns):
                words = f"must be a list of {len(self.columns)}, one value for each column"
                raise fault(words, row.values, "rows", title, "values")
            for (head, column), value in zip(self.columns.items(), row.values, strict=True):
                claim = {
                    "where": self.where,
                    "id": f"{self.id}-{row.id}-{column.id}",
                    "text": _fill(self.text, {"row": title, "column": head}),
                    "select": self.select | row.select,
                    "doubts": self.doubts + row.doubts + column.doubts,
                    "metric": column.metric,
                    "expect": {"value": value, "tolerance": column.tolerance},
                }
                found += [] if value is None else [Claim(**claim)]
        return found


class _Each(BaseModel):
    each: dict[str, list[Tag]] = {}


def _claims(entry: Any) -> list[Claim]:
    """Expand ``each: {role: [nih, isic]}``: ``{role}`` is the item, ``{ROLE}`` its capitals."""
    each = _Each.model_validate(entry).each
    rest = {key: value for key, value in entry.items() if key != "each"}
    combinations = [dict(zip(each, items, strict=True)) for items in product(*each.values())]
    return [Claim.model_validate(_fill(rest, names)) for names in combinations]


def _fill(value: Any, names: dict[str, Any]) -> Any:
    """Put names into braces; a string that is nothing but ``{name}`` keeps the item's type."""
    if isinstance(value, dict):
        return {key: _fill(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [_fill(inner, names) for inner in value]
    if not isinstance(value, str) or not names:
        return value
    if value[:1] == "{" and value[-1:] == "}" and value[1:-1] in names:
        return names[value[1:-1]]
    capitals = {key.upper(): str(item).upper() for key, item in names.items()}
    try:
        return value.format(**names | capitals)
    except (KeyError, IndexError, AttributeError, ValueError) as error:
        raise ValueError(f"cannot fill the braces of {value!r}: {error!r}") from None


class _About(Strict):
    title: str
    citation: str


class Protocol(Strict):
    """One paper. ``notes`` say what stays untested.

    ``plan`` is the command that measures what the headlines ask for, and its hours.
    """

    name: str
    paper: _About
    profiles: dict[str, dict[str, Any]]
    tables: list[Annotated[_Table, AfterValidator(_Table.claims)]] = []
    claims: list[Annotated[Any, PlainValidator(_claims)]] = []
    notes: Texts = ()
    plan: str = ""
    anchors: dict[str, list[Anchor]] = {}
    headlines: list[Headline] = []

    @model_validator(mode="after")
    def _together(self) -> "Protocol":
        """Refuse ids and anchors that do not fit; gather all claims."""
        found: dict[str, Claim] = {}
        for part in ("tables", "claims"):
            for i, group in enumerate(getattr(self, part)):
                for claim in group:
                    if claim.id in found:
                        raise fault(f"the claim id {claim.id!r} is used twice", None, part, i)
                    found[claim.id] = claim
        for i, headline in enumerate(self.headlines):
            if headline.id in [earlier.id for earlier in self.headlines[:i]]:
                raise fault(f"the headline id {headline.id!r} is used twice", None, "headlines", i)
            anchor = headline.needs and headline.needs.anchor
            if anchor is not None and anchor not in self.anchors:
                words = f"there is no anchor {anchor!r}{suggest(anchor, self.anchors)}"
                raise fault(words, anchor, "headlines", i, "needs", "anchor")
        return self.model_copy(update={"tables": [], "claims": tuple(found.values())})

    @property
    def title(self) -> str:
        """The title of the paper."""
        return self.paper.title

    @property
    def citation(self) -> str:
        """How to cite the paper."""
        return self.paper.citation

    @property
    def measured(self) -> set[str]:
        """The metrics that its headlines are judged by."""
        named = [headline.primary["metric"] for headline in self.headlines]
        return {metric for one in named for metric in (one if isinstance(one, list) else [one])}

    def fingerprints(self) -> dict[str, str]:
        """The hash of every headline, which a run stores (see `Headline.fingerprint`)."""
        return {one.id: one.fingerprint(self.anchors) for one in self.headlines}

    def settings(self, profile: str, overrides: str = "") -> Settings:
        """The settings of ``profile`` with ``overrides`` such as ``"epochs=3 training.lr=0.01"``.

        Overrides are separated by blanks and read as YAML scalars or ``[a,b]`` lists. A name that
        the profile lacks, or a value of another type than the one it replaces, raises
        ProtocolError; an integer is accepted for a float.
        """
        if profile not in self.profiles:
            words = suggest(profile, self.profiles)
            raise ProtocolError(f"{self.name} has no profile {profile!r}{words}")
        return Settings(overridden(self.profiles[profile], overrides))

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
    return sorted(f.name.removesuffix(".yaml") for f in _PAPERS.iterdir() if f.name[-5:] == ".yaml")


@cache
def load(paper: str) -> Protocol:
    """Read ``papers/<paper>.yaml``; ProtocolError names every mistake with its place."""
    if paper not in list_papers():
        raise ProtocolError(f"there is no paper {paper!r}{suggest(paper, list_papers())}")
    return from_text(paper, (_PAPERS / f"{paper}.yaml").read_text("utf-8"))


def from_text(paper: str, text: str) -> Protocol:
    """Turn the text of a protocol file into a Protocol; see `load`."""
    return checked(Protocol, f"{paper}.yaml", text, name=paper)
