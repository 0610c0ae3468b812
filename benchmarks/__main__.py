"""``python -m benchmarks [NAME ...]``: measure, print a table, write ``results/bench.json``.

``make bench`` runs it in an environment that has what the kit is measured against.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from subprocess import CalledProcessError

from medrobust_utils.errors import MedrobustError
from medrobust_utils.results import project_root

from . import MODULES, record


def main(
    arguments: list[str] | None = None, path: Path | None = None, readme: Path | None = None
) -> int:
    """Run the measurements named, or all.

    Each comparison is kept when it is done, in the record and on the page, so a run that is
    stopped loses one; what it did not come to stays as it was measured before.

    Returns:
        1 if a promise was not kept or could not be measured, else 0.

    Raises:
        RunError: before anything is measured, if the record or the page cannot take the result.
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
    lines, faults = [], []
    for name in names or MODULES:
        found = []
        try:
            for comparison in importlib.import_module(f"benchmarks.{name}").measure():
                found.append(comparison)
                record.add(path, name, comparison, before)
                record.update(readme, record.read(path))
                print(record.text([comparison.record()]), flush=True)
            record.finish(path, name, found)
        except (MedrobustError, OSError, CalledProcessError, ModuleNotFoundError) as error:
            peerless = isinstance(error, ModuleNotFoundError)
            remedy = " Run it by `make bench`." if peerless else ""
            faults.append(f"{name}: NOT MEASURED: {error}{remedy}")
        lines += [comparison.record() for comparison in found]
    record.update(readme, record.read(path))
    print("\n".join(["", record.text(lines), *faults, str(path)]))
    return int(bool(faults) or not all(line["reached"] for line in lines))


if __name__ == "__main__":
    raise SystemExit(main())
