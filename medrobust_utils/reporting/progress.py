"""Progress of a batch: one line kept current on a terminal, plain lines now and then elsewhere."""

import shutil
import threading
import time
from collections.abc import Hashable
from typing import IO

SECONDS_BETWEEN_LINES = 10


class Display:
    """Shows where each run is; several threads may call it at once."""

    def __init__(self, stream: IO[str]):
        self.stream = stream
        self.live = stream.isatty()
        self.current: dict[Hashable, str] = {}
        self.printed: dict[Hashable, float] = {}
        self.mutex = threading.Lock()

    def update(self, key: Hashable, text: str) -> None:
        """A run got further."""
        with self.mutex:
            if self.live:
                self.current[key] = text
                self._draw()
            elif time.monotonic() - self.printed.get(key, -1e9) > SECONDS_BETWEEN_LINES:
                self.printed[key] = time.monotonic()
                print(text, file=self.stream, flush=True)

    def done(self, key: Hashable) -> None:
        """A run needs no progress any more."""
        with self.mutex:
            self.current.pop(key, None)

    def line(self, text: str) -> None:
        """A line that stays."""
        with self.mutex:
            end = "\x1b[K\n" if self.live else "\n"
            print(("\r" if self.live else "") + text, end=end, file=self.stream, flush=True)
            self._draw()

    def clear(self) -> None:
        """Take the current line away."""
        with self.mutex:
            self.current.clear()
            if self.live:
                print("\r\x1b[K", end="", file=self.stream, flush=True)

    def _draw(self) -> None:
        if self.live and self.current:
            width = shutil.get_terminal_size().columns - 1
            text = " | ".join(self.current.values())[:width]
            print(f"\r{text}\x1b[K", end="", file=self.stream, flush=True)
