"""What importing the kit costs beyond torch, in fresh processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from statistics import median

from .timing import Comparison, judge, take_turns

ROUNDS = 5
MORE = 0.3  # seconds
LINES = {
    "import torch": "import torch",
    "import medrobust_utils": "import torch, medrobust_utils",
    "its attacks": "from medrobust_utils import attacks",
    "its attacks and models": "from medrobust_utils import attacks, models",
}


def measure() -> Iterator[Comparison]:
    """The bare package against torch; what its larger parts take is among the facts."""
    seconds = dict(
        zip(LINES, take_turns([_import(line) for line in LINES.values()], ROUNDS), strict=True)
    )
    torch_alone = median(seconds["import torch"])
    facts = {f"{name}, seconds more": median(seconds[name]) - torch_alone for name in LINES}
    del facts["import torch, seconds more"]
    yield judge(
        "importing, in a fresh process",
        ("import torch", seconds["import torch"]),
        ("import medrobust_utils", seconds["import medrobust_utils"]),
        at_most=1 + MORE / torch_alone,
        facts=facts,
    )


def _import(line: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, "-c", line], check=True)
