"""The downloader that pooch is given: it goes on where it was, and believes no server."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import contextmanager
from pathlib import Path

import requests
import urllib3
from tqdm import tqdm

from ...core.errors import DataError
from ...core.storage import write_atomic

CHUNK = 1 << 16
LATER = {408, 425, 429}  # worth another try, as all of 500 and above
PAGE = re.compile(rb"\s*(<!--.{0,500}?-->\s*)?<(!doctype\s+html|html|head|body)\b", re.I | re.S)


class Refused(DataError):
    """The server will not give the file: asking again does not help, another server may."""


class Unsteady(DataError):
    """The connection broke or the server is busy: asking again may help."""


class Damaged(DataError):
    """What came is not the file: it is fetched anew."""


class Resuming:
    """Download to ``part``, then to the file that pooch asks for.

    Args:
        part: the unfinished file; ``<part>.json`` beside it says where it came from.
        expected: bytes of the whole file, None where unknown.
        timeout: seconds for the connection and between two pieces of data.
        trusted: whether a checksum will tell if pieces of two versions were joined.
    """

    def __init__(
        self, part: Path, *, expected: int | None, timeout: tuple[float, float], trusted: bool
    ) -> None:
        self.part, self.note = part, part.with_name(part.name + ".json")
        self.expected, self.timeout, self.trusted = expected, timeout, trusted

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """What pooch calls. Raises Refused, Unsteady, Damaged, or DataError for a full disk."""
        state = self._state(url)
        have = self.part.stat().st_size if state else 0
        if not (state and have and have == state["total"]):  # else killed just before the end
            with _spoken(), self._asked(url, have, state) as response:
                self._take(response, url, have, state)
        shutil.move(self.part, output_file)
        self.note.unlink()

    def _state(self, url: str) -> dict | None:
        """What an earlier run wrote about the part, None where it is of no use."""
        try:
            state = json.loads(self.note.read_text())
            usable = state["url"] == url and (state["validator"] or self.trusted)
            if usable and self.part.stat().st_size >= 0:
                return {key: state[key] for key in ("url", "validator", "total")}
        except (OSError, ValueError, KeyError, TypeError):
            pass
        self._discard()
        return None

    def _discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def _asked(self, url: str, have: int, state: dict | None) -> requests.Response:
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if state["validator"]:
                headers["If-Range"] = state["validator"]
        return requests.get(url, headers=headers, stream=True, timeout=self.timeout)

    def _take(self, response: requests.Response, url: str, have: int, state: dict | None) -> None:
        if response.status_code == 416:
            self._discard()
            raise Unsteady("cannot go on where it was; begun anew")
        _check_status(response)
        self._check_encoding(response)
        if response.status_code == 206:
            total = self._check_range(response, have, state)
        else:
            have, total = 0, self._begin(response, url)
        free = shutil.disk_usage(self.part.parent).free
        if total is not None and total - have > free:
            raise DataError(
                f"{self.part.parent}: {free:,} bytes are free, and {self.part.stem} needs "
                f"{total - have:,} more. Make room, or choose another folder with --dest."
            )
        self._write(response, have, total)

    def _check_encoding(self, response: requests.Response) -> None:
        encoding = response.headers.get("Content-Encoding", "identity").lower()
        # Some servers call the compression of a .tar.gz an encoding of the transport: it is not.
        if encoding != "identity" and not self.part.stem.endswith((".gz", ".tgz")):
            raise Unsteady(f"was sent packed ({encoding}), which nobody asked for")

    def _check_range(self, response: requests.Response, have: int, state: dict | None) -> int:
        """Whether the answer goes on exactly where the part ends; the size of the whole."""
        found = re.fullmatch(
            r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", "").strip()
        )
        begin, end, total = map(int, found.groups()) if found else (-1, -1, -1)
        same = state and state["validator"] in (None, _validator(response)) and have
        fits = same and begin == have and end == total - 1 and state["total"] in (None, total)
        length = response.headers.get("Content-Length", str(total - have))
        if not fits or length != str(total - have) or self.expected not in (None, total):
            self._discard()
            raise Unsteady("went on with another piece or version than asked for; begun anew")
        return total

    def _begin(self, response: requests.Response, url: str) -> int | None:
        """Start the part anew; the size of the whole, None where the server does not say."""
        self._discard()
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
        if total is None and self.expected is None and not (chunked or self.trusted):
            raise Refused("does not say how long the file is, so nobody could tell it is whole")
        if total is not None and self.expected not in (None, total):
            raise Unsteady(f"announces {total:,} bytes, and the file has {self.expected:,}")
        total = total if total is not None else self.expected
        state = {"url": url, "validator": _validator(response), "total": total}
        write_atomic(self.note, json.dumps(state).encode())
        return total

    def _write(self, response: requests.Response, have: int, total: int | None) -> None:
        bar = tqdm(
            desc=self.part.stem,
            total=total,
            initial=have,
            unit="B",
            unit_scale=True,
            mininterval=2,
            disable=None,  # silent where nobody looks at a terminal
        )
        with self.part.open("ab" if have else "wb") as file, bar:
            for chunk in response.raw.stream(CHUNK, decode_content=False):
                if have == 0:
                    self._check_page(response, chunk)
                file.write(chunk)
                have += len(chunk)
                bar.update(len(chunk))
                if total is not None and have > total:
                    break
        if total is not None and have != total:
            if have > total:
                self._discard()
            raise Unsteady(f"broke off after {have:,} of {total:,} bytes")

    def _check_page(self, response: requests.Response, chunk: bytes) -> None:
        kind = response.headers.get("Content-Type", "").lower()
        if (kind.startswith("text/html") or PAGE.match(chunk[:2000])) and not (
            self.part.stem.endswith((".html", ".htm"))
        ):
            self._discard()
            raise Refused(
                "sent a web page instead of the file: it asks for a sign-in, or this network's "
                "own portal stands in between. Open the address in a browser"
            )


def _check_status(response: requests.Response) -> None:
    status, reason = response.status_code, response.reason
    if status in LATER or status >= 500:
        raise Unsteady(f"is busy or out of order (HTTP {status} {reason})")
    if status in (401, 403):
        raise Refused(
            f"wants an account or accepted terms (HTTP {status} {reason}); see the set's page"
        )
    if status not in (200, 206):
        raise Refused(f"does not give the file (HTTP {status} {reason})")


def _validator(response: requests.Response) -> str | None:
    """What tells this version of the file from others; weak ETags do not tell bytes apart."""
    tag = response.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


@contextmanager
def _spoken():
    """Errors of the network in the kit's words."""
    wrong = requests.exceptions
    try:
        yield
    except (wrong.TooManyRedirects, ValueError) as error:  # a ValueError is a bad address
        raise Refused(f"leads nowhere ({error})") from error
    except wrong.Timeout as error:
        raise Unsteady("did not answer in time") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise Unsteady(f"the connection failed ({type(error).__name__})") from error
    except ConnectionError as error:
        raise Unsteady(f"the connection failed ({error})") from error
