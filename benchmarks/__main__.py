"""``python -m benchmarks [NAME ...]``: measure, print a line each, write ``results/bench.json``.

Each measurement is saved as it comes, under the kind of machine; what a run that is stopped did
not come to stays as it was. ``make bench`` installs what the kit is measured against.
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
    """Run the measurements named, or all; 1 if a promise was missed or could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *MEASURED], metavar="NAME")
    missed = False
    for name in parser.parse_args().names or MEASURED:
        try:
            rows = [row.record() for row in MEASURED[name]()]
        except Exception as error:  # whatever it is, the others are worth measuring
            print(f"NOT MEASURED {name}: {type(error).__name__}: {error}", flush=True)
            missed = True
            continue
        save(name, rows)
        for row in rows:
            missed |= not row["reached"]
            sides = ", ".join(f"{side} {spent:.3g}" for side, spent in (row["base"], row["kit"]))
            verdict = f"{'reached' if row['reached'] else 'MISSED'} {row['ratio']:.2f}"
            print(f"{verdict} ({row['bound']}): {row['what']}; {sides}", flush=True)
    return int(missed)


def save(name: str, rows: list[dict]) -> None:
    """Put what was measured into the record, beside other names and kinds of machine."""
    path = project_root() / "results" / "bench.json"
    record = json.loads(path.read_text("utf-8")) if path.exists() else {}
    record.setdefault(kind(), {})[name] = {"rows": rows, "provenance": env.provenance()}
    write_atomic(path, (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    raise SystemExit(main())
