"""Work that is hurt at a random moment, and then left to finish.

A process does a stage of the kit's work and is killed with -9, finds that its disk takes no more,
that its folder is gone, or that it gets no more memory. It may end as if nothing had happened, be
dead, or say in words what was in its way; whatever it left, the same stage then goes on there and
ends with the same bytes, weights and numbers as one that nobody disturbed.
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import faulty_server
import numpy as np
import psutil
import test_training
import tiny
import torch
from PIL import Image

from medrobust_utils import attacks, data
from medrobust_utils.core.errors import MedrobustError, RunError, in_words
from medrobust_utils.data.catalogue import RemoteFile
from medrobust_utils.data.phantoms import phantom_set
from medrobust_utils.reporting import planning, runner
from medrobust_utils.training import fit as training

torch.set_num_threads(1)  # children are forked from a process without threads
MOST = 3  # hurts before a stage is left to finish
HURTS = ("kill -9", "disk full", "folder lost", "out of memory")
CLEAR = (MedrobustError, OSError, MemoryError)
HUNGRY = (RuntimeError, SystemError)  # what torch and Python itself may say instead of MemoryError
STEPS = "import time\ntime.sleep(0.1)\ntotal = SEED"
EAT = """import os, resource
if os.environ.get("EAT") and SEED == 1:
    resource.setrlimit(resource.RLIMIT_AS, (1_500_000_000, 1_500_000_000))
    blocks = [bytearray(100_000_000) for _ in range(20)]"""


def digest(*parts: bytes) -> str:
    """SHA-256 of all of ``parts``."""
    return hashlib.sha256(b"".join(parts)).hexdigest()


def download(folder: Path) -> dict[str, str]:
    """Two files from a server, one of them an archive; what lies in place."""
    address = os.environ["SERVED"]
    archive = RemoteFile("set.zip", (f"{address}/set.zip",), unpack=".")
    table = RemoteFile("table.csv", (f"{address}/table.csv",))
    faulty_server.download_set(faulty_server.entry(files=(archive, table)), folder)
    return {name: digest(one) for name, one in faulty_server.tree(folder / "drawn set").items()}


def cache(folder: Path) -> list:
    """240 images decoded into the cache."""
    os.environ["MEDROBUST_HOME"] = str(folder)
    found = data.READERS["iq_othnccd"](Path(os.environ["TREE"]), 64)
    return [found.checksum, found.census, digest(np.ascontiguousarray(found.images[:]))]


def train(folder: Path) -> list:
    """A network trained with a checkpoint after every epoch; its curve and weights."""
    training.CHECKPOINT_SECONDS = 0.0
    numbers, state = test_training.fit(phantom_set("dermatoscopy7", 140, size=32), folder)
    return [numbers, digest(*(state[name].numpy().tobytes() for name in sorted(state)))]


def sweep(folder: Path) -> str:
    """An attack at six radii, in parts of four images."""
    drawn = phantom_set("dermatoscopy7", 32, size=32)
    torch.manual_seed(0)
    model, radii = test_training.build(drawn).eval(), [k / 255 for k in (0.5, 1, 2, 4, 8, 16)]
    how = {"mode": "independent", "steps": 3, "batch": 4, "folder": folder}
    found = attacks.attack_sweep(model, drawn, np.arange(32), radii, **how)
    return digest(*(np.ascontiguousarray(a) for a in (found.clean, found.logits)))


def batch(folder: Path) -> list[str]:
    """Two notebooks, of which one may eat all memory that it gets."""
    path = tiny.notebook(folder.parent, "tiny", STEPS, EAT, STEPS, tiny.SAVE)
    runs = planning.plan([path], None, [("SEED", "0,1")], folder)
    outcomes = runner.run_batch(runs, 2, io.StringIO())
    if errors := [one.error for one in outcomes if one.status == "failed"]:
        assert all(errors), "a run failed without a word"
        raise RunError(errors[0])
    return [digest((run.folder / "result.json").read_bytes()) for run in runs]


STAGES = {one.__name__: one for one in (download, cache, train, sweep, batch)}


def child(stage: str, folder: str, hurt: str, share: float, pipe) -> None:
    """A process of its own: say that it begins, do the work of a stage, say how it ended."""
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    kind, limit = resource.RLIMIT_FSIZE, int(10 ** (6 * share))  # most files are small
    if hurt == "out of memory":
        kind = resource.RLIMIT_AS
        limit = psutil.Process().memory_info().vms + int(share**3 * 30_000_000)
    before = resource.getrlimit(kind)
    pipe.send("begun")
    try:
        if (stage, hurt) == ("batch", "out of memory"):
            os.environ["EAT"] = "1"  # in a notebook
        elif hurt in ("disk full", "out of memory"):
            resource.setrlimit(kind, (limit, before[1]))
        said = "done", STAGES[stage](Path(folder))
    except Exception as error:
        resource.setrlimit(kind, before)
        clear = isinstance(error, CLEAR) or hurt == "out of memory" and isinstance(error, HUNGRY)
        said = ("refused", in_words(error)) if clear else ("unclear", traceback.format_exc())
    resource.setrlimit(kind, before)
    pipe.send(said)


def run(stage: str, folder: Path, hurt: str = "", share: float = 0.0, seconds: float = 0.0):
    """Do a stage in a process, hurt after a ``share`` of its ``seconds``; how it ended, and when.

    It ends as "killed", or with ("done", result) or ("refused", words).
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["stages"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(stage, str(folder), hurt, share, theirs))
    process.start()
    theirs.close()
    away = folder.with_name("away")
    try:
        assert ours.recv() == "begun"
        started = time.monotonic()
        if hurt in ("kill -9", "folder lost") and not ours.poll(share * seconds):
            if hurt == "kill -9":
                os.kill(process.pid, signal.SIGKILL)
            elif folder.exists():
                folder.rename(away)
        try:
            ended = ours.recv() if ours.poll(120) else ("hangs", "")
        except EOFError:
            ended = ("killed", "")
        process.join(10)
        deadly = hurt in ("kill -9", "out of memory") and (process.exitcode or 0) < 0
        assert ended[0] in ("done", "refused") or deadly, f"{stage}, {hurt}: {ended}"
        return *ended, time.monotonic() - started
    finally:
        process.kill()
        ours.close()
        if away.exists():
            shutil.rmtree(folder, ignore_errors=True)
            away.rename(folder)


def hurt_stage(stage: str, count: int, draw: random.Random, scratch: Path) -> Iterator[tuple]:
    """Hurt a stage ``count`` times in each way; the way, and whether that was felt."""
    (scratch / "whole").mkdir()
    _, expected, seconds = run(stage, scratch / "whole")
    for hurt in HURTS:
        felt = 0
        while felt < count:
            folder = Path(tempfile.mkdtemp(dir=scratch), "work")
            folder.mkdir()
            for _ in range(min(draw.randint(1, MOST), count - felt)):
                ended, found, _ = run(stage, folder, hurt, draw.random(), seconds)
                assert ended != "done" or found == expected, f"{stage}, {hurt}: {found}"
                felt += 1
                yield hurt, ended
            ended, found, _ = run(stage, folder)
            assert (ended, found) == ("done", expected), f"{stage} after {hurt}: {ended} {found}"
            shutil.rmtree(folder.parent)


def hurts(count: int, seed: int = 1) -> Iterator[tuple[str, Counter]]:
    """Every stage with how often each way of ``HURTS`` ended it, and how often it did not."""
    draw, zipped = random.Random(seed), io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(300):
            archive.writestr(f"class {number % 3}/{number:05d}.png", draw.randbytes(2_000))
    files = {"/set.zip": zipped.getvalue(), "/table.csv": bytes(100_000)}
    os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker:UserWarning"  # locks of the killed
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # for the parent that forks the children
    with tempfile.TemporaryDirectory() as tree, faulty_server.serving(files) as (address, server):
        server.pause = 0.002
        os.environ |= {"SERVED": address, "TREE": tree}
        draw_tree(Path(tree), np.random.default_rng(0))
        for stage in STAGES:
            with tempfile.TemporaryDirectory() as scratch:
                yield stage, Counter(hurt_stage(stage, count, draw, Path(scratch)))


def draw_tree(root: Path, rng: np.random.Generator) -> None:
    """240 images of noise as IQ-OTHNCCD has them."""
    for number in range(240):
        kind = ("Normal", "Bengin", "Malignant")[number % 3]
        folder = root / "The IQ-OTHNCCD lung cancer dataset" / f"{kind} cases"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.kron(rng.integers(0, 256, (16, 16), np.uint8), np.ones((24, 24), np.uint8))
        Image.fromarray(pixels).save(folder / f"{kind} case ({number}).jpg")
