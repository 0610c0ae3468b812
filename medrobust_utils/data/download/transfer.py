"""One file over HTTP through pooch: resumed, tried on mirrors, and in its place only when whole."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests

from ...core.errors import DataError
from ..catalogue import RemoteFile
from .resuming import Damaged, Refused, Resuming, Unsteady

BLOCK = 1 << 20
LONGEST_PAUSE = 60


@dataclass(frozen=True)
class Patience:
    """How long a download puts up with a server.

    Attributes:
        connect, silence: seconds until a connection stands, and between two pieces of data.
        tries: how often in a row a server may fail without a byte more, before the next is tried.
        pause: seconds before the second try; doubled each time, up to a minute.
    """

    connect: float = 15
    silence: float = 60
    tries: int = 5
    pause: float = 2


@dataclass(frozen=True)
class Fetched:
    """A whole file: where it lies, where it came from, its size and its SHA-256."""

    path: Path
    url: str
    bytes: int
    sha256: str


def fetch(
    file: RemoteFile,
    folder: Path,
    *,
    held: str | None = None,
    check: Callable[[Path], None] | None = None,
    patience: Patience | None = None,
    page: str = "",
) -> Fetched:
    """Download ``file`` into ``folder``, going on where an earlier call broke off.

    Args:
        folder: receives the file, and ``<name>.part`` meanwhile; nobody else writes there.
        held: SHA-256 that an earlier good download had; another one is an error.
        check: raises a DataError where the file is not whole; asked where no checksum is known.
        page: the set's page, named where a server wants somebody to sign in.

    Raises:
        DataError: saying what each server did, if none of them gave the whole file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stray in folder.glob("tmp*"):  # what pooch had under way when a run was killed
        stray.unlink()
    patience = patience or Patience()
    reasons = []
    for url in file.urls:
        source = _Source(file, url, folder, held, check, patience)
        try:
            return source.get()
        except DataError as error:
            if isinstance(error, Refused | Unsteady | Damaged):
                reasons.append(f"{url}: {error}")
            else:
                raise  # e.g. the disk is full: another server does not help
    told = "\n  ".join(reasons)
    raise DataError(
        f"{file.name}: not downloaded; nothing was put in place.\n  {told}\n"
        f"Call again: what came so far is kept and gone on with. {_see(page)}".rstrip()
    )


def _see(page: str) -> str:
    return f"The publisher's page: {page}" if page else ""


@dataclass
class _Source:
    """One file on one server."""

    file: RemoteFile
    url: str
    folder: Path
    held: str | None
    check: Callable[[Path], None] | None
    patience: Patience

    def get(self) -> Fetched:
        """Try until the file is whole, the server refuses, or patience ends."""
        part = self.folder / f"{self.file.name}.part"
        failures, most = 0, part.stat().st_size if part.exists() else 0
        while True:
            try:
                return self._try()
            except Refused:
                raise
            except Damaged as error:
                failures, last = failures + 1, error
            except Unsteady as error:
                have = part.stat().st_size if part.exists() else 0
                # A slow line that breaks every minute still gets there; only standstill counts.
                failures, most = (0 if have > most else failures + 1), max(have, most)
                last = error
            if failures >= self.patience.tries:
                raise last
            time.sleep(min(LONGEST_PAUSE, self.patience.pause * 2**failures))

    def _try(self) -> Fetched:
        known = _known(self.file) or (f"sha256:{self.held}" if self.held else None)
        downloader = Resuming(
            self.folder / f"{self.file.name}.part",
            expected=self.file.bytes,
            timeout=(self.patience.connect, self.patience.silence),
            trusted=known is not None,
        )
        pooch.get_logger().setLevel(logging.ERROR)  # it would praise hashes on the screen
        try:
            path = pooch.retrieve(
                self.url, known, self.file.name, self.folder, downloader=downloader
            )
        except ValueError as error:  # what pooch says of a wrong checksum
            raise Damaged(f"came damaged: {_other(self.file, self.held)}") from error
        except requests.RequestException as error:
            raise Refused(f"cannot be asked ({error})") from error
        return self._checked(Path(path), known is not None)

    def _checked(self, path: Path, known: bool) -> Fetched:
        sha256 = digest(path)
        try:
            if self.held and sha256 != self.held:
                raise Damaged(f"{_other(self.file, self.held)}; it now has {sha256}")
            if self.file.bytes not in (None, path.stat().st_size):
                raise Damaged(f"has {path.stat().st_size} bytes, not {self.file.bytes}")
            if self.check and not known:
                try:
                    self.check(path)
                except DataError as error:
                    raise Damaged(f"came damaged: {error}") from error
        except Damaged:
            path.unlink()
            raise
        return Fetched(path, self.url, path.stat().st_size, sha256)


def _known(file: RemoteFile) -> str | None:
    """The publisher's checksum in pooch's words."""
    if file.sha256:
        return f"sha256:{file.sha256}"
    return f"md5:{file.md5}" if file.md5 else None


def _other(file: RemoteFile, held: str | None) -> str:
    known = _known(file)
    if known:
        return f"its checksum is not the publisher's ({known})"
    return (
        f"its SHA-256 is not {held}, which the first good download had. If the publisher "
        f"changed it on purpose, delete the entry of {file.name} in medrobust.lock.json"
    )


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
