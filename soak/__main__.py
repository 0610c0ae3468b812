"""`make soak`: what is too long for the tests runs whole, and docs/reliability.md says how it went.

The page is written only when every promise held; else the first violation is shown and the exit
status is 1. Names of parts, as in ``python soak downloads trees``, run these alone and write
nothing; ``python soak overhead`` measures what a run costs on a cluster.
"""

from __future__ import annotations

import gc
import inspect
import json
import os
import platform
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

os.environ |= {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}  # before anything imports tqdm
ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / room) for room in (".", "soak", "tests", "tools")]
os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # for the processes that parts start

import psutil  # noqa: E402
import torch  # noqa: E402

DOWNLOADS, TREES, HURTS, BATCHES = 400, 3600, 14, 36  # not all are felt
VERSIONS = ("numpy", "pandas", "pillow", "pooch", "pydicom", "torch", "distributed")
INTRODUCTION = """# How reliable the kit is

`make soak` wrote this page: every number below is of its last whole run. `make test` runs a small,
seeded part of it. A violation of any promise below ends the run without a new page.
"""
Part = tuple[str, Iterable[tuple]]  # the heads of a table, and its rows as they are found
SECURITY = """## Files that attack

Archives that leave their folder, hold links or swell without measure are refused
(`tests/test_download.py`). Checkpoints, arrays and weights with code in them are refused and the
code is not run (`tests/test_security.py`); the same tests forbid the calls that would run it.
"""


def table(text: str, heads: str, rows: Iterable[tuple]) -> str:
    """A part of the page: text and a table in Markdown, numbers to the right; shown row by row."""
    lines = []
    for row in rows:
        lines.append([f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row])
        print("  ", *lines[-1], sep="  ", flush=True)
        marks = ["---:" if isinstance(cell, int | float) else "---" for cell in row]
    shown = [heads.split("|"), marks, *lines]
    return text + "\n" + "\n".join(f"| {' | '.join(line)} |" for line in shown) + "\n"


def downloads() -> Part:
    """## Downloads from a server that fails

    A server on this machine cuts, delays, corrupts, shortens and refuses its answers, loses ranges,
    changes a file between two requests, sends a login page or one redirect after another, each in a
    way that a seed decides (`soak/faulty_server.py`). A download may end in two ways: every byte is
    right, or nothing is in place and the error names the file; repeated over a sound connection, it
    ends whole.
    """
    import faulty_server

    ended = faulty_server.soak(range(DOWNLOADS))
    rows = [("whole, every byte right", ended["whole"])]
    rows += [("refused with a clear error, whole when repeated", ended["refused"])]
    return "Outcome|Downloads", rows


def trees() -> Part:
    """## Readers of hostile trees

    A valid tree of each data set, drawn by the phantoms, is damaged in one to three ways: bytes
    flipped, cut out, put in; other formats, bombs, pipes, links that never arrive; tables in other
    encodings, with lines too long, cells empty; arrays of Python objects or of a shape they do not
    have; files lost, renamed, copied, moved to another class (`soak/hostile.py`). A tree is read,
    and then each image is listed once, with its own pixels and label and none lost; or it is
    refused, with an error that names the place. Nothing hung, ran code, or wrote into a tree.
    """
    import fuzzing

    def rows():
        total = Counter()
        for reader, one in fuzzing.fuzz(TREES, seed=1):
            total += one
            yield f"`{reader}`", one["read"] + one["refused"], one["read"], one["refused"]
        yield "all", total["read"] + total["refused"], total["read"], total["refused"]

    return "Reader|Mutated trees|Read, nothing lost|Refused by name", rows()


def hurts() -> Part:
    """## Killed, no disk, no folder, no memory

    A process downloads, decodes images into the cache, trains, attacks at several radii or runs a
    batch of notebooks. It is killed with -9 at a random moment; its files may grow no further; its
    folder is moved away; or it gets no more memory; one to three times, and is then left to finish
    (`soak/stages.py`). It dies of it, says in words what was wrong, or does not come to feel it;
    every one ends with the bytes, weights and numbers of one that nobody disturbed.
    """
    import stages

    def rows():
        for stage, found in stages.hurts(HURTS):
            for way in stages.HURTS:
                ends = [found[way, end] for end in ("killed", "refused", "done")]
                yield stage, way, sum(ends), *ends

    return "Work|What it met|Times|Died|Said so|Not felt", rows()


def batches() -> Part:
    """## Batches on a cluster that loses its parts

    Four notebooks go to a scheduler and two workers of this machine. A worker, every worker that
    has a run, the scheduler or the client is killed with -9 at a random moment, the client is
    interrupted, or a notebook eats more memory than it gets; the system's lock works, is missing,
    or sees no other machine (`soak/clusters.py`). Each batch ends as `docs/cluster.md` says and
    leaves no process; the same command, on one machine, then does what is unfinished, nothing
    twice, with the same rows.
    """
    import clusters

    def rows():
        for place, victim in enumerate(clusters.VICTIMS):
            finished = 0
            for seed in range(place, BATCHES, len(clusters.VICTIMS)):
                with tempfile.TemporaryDirectory() as folder:
                    finished += clusters.lose(seed, Path(folder))
            count = len(range(place, BATCHES, len(clusters.VICTIMS)))
            yield victim, count, clusters.SAID[victim][1] or "nothing", 4 * count, finished

    return "Lost|Batches|The command says|Runs|Finished before they were resumed", rows()


def looking() -> Part:
    """## The explorer's memory

    The slider is moved from end to end, image after image, 60 times and then 120 times more; the
    latter may take no memory that stays.
    """
    from drive import CHEST, FakeIndex, click

    from medrobust_utils.explorer.panel import Explorer

    with tempfile.TemporaryDirectory() as out:
        explorer, resident = Explorer(FakeIndex(), Path(out), CHEST).show(), []
        click(explorer.lists["right"], "none")
        for move in range(180):
            turn, place = divmod(move % 60, len(explorer.eps.options))
            if not place:
                explorer.lists["image"].set_state({"index": turn})
            explorer.eps.set_state({"index": place})
            gc.collect()
            resident.append(psutil.Process().memory_info().rss)
    growth = resident[-1] - resident[59]
    assert growth < 20_000_000, growth  # a figure left behind at each look takes 35
    return "Moves of the slider|Bytes that stayed", [(120, growth)]


def census() -> Part:
    """## The real data

    Read as they are; what is listed is kept or counted. Where the copy is the one that the recorded
    results were computed on, its pixels, labels, groups and splits are those of
    `tests/golden/real_sets.json`.
    """
    import data_cards
    import golden_data

    from medrobust_utils import data
    from medrobust_utils.data import catalogue

    root = Path(os.environ["MEDROBUST_DATA"])
    known, record = json.loads(data_cards.CENSUS.read_text()), golden_data.recorded("whole")

    def rows():
        for name, card in catalogue.load().items():
            files = f"medmnist/{name}*.npz" if card.folder == "medmnist" else card.folder
            if not any(root.glob(files)):
                continue
            found = data.READERS[card.reader](root, data_cards.SIZE)
            counted = {"images": len(found), **found.census}
            assert counted == known.get(name, counted), f"{name}: not as docs/census.json says"
            listed, gone = found.census["images_listed"], found.census["exact_duplicates_removed"]
            dropped = found.census["contradictory_labels_dropped"]
            assert len(found) + gone + dropped == listed, name
            ours = golden_data.recorded_copy(root, card.reader)
            facts = golden_data.facts(root, card.reader, "whole") if ours else {}
            wrong = [key for key in facts if facts[key] != record[card.reader].get(key)]
            assert not wrong, f"{name}: {wrong} are not as recorded"
            part, held = (
                "whole" if found.complete else "a part",
                "the same" if ours else "another copy",
            )
            yield name, part, listed, gone, dropped, len(found), held

    heads = "Data set|Here|Images listed|Copies removed|Contradictory copies dropped|Kept"
    return f"{heads}|Pixels, labels, splits", rows()


def overhead() -> Part:
    """What a run costs: a batch of notebooks that sleep, two a worker one after another."""
    import clusters

    rows = ((n, *clusters.overhead(n).values()) for n in (1, 2, 4, 8, 32))
    return "Workers|Runs|On a cluster, seconds a run|Without, seconds a run", rows


PARTS = {part.__name__: part for part in (downloads, trees, hurts, batches, looking, census)}


def machine(seconds: float) -> Iterable[tuple]:
    """What all of this ran on, and how long it took."""
    names = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    yield "date", datetime.now(UTC).strftime("%Y-%m-%d")
    yield "command", "`make soak`"
    yield "duration", f"{seconds / 60:.1f} minutes"
    yield "processor", f"{names[0].partition(':')[2].strip()}, {os.cpu_count()} cores"
    yield "system", f"{platform.system()}, Python {platform.python_version()}"
    yield "libraries", ", ".join(f"{name} {metadata.version(name)}" for name in VERSIONS)


def main(names: list[str]) -> int:
    """Run all parts, or those named; 0 if every promise held."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # what libraries say of damaged files
    started, texts = time.monotonic(), [INTRODUCTION]
    with tempfile.TemporaryDirectory() as home:
        os.environ["MEDROBUST_HOME"] = home
        for name in names or PARTS:
            print(f"[{time.monotonic() - started:4.0f} s] {name}", flush=True)
            part = {**PARTS, "overhead": overhead}[name]
            try:
                texts.append(table(inspect.getdoc(part) + "\n", *part()))
            except Exception:
                traceback.print_exc()
                print(f"{name}: a promise was broken, see above. No page was written.")
                return 1
    if not names:
        heads = " | "
        texts += [SECURITY, table("## The run\n", heads, machine(time.monotonic() - started))]
        (ROOT / "docs" / "reliability.md").write_text("\n".join(texts))
    print(f"[{time.monotonic() - started:4.0f} s] all held")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
