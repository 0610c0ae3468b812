"""``python -m benchmarks [NAME ...]``: measure, print a line each, write ``results/bench.json``.

Each measurement is saved as it comes, beside those of other kinds of machine; what a run that is
stopped did not come to stays as it was. ``make bench`` has what the kit is measured against.
"""

from __future__ import annotations

import argparse
import json

from medrobust_utils.core import env
from medrobust_utils.core.storage import write_atomic
from medrobust_utils.reporting.results import project_root

from . import attacks, steps
from .timing import kind

MEASURED = {**attacks.MEASURED, **steps.MEASURED}


def main() -> int:
    """Run the measurements named, or all; 1 if a promise was missed or not measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MEASURED)}")
    names = parser.parse_args().names or list(MEASURED)
    if unknown := sorted(set(names) - set(MEASURED)):
        parser.error(f"no measurement called {', '.join(unknown)}: see --help")
    missed = 0
    for name in names:
        try:
            rows = [row.record() for row in MEASURED[name]()]
        except Exception as error:  # whatever it is, the others are worth measuring
            print(f"NOT MEASURED {name}: {type(error).__name__}: {error}", flush=True)
            missed += 1
            continue
        save(name, rows)
        for row in rows:
            (base, before), (kit, after) = row["base"], row["kit"]
            low, high = row["spread"]
            verdict = "reached" if row["reached"] else "MISSED"
            what = f"{row['what']}; {base} {before:.3g}, {kit} {after:.3g}"
            ratio = f"{row['ratio']:.2f} [{low:.2f}, {high:.2f}]"
            print(f"{verdict:7} {ratio}, {row['bound']}: {what}", flush=True)
            missed += not row["reached"]
    return int(missed > 0)


def save(name: str, rows: object) -> None:
    """Put what was measured under its name and this kind of machine into the record."""
    path = project_root() / "results" / "bench.json"
    record = json.loads(path.read_text("utf-8")) if path.exists() else {}
    record.setdefault(kind(), {})[name] = {"rows": rows, "provenance": env.provenance()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    raise SystemExit(main())
