"""``python -m benchmarks [NAME ...]``: measure, print a table, write ``results/bench.json``."""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Iterable
from pathlib import Path

from medrobust_utils import env
from medrobust_utils.results import project_root
from medrobust_utils.storage import write_atomic

from . import MODULES
from .timing import Comparison


def table(found: Iterable[Comparison]) -> str:
    """One line a comparison: both times in seconds, ratio with its range, target and verdict.

    Facts follow on a line of their own.
    """
    lines = [f"{'seconds':>16}  {'ratio':>5} {'[range]':>12}  target"]
    for c in found:
        lines.append(
            f"{c.base_seconds:7.3f} {c.other_seconds:8.3f}  {c.ratio:5.2f} "
            f"{f'[{c.low:.2f}, {c.high:.2f}]':>12}  {c.target:.2f} "
            f"{'reached' if c.reached else 'MISSED'}  {c.name}: {c.base} -> {c.other}"
        )
        if c.facts:
            lines.append(" " * 18 + ", ".join(f"{k} {v:.6g}" for k, v in c.facts.items()))
    return "\n".join(lines)


def write(found: Iterable[Comparison], path: Path) -> None:
    """The comparisons and the machine they ran on, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"provenance": env.provenance(), "comparisons": [c.record() for c in found]}
    write_atomic(path, (json.dumps(record, indent=2) + "\n").encode())


def main(arguments: list[str] | None = None, path: Path | None = None) -> int:
    """Run the measurements named, or all; returns 1 if a target was missed, else 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODULES)}")
    names = parser.parse_args(arguments).names
    if unknown := sorted(set(names) - set(MODULES)):
        parser.error(f"no measurement called {', '.join(unknown)}; there are {', '.join(MODULES)}")
    found: list[Comparison] = []
    for name in names or MODULES:
        found += importlib.import_module(f"benchmarks.{name}").measure()
    path = path or project_root() / "results" / "bench.json"
    write(found, path)
    print(f"{table(found)}\n{path}")
    return int(not all(c.reached for c in found))


if __name__ == "__main__":
    raise SystemExit(main())
