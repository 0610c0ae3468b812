"""What the kit promises about speed, measured: ``python -m benchmarks`` or ``make bench``.

Each module named in ``MODULES`` is one measurement: its ``measure()`` builds the sides and yields
the comparisons. To add one, write a module and name it there.
"""

MODULES = (
    "sweep",
    "steps",
    "glcm",
    "method_two",
    "reading",
    "autoattack",
    "imports",
    "memory",
    "explorer",
)
