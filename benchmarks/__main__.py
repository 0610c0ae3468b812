"""``python -m benchmarks [NAME ...]``: measure, print a table, write ``results/bench.json``."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from medrobust_utils.errors import DataError
from medrobust_utils.results import project_root

from . import MODULES, record


def main(
    arguments: list[str] | None = None, path: Path | None = None, readme: Path | None = None
) -> int:
    """Run the measurements named, or all.

    Each is kept when it is done, so one that is stopped costs no other.

    Returns:
        1 if a promise was not kept or could not be measured, else 0.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODULES)}")
    names = parser.parse_args(arguments).names
    if unknown := sorted(set(names) - set(MODULES)):
        parser.error(f"no measurement called {', '.join(unknown)}; there are {', '.join(MODULES)}")
    path = path or project_root() / "results" / "bench.json"
    readme = readme or project_root() / "README.md"
    lines, faults = [], []
    for name in names or MODULES:
        try:
            found = list(importlib.import_module(f"benchmarks.{name}").measure())
        except DataError as error:  # no real images at hand: the other measurements need none
            faults.append(f"{name}: NOT MEASURED: {error}")
            continue
        record.add(path, name, found)
        lines += [c.record() for c in found]
        print(record.text([c.record() for c in found]), flush=True)
    record.update(readme, record.read(path))
    print("\n".join(["", record.text(lines), *faults, str(path)]))
    return int(bool(faults) or not all(line["reached"] for line in lines))


if __name__ == "__main__":
    raise SystemExit(main())
