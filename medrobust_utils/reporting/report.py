"""One page for all results: four answers, then figures, headlines, scorecards and the evidence.

The page needs nothing from outside, prints well, and says beside every number and figure whether
it came from phantoms or from real images.
"""

import base64
import io
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from ..core.storage import write_atomic
from . import claims, protocol, results
from .evidence import Evidence
from .ledger import DECIDED, WORDS, Verdict

FIGURES_BYTES = 1_700_000  # of all figures together, which keeps the page below 3 MB
_SIZES = ((900, 50), (680, 35), (480, 20))  # width, quality of WebP

# The scorecard of a paper: what is scored, and the tags of its lines and of its columns.
SCORECARDS: dict[str, tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]] = {
    "1_swin_noise": (
        {"metric": "accuracy_attacked", "thousand": True},
        ("dataset", "model", "start"),
        ("attack", "eps_255"),
    ),
    "2_attentive_cnn": (
        {"metric": "accuracy_attacked"},
        ("dataset", "split", "filter", "attention"),
        ("attack", "radius_255"),
    ),
    "3_domain_assimilation": (
        {"metric": "accuracy_attacked"},
        ("dataset", "split", "backbone", "start", "defence", "colour", "alpha", "rows"),
        ("attack", "step", "eps_255"),
    ),
    "4_unet_adversarial_training": (
        {"metric": "mean_iou"},
        ("dataset", "scheme", "variant"),
        ("attack", "reading", "made_for"),
    ),
}


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
    environment.filters |= {"cell": _cell, "when": _when}
    template = (resources.files(__package__) / "report.html.j2").read_text("utf-8")
    papers = _papers(runs)
    return environment.from_string(template).render(
        papers=papers,
        failures=dict(sorted((failed or {}).items())),
        unfinished=[_run(run, 0) for run in runs if run["status"] != "complete"],
        newest=runs[-1]["provenance"].get("finished") if runs else None,
        chance=claims.false_verdicts([v for paper in papers for v in paper["judged"]]),
    )


def _papers(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the page shows of each paper that has headlines or runs, newest run first."""
    known = protocol.list_papers()
    figures = sum(len(run["figures"]) for run in runs)
    papers = []
    for name in known + sorted({run["paper"] for run in runs} - set(known)):
        about = protocol.load(name) if name in known else None
        own = [run for run in runs if run["paper"] == name and run["status"] == "complete"]
        judged = claims.board(runs, name)[name] if about else []
        papers.append(
            {
                "name": name,
                "title": about.title if about else name or "Notebooks without a paper",
                "citation": about.citation if about else "",
                "plan": about.plan if about else "",
                "decided": _decided(judged),
                "answer": claims.count_line(judged),
                "judged": judged,
                "lines": [_line(v) for v in judged],
                "cards": [card for run in own if (card := _scorecard(name, run))],
                "runs": [_run(run, FIGURES_BYTES // max(figures, 1)) for run in reversed(own)],
            }
        )
    return papers


def _decided(judged: list[Verdict]) -> str:
    """The answer in one short sentence."""
    decided = [v for v in judged if v.word in DECIDED]
    if not decided:
        return "No headline is decided yet."
    counts = ", ".join(f"{n} {word}" for word, n in claims.count(decided).items())
    return f"{len(decided)} of {len(judged)} decided: {counts}."


def _line(v: Verdict) -> dict[str, Any]:
    """One headline: its verdict line, and its evidence for those who unfold it."""
    text, says, *_ = claims.cells(v, shorten=False)
    good = v.word in WORDS[:1] + WORDS[-2:-1]
    bad = v.word in DECIDED[2:5] + WORDS[-1:]
    return {
        "id": v.headline.id,
        "short": claims.shortened(v.headline.quote, 90),
        "quote": v.headline.quote,
        "place": v.headline.place,
        "says": says,
        "ours": claims.ours(v),
        "grade": v.grade,
        "mark": claims.MARKS[v.word],
        "word": v.says,
        "shade": "yes" if good else "no" if bad else "open",
        "reason": claims.reason(v),
        "estimand": f"{v.headline.estimand} ({v.headline.expectation})",
        "evidence": [_evidence(one) for one in v.evidence[:40]],
        "more": max(len(v.evidence) - 40, 0),
        "text": text,
    }


def _evidence(one: Evidence) -> dict[str, Any]:
    grade, tags, value, images, seeds, why = claims.evidence_cells(one)
    row = {"grade": grade, "tags": tags, "value": value, "images": images, "seeds": seeds}
    return row | {"why": why, "kind": _origin(one.row)}


def _scorecard(paper: str, run: dict[str, Any]) -> dict[str, Any] | None:
    """Every network of a run under every attack, a line a network."""
    wanted, lines, columns = SCORECARDS.get(paper, ({}, (), ()))
    rows = [r for r in run["rows"] if wanted and wanted.items() <= r.items()]
    rows = [r for r in rows if r["value"] is not None]
    if not rows:
        return None

    def label(row: dict[str, Any], tags: tuple[str, ...]) -> str:
        return " ".join(filter(None, (_cell(row.get(tag)) for tag in tags)))

    heads = list(dict.fromkeys(label(row, columns) for row in rows))
    table: dict[str, dict[str, str]] = {}
    for row in rows:
        about = table.setdefault(label(row, lines), {"kind": _origin(row)})
        about.setdefault(label(row, columns), f"{row['value']:.2f}")
    found = [(n, one["kind"], [one.get(head, "") for head in heads]) for n, one in table.items()]
    metric = f"{wanted['metric'].replace('_', ' ')}, {run['notebook']}, profile {run['profile']}"
    return {"what": metric, "heads": heads, "lines": found, "of": ", ".join(lines)}


def _origin(row: dict[str, Any]) -> str:
    """``phantom``, ``real`` or ``no images`` (counts, formulas)."""
    return {True: "phantom", False: "real"}.get(row.get("synthetic"), "no images")


def _run(run: dict[str, Any], budget: int) -> dict[str, Any]:
    """A run with its figures embedded and its origin in words."""
    kinds = {"phantom" if one["synthetic"] else "real" for one in run["datasets"].values()}
    figures = [_figure(run, name, budget) for name in run["figures"]]
    return {**run, "kind": " and ".join(sorted(kinds)), "figures": figures}


def _figure(run: dict[str, Any], name: str, budget: int) -> dict[str, str]:
    """One figure as data for an ``img``; a lost file is said, not passed over."""
    about = run.get("captions", {}).get(name, {"text": "", "label": ""})
    path = Path(run["path"]).parent / name
    data = base64.b64encode(_small(path, budget)).decode() if budget and path.is_file() else ""
    return {"name": name, "caption": about["text"], "kind": about["label"], "data": data}


def _small(path: Path, budget: int) -> bytes:
    """A figure as WebP, at the first size that fits into ``budget`` bytes, or at the smallest."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    for width, quality in _SIZES:
        copy = image.copy()
        copy.thumbnail((width, 4 * width))
        found = io.BytesIO()
        copy.save(found, "webp", quality=quality, method=1)
        if found.tell() <= budget:
            break
    return found.getvalue()


def _cell(value: Any) -> str:
    """One value as text."""
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return claims.number(value) if isinstance(value, int | float) else str(value)


def _when(stamp: str | None) -> str:
    """An ISO time as people write it."""
    return f"{stamp[:16].replace('T', ' ')} UTC" if stamp else "not recorded"
