"""The parts of a file that was cut up (``train.zip.001`` ...), read as the one file it was."""

from __future__ import annotations

import io
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path


class Joined(io.BufferedReader):
    """A readable, seekable file of several parts, none of which is copied."""

    def __init__(self, parts: list[Path]) -> None:
        super().__init__(_Joined(parts), 1 << 16)


class _Joined(io.RawIOBase):
    def __init__(self, parts: list[Path]) -> None:
        self.parts = [path.open("rb") for path in parts]
        self.starts = [0, *accumulate(path.stat().st_size for path in parts)]
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = (0, self.position, self.starts[-1])[whence]
        self.position = max(0, base + offset)
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer) -> int:
        number = bisect_right(self.starts, self.position) - 1
        if number >= len(self.parts):
            return 0
        part = self.parts[number]
        part.seek(self.position - self.starts[number])
        count = part.readinto(memoryview(buffer)[: self.starts[number + 1] - self.position])
        self.position += count
        return count

    def close(self) -> None:
        for part in getattr(self, "parts", ()):
            part.close()
        super().close()
