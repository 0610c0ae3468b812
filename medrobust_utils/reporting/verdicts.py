"""The verdict on one claim, by a rule that is fixed and small.

A claim is *reproduced* when the whole interval of an eligible row lies inside the expectation,
*not reproduced* when it lies wholly outside, and *not tested at this scale* otherwise. Rows
measured on something else (phantoms, another data set, a subset, a model trained from scratch)
are stand-ins: shown beside the claim, never counted. A claim that something is robust (``robust``)
has to survive AutoAttack besides; the row's tag ``autoattack`` says whether it does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .protocol import Claim

REPRODUCED = "reproduced"
NOT_REPRODUCED = "not reproduced"
NOT_TESTED = "not tested at this scale"
VERDICTS = (REPRODUCED, NOT_REPRODUCED, NOT_TESTED)
# Values of the tag ``autoattack``. A shortened attack may undo a claim and cannot prove it.
SURVIVES, SHORTENED, LOST, UNCLEAR = "survives", "survives a shortened one", "lost", "unclear"
UNDONE = "AutoAttack undoes it"
_SLACK = 1e-9  # 0.46 + 0.02 must not miss 0.48 by a rounding error
_OWN = "folder-"  # what the names of sets of one's own begin with, see ``data.own``
_ORIGIN = ("synthetic", "dataset", "complete")
_SHORTFALLS = {
    ("complete", False): "only part of the data set",
    ("start", "scratch"): "trained from scratch",
    ("alive", False): "both networks have lost nearly everything at this radius",
    ("beats_prior", False): "the network does no better than one constant answer",
    ("competent", False): "the model has learnt no more than the label frequencies",
    ("beats_majority", False): "accuracy is no better than naming the commonest class",
}


@dataclass(frozen=True)
class Verdict:
    """What our rows say about one claim.

    ``row`` is the eligible row that decided. Without one, ``stand_in`` is the closest other row,
    ``reading`` says whether it "agrees", "differs" or is "unclear", and ``why`` says why it does
    not count.
    """

    claim: Claim
    verdict: str
    reason: str
    row: dict[str, Any] | None = None
    stand_in: dict[str, Any] | None = None
    reading: str = ""
    why: str = ""


def judge(claim: Claim, rows: Sequence[dict[str, Any]]) -> Verdict:
    """The verdict on one claim from rows ordered oldest first (see `results.rows`).

    Of several eligible rows the newest real, complete one decides; the reason says when others
    disagree with it.
    """
    matching = [r for r in rows if r["metric"] == claim.metric and carries(r, claim.select)]
    shortfalls = [_shortfalls(claim, row) for row in matching]
    eligible = [row for row, lacks in zip(matching, shortfalls, strict=True) if not lacks]
    if eligible:
        order = sorted(eligible, key=lambda r: (not r.get("synthetic"), bool(r.get("complete"))))
        row = order[-1]
        verdict, reason = _decide(claim, row)
        others = sum(_decide(claim, other)[0] != verdict for other in eligible)
        if others:
            reason += f"; {len(eligible)} rows matched and {others} of them disagree, newest used"
        return Verdict(claim, verdict, reason, row)
    usable = [pair for pair in zip(matching, shortfalls, strict=True) if _ends(pair[0])]
    if not usable:
        reason = "; ".join(shortfalls[-1]) if matching else "no run has measured it"
        return Verdict(claim, NOT_TESTED, reason)
    row, lacks = sorted(usable, key=lambda pair: (not pair[0].get("synthetic"), -len(pair[1])))[-1]
    reading, doubt = _read(claim, row)
    why = "; ".join([*lacks, *doubt])
    return Verdict(claim, NOT_TESTED, "only a stand-in was measured", None, row, reading, why)


def _read(claim: Claim, row: dict[str, Any]) -> tuple[str, list[str]]:
    """Whether a stand-in agrees, and what AutoAttack has against it if it would otherwise."""
    usual = _place(claim, row)[0]
    verdict, reason = _decide(claim, row)
    if verdict != usual:
        return "unclear", [reason]
    return {REPRODUCED: "agrees", NOT_REPRODUCED: "differs", NOT_TESTED: "unclear"}[usual], []


def carries(row: dict[str, Any], tags: dict[str, Any]) -> bool:
    """Whether a row has every one of the tags; numbers are compared to rounding."""
    return all(_same(row.get(tag), want) for tag, want in tags.items())


def _same(have: Any, want: Any) -> bool:
    """Equal, with numbers compared to rounding; True is not 1 and a missing tag equals nothing."""
    if isinstance(have, bool) or isinstance(want, bool):
        return have is want
    if isinstance(have, int | float) and isinstance(want, int | float):
        return math.isclose(have, want, abs_tol=_SLACK)
    return have == want


def _shortfalls(claim: Claim, row: dict[str, Any]) -> list[str]:
    """Why a row that matches may not decide; empty when it may."""
    found = [] if row.get("status", "complete") == "complete" else ["the run did not finish"]
    if not _ends(row):
        found.append(row.get("note") or "the run has no number")
    missing = {t: w for t, w in claim.requires.items() if not _same(row.get(t), w)}
    if "synthetic" in missing and row.get("synthetic"):
        # phantoms say it all: that they are not the data set, nor all of it, goes without saying
        place = f" in place of {claim.requires['dataset']}" if "dataset" in claim.requires else ""
        found.append(f"phantom images{place}")
        missing = {t: w for t, w in missing.items() if t not in _ORIGIN}
    for tag, want in missing.items():
        have = row.get(tag)
        if tag == "dataset" and have:
            found.append(f"{have} in place of {want}")
        else:
            known = f"{tag} is not recorded" if have is None else f"{tag} is {have}, not {want}"
            found.append(_SHORTFALLS.get((tag, have), known))
    if _OWN in str(row.get("dataset", "")):
        found.append("images of one's own")
    return found


def _ends(row: dict[str, Any]) -> tuple[float, float] | None:
    """The interval of a row; an exact value is its own interval, null is none."""
    if row.get("value") is None:
        return None
    if row.get("low") is None or row.get("high") is None:
        return row["value"], row["value"]
    return row["low"], row["high"]


def _decide(claim: Claim, row: dict[str, Any]) -> tuple[str, str]:
    """Verdict and reason from one row: by its interval and, for robustness, by AutoAttack."""
    verdict, reason = _place(claim, row)
    if not claim.robust or verdict != REPRODUCED:
        return verdict, reason
    return {
        SURVIVES: (REPRODUCED, f"{reason} and it survives AutoAttack"),
        SHORTENED: (NOT_TESTED, "it survives a shortened AutoAttack, which proves little"),
        LOST: (NOT_REPRODUCED, UNDONE),
        UNCLEAR: (NOT_TESTED, "under AutoAttack the interval straddles the limit"),
    }.get(row.get("autoattack"), (NOT_TESTED, "AutoAttack was not run on these networks"))


def _place(claim: Claim, row: dict[str, Any]) -> tuple[str, str]:
    """Verdict and reason from where the interval of one row lies, and nothing else."""
    low, high = _ends(row)
    expect = claim.expect
    if "value" in expect:
        floor = expect["value"] - expect["tolerance"]
        ceiling = expect["value"] + expect["tolerance"]
        span = f"{number(floor)} to {number(ceiling)}"
        inside = low >= floor - _SLACK and high <= ceiling + _SLACK
        outside = high < floor - _SLACK or low > ceiling + _SLACK
    elif "above" in expect:
        span = f"above {number(expect['above'])}"
        inside, outside = low > expect["above"], high <= expect["above"]
    else:
        span = f"below {number(expect['below'])}"
        inside, outside = high < expect["below"], low >= expect["below"]
    if inside:
        return REPRODUCED, f"the interval is inside {span}"
    if outside:
        return NOT_REPRODUCED, f"the interval is wholly outside {span}"
    return NOT_TESTED, f"the interval straddles the limit of {span}"


def number(value: float | None) -> str:
    """A number of ours in at most four significant digits."""
    return "" if value is None else f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def interval(row: dict[str, Any]) -> str:
    """``[low, high]`` of a row, empty when the row is exact or missing."""
    if row.get("low") is None or row.get("high") is None:
        return ""
    return f"[{number(row['low'])}, {number(row['high'])}]"


def kind(row: dict[str, Any]) -> str:
    """``phantom`` or ``real``; empty when the row has no images (counts, formulas)."""
    return {True: "phantom", False: "real"}.get(row.get("synthetic"), "")


def expectation(claim: Claim) -> str:
    """What the claim expects, in symbols: ``0.484 +- 0.02``, ``> 0`` or ``< 300``."""
    expect = claim.expect
    if "value" in expect:
        return f"{expect['value']:.7g} \u00b1 {expect['tolerance']:g}"  # every printed digit
    sign, limit = (">", expect["above"]) if "above" in expect else ("<", expect["below"])
    return f"{sign} {number(limit)}"
