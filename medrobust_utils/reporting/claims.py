"""The board: every headline of every paper with our number, its grade and its verdict.

As text, tables and Markdown. The rules are in `ledger.py`, the command is in `verdicts.py`.
"""

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from . import protocol, results
from .evidence import Evidence, ends, spans
from .ledger import DECIDED, DIFFERS, EXACT, WORDS, Verdict, judge
from .protocol import Claim

# words and shapes carry the verdict; colour only repeats it
_SHAPES = "\u2713\u2248\u2717\u2717\u2717\u00b1?\u25d4\u25cb\u2013=\u2260"
MARKS = dict(zip(WORDS, _SHAPES, strict=True))
HEADINGS = ["Headline", "Paper", "Ours", "Grade", "Verdict"]
_WIDTHS = (52, 26, 24, 5, 50)


def board(runs: Sequence[dict[str, Any]], paper: str | None = None) -> dict[str, list[Verdict]]:
    """The verdicts on every headline, per paper in the order of its file."""
    found = {}
    for name in [paper] if paper else protocol.list_papers():
        about = protocol.load(name)
        rows = results.rows([run for run in runs if run["paper"] == name])
        found[name] = [judge(headline, about, rows) for headline in about.headlines]
    return found


def summary(runs: Sequence[dict[str, Any]], paper: str | None = None) -> dict[str, int]:
    """How many headlines have each verdict, formulas and counts (`identity`) among them."""
    return count([v for found in board(runs, paper).values() for v in found])


def count(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """Verdicts counted, in the order of WORDS; words that nothing has are left out."""
    found = Counter(v.word for v in verdicts)
    return {word: found[word] for word in WORDS if found[word]}


def count_line(verdicts: Sequence[Verdict]) -> str:
    """``13 headlines: 2 supported, 11 pilot; beside them formulas and counts: 2 exact``."""
    apart = [v for v in verdicts if v.word in (EXACT, DIFFERS)]
    others = [v for v in verdicts if v not in apart]
    text = f"{len(others)} headlines: " + _listed(count(others))
    return text + (f"; formulas and counts beside them: {_listed(count(apart))}" if apart else "")


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {word}" for word, number in counts.items())


def false_verdicts(verdicts: Sequence[Verdict]) -> str:
    """How many verdicts may be wrong by chance: each stands at 5 % by itself."""
    decided = sum(v.word in DECIDED for v in verdicts)
    if not decided:
        return "no headline is decided yet"
    return f"{decided} decided at 5 % each: about {decided / 20:.1f} of them may be false by chance"


def number(value: float | None) -> str:
    """A number of ours in at most three significant digits, whole numbers in full."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"


def interval(row: dict[str, Any]) -> str:
    """``[low, high]`` of a row, empty when the row is exact or missing."""
    if row.get("low") is None or row.get("high") is None:
        return ""
    return f"[{number(row['low'])}, {number(row['high'])}]"


def expectation(claim: Claim) -> str:
    """What a reported number allows, in symbols: ``0.484 +- 0.02``, ``> 0`` or ``< 300``."""
    expect = claim.expect
    if "value" in expect:
        return f"{expect['value']:.7g} \u00b1 {expect['tolerance']:g}"  # every printed digit
    sign, limit = (">", expect["above"]) if "above" in expect else ("<", expect["below"])
    return f"{sign} {number(limit)}"


def reading(claim: Claim, row: dict[str, Any]) -> str:
    """Whether the interval of a row ``agrees`` with a reported number, ``differs``, or neither."""
    low, high = (row["value"] if row.get(end) is None else row[end] for end in ("low", "high"))
    least, most = claim.expect.get("above", -np.inf), claim.expect.get("below", np.inf)
    if "value" in claim.expect:
        wide = claim.expect["tolerance"] + 1e-9
        least, most = claim.expect["value"] - wide, claim.expect["value"] + wide
    if least < low and high < most:
        return "agrees"
    return "differs" if high < least or low > most else "unclear"


def ours(v: Verdict) -> str:
    """Our number with its interval."""
    return f"{number(v.value)} {interval({'low': v.low, 'high': v.high})}".strip()


def reason(v: Verdict) -> str:
    """Why a verdict is what it is, or what is missing, in one phrase."""
    text = v.settle if v.word == "not testable here" else v.why
    if v.detectable is not None:
        text = f"this run could have found {number(v.detectable)}"
    if v.agrees is not None:
        text += f"; another run of ours would{'' if v.agrees else ' not'} agree with the paper's"
    return text.removeprefix("; ")


def cells(v: Verdict, shorten: bool = True) -> list[str]:
    """A headline as the cells under HEADINGS."""
    quote, says = v.headline.quote, v.headline.paper_says
    if shorten:
        quote, says = shortened(quote, 100), shortened(says, 50)
    verdict = f"{MARKS[v.word]} {v.says}" + (f": {reason(v)}" if reason(v) else "")
    return [f"{v.headline.id}: {quote}", says, ours(v), v.grade, shortened(verdict, 140)]


def shortened(text: str, width: int) -> str:
    """The first words of a text, as many as fit into ``width`` characters."""
    return textwrap.shorten(text, width, placeholder=" ...")


def text_board(verdicts: Sequence[Verdict]) -> str:
    """One line a headline, cut to the width of its column."""
    rows = [HEADINGS, *(cells(v) for v in verdicts)]
    return "\n".join(
        "  ".join(shortened(c, w).ljust(w) for c, w in zip(row, _WIDTHS, strict=True)).rstrip()
        for row in rows
    )


def markdown(verdicts: Sequence[Verdict], headings: Sequence[str] = HEADINGS) -> str:
    """The headlines as a Markdown table."""
    return _table([list(headings), *(cells(v) for v in verdicts)])


def _table(rows: Sequence[Sequence[str]]) -> str:
    rows = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(c.replace('|', chr(92) + '|') for c in r)} |" for r in rows)


def show(runs: Sequence[dict[str, Any]], paper: str | None = None):
    """The headlines as a styled table for a notebook; verdicts carry a shape, a word and a tint."""
    import pandas as pd

    found = [v for verdicts in board(runs, paper).values() for v in verdicts]

    tints = dict.fromkeys("\u2713=", "#2e7d4f33") | dict.fromkeys("\u2717\u2260", "#b3541e33")

    def tint(cell: str) -> str:
        return f"background-color: {tints.get(cell[:1], 'transparent')}"

    style = pd.DataFrame([cells(v, False) for v in found], columns=HEADINGS).style
    style = style.hide(axis="index").format(escape="html").map(tint, subset=["Verdict"])
    style = style.set_properties(**{"text-align": "left", "vertical-align": "top"})
    return style.set_caption(count_line(found))


def about(v: Verdict) -> str:
    """Everything about one headline as Markdown: what was fixed, and every row with its grade."""
    h = v.headline
    needs = f"{h.needs.seeds} seeds, {h.needs.images} images" if h.needs else ""
    competent = f", networks of anchor `{h.needs.anchor}`" if h.needs and h.needs.anchor else ""
    judged = f"{h.kind}, {h.claim.replace('_', ' ')}, worth having from {h.worth}"
    if h.kind == "identity":
        judged = f"{h.kind}, {h.expectation}" + (f" within {h.worth:g}" if h.worth else "")
    fixed = {
        "The paper": h.paper_says,
        "Estimand": f"{h.estimand} ({h.expectation})",
        "Judged as": judged,
        "Needs": needs + competent,
        "Controls": ", ".join(h.controls),
        "Fixed": str(h.dated),
        **{f"Amended {one.date}": one.reason for one in h.amendments},
        "Ours": f"{ours(v)}, {v.seeds} seeds, {v.images} images" if v.value is not None else "",
        "Verdict": f"**{v.says}**" + (f": {reason(v)}" if reason(v) else ""),
        "What would settle it": v.settle,
    }
    text = f'### {h.id}\n\n> "{h.quote}" ({h.place})\n\n'
    text += "\n".join(f"- {name}: {value}" for name, value in fixed.items() if value)
    rows = [evidence_cells(one) for one in v.evidence]
    heads = ["Grade", "Row", "Value", "Images", "Seeds", "Decides nothing because"]
    return text + (f"\n\n{_table([heads, *rows])}" if rows else "")


def evidence_cells(one: Evidence) -> list[str]:
    """A row of evidence as text: grade, tags, value, images, seeds and why it does not decide."""
    row = one.row
    aside = {"value", "low", "high", "n", "by_seed", "synthetic", "complete", "headlines", "size"}
    aside |= {"run_seed", "status", "device", "finished", "path", "paper", "overrides", "seeds"}
    tags = " ".join(f"{k}={v}" for k, v in row.items() if k not in aside and v is not None)
    span = {}
    if row.get("value") is not None and spans(row):
        _, span["low"], span["high"] = ends(row)
    why = "; ".join((*one.lacks, *(["not the primary cell"] if one.beside else [])))
    seeds = str(len(row.get("by_seed") or [0]))
    value = f"{number(row.get('value'))} {interval(span)}".strip()
    return [one.grade, tags, value, number(row.get("n")), seeds, why]
