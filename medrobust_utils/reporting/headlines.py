"""The headlines of a paper: the 8 to 15 statements that it is read for, fixed before any run."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ..core.schema import Number, Strict, Tag, Texts, fault

# Seeds (of `typical` networks) and images below which a headline of the kind decides nothing.
LEAST = {"contrast": (3, 0), "typical": (3, 48)}
_ASIDE = {"amendments", "missing", "evidence", "paper_value"}
Day = Annotated[date, BeforeValidator(lambda day: date.fromisoformat(str(day)))]


def _cells(tags: dict[str, Any]) -> dict[str, Any]:
    if "metric" not in tags:
        raise ValueError("must name a metric")
    for name, value in tags.items():
        for item in value if isinstance(value, list) and value else [value]:
            if not isinstance(item, str | int | float):
                raise fault("must be a single value or a list of them", item, name)
    return tags


class Needs(Strict):
    """What a run must have before it may decide; ``anchor`` names the competence asked for."""

    seeds: Annotated[int, Field(ge=0)]
    images: Annotated[int, Field(ge=0)]
    anchor: str | None = None


class Amendment(Strict):
    """A change of a headline after a result."""

    date: Day
    reason: str


class Anchor(BaseModel):
    """A clean score of a competent network: ``metric``, ``at_least``, and tags of its rows."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    __pydantic_extra__: dict[str, Tag]

    metric: str
    at_least: Number


class Headline(Strict):
    """One statement of a paper, and by what it will be judged.

    ``claim`` is what the paper says of the ``estimand``, and ``worth`` the smallest effect worth
    having, in the estimand's unit. ``primary`` holds the metric and the tags of the cell that
    decides; a list of values names several cells, and ``unknown`` those tags whose values are
    readings of one thing that the paper leaves open. ``missing`` says why nothing here can test it,
    ``evidence`` names further cells that are shown and never decide, and ``paper_value`` is the
    paper's number where it has one for the estimand.
    """

    id: Annotated[str, Field(pattern=r"^[a-z0-9]+([._-][a-z0-9]+)*$")]
    quote: str
    place: str
    kind: Literal["contrast", "typical", "existence", "identity"]
    paper_says: str = ""
    estimand: str
    expectation: Tag
    claim: Literal["gain", "no_loss", "equality"]
    worth: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    needs: Needs | None = None
    primary: Annotated[dict[str, Any], AfterValidator(_cells)]
    unknown: Texts = ()
    controls: Texts = ()
    dated: Day
    amendments: Annotated[tuple[Amendment, ...], Field(strict=False)] = ()
    # What decides nothing, and is no part of the hash:
    missing: str = ""
    evidence: list[Annotated[dict[str, Any], AfterValidator(_cells)]] = []
    paper_value: Number | None = None

    @model_validator(mode="after")
    def _decidable(self) -> "Headline":
        for key in ("worth", "needs") if self.kind != "identity" else ():
            if getattr(self, key) is None:
                raise fault(f"the key is missing, which the kind {self.kind} needs", None, key)
        for key, least in zip(("seeds", "images"), LEAST.get(self.kind, ()), strict=False):
            if (given := getattr(self.needs, key)) < least:
                raise fault(f"must be at least {least} for {self.kind}", given, "needs", key)
        return self

    def fingerprint(self, anchors: Mapping[str, Sequence[Anchor]]) -> str:
        """64 hex digits that change with what the headline says or the anchor it needs says.

        Its amendments do not count: they tell why it was changed, the digits that it was. Nor does
        what decides nothing.
        """
        own = self.model_dump(mode="json", exclude=_ASIDE, exclude_defaults=True)
        needed = anchors[self.needs.anchor] if self.needs and self.needs.anchor else ()
        own["anchor"] = [anchor.model_dump(mode="json") for anchor in needed]
        return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()
