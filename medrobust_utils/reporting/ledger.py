"""The rules of the ledger: what our results may say about a paper's headline.

A headline fixes, before a run, one cell of the results (its *primary* cell), the paper's direction
and the smallest effect worth having, w. Each row of that cell gets a grade; the best rows decide:

====  ===========================================================================
A     the paper's protocol on the paper's data
B     the paper's data, whole, under a smaller registered profile
C     part of them ("on part of the data"), or other data of the kind ("on other data")
D     phantoms: shown, never a verdict
F     a formula, a count, an identity
====  ===========================================================================

Whatever was run with overrides, under a profile that no file registers, on images of one's own or
not to the end decides nothing and displaces nothing. A run with fewer seeds or images than the
headline needs, by networks not shown to be competent, or begun before the headline was fixed is a
*pilot*. Rows are ordered by grade, then size, images and seeds; a date never orders them.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..scoring import inference
from .evidence import (
    Evidence,
    by_seed,
    carries,
    cells,
    ends,
    evidence,
    measured,
    names,
    own,
    spans,
    spread,
)
from .headlines import LEAST, Headline
from .protocol import Protocol

SUPPORTED = "supported"
NEGLIGIBLE = "real but negligible"
NO_GAIN = "contradicted: no gain worth having"
REVERSED = "contradicted: reversed"
CONTRADICTED = "contradicted"
EXACT, DIFFERS = "exact", "differs"
MIXED, INCONCLUSIVE, PILOT = "mixed", "inconclusive", "pilot"
NOT_RUN, NOT_TESTABLE = "not run", "not testable here"
WORDS = (
    *(SUPPORTED, NEGLIGIBLE, NO_GAIN, REVERSED, CONTRADICTED, MIXED, INCONCLUSIVE),
    *(PILOT, NOT_RUN, NOT_TESTABLE, EXACT, DIFFERS),
)
DECIDED = WORDS[:6]  # these may be wrong in 5 of 100
STEPS, IMAGES = 100, 100  # below these AutoAttack decides nothing
_SLACK = 1e-9  # 0.46 + 0.02 must not miss 0.48 by a rounding error


@dataclass(frozen=True)
class Verdict:
    """A headline, the word it gets and why; numbers are those of the row that decides or leads."""

    headline: Headline
    word: str
    why: str = ""
    settle: str = ""
    grade: str = "-"
    value: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: int = 0
    images: int = 0
    scope: str = ""  # "on part of the data" and the like
    detectable: float | None = None  # the effect that the run could have found, where inconclusive
    agrees: bool | None = None  # whether another run of ours would agree with the paper's number
    evidence: tuple[Evidence, ...] = ()

    @property
    def says(self) -> str:
        """The word, with what it was measured on."""
        return f"{self.word} {self.scope}".strip()


def judged(claim: str, value: float, low: float, high: float, worth: float) -> str:
    """The word for an interval, in the paper's direction: every inequality is strict."""
    if claim == "gain":
        if low > 0:
            if high < worth:
                return NEGLIGIBLE
            return SUPPORTED if value >= worth else INCONCLUSIVE
        return REVERSED if high < 0 else NO_GAIN if high < worth else INCONCLUSIVE
    if claim == "no_loss":
        return SUPPORTED if low > -worth else CONTRADICTED if high < -worth else INCONCLUSIVE
    if -worth < low and high < worth:
        return SUPPORTED
    return CONTRADICTED if low > worth or high < -worth else INCONCLUSIVE


def typical(low: float, high: float, baselines: Sequence[float]) -> str:
    """A claim of "in most cases" against an unrelated image and another seed."""
    if low > max(baselines):
        return SUPPORTED
    return CONTRADICTED if high < min(baselines) else INCONCLUSIVE


def existence(share: float, n: int, baseline: float) -> str:
    """A claim of "occasionally": seen more often than by chance, or not yet; never contradicted."""
    seen = inference.wilson_low(round(share * n), n) > baseline
    return SUPPORTED if seen else INCONCLUSIVE


def identity(expectation: str, value: float, worth: float) -> str:
    """A formula or a count: ``below 0.013``, ``above 2`` or a number, to its printed digits.

    Bounds are strict and leave ``worth`` aside; a number may be missed by ``worth``.

    Raises:
        ValueError: for an expectation that is none of the three.
    """
    word, _, number = expectation.rpartition(" ")
    if word not in ("", "below", "above"):
        raise ValueError(f"{expectation!r} is neither one number nor a bound.")
    limit = float(number)
    if word:
        return EXACT if (value < limit if word == "below" else value > limit) else DIFFERS
    digits = len(number.partition(".")[2])
    return EXACT if abs(value - limit) <= max(worth, 0.5 * 10**-digits) + _SLACK else DIFFERS


def after_autoattack(word: str, row: dict[str, Any], least: int = IMAGES) -> tuple[str, str]:
    """What AutoAttack leaves of a verdict on a gain under attack, in both directions.

    ``autoattack_low`` and ``_high`` are the gain under AutoAttack, ``_sweep`` that of the sweep on
    the same images at the same radius, ``_steps`` and ``_images`` how long and on how many it ran.
    """
    if word == INCONCLUSIVE:
        return word, ""
    low, high, sweep, steps, images = (
        row.get(f"autoattack_{name}") for name in ("low", "high", "sweep", "steps", "images")
    )
    if None in (low, high, sweep) or (steps or 0) < STEPS or (images or 0) < least:
        return INCONCLUSIVE, "AutoAttack was not run, or shortened"
    if word in (SUPPORTED, NEGLIGIBLE) and high < sweep / 2:
        return NO_GAIN, "AutoAttack undoes it"
    if word in (NO_GAIN, REVERSED) and low > 0:
        return INCONCLUSIVE, "AutoAttack shows a gain that the sweep does not"
    return word, ""


def together(words: Sequence[str]) -> str:
    """One word for the cells of a headline, or for the readings of one unknown."""
    if len(set(words)) == 1 or PILOT in words:
        return PILOT if PILOT in words else words[0]
    for_it = SUPPORTED in words or NEGLIGIBLE in words
    against = any(word.startswith(CONTRADICTED) for word in words)
    return MIXED if for_it and against else INCONCLUSIVE


def short_of(headline: Headline, paper: Protocol, row: dict[str, Any], rows: Iterable) -> list[str]:
    """Why a row is a pilot; ``rows`` are all of its run, among which are those of competence."""
    needs, least = headline.needs, LEAST.get(headline.kind, (0, 0))
    seeds, images = max(needs.seeds, least[0]), max(needs.images, least[1])
    found = []
    if len(by_seed(row)) < seeds:
        found.append(f"{len(by_seed(row))} of {seeds} seeds")
    if (row.get("n") or 0) < images:
        found.append(f"{row.get('n') or 0} of {images} images")
    if not spans(row):
        found.append("no interval")
    stored = (row.get("headlines") or {}).get(headline.id)
    if stored is None:
        found.append("run before the headline was fixed")
    elif stored != headline.fingerprint(paper.anchors) and not headline.amendments:
        found.append("headline amended after the result")
    for anchor in paper.anchors.get(needs.anchor, ()) if row.get("recipe") != "described" else ():
        tags = {"metric": anchor.metric, **(anchor.__pydantic_extra__ or {})}
        shown = [r["value"] for r in rows if r.get("model") != "majority" and carries(r, tags)]
        if not shown or min(shown) < anchor.at_least:
            best = f"{min(shown):.3g}" if shown else "not measured"
            found.append(f"{anchor.metric} {best}, competent from {anchor.at_least:g}")
    return found


def judge(headline: Headline, paper: Protocol, rows: Sequence[dict[str, Any]]) -> Verdict:
    """The verdict on one headline of ``paper`` from the rows of its runs (see `results.rows`)."""
    found = evidence(headline, paper, rows)
    of_cell = [one for one in found if not one.beside]
    others = [one for one in found if one.beside]
    return replace(_decide(headline, paper, rows, of_cell, others), evidence=tuple(found))


def _decide(headline, paper, rows, found: list[Evidence], others: list[Evidence]) -> Verdict:
    usable = [one for one in found if not one.lacks and not one.row.get("baseline")]
    if headline.missing:
        return Verdict(headline, NOT_TESTABLE, settle=headline.missing)
    if not usable:
        why = "; ".join(dict.fromkeys(reason for one in found for reason in one.lacks))
        aside = next((one for one in others if not one.lacks), None)
        return _otherwise(headline, paper, aside) or Verdict(headline, NOT_RUN, why, paper.plan)
    parts = []
    for cell in cells(headline.primary):
        of_cell = [one for one in usable if carries(one.row, cell)]
        if of_cell:
            parts.append(_of_cell(headline, paper, rows, of_cell, found))
    if len(parts) < len(cells(headline.primary)):
        why = f"{len(parts)} of {len(cells(headline.primary))} primary cells were measured"
        return replace(parts[0], word=PILOT, why=why, settle=paper.plan)
    if len(parts) > 1 and not headline.unknown:
        strength = [-abs(p.value) / max((p.high or 0) - (p.low or 0), _SLACK) for p in parts]
        parts = [
            _of_cell(
                headline, paper, rows, [o for o in usable if carries(o.row, cell)], found, level
            )
            for cell, level in zip(cells(headline.primary), inference.holm(strength), strict=True)
        ]
    return replace(parts[0], word=together([part.word for part in parts]))


def _otherwise(headline: Headline, paper: Protocol, aside: Evidence | None) -> Verdict | None:
    """A pilot from a row that measures something like the headline, and not its estimand."""
    if aside is None:
        return None
    value, low, high = ends(aside.row)
    span = {"low": low, "high": high} if spans(aside.row) else {}
    why, images = f"measured otherwise, as {aside.row['metric']}", aside.row.get("n") or 0
    seeds = len(by_seed(aside.row))
    about = {"grade": aside.grade, "value": value, "seeds": seeds, "images": images, **span}
    return Verdict(headline, PILOT, why, paper.plan, scope=scope(aside, paper), **about)


def scope(one: Evidence, paper: Protocol) -> str:
    """What grade C stands for, in words."""
    if one.grade != "C":
        return ""
    return "on part of the data" if names(one.row) <= own(paper) else "on other data"


def _of_cell(headline, paper, rows, usable, found, level=inference.LEVEL) -> Verdict:
    """The verdict of one primary cell, from its best row and the seeds of rows like it."""
    best = usable[0]
    alike = ("dataset", "profile", "size", "n", "headlines")
    same = [o.row for o in usable[1:] if all(o.row.get(k) == best.row.get(k) for k in alike)]
    planned = headline.needs.seeds if headline.needs else 0
    row = measured(best.row, same, planned) if best.row["value"] is not None else best.row
    value, low, high = ends(row, level)
    where = scope(best, paper)
    plain = {"low": low, "high": high} if spans(row) else {}
    about = {"grade": best.grade, "value": value, "scope": where, "images": row.get("n") or 0}
    about |= plain | {"seeds": len(by_seed(row))}
    if headline.kind == "identity":
        word = identity(headline.expectation, value, headline.worth or 0.0)
        return Verdict(headline, word, **about)
    run = [one for one in rows if one.get("path") == row.get("path")]
    if short := short_of(headline, paper, row, run):
        return Verdict(headline, PILOT, "; ".join(short), paper.plan, **about)
    word, why = _word(headline, row, (value, low, high), found)
    if headline.claim == "gain" and {"AutoAttack", "ensemble"} & set(headline.controls):
        # a whole test set may be smaller than what decides elsewhere
        least = min(IMAGES, headline.needs.images)
        word, why = after_autoattack(word, row, least) if not why else (word, why)
    if row.get("recipe") == "described":
        about["scope"] = f"{where} for the recipe as described".strip()
    extra: dict[str, Any] = {}
    if len(by_seed(row)) > 1:
        values, (variance, clusters) = list(by_seed(row).values()), spread(row)
        if word == INCONCLUSIVE:
            deviation = statistics.stdev(values)
            extra["detectable"] = inference.detectable(deviation, len(values), variance, clusters)
        if headline.paper_value is not None:
            least, most = inference.next_run(values, variance)
            extra["agrees"] = least <= headline.paper_value <= most
    return Verdict(headline, word, why, "" if word in DECIDED else paper.plan, **about, **extra)


def _word(headline: Headline, row: dict, span: tuple, found: list[Evidence]) -> tuple[str, str]:
    baselines = [one.row["value"] for one in found if one.row.get("baseline")]
    if headline.kind == "contrast":
        return judged(headline.claim, *span, headline.worth), ""
    if not baselines or headline.kind == "typical" and len(baselines) < 2:
        return PILOT, "no baseline was measured"
    if headline.kind == "typical":
        return typical(*span[1:], baselines), ""
    return existence(span[0], row["n"], max(baselines)), ""
