"""kill -9 at random moments while data are downloaded, unpacked and cached, and networks trained.

``kills`` runs each stage undisturbed in a process of its own, then again and again with a SIGKILL
spread evenly over the time that it took, and lets it run to its end after one to three of them.
What then lies on the disk must be the same to the byte, and the numbers the same to the digit.
"""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

torch.set_num_threads(1)  # children are forked from a process without threads

import faulty_server  # noqa: E402
import test_training  # noqa: E402
from PIL import Image  # noqa: E402

from medrobust_utils.data import READERS  # noqa: E402
from medrobust_utils.data.catalogue import RemoteFile  # noqa: E402
from medrobust_utils.data.download.sets import download_set  # noqa: E402
from medrobust_utils.data.phantoms import phantom_set  # noqa: E402
from medrobust_utils.training import fit as training  # noqa: E402

STAGES = ("download", "unpack", "cache", "train")
MOST = 3  # kills before a run may end
SOURCE = "source"  # the folder of what the stages begin with
SLOW = 0.004  # seconds between two pieces of four kilobytes while downloading


# what the children do


def _download(folder: Path, source: Path, begun: Callable[[], None]) -> None:
    served = json.loads((source / "served.json").read_text())
    files = tuple(RemoteFile(**{**one, "urls": tuple(one["urls"])}) for one in served)
    begun()
    download_set(faulty_server.entry(files=files), folder, say=lambda line: None)


def _cache(folder: Path, source: Path, begun: Callable[[], None]) -> None:
    os.environ["MEDROBUST_HOME"] = str(folder)
    begun()
    found = READERS["iq_othnccd"](source / "tree", 64)
    (folder / "result.json").write_text(json.dumps([found.checksum, found.census], sort_keys=True))


def _train(folder: Path, source: Path, begun: Callable[[], None]) -> None:
    training.CHECKPOINT_SECONDS = 0.0
    drawn = phantom_set("dermatoscopy7", 140, size=32)
    begun()
    numbers, state = test_training.fit(drawn, folder)
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].numpy().tobytes())
    (folder / "result.json").write_text(json.dumps([numbers, digest.hexdigest()]))


WORK = {"download": _download, "unpack": _download, "cache": _cache, "train": _train}


def child(stage: str, folder: str, source: str, pipe) -> None:
    """A process of its own: say that it begins, do the work of a stage, say that it is done."""
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (progress bars; the process ends with it)
    WORK[stage](Path(folder), Path(source), lambda: pipe.send("begun"))
    pipe.send("done")


# what they leave


def outcome(stage: str, folder: Path) -> dict[str, str]:
    """Relative name -> SHA-256 of all that a finished stage has to leave, and of nothing else.

    Of a training the result counts, since a checkpoint also holds the seconds it took. What a
    killed process could not clear away may be left, under a name that nothing reads.
    """
    if stage == "train":
        return {"result.json": _sha256(folder / "result.json")}
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {
        name: _sha256(path)
        for name, path in names.items()
        if ".partial-" not in name and not name.endswith(".lock")
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# what they begin with


def _draw_tree(root: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for kind in ("Normal", "Bengin", "Malignant"):
        folder = root / "The IQ-OTHNCCD lung cancer dataset" / f"{kind} cases"
        folder.mkdir(parents=True)
        for number in range(count // 3):
            pixels = np.kron(rng.integers(0, 256, (16, 16), np.uint8), np.ones((24, 24), np.uint8))
            Image.fromarray(pixels).save(folder / f"{kind} case ({number}).jpg")


def _archive(files: int, size: int, seed: int) -> bytes:
    draw, buffer = random.Random(seed), io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(files):
            archive.writestr(f"class {number % 3}/{number:05d}.png", draw.randbytes(size))
    return buffer.getvalue()


def _served(stage: str, address: str) -> list[dict]:
    zipped = {"name": "set.zip", "urls": [f"{address}/set.zip"], "unpack": "."}
    table = {"name": "table.csv", "urls": [f"{address}/table.csv"]}
    return [zipped, table] if stage == "download" else [zipped]


# the kills


def run(stage: str, folder: Path, source: Path, kill_after: float | None) -> tuple[bool, float]:
    """Run a stage in a process; whether it ended by itself, and how long it took."""
    # The children's own parent imports this module once; it looks for it where Python is told to.
    os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker:UserWarning"  # locks of the killed
    os.environ["PYTHONPATH"] = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killed"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(stage, str(folder), str(source), theirs))
    process.start()
    theirs.close()
    try:
        assert ours.recv() == "begun"
        started = time.monotonic()
        if kill_after is not None and not ours.poll(kill_after):
            os.kill(process.pid, signal.SIGKILL)
        process.join(120)
        seconds = time.monotonic() - started
        assert process.exitcode in (0, -signal.SIGKILL), f"{stage}: exit {process.exitcode}"
        assert kill_after is not None or process.exitcode == 0, f"{stage}: was not finished"
        return process.exitcode == 0, seconds
    finally:
        process.kill()
        ours.close()


def kill_stage(stage: str, count: int, draw: random.Random, source: Path) -> dict[str, int | float]:
    """Kill a stage ``count`` times in all and hold every finished run to an undisturbed one."""
    scratch = source.parent
    (scratch / "whole").mkdir()
    _, seconds = run(stage, scratch / "whole", source, None)
    expected = outcome(stage, scratch / "whole")
    assert expected, f"{stage}: leaves nothing"
    landed = finished = 0
    while landed < count:
        folder = Path(tempfile.mkdtemp(dir=scratch))
        before = landed
        for _ in range(min(draw.randint(1, MOST), count - landed)):
            ended, _ = run(stage, folder, source, draw.uniform(0, seconds))
            if ended:
                break  # the machine was quicker this time; that is no kill
            landed += 1
        run(stage, folder, source, None)
        assert outcome(stage, folder) == expected, f"{stage}: another result after a kill"
        shutil.rmtree(folder)
        finished += landed > before
    return {"kills": landed, "runs": finished, "seconds": round(seconds, 2)}


def kills(
    count: int, seed: int = 0, told: Callable[[str, dict], None] = lambda stage, counts: None
) -> dict[str, dict[str, int | float]]:
    """``count`` kills shared by the four stages.

    Args:
        told: is called after each stage, to show progress.

    Returns:
        Stage -> ``kills`` that landed, ``runs`` that were finished after them with the same bytes
        and numbers, and the ``seconds`` of the undisturbed one.

    Raises:
        AssertionError: if a run that was killed ends with anything else.
    """
    draw, result = random.Random(seed), {}
    for number, stage in enumerate(STAGES):
        share = count // len(STAGES) + (number < count % len(STAGES))
        with tempfile.TemporaryDirectory() as scratch:
            source = Path(scratch, SOURCE)
            source.mkdir()
            _draw_tree(source / "tree", 240 if stage == "cache" else 0)
            many, size = (40, 15_000) if stage == "download" else (1500, 2_000)
            files = {"/set.zip": _archive(many, size, seed), "/table.csv": bytes(100_000)}
            with faulty_server.serving(files) as (address, server):
                server.pause = SLOW if stage == "download" else 0.0
                (source / "served.json").write_text(json.dumps(_served(stage, address)))
                result[stage] = kill_stage(stage, share, draw, source)
        told(stage, result[stage])
    return result
