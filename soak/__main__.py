"""`make soak`: what is too long for the tests runs whole, and docs/reliability.md says how it went.

Downloads through a server that fails in seeded ways, readers of mutated trees, processes killed at
random moments, an explorer that is looked at for long, and, where ``MEDROBUST_DATA`` is set, a
census of the real data. The page is written only when nothing went wrong; else the first violation
is shown and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"  # before anything imports tqdm
os.environ["HF_HUB_OFFLINE"] = "1"

import torch

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[1]
HERE = [str(ROOT / room) for room in ("soak", "tests", "tools")]  # trees and networks of the tests
sys.path += HERE

PAGE = ROOT / "docs" / "reliability.md"
DOWNLOADS, TREES, KILLS = 400, 3000, 50  # a few mutations change nothing, and do not count
VERSIONS = ("numpy", "pandas", "pillow", "pooch", "pydicom", "torch", "hypothesis")
INTRODUCTION = """# How reliable the kit is with data

`make soak` wrote this page: every number below is of its last whole run. `make test` runs a
small, seeded part of the first two. A violation of any promise below ends the run
without a new page.
"""
DOWNLOADED = """## Downloads from a server that fails

A server on this machine cuts, delays, corrupts, shortens and refuses its answers, loses ranges,
changes a file between two requests, sends a login page or one redirect after another, each in a
way that a seed decides (`soak/faulty_server.py`). A download may end in two ways: every byte is
right, or nothing is in place and the error names the file; repeated over a sound connection, it
ends whole.
"""
FUZZED = """## Readers of hostile trees

A valid tree of each data set, drawn by the phantoms, is damaged in one to three ways: bytes
flipped, cut out, put in; other formats, bombs, pipes, links that never arrive; tables in other
encodings, with lines too long, cells empty; arrays of Python objects or of a shape they do not
have; files lost, renamed, copied, moved to another class (`soak/hostile.py`). A tree is read, and
then each image is listed once, with its own pixels and label and none lost; or it is refused, with
an error that names the place. Nothing hung, ran code, or wrote into a tree.
"""
KILLED = """## kill -9

A process is killed at a random moment of its work, one to three times, and then left to finish.
What it leaves is held to an undisturbed run: the same bytes of every file, the same weights and
learning curve.
"""
SECURITY = """## Files that attack

Archives that leave their folder, hold links or swell without measure are refused
(`tests/test_download.py`). Checkpoints, arrays and weights with code in them are refused and the
code is not run (`tests/test_security.py`); the same tests forbid the calls that would run it.
"""
REAL = """## The real data

Read as they are; what is listed is kept or counted. Where the copy is the one that the recorded
results were computed on, its pixels, labels, groups and splits are those of
`tests/golden/real_sets.json`.
"""


def table(heads: tuple[str, ...], rows: list[tuple]) -> str:
    """A table in Markdown; numbers to the right."""
    marks = ["---:" if isinstance(cell, int | float) else "---" for cell in rows[0]]
    lines = [heads, marks, *rows]
    shown = [[f"{c:,}" if isinstance(c, int) else str(c) for c in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in shown) + "\n"


def downloads(count: int) -> str:
    """``count`` seeds against the failing server."""
    import faulty_server

    ended: Counter = Counter()
    for seed in range(count):
        try:
            ended += faulty_server.soak([seed])
        except AssertionError as error:
            say(f"  seed {seed}: {error}")
            ended["wrong"] += 1
        if (seed + 1) % 50 == 0:
            say(f"  {seed + 1} of {count}: {dict(ended)}")
    assert ended["whole"] + ended["refused"] == count, ended
    rows = [
        ("whole, every byte right", ended["whole"]),
        ("refused with a clear error, whole when repeated", ended["refused"]),
        ("wrong or partial file in place, or an unclear error", ended["wrong"]),
        ("seeds in all", count),
    ]
    return DOWNLOADED + "\n" + table(("Outcome", "Downloads"), rows)


def trees(count: int) -> str:
    """``count`` mutated trees."""
    import fuzzing

    counts = fuzzing.fuzz(count, seed=1, told=lambda reader, one: say(f"  {reader}: {one}"))
    rows = [(f"`{reader}`", *one.values()) for reader, one in counts.items()]
    sums = [sum(one[key] for one in counts.values()) for key in ("mutated", "read", "refused")]
    assert sums[0] > count * 3 // 4 and sums[0] == sums[1] + sums[2], counts
    heads = ("Reader", "Mutated trees", "Read, nothing lost", "Refused by name")
    return FUZZED + "\n" + table(heads, [*rows, ("all", *sums)])


def kills(count: int) -> str:
    """``count`` kills over the four stages."""
    import killed

    counts = killed.kills(count, seed=1, told=lambda stage, one: say(f"  {stage}: {one}"))
    assert sum(one["kills"] for one in counts.values()) == count, counts
    rows = [(stage, *one.values()) for stage, one in counts.items()]
    heads = ("Stage", "Kills", "Runs finished after them, all the same", "Undisturbed, seconds")
    return KILLED + "\n" + table(heads, rows)


def looking() -> None:
    """Memory does not grow with looking; in a process of its own, where nothing else is freed."""
    surroundings = os.environ | {"PYTHONPATH": os.pathsep.join([*HERE, str(ROOT)])}
    command = [sys.executable, str(ROOT / "soak" / "looking.py")]
    done = subprocess.run(command, env=surroundings, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["growth"] < 20_000_000, found  # a figure left behind at each look takes 35
    say(f"  {found}")


def census(root: str) -> str:
    """Every reader that finds its data below ``root``, as recorded and as in the census."""
    import data_cards
    import golden_data

    from medrobust_utils import data
    from medrobust_utils.data import catalogue

    known, rows = json.loads(data_cards.CENSUS.read_text()), []
    record = golden_data.recorded("whole")
    with tempfile.TemporaryDirectory() as home:
        os.environ["MEDROBUST_HOME"] = home
        for name, card in catalogue.load().items():
            if not _present(Path(root), card):
                continue
            found = data.READERS[card.reader](Path(root), data_cards.SIZE)
            counted = {"images": len(found), **found.census}
            assert counted == known.get(name, counted), f"{name}: not as docs/census.json says"
            listed, gone = found.census["images_listed"], found.census["exact_duplicates_removed"]
            dropped = found.census["contradictory_labels_dropped"]
            assert len(found) + gone + dropped == listed, name
            complete = "whole" if found.complete else "a part"
            held = "another copy"
            if golden_data.recorded_copy(Path(root), card.reader):
                facts = golden_data.facts(Path(root), card.reader, "whole")
                was = record[card.reader]
                differing = [key for key in was if facts.get(key) != was[key]]
                assert not differing, f"{name}: {differing} are not as recorded"
                held = "the same"
            rows.append((name, complete, listed, gone, dropped, len(found), held))
            say(f"  {name}: {listed:,} images listed, {len(found):,} kept")
    heads = (
        "Data set",
        "Here",
        "Images listed",
        "Copies removed",
        "Contradictory copies dropped",
        "Kept",
        "Pixels, labels, splits",
    )
    if not rows:
        return ""
    return REAL + "\n" + table(heads, rows)


def _present(root: Path, card) -> bool:
    if card.folder == "medmnist":
        return any((root / "medmnist").glob(f"{card.name}*.npz"))
    return (root / card.folder).is_dir()


def machine(seconds: float) -> str:
    """What all of this ran on, and how long it took."""
    rows = [
        ("date", datetime.now(UTC).strftime("%Y-%m-%d")),
        ("command", "`make soak`"),
        ("duration", f"{seconds / 60:.1f} minutes"),
        ("processor", f"{_processor()}, {os.cpu_count()} cores"),
        ("system", f"{platform.system()}, Python {platform.python_version()}"),
        ("libraries", ", ".join(f"{name} {metadata.version(name)}" for name in VERSIONS)),
    ]
    return "## The run\n\n" + table(("", ""), rows)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def say(text: str) -> None:
    """Progress, at once."""
    print(text, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run all parts; 0 if every promise held."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--downloads", type=int, default=DOWNLOADS)
    parser.add_argument("--trees", type=int, default=TREES)
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--page", type=Path, default=PAGE, help="where the page is written")
    options = parser.parse_args(argv)
    parts: list[tuple[str, Callable[[], str | None]]] = [
        (f"{options.downloads} downloads", lambda: downloads(options.downloads)),
        (f"{options.trees} mutated trees", lambda: trees(options.trees)),
        (f"{options.kills} kills", lambda: kills(options.kills)),
        ("the explorer's memory", looking),
    ]
    if root := os.environ.get("MEDROBUST_DATA"):
        parts.append(("census of the real data", lambda: census(root)))
    started, texts = time.monotonic(), [INTRODUCTION]
    for title, part in parts:
        say(f"[{time.monotonic() - started:4.0f} s] {title}")
        try:
            texts.append(part())
        except Exception:
            traceback.print_exc()
            say(f"{title}: a promise was broken, see above. No page was written.")
            return 1
    texts += [SECURITY, machine(time.monotonic() - started)]
    options.page.write_text("\n".join(text for text in texts if text))
    say(f"[{time.monotonic() - started:4.0f} s] all held; {options.page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
