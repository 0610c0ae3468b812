"""What the kit promises about speed, measured: ``python -m benchmarks`` or ``make bench``.

Each module named in ``MODULES`` is one measurement: its ``measure()`` builds the sides and yields
the comparisons. To add one, write a module and name it there.
"""

MODULES = (
    "imports",
    "memory",
    "explorer",
    "reading",
    "steps",
    "glcm",
    "sweep",
    "method_two",
    "autoattack",
)
