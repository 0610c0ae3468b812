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


def main(
    arguments: list[str] | None = None, path: Path | None = None, readme: Path | None = None
) -> int:
    """Run the measurements named, or all.

    What is found is kept as it comes, in the record and on the page; what a run that is stopped
    did not come to stays as it was measured before. A measurement that fails costs itself alone.

    Returns:
        1 if a promise was not kept or could not be measured, else 0.

    Raises:
        RunError: before anything is measured, if the record or the page cannot take the result.
        OSError: if one of them cannot be written later.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODULES)}")
    names = parser.parse_args(arguments).names
    if unknown := sorted(set(names) - set(MODULES)):
        parser.error(f"no measurement called {', '.join(unknown)}; there are {', '.join(MODULES)}")
    path = path or project_root() / "results" / "bench.json"
    readme = readme or project_root() / "README.md"
    before = record.read(path)
    record.update(readme, before)
    lines, faults = [], {}
    for name in names or MODULES:
        found = []
        for comparison in _measured(name, faults):
            found.append(comparison)
            record.update(readme, record.add(path, name, comparison, before))
            print(record.text([comparison.record()]), flush=True)
        if name not in faults:
            record.update(readme, record.finish(path, name, found))
        lines += [comparison.record() for comparison in found]
    print("\n".join(["", record.text(lines), *faults.values(), str(path)]))
    return int(bool(faults) or not all(line["reached"] for line in lines))


def _measured(name: str, faults: dict[str, str]) -> Iterator[Comparison]:
    """What a module finds, until something goes wrong, which is put among ``faults``."""
    try:
        for comparison in importlib.import_module(f"benchmarks.{name}").measure():
            record.check(comparison)
            yield comparison
    except Exception as error:  # whatever it is, the other modules are worth measuring
        remedy = " Run it by `make bench`." if isinstance(error, ModuleNotFoundError) else ""
        what = error if isinstance(error, MedrobustError) else f"{type(error).__name__}: {error}"
        faults[name] = f"{name}: NOT MEASURED: {what}{remedy}"


if __name__ == "__main__":
    raise SystemExit(main())
