"""The command ``python -m medrobust_utils claims``: verdicts printed, written, checked and rebuilt.

How they look is in `claims.py` beside this file, the rules are in `ledger.py`.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import RunError
from ..core.storage import read_arrays, write_atomic
from ..scoring import inference
from . import protocol, results
from .claims import about, board, count_line, false_verdicts, markdown, number, reason, text_board
from .evidence import ends

RECORD, PAGE, README = "verdicts.json", "docs/evidence.md", "README.md"
SHOWN = 3  # headlines of a paper in the README
_BEGIN, _END = "<!-- claims:begin -->", "<!-- claims:end -->"


def page(runs: Sequence[dict[str, Any]]) -> str:
    """``docs/evidence.md``: the board, then every headline with its evidence."""
    parts = [
        "# Evidence",
        "Written by `python -m medrobust_utils claims --update` from `results/reference`; do not "
        "edit. Grades and verdicts are those of `medrobust_utils/reporting/ledger.py`.",
    ]
    for name, verdicts in board(runs).items():
        parts += [f"## {protocol.load(name).title}", f"{count_line(verdicts)}."]
        parts += [about(v) for v in verdicts]
    return "\n\n".join(parts) + "\n"


def readme_block(runs: Sequence[dict[str, Any]]) -> str:
    """What came out, on one screen: the first headlines of each paper that have a number."""
    found = board(runs)
    every = [v for verdicts in found.values() for v in verdicts]
    told = f"**{false_verdicts(every)}**.".replace("**no", "**No")
    page = f"All {len(every)}, with their evidence and what would settle them: [{PAGE}]({PAGE})."
    parts = [f"{told} {page}"]
    for name, verdicts in found.items():
        parts.append(f"**{protocol.load(name).title}**. {count_line(verdicts)}.")
        one_each = {v.value: v for v in reversed(verdicts) if v.value is not None}
        parts.append(markdown([v for v in verdicts if one_each.get(v.value) is v][:SHOWN]))
    return "\n\n".join(parts)


def record(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What is committed beside the results: each headline's word, numbers and hash."""
    found: dict[str, dict[str, Any]] = {}
    for name, verdicts in board(runs).items():
        hashes = protocol.load(name).fingerprints()
        for v in verdicts:
            numbers = {k: getattr(v, k) for k in ("value", "low", "high", "seeds", "images")}
            numbers = {k: round(x, 6) if isinstance(x, float) else x for k, x in numbers.items()}
            about = {"verdict": v.says, "grade": v.grade, **numbers, "why": reason(v)}
            found[f"{name}/{v.headline.id}"] = about | {"hash": hashes[v.headline.id]}
    return found


def check(runs: Sequence[dict[str, Any]], committed: Path) -> list[str]:
    """What drifted: verdicts and numbers against ``verdicts.json``, headlines against runs."""
    try:
        before = json.loads(committed.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{committed} cannot be read: {error}") from None
    now, found, papers = record(runs), [], protocol.list_papers()
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name, {}), now.get(name, {})
        changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        if changed:
            pairs = ", ".join(f"{key} {old.get(key)} -> {new.get(key)}" for key in changed)
            found.append(f"{name}: {pairs}")
    for run in runs:
        known = protocol.load(run["paper"]).fingerprints() if run["paper"] in papers else {}
        for name, stored in (run.get("headlines") or {}).items():
            if known.get(name) != stored:
                found.append(f"{run['paper']}/{name}: amended after the result in {run['path']}")
    return found


def recompute(runs: Sequence[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """Rebuild the rows that have committed outcomes; (what differs, a line on each run).

    ``outcomes.npz`` beside a ``result.json`` holds, under the name in a row's tag ``outcomes``, the
    paired outcomes (seeds, N) of that row, and under ``<name>:groups`` the cluster (N,) of each.
    """
    wrong, told = [], []
    for run in runs:
        path = Path(run["path"]).with_name("outcomes.npz")
        rows = [row for row in run["rows"] if row.get("outcomes")]
        arrays = read_arrays(path) if path.is_file() else {}
        for row in rows:
            name = row["outcomes"]
            if name not in arrays:
                wrong.append(f"{path}: no outcomes {name!r}")
                continue
            outcomes, groups = arrays[name], arrays[f"{name}:groups"]
            # of one seed the value alone: its interval decides nothing
            several = len(outcomes) > 1
            values = inference.paired(outcomes, groups)[:3] if several else [outcomes.mean()]
            if not np.allclose(values, ends(row)[: len(values)], atol=5e-4):
                wrong.append(f"{path}: {name} is {number(values[0])}, the row {ends(row)}")
        counts = f"{len(rows)} rows rebuilt, {len(run['rows']) - len(rows)}"
        told.append(f"{path.parent.name}: {counts} have no committed outcomes")
    return wrong, told


def update(runs: Sequence[dict[str, Any]], root: Path, reference: Path) -> list[Path]:
    """Write the record, ``docs/evidence.md`` and the README's block; returns what changed."""
    readme = (root / README).read_text("utf-8")
    if readme.count(_BEGIN) != 1 or readme.count(_END) != 1 or _END in readme.split(_BEGIN)[0]:
        raise RunError(f"{README} needs the line {_BEGIN} and after it {_END}, each once")
    head, tail = readme.split(_BEGIN)[0], readme.split(_END)[1]
    wanted = {
        reference / RECORD: json.dumps(record(runs), indent=1) + "\n",
        root / PAGE: page(runs),
        root / README: f"{head}{_BEGIN}\n{readme_block(runs)}\n{_END}{tail}",
    }
    stale = [p for p, text in wanted.items() if not p.is_file() or p.read_text("utf-8") != text]
    for path in stale:
        write_atomic(path, wanted[path].encode())
    return stale


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m medrobust_utils claims``: the headlines of all papers and their verdicts."""
    parser = argparse.ArgumentParser("python -m medrobust_utils claims", description=main.__doc__)
    text = "folder with result.json files (default: results/reference of the project)"
    parser.add_argument("--results", metavar="DIR", type=Path, help=text)
    parser.add_argument("--paper", metavar="NAME", help="only this paper")
    parser.add_argument("--evidence", metavar="ID", help="all about one headline")
    parser.add_argument("--json", action="store_true", help="print verdicts as JSON")
    text = "fail when a committed verdict, number or headline has changed"
    parser.add_argument("--check", action="store_true", help=text)
    text = "rebuild intervals from committed outcomes, and fail where they differ"
    parser.add_argument("--recompute", action="store_true", help=text)
    text = f"write {RECORD}, {PAGE} and the block of {README}"
    parser.add_argument("--update", action="store_true", help=text)
    args = parser.parse_args(argv)
    root = results.project_root()
    folder = args.results or root / "results" / "reference"
    runs = results.collect(folder)
    if args.update:
        changed = update(runs, root, folder)
        print("\n".join(f"written: {path}" for path in changed) or "all current")
    elif args.check or args.recompute:
        wrong, told = recompute(runs) if args.recompute else ([], [])
        wrong += check(runs, folder / RECORD) if args.check else []
        print("\n".join([*told, *wrong, f"{len(wrong)} differences"]))
        return 1 if wrong else 0
    elif args.json:
        print(json.dumps(record(runs), indent=1))
    elif args.evidence:
        found = [v for vs in board(runs, args.paper).values() for v in vs]
        chosen = [v for v in found if v.headline.id == args.evidence]
        if not chosen:
            ids = ", ".join(v.headline.id for v in found)
            raise RunError(f"there is no headline {args.evidence!r}; there are {ids}")
        print("\n\n".join(map(about, chosen)))
    else:
        found = board(runs, args.paper)
        for name, verdicts in found.items():
            print(f"\n{name}: {count_line(verdicts)}\n{text_board(verdicts)}")
            print(f"Settles what is open: {protocol.load(name).plan}")
        print(f"\n{false_verdicts([v for vs in found.values() for v in vs])}")
    return 0
