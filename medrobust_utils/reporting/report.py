"""One page for all results: claims, runs, figures and failures in a single HTML file.

The page needs nothing from outside, prints well, and says beside every number and figure whether
it came from phantoms or from real images.
"""

import base64
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from ..core.storage import write_atomic
from . import claims, protocol, results
from .verdicts import VERDICTS, Verdict, interval, kind, number


def write(results_dir: str | Path, out: str | Path | None = None) -> Path:
    """Write the report on every result below ``results_dir`` and return its path.

    ``out`` defaults to ``report.html`` in that folder. Raises RunError for an unreadable result.
    """
    runs = results.collect(results_dir)
    root = Path(results_dir)
    failed = {
        str(note.parent.relative_to(root)): note.read_text("utf-8")
        for note in root.rglob("failure.txt")
    }
    path = Path(out) if out else root / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, render(runs, failed).encode())
    return path


def render(runs: list[dict[str, Any]], failed: dict[str, str] | None = None) -> str:
    """The report as a string of HTML; everything that came from a run is escaped.

    ``failed`` maps folders to the text of the ``failure.txt`` that the runner left there.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _cell, "when": _when}
    template = (resources.files(__package__) / "report.html.j2").read_text("utf-8")
    return environment.from_string(template).render(
        papers=_papers(runs),
        failures=dict(sorted((failed or {}).items())),
        unfinished=[_run(run) for run in runs if run["status"] != "complete"],
        newest=runs[-1]["provenance"].get("finished") if runs else None,
        marks=claims.MARKS,
    )


def _papers(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the page shows of each paper that has claims or runs, newest run first."""
    known = protocol.list_papers()
    names = known + sorted({run["paper"] for run in runs} - set(known))
    papers = []
    for name in names:
        about = protocol.load(name) if name in known else None
        verdicts = claims.judge_all(runs, name)[name] if about else []
        own = [run for run in runs if run["paper"] == name and run["status"] == "complete"]
        if not verdicts and not own:
            continue
        papers.append(
            {
                "name": name,
                "title": about.title if about else name or "Notebooks without a paper",
                "citation": about.citation if about else "",
                "notes": about.notes if about else (),
                "counts": claims.count(verdicts),
                "places": _by_place(verdicts),
                "remedies": {
                    key: places.total() for key, places in claims.remedies(verdicts).items()
                },
                "runs": [_run(run) for run in reversed(own)],
            }
        )
    return papers


def _by_place(verdicts: list[Verdict]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The claims grouped by their place in the paper, in the order of the protocol file."""
    places: dict[str, list] = {}
    for v in verdicts:
        row, other = v.row or {}, v.stand_in or {}
        places.setdefault(v.claim.where, []).append(
            {
                "verdict": v.verdict,
                "shade": VERDICTS.index(v.verdict),
                "text": v.claim.text,
                "expected": claims.expectation(v.claim),
                "doubts": v.claim.doubts,
                "reason": v.reason if v.row or not v.stand_in else "",
                "ours": _measured(row),
                "stand_in": _measured(other),
                "reading": v.reading,
                "why": v.why,
            }
        )
    return list(places.items())


def _measured(row: dict[str, Any]) -> dict[str, str] | None:
    if not row:
        return None
    return {"value": number(row["value"]), "interval": interval(row), "kind": _origin(row)}


def _origin(row: dict[str, Any]) -> str:
    return kind(row) or "no images"


def _run(run: dict[str, Any]) -> dict[str, Any]:
    """A run with its figures embedded and its origin in words."""
    kinds = {"phantom" if one["synthetic"] else "real" for one in run["datasets"].values()}
    first = ["metric", "value", "low", "high", "n"]
    tags = dict.fromkeys(tag for row in run["rows"] for tag in row)
    hidden = {*first, "synthetic"}
    return {
        **run,
        "kind": " and ".join(sorted(kinds)),
        "figures": [_figure(run, name) for name in run["figures"]],
        "tags": [tag for tag in tags if tag not in hidden],
        "rows": [{**row, "kind": _origin(row)} for row in run["rows"]],
    }


def _figure(run: dict[str, Any], name: str) -> dict[str, str]:
    """One figure as data for an ``img``; a lost file is said, not passed over."""
    about = run.get("captions", {}).get(name, {"text": "", "label": ""})
    path = Path(run["path"]).parent / name
    data = base64.b64encode(path.read_bytes()).decode() if path.is_file() else ""
    return {"name": name, "caption": about["text"], "kind": about["label"], "data": data}


def _cell(value: Any) -> str:
    """One cell of a table of rows."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, int | float) else str(value)


def _when(stamp: str | None) -> str:
    """An ISO time as people write it."""
    return f"{stamp[:16].replace('T', ' ')} UTC" if stamp else "not recorded"
