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
    alone = seconds.pop("import torch")
    more = {
        name: [whole - bare for whole, bare in zip(values, alone, strict=True)]
        for name, values in seconds.items()
    }
    yield judge(
        "importing, seconds more than torch alone, in fresh processes",
        ("one second", [1.0] * ROUNDS),
        ("import medrobust_utils", more["import medrobust_utils"]),
        at_most=MORE,
        facts={f"{name}, seconds more": median(values) for name, values in more.items()},
    )


def _import(line: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, "-c", line], check=True)
