"""What the kit promises about speed, measured: ``python -m benchmarks`` or ``make bench``.

Each module named in ``MODULES`` is one measurement: its ``measure()`` builds the sides and yields
the comparisons. To add one, write a module and name it there.
"""

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")

MODULES = ("imports", "memory", "reading", "steps", "sweep")


def by_device(table: Mapping[str, T]) -> T:
    """The entry of the device that runs; the CPU's for one that has none."""
    from medrobust_utils.core import env  # torch is loaded no sooner than it is needed

    return table.get(env.pick_device().type, table["cpu"])
