"""Golden rows: the numbers that the paper notebooks give in the smoke profile, kept to compare.

`python tests/golden.py --write [NN ...]` runs the notebooks and writes their golden files anew;
without `--write` it compares. A change of numbers that is meant gets a commit of its own.

What floats round to depends on the machine. So the runs take one thread and the AVX2 kernels that
every x86 processor of the last ten years has. On another kind of machine than the one that wrote
the files (see `kind`) names, tags and figures must agree, and other values are a warning. Should
they differ there for good, `--write` fills a folder `tests/golden/KIND`, once it is made.
"""

import argparse
import json
import platform
import resource
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from medrobust_utils.reporting import planning, results, runner

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "tests" / "golden"
NOTEBOOKS = planning.find_notebooks([], ROOT / "notebooks")
PAPERS = [path for path in NOTEBOOKS if "01" <= path.stem[:2] <= "04"]
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_CBWR": "COMPATIBLE",
    "CUDA_VISIBLE_DEVICES": "",
}
TOLERANCE = 1e-4  # of the metric's largest number
LEAST = 1e-6  # tolerance of a metric whose numbers are all next to nothing: rounding, no result
SHOWN = 12  # differences, in a message


def run(path: Path, out: Path, given: list[tuple[str, str]] = ()) -> runner.Outcome:
    """Run one notebook in smoke as users do, with caches of its own below ``out``."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv("MEDROBUST_HOME", str(out / "home"))
        patch.delenv("MEDROBUST_WEIGHTS", raising=False)
        (outcome,) = runner.run_batch(planning.plan([path], "smoke", given, out))
    return outcome


def kind() -> str:
    """What the numbers of this machine may depend on: processor and torch."""
    vendor = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else []:
        if line.startswith("vendor_id"):
            vendor += f"-{line.split()[-1]}"
            break
    return f"{vendor}-torch{torch.__version__.partition('+')[0]}"


SUPPORT = ("by_seed", "seed_ids", "cluster_variance", "clusters", "discordant", "outcomes")


def digest(record: dict) -> dict:
    """What is kept of a run's record: figures, and by tags and metric n, value, low and high.

    Without what a clock measured.
    """
    rows = defaultdict(lambda: defaultdict(list))
    for row in record["rows"]:
        numbers = [row["n"], *(_rounded(row[name]) for name in ("value", "low", "high"))]
        # what a verdict rests on: the value again by training seed, and another row's numbers
        tags = row.keys() - {"metric", "n", "value", "low", "high", *SUPPORT}
        tags = {name for name in tags if not name.startswith("autoattack_")}
        if "second" not in row["metric"]:
            told = " ".join(f"{name}={row[name]}" for name in sorted(tags))
            rows[told][row["metric"]].append(numbers)
    rows = {tags: dict(sorted(group.items())) for tags, group in sorted(rows.items())}
    return {"figures": sorted(record["figures"]), "rows": rows}


def _rounded(number: float | None) -> float | None:
    return float(f"{number:.7g}") if isinstance(number, float) else number


def text(kept: dict) -> str:
    """A golden file: JSON with a line a row, so that a diff can be read."""
    groups = []
    for tags, group in kept["rows"].items():
        lines = [f'   "{metric}": {json.dumps(numbers)}' for metric, numbers in group.items()]
        groups.append(f"  {json.dumps(tags)}: {{\n" + ",\n".join(lines) + "}")
    figures = json.dumps(kept["figures"], indent=1).replace("\n", "\n ")
    rows = ",\n".join(groups)
    return f'{{"kind": "{kept["kind"]}",\n "figures": {figures},\n "rows": {{\n{rows}}}}}\n'


def place(path: Path) -> Path:
    """A notebook's golden file: of this kind of machine, where it has a folder, else of all."""
    own = FOLDER / kind()
    return (own if own.is_dir() else FOLDER) / f"{path.stem}.json"


def differences(found: dict, kept: dict) -> tuple[list[str], list[str]]:
    """What differs: (figures, metrics, tags and numbers of rows; values), a sentence each."""
    old, new, sizes = _rows(kept), _rows(found), defaultdict(float)
    for (metric, _), rows in old.items():
        numbers = [abs(number) for row in rows for number in row[1:] if number is not None]
        sizes[metric] = max(sizes[metric], *numbers, 0.0)
    names = [f"figure {name}: {how}" for name, how in _missing(found["figures"], kept["figures"])]
    names += [f"{metric} [{tags}]: {how}" for (metric, tags), how in _missing(new, old)]
    values = []
    for metric, tags in sorted(new.keys() & old.keys()):
        was, now = old[metric, tags], new[metric, tags]
        near = max(LEAST, TOLERANCE * sizes[metric])
        if [n for n, *_ in now] != [n for n, *_ in was]:
            names.append(f"{metric} [{tags}]: n was {was}, is {now}")
        elif not all(_same(*pair, near) for pair in zip(now, was, strict=True)):
            values.append(f"{metric} [{tags}]: was {was}, is {now} (± {near:.1g})")
    return names, values


def _missing(found, kept) -> list[tuple]:
    gone = [(name, "is gone") for name in sorted(set(kept) - set(found))]
    return gone + [(name, "is new") for name in sorted(set(found) - set(kept))]


def _rows(kept: dict) -> dict[tuple[str, str], list]:
    """Rows by metric and tags."""
    return {
        (metric, tags): rows
        for tags, group in kept["rows"].items()
        for metric, rows in group.items()
    }


def _same(found: list, kept: list, near: float) -> bool:
    """Whether value, low and high agree; whole numbers are counts and must be equal."""
    for new, old in zip(found[1:], kept[1:], strict=True):
        exact = new is None or old is None or isinstance(old, int)
        if new != old if exact else abs(new - old) > near:
            return False
    return True


def listed(faults: list[str]) -> str:
    """The first of the differences, a line each."""
    more = f"\n... and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    return "\n".join(faults[:SHOWN]) + more


def main() -> int:
    """Compare the named notebooks (none: all four), or write their golden files."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("notebooks", nargs="*", metavar="NN", help="01 to 04; none: all four")
    parser.add_argument("--write", action="store_true", help="write the files instead")
    options = parser.parse_args()
    status = 0
    for path in PAPERS:
        if options.notebooks and path.stem[:2] not in options.notebooks:
            continue
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with tempfile.TemporaryDirectory() as out:
            outcome = run(path, Path(out))
            if outcome.status != "done":
                print(outcome.error, file=sys.stderr)
                return 1
            found = digest(results.read(outcome.run.folder))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"{path.stem}: {spent:.0f} process-seconds")
        if options.write:
            place(path).write_text(text({"kind": kind(), **found}))
        elif faults := sum(differences(found, json.loads(place(path).read_text())), []):
            print(listed(faults))
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
