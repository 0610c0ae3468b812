"""``medrobust.lock.json``: what the first good download had, and is held to afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from filelock import FileLock, Timeout

from ...core.errors import DataError
from ...core.storage import write_atomic

NAME = "medrobust.lock.json"
STAGING = ".medrobust"  # beside the sets: the last step is a rename, so it must be one disk


class Lock:
    """The lock file of one root of data sets.

    Raises:
        DataError: if the file is there and cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self.path = root / NAME
        self.files: dict[str, dict] = {}
        self.sets: dict[str, dict] = {}
        if not self.path.exists():
            return
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            self.files, self.sets = dict(content["files"]), dict(content["sets"])
            _ = [entry["sha256"] for entry in self.files.values()]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{self.path}: cannot be read ({error!r}). Restore it, or delete it and download "
                "again; then nothing tells whether the publisher changed a file."
            ) from error

    def held(self, name: str, file: str) -> str | None:
        """SHA-256 the file of this set once had; None at the first download."""
        return self.files.get(f"{name}/{file}", {}).get("sha256")

    def note_file(self, name: str, file: str, *, url: str, size: int, sha256: str) -> None:
        """Write down a first good download; what is written already stays."""
        entry = {"url": url, "bytes": size, "sha256": sha256, "date": str(date.today())}
        if self.files.setdefault(f"{name}/{file}", entry) is entry:
            self._write()

    def note_set(self, name: str, **facts: object) -> None:
        """Add to what is known of a set as it lies on the disk."""
        self.sets[name] = self.sets.get(name, {}) | facts
        self._write()

    def _write(self) -> None:
        content = {"version": 1, "files": self.files, "sets": self.sets}
        text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False)
        write_atomic(self.path, (text + "\n").encode())


@contextmanager
def exclusive(root: Path) -> Iterator[Path]:
    """The staging folder below ``root``, for one process alone; a killed one lets go of it.

    Raises:
        DataError: if another process downloads into ``root``, or it cannot be written.
    """
    busy = FileLock(root / STAGING / "busy", timeout=0)
    try:
        (root / STAGING).mkdir(parents=True, exist_ok=True)
        busy.acquire()
    except Timeout as error:
        raise DataError(f"{root}: another download writes there. Wait until it is done.") from error
    except OSError as error:
        raise DataError(f"{root}: cannot be written ({error}). Choose another --dest.") from error
    try:
        yield root / STAGING
    finally:
        busy.release()
