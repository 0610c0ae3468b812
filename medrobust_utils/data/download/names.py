"""Which names in an archive are taken: none that leads outside or hides another."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath

from ...core.errors import DataError

ODD = re.compile(r'[\\:*?"<>|\x00-\x1f\x7f]')  # a drive, a second stream, a separator elsewhere
LITTER = {"__MACOSX", "Thumbs.db", "desktop.ini"}


class Names:
    """The names of one archive, admitted one after another.

    Args:
        lift: a leading folder that is dropped.
    """

    def __init__(self, lift: str) -> None:
        self.lift = lift
        self.seen: dict[str, tuple[str, bool]] = {}  # how it compares -> how it is spelt, folder?
        self.files: set[str] = set()

    def admit(self, raw: str, *, is_folder: bool) -> str:
        """Where an entry goes below the target; empty for folders and for what is passed over.

        Raises:
            DataError: if the name leads outside, cannot be a file's everywhere, or comes twice.
        """
        path = PurePosixPath(raw)
        if not raw or path.is_absolute() or ".." in path.parts or ODD.search(raw):
            raise DataError(f"the entry {raw!r} leads outside, or no disk could hold that name")
        if any(len(part.encode(errors="replace")) > 200 for part in path.parts):
            raise DataError(f"the entry {raw[:40]!r}... has a name too long for a disk")
        if any(part.startswith(".") or part in LITTER for part in path.parts):
            return ""
        parts = path.parts[1:] if self.lift and path.parts[:1] == (self.lift,) else path.parts
        for depth in range(1, len(parts) + 1):
            self._hold("/".join(parts[:depth]), is_folder or depth < len(parts))
        return "" if is_folder else "/".join(parts)

    def _hold(self, name: str, is_folder: bool) -> None:
        key = unicodedata.normalize("NFC", name).casefold()
        spelt, folder = self.seen.setdefault(key, (name, is_folder))
        if spelt != name:
            raise DataError(f"{name!r} and {spelt!r} would be one file on some disks")
        if folder != is_folder:
            raise DataError(f"{name!r} is a file and a folder")
        if not is_folder and key in self.files:
            raise DataError(f"{name!r} comes twice")
        if not is_folder:
            self.files.add(key)
