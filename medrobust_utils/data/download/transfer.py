"""One file over HTTP: pooch streams it, from the byte on where an earlier try broke off."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pooch
import requests
import urllib3

from ...core.errors import DataError
from ...core.storage import write_atomic
from ..catalogue import RemoteFile
from .placing import need_room

TIMEOUT = (15, 60)  # seconds until a connection stands, and between two pieces of data
TRIES = 5  # how often in a row a server may fail without a byte more, before the next is tried
PAUSE = 2  # seconds before the second try; doubled each time, up to a minute
PAGE = re.compile(rb"\s*(<!--.{0,500}?-->\s*)?<(!doctype\s+html|html|head|body)\b", re.I | re.S)


class _Refused(DataError):
    """The server will not give the file: asking again does not help, another server may."""


def fetch(file: RemoteFile, folder: Path, check: Callable[[Path], object] | None = None) -> Path:
    """Download ``file`` to ``folder/<name>``, going on where an earlier call broke off.

    Args:
        folder: for this file alone.
        check: is called with the path, and raises a DataError where the file is not whole.

    Raises:
        DataError: saying what each server did, if none of them gave the whole file.
        OSError: for an error of the place.
    """
    path, part, reasons = folder / file.name, folder / f"{file.name}.part", []
    path.parent.mkdir(parents=True, exist_ok=True)
    for url in file.urls:
        failures, most, reason = 0, _size(part), None
        while failures < TRIES:
            if reason:
                time.sleep(min(60, PAUSE * 2**failures))
            try:
                if not path.exists():  # else killed while it was checked
                    _transfer(file, url, part)
                    part.replace(path)
                return _checked(file, path, check)
            except DataError as error:
                # A slow line that breaks every minute still gets there; only standstill counts.
                reason, have = error, _size(part)
                failures = 0 if have > most else failures + 1
                failures = TRIES if isinstance(error, _Refused) else failures
                most = max(have, most)
        reasons.append(f"{url}: {reason}")
    told = "\n  ".join(reasons)
    raise DataError(
        f"{file.name}: not downloaded; nothing was put in place.\n  {told}\n"
        "Call again: what came so far is kept and gone on with."
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _transfer(file: RemoteFile, url: str, part: Path) -> None:
    """Complete ``part``, from its end on if the server still has the same version."""
    note, state = part.with_name(f"{part.name}.json"), {}  # where the part came from
    with suppress(FileNotFoundError, ValueError):
        state = json.loads(note.read_text())
    have = _size(part) if state.get("url") == url and state["total"] and state["version"] else 0
    if have and have == state["total"]:  # killed just before the end
        return
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": state["version"]}

    def inspect(response: requests.Response, **_: object) -> None:
        """No server is believed; this is asked before the first byte is taken."""
        nonlocal state
        if response.is_redirect:
            return
        _check_status(response)
        answer = response.headers
        version, length = answer.get("ETag", "W/"), answer.get("Content-Length")
        if version.startswith("W/"):  # weak tags do not tell bytes apart
            version = answer.get("Last-Modified")
        if response.status_code == 200:
            out.truncate(0)
            total = int(length) if length else file.bytes
            if not (total or file.md5 or file.sha256 or "Transfer-Encoding" in answer):
                raise _Refused("does not say how long the file is: nobody could tell it is whole")
            state = {"url": url, "version": version, "total": total}
            write_atomic(note, json.dumps(state).encode())
        else:  # does it go on exactly where the part ends?
            total = state.get("total") or 0
            asked = (f"bytes {have}-{total - 1}/{total}", str(total - have), state.get("version"))
            if not have or (answer.get("Content-Range"), length, version) != asked:
                out.truncate(0)
                raise DataError("went on with another piece or version than asked for; begun anew")
        need_room(part.parent, (state["total"] or 0) - _size(part), file.name)

    wrong, bar = requests.exceptions, sys.stderr.isatty()
    ask = {"headers": headers, "timeout": TIMEOUT, "hooks": {"response": inspect}}
    try:
        with part.open("ab") as out:
            pooch.HTTPDownloader(progressbar=bar, chunk_size=1 << 14, **ask)(url, out, None)
    except (wrong.TooManyRedirects, ValueError) as error:  # a ValueError is a bad address
        raise _Refused(f"leads nowhere ({error})") from error
    except (wrong.RequestException, urllib3.exceptions.HTTPError, ConnectionError) as error:
        raise DataError(f"the connection failed ({type(error).__name__})") from error
    if state["total"] not in (None, _size(part)):
        raise DataError(f"broke off after {_size(part):,} of {state['total']:,} bytes")


def _check_status(response: requests.Response) -> None:
    status, packed = response.status_code, response.headers.get("Content-Encoding", "identity")
    if status in (401, 403):
        raise _Refused(f"wants an account or accepted terms (HTTP {status}); see the set's page")
    if status >= 400 and status != 416:  # which says that the part is of another version
        busy = status in (408, 425, 429) or status >= 500
        raise (DataError if busy else _Refused)(f"gives no file (HTTP {status} {response.reason})")
    if packed.lower() != "identity":
        raise DataError(f"was sent packed ({packed}), which nobody asked for")


def _checked(file: RemoteFile, path: Path, check: Callable[[Path], object] | None) -> Path:
    known = {"sha256": file.sha256, "md5": file.md5}
    sums = {kind: pooch.file_hash(str(path), kind) for kind, value in known.items() if value}
    try:
        with path.open("rb") as content:
            if PAGE.match(content.read(2000)):
                raise _Refused(
                    "sent a web page instead of the file: it asks for a sign-in, or this network's "
                    "own portal stands in between. Open the address in a browser"
                )
        if file.bytes not in (None, _size(path)) or any(known[k] != sums[k] for k in sums):
            raise DataError("came damaged: its size or checksum is not the publisher's")
        if check:
            check(path)
    except DataError:
        path.unlink()
        raise
    return path
