"""What the kit promises about speed, measured: ``python -m benchmarks`` or ``make bench``.

Each module named in ``MODULES`` is one measurement: its ``measure()`` builds the two sides and
returns the comparisons. To add one, write a module and name it there.
"""

MODULES = ("glcm", "method_two", "explorer")
