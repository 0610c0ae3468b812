"""Our numbers against the paper's: tables of verdicts, and what would settle the open claims.

The rule behind each verdict is in `medrobust_utils.reporting.verdicts`.
"""

import argparse
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.errors import RunError
from . import protocol, results
from .verdicts import (
    NOT_REPRODUCED,
    NOT_TESTED,
    REPRODUCED,
    UNDONE,
    VERDICTS,
    Verdict,
    expectation,
    interval,
    judge,
    kind,
    number,
)

# words and shapes carry the verdict; colour only repeats it
MARKS = {REPRODUCED: "\u2713", NOT_REPRODUCED: "\u2717", NOT_TESTED: "\u25cb"}
_BEGIN, _END = "<!-- claims:begin -->", "<!-- claims:end -->"
_HEADINGS = ["Place", "Claim", "Paper", "Ours", "Verdict", "Stand-in (does not count)"]


def judge_all(runs: list[dict[str, Any]], paper: str | None = None) -> dict[str, list[Verdict]]:
    """The verdicts on every claim, per paper in the order of the protocol file."""
    papers = [paper] if paper else protocol.list_papers()
    return {
        name: [
            judge(claim, results.rows([run for run in runs if run["paper"] == name]))
            for claim in protocol.load(name).claims
        ]
        for name in papers
    }


def table(runs: list[dict[str, Any]], paper: str | None = None):
    """One line per claim as a pandas table: the paper's number, ours, the verdict and why.

    ``runs`` come from `results.collect` or `results.read`; a run must be saved first.
    """
    import pandas as pd

    lines = []
    for name, verdicts in judge_all(runs, paper).items():
        for v in verdicts:
            row, other = v.row or {}, v.stand_in or {}
            lines.append(
                {
                    "paper": name,
                    "id": v.claim.id,
                    "where": v.claim.where,
                    "claim": v.claim.text,
                    "expected": expectation(v.claim),
                    "ours": row.get("value"),
                    "interval": interval(row),
                    "verdict": v.verdict,
                    "reason": v.reason,
                    "stand_in": other.get("value"),
                    "stand_in_interval": interval(other),
                    "stand_in_kind": kind(other),
                    "stand_in_reading": v.reading,
                    "stand_in_why": v.why,
                    "doubts": " ".join(v.claim.doubts),
                    "command": v.claim.command,
                    "needs": v.claim.needs,
                }
            )
    return pd.DataFrame(lines)


def summary(runs: list[dict[str, Any]], paper: str | None = None) -> dict[str, int]:
    """How many claims have each verdict; all three verdicts are always present."""
    verdicts = [v for found in judge_all(runs, paper).values() for v in found]
    return count(verdicts)


def count(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Verdicts counted, in the order of VERDICTS."""
    found = Counter(v.verdict for v in verdicts)
    return {name: found[name] for name in VERDICTS}


def count_line(counts: dict[str, int]) -> str:
    """``101 claims: 4 reproduced, 1 not reproduced, 96 not tested at this scale``."""
    total = sum(counts.values())
    parts = ", ".join(f"{number} {name}" for name, number in counts.items())
    return f"{total} claim{'' if total == 1 else 's'}: {parts}"


def stand_in_text(v: Verdict) -> str:
    """The stand-in of a verdict in one phrase that begins with what it is."""
    if v.stand_in is None:
        return ""
    figure = f"{number(v.stand_in['value'])} {interval(v.stand_in)}".strip()
    return f"{kind(v.stand_in)} {figure} {v.reading} ({v.why})".strip()


def show(runs: list[dict[str, Any]], paper: str | None = None):
    """The claims as a styled table for a notebook; verdicts carry a mark, a word and a tint."""
    import pandas as pd

    found = [v for verdicts in judge_all(runs, paper).values() for v in verdicts]
    lines = [dict(zip(_HEADINGS, _cells(v), strict=True)) for v in found]
    tints = {REPRODUCED: "#2e7d4f33", NOT_REPRODUCED: "#b3541e33"}

    def tint(cell: str) -> str:
        verdict = cell[2:].partition(" (")[0]
        return f"background-color: {tints.get(verdict, 'transparent')}"

    style = pd.DataFrame(lines, columns=_HEADINGS).style.hide(axis="index")
    style = style.format(escape="html").map(tint, subset=["Verdict"])
    style = style.set_properties(**{"text-align": "left", "vertical-align": "top"})
    style = style.set_properties(subset=["Paper", "Place"], **{"white-space": "nowrap"})
    return style.set_caption(count_line(count(found)))


def _cells(v: Verdict) -> list[str]:
    row = v.row or {}
    ours = f"{number(row.get('value'))} {interval(row)}".strip()
    # where the interval beside it does not say why
    silent = v.row is not None and (v.verdict == NOT_TESTED or v.reason.startswith(UNDONE))
    verdict = f"{MARKS[v.verdict]} {v.verdict}" + (f" ({v.reason})" if silent else "")
    return [v.claim.where, v.claim.text, expectation(v.claim), ours, verdict, stand_in_text(v)]


def text_table(verdicts: Sequence[Verdict], widths=(11, 28, 13, 14, 16, 26)) -> str:
    """The claims as plain text, long cells wrapped to ``widths`` characters."""
    lines = []
    for cells in [_HEADINGS, *map(_cells, verdicts)]:
        wrapped = [textwrap.wrap(c, w) or [""] for c, w in zip(cells, widths, strict=True)]
        for i in range(max(map(len, wrapped))):
            parts = [w[i] if i < len(w) else "" for w in wrapped]
            lines.append("  ".join(p.ljust(w) for p, w in zip(parts, widths, strict=True)).rstrip())
        lines.append("-" * (sum(widths) + 2 * len(widths) - 2))
    return "\n".join(lines)


def markdown_table(verdicts: Sequence[Verdict]) -> str:
    """The claims as a Markdown table."""
    rows = [_HEADINGS, ["---"] * len(_HEADINGS), *map(_cells, verdicts)]
    return "\n".join(f"| {' | '.join(c.replace('|', chr(92) + '|') for c in r)} |" for r in rows)


def readme_block(runs: list[dict[str, Any]]) -> str:
    """The summary for the README: counts, what is settled, and the command for what is not."""
    parts = []
    for name, verdicts in judge_all(runs).items():
        if not verdicts:
            continue
        parts.append(f"**{protocol.load(name).title}** (`{name}`), {count_line(count(verdicts))}.")
        settled = [v for v in verdicts if v.verdict != NOT_TESTED]
        if settled:
            parts.append(markdown_table(settled))
        open_ = [v for v in verdicts if v.verdict == NOT_TESTED]
        if open_:
            parts.append("Not tested at this scale, and what would settle it:")
            parts.append("\n".join(map(_open_line, remedies(open_).items())))
    return "\n\n".join(parts)


def remedies(verdicts: Sequence[Verdict]) -> dict[tuple[str, str], Counter]:
    """What would settle the open claims: (command, what it still needs) to claims per place."""
    found: dict[tuple[str, str], Counter] = {}
    for v in verdicts:
        if v.verdict == NOT_TESTED:
            counter = found.setdefault((v.claim.command, v.claim.needs), Counter())
            counter[v.claim.where] += 1
    return found


def _open_line(remedy: tuple[tuple[str, str], Counter]) -> str:
    (command, needs), places = remedy
    listed = ", ".join(f"{place} ({times})" for place, times in sorted(places.items()))
    return f"- `{command}`{f', once there is {needs}' if needs else ''}: {listed}"


def update_readme(path: str | Path, runs: list[dict[str, Any]]) -> bool:
    """Put `readme_block` between the claims markers of a file; True when the file changed."""
    path = Path(path)
    old = path.read_text("utf-8")
    if old.count(_BEGIN) != 1 or old.count(_END) != 1 or old.index(_BEGIN) > old.index(_END):
        raise RunError(f"{path} needs the line {_BEGIN} and after it {_END}, each once")
    head, tail = old.split(_BEGIN)[0], old.split(_END)[1]
    new = f"{head}{_BEGIN}\n{readme_block(runs)}\n{_END}{tail}"
    path.write_text(new, "utf-8")
    return new != old


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m medrobust_utils claims``: print the claims and their verdicts."""
    parser = argparse.ArgumentParser("python -m medrobust_utils claims", description=main.__doc__)
    parser.add_argument(
        "--results",
        metavar="DIR",
        help="folder with result.json files "
        "(default: results of the project; for --update-readme its reference)",
    )
    parser.add_argument("--paper", metavar="NAME", help="only this paper")
    parser.add_argument("--markdown", metavar="FILE", help="write the table as Markdown too")
    parser.add_argument("--update-readme", metavar="FILE", help="refresh the claims block of FILE")
    args = parser.parse_args(argv)
    # the README speaks of the committed reference results, not of whatever lies around locally
    default = results.project_root() / "results" / ("reference" if args.update_readme else "")
    runs = results.collect(args.results or default)
    if args.update_readme:
        changed = update_readme(args.update_readme, runs)
        print(f"{args.update_readme} {'updated' if changed else 'is current'}")
        return 0
    pages = []
    for name, verdicts in judge_all(runs, args.paper).items():
        if verdicts:
            counts = count_line(count(verdicts))
            print(f"\n{name}\n\n{text_table(verdicts)}\n{counts}")
            pages.append(f"## {name}\n\n{counts}\n\n{markdown_table(verdicts)}\n")
    if args.markdown:
        Path(args.markdown).write_text("\n".join(pages), "utf-8")
    return 0
