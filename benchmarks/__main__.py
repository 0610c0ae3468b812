"""``python -m benchmarks [NAME ...]``: measure, print a table, write ``results/bench.json``.

``make bench`` runs it in an environment that has what the kit is measured against.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator
from pathlib import Path

from medrobust_utils.core.errors import MedrobustError
from medrobust_utils.reporting.results import project_root

from . import MODULES, record
from .timing import Comparison


def main(arguments: list[str] | None = None) -> int:
    """Run the measurements named, or all.

    Each comparison is saved as it comes; what a run that is stopped did not come to stays as it
    was measured before. A measurement that fails costs itself alone.

    Returns:
        1 if a promise was not kept or could not be measured, else 0.

    Raises:
        ValueError: before anything is measured, if the record is no JSON.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODULES)}")
    parser.add_argument("--out", type=Path, help="the record, results/bench.json unless given")
    given = parser.parse_args(arguments)
    if unknown := sorted(set(given.names) - set(MODULES)):
        parser.error(f"no measurement called {', '.join(unknown)}; there are {', '.join(MODULES)}")
    path = given.out or project_root() / "results" / "bench.json"
    record.read(path)
    lines, faults = [], {}
    for name in given.names or MODULES:
        for comparison in _measured(name, faults):
            record.add(path, name, comparison)
            lines.append(comparison.record())
            print(record.text(lines[-1:]), flush=True)
    print("\n".join(["", record.text(lines), *faults.values(), str(path)]))
    return int(bool(faults) or not all(line["reached"] for line in lines))


def _measured(name: str, faults: dict[str, str]) -> Iterator[Comparison]:
    """What a module finds, until something goes wrong, which is put among ``faults``."""
    try:
        yield from importlib.import_module(f"benchmarks.{name}").measure()
    except Exception as error:  # whatever it is, the other modules are worth measuring
        remedy = " Run it by `make bench`." if isinstance(error, ModuleNotFoundError) else ""
        what = error if isinstance(error, MedrobustError) else f"{type(error).__name__}: {error}"
        faults[name] = f"{name}: NOT MEASURED: {what}{remedy}"


if __name__ == "__main__":
    raise SystemExit(main())
