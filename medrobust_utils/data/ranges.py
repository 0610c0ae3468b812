"""The range of a whole set: gray of more than 8 bits is shown by one rule in all its pictures.

Never by each picture's own extremes, which would turn brightness into noise.
"""

from __future__ import annotations

import numpy as np

LEAST_LEVELS = 32  # gray levels that a set must keep of what it has
SAMPLED = 2**16  # pixels of a picture whose levels are counted


class Range:
    """The numbers of all pictures, and the powers of two between which they lie."""

    def __init__(self) -> None:
        self.low, self.high, self.whole = 0.0, 0.0, True
        self._values = np.zeros(0)

    def add(self, numbers: np.ndarray) -> None:
        """Take in the numbers of one picture."""
        flat = numbers.ravel()
        if not flat.size:
            return
        self.low = min(self.low, float(flat.min()))
        self.high = max(self.high, float(flat.max()))
        some = flat[:: max(1, flat.size // SAMPLED)]
        self.whole = self.whole and bool((some == np.rint(some)).all())
        if len(self._values) < SAMPLED:
            self._values = np.union1d(self._values, some)

    def ends(self, least: float = 0) -> tuple[float, float]:
        """What becomes black and white: 0 and the largest number of as many bits as are used.

        Args:
            least: that white is at least.
        """
        low = -_power(-self.low) if self.low < 0 else 0.0
        high = _power(self.high, self.whole) - self.whole if self.high > 0 else 0.0
        high = max(high, least)
        return low, high if high > low else low + 1

    def lost(self, ends: tuple[float, float]) -> int:
        """Gray levels that are left, if few are and many were there; else 0."""
        shown = np.clip((self._values - ends[0]) / (ends[1] - ends[0]), 0, 1)
        levels = len(np.unique(np.rint(shown * 255)))
        return levels if levels < LEAST_LEVELS and len(self._values) > 2 * levels else 0


def _power(value: float, above: bool = False) -> float:
    """The smallest power of two that is at least ``value``, or greater than it."""
    fraction, exponent = np.frexp(value)
    return float(2.0 ** (exponent if fraction > 0.5 or above else exponent - 1))
