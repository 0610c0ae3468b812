"""The most memory that a sweep takes: 10,000 images need no more than 100, plus their results."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from medrobust_utils.attacks import attack_sweep
from medrobust_utils.core import env
from medrobust_utils.data import phantom_set
from medrobust_utils.models import build

from .timing import Comparison, judge

FEW, MANY = 100, 10_000
SIZE, DRAWN, BATCH = 32, 500, 32
EPSILONS = [k / 255 for k in (0.25, 0.5, 1, 2, 4, 8, 16, 32)]
SLACK = 0.02  # what two equal runs may differ by: the allocator's choice of pages


def measure() -> Iterator[Comparison]:
    """Megabytes, not seconds: the peak of a process that sweeps few images, and many."""
    few, many = (_peak(count) for count in (FEW, MANY))
    results = MANY * (len(EPSILONS) + 1) * 7 * 4 / 2**20  # scores in float32
    yield judge(
        f"most memory of a sweep of {len(EPSILONS)} eps, ResNet-10 at {SIZE} px",
        (f"{FEW} images", [few]),
        (f"{MANY} images", [many]),
        at_most=1 + SLACK + 2 * results / few,  # a batch's and, at the end, the whole
        facts={"results_mb": results},
        unit="MB",
    )


def sweep(count: int) -> None:
    """Sweep so many images, by taking the drawn ones again and again; print the peak in bytes."""
    data = phantom_set("dermatoscopy7", DRAWN, size=SIZE)
    env.seed_everything(0)
    model = build("resnet10t", len(data.classes), start="scratch").eval()
    index = np.resize(np.arange(DRAWN), count)
    attack_sweep(model, data, index, EPSILONS, batch=BATCH, steps=1)
    print(_most())


def _most() -> int:
    """Peak in bytes: of the GPU that was attacked on, else of the process."""
    if env.pick_device().type == "cuda":
        return torch.cuda.max_memory_allocated()
    # Not getrusage: on Linux it also remembers the process that started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _peak(count: int) -> float:
    code = f"from benchmarks.memory import sweep; sweep({count})"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True
    )
    return int(done.stdout.split()[-1]) / 2**20
