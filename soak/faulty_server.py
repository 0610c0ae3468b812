"""A web server that fails in seeded ways, and downloads from it that must come out right."""

from __future__ import annotations

import hashlib
import io
import random
import shutil
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from medrobust_utils.core.errors import DataError
from medrobust_utils.data.catalogue import DataSet, RemoteFile
from medrobust_utils.data.download import download_set, transfer

transfer.TIMEOUT, transfer.TRIES, transfer.PAUSE = (2, 0.3), 4, 0.001  # no test waits for a server
FAULTS = (
    "cut",
    "short",
    "delay",
    "corrupt",
    "busy",
    "gone",
    "forbidden",
    "reset",
    "no ranges",
    "wrong range",
    "changed",
    "page",
    "page untold",
    "circle",
    "moved",
    "packed",
    "no length",
    "too long",
)


class Handler(BaseHTTPRequestHandler):
    """Serves ``server.files``; ``server.plan(path)`` names the fault of each request, or None."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Silence."""

    def do_GET(self):
        path = self.path.partition("?")[0]
        body, fault, draw = self.server.files.get(path), self.server.plan(path), self.server.draw
        self.close_connection = True
        if body is None or fault == "gone":
            return self._answer(404, b"not here")
        if fault == "busy":
            return self._answer(draw.choice((429, 500, 502, 503)), b"try later")
        if fault == "forbidden":
            return self._answer(403, b"accept the terms")
        if fault == "reset":
            return self.connection.close()
        if fault in ("circle", "moved"):
            return self._answer(302, b"", {"Location": self.path})
        if fault in ("page", "page untold"):
            kind = "text/html" if fault == "page" else "application/zip"
            return self._answer(200, b"<!DOCTYPE html><p>log in</p>" * 9, {"Content-Type": kind})
        self._send(body, fault, draw)

    def _send(self, body, fault, draw):
        tag = f'"{hashlib.md5(body).hexdigest()}"'
        if fault == "changed":
            tag = f'"{draw.random()}"'
        start, wanted = 0, self.headers.get("Range", "")
        resumes = wanted and self.headers.get("If-Range") == tag and fault != "no ranges"
        if resumes:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            if start >= len(body):
                return self._answer(416, b"")
        rest = body[start:]
        headers = {"ETag": tag}
        if resumes:
            first = start + 7 if fault == "wrong range" else start
            headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
        if fault == "packed":
            headers["Content-Encoding"] = "gzip"
        if fault == "corrupt" and rest:
            at = draw.randrange(len(rest))
            rest = rest[:at] + bytes([rest[at] ^ draw.randrange(1, 256)]) + rest[at + 1 :]
        if fault == "short":  # says that what it sends is all there is
            rest = rest[: draw.randrange(len(rest))] if rest else rest
        length = len(rest) + (5 if fault == "too long" else 0)
        if fault != "no length":
            headers["Content-Length"] = str(length)
        self._answer(206 if resumes else 200, None, headers)
        self._body(rest, fault, draw)

    def _body(self, rest, fault, draw):
        cut = draw.randrange(len(rest)) if fault in ("cut", "delay") and rest else len(rest)
        step = 4096 if self.server.pause else max(1, cut)
        for start in range(0, cut, step):
            self.wfile.write(rest[start : min(cut, start + step)])
            time.sleep(self.server.pause)
        self.server.sent.append(cut)
        if fault == "delay":
            time.sleep(draw.choice((0.01, 0.4)))
            self.wfile.write(rest[cut:])

    def _answer(self, status, body, headers=()):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        if body is not None:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if body:
            self.wfile.write(body)


class Server(ThreadingHTTPServer):
    """Does not report the connections that its clients gave up."""

    daemon_threads = True
    pause = 0.0  # seconds between two pieces of four kilobytes

    def __init__(self, *args):
        super().__init__(*args)
        self.sent = []  # bytes of each answer

    def handle_error(self, *_):
        """Silence."""


@contextmanager
def serving(files, plan=lambda path: None, seed=0) -> Iterator[tuple[str, Server]]:
    """A server of ``files`` (path -> bytes) on this machine; gives its address."""
    server = Server(("127.0.0.1", 0), Handler)
    server.files, server.plan, server.draw = files, plan, random.Random(seed)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", server
    finally:
        server.shutdown()
        server.server_close()


def entry(**changes) -> DataSet:
    """A data set as the catalogue would have it."""
    words = dict.fromkeys(("title", "publisher", "page", "licence", "cite", "size", "terms"), "-")
    words |= dict.fromkeys(("use", "splits", "leaks", "treatment", "by_hand"), "")
    plain = {"name": "drawn", "reader": "drawn", "folder": "drawn set", "access": "open"}
    return DataSet(**words | plain | {"layout": (), "counts": {}} | changes)


def packed(draw: random.Random) -> tuple[bytes, dict[str, bytes]]:
    """An archive and what is in it."""
    content = {
        f"class {k}/{i}.png": draw.randbytes(draw.randrange(1, 30_000))
        for k in range(2)
        for i in range(3)
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return buffer.getvalue(), content


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def one(seed: int) -> str:
    """One download through seeded faults, repeated once when it gave up; says how it ended.

    Raises:
        AssertionError: if a wrong or a partial set is in place, or an error is not a clear one.
    """
    draw = random.Random(seed)
    archive, content = packed(draw)
    plain = draw.randbytes(draw.randrange(1, 60_000))
    knows_sum = draw.random() < 0.5
    chance = draw.choice((0.3, 0.6, 0.9))
    faults = draw.sample(FAULTS, draw.randrange(1, 5))

    def plan(path):
        return draw.choice(faults) if draw.random() < chance else None

    served = {
        f"/{host}/{name}": data
        for host in "ab"
        for name, data in (("set.zip", archive), ("table.csv", plain))
    }
    root = Path(tempfile.mkdtemp())
    try:
        with serving(served, plan, seed) as (address, server):
            hosts = "ab"[: draw.randrange(1, 3)]
            files = tuple(
                RemoteFile(
                    name,
                    tuple(f"{address}/{host}/{name}" for host in hosts),
                    # Of a table nothing but a checksum tells whether a byte is another.
                    md5=hashlib.md5(data).hexdigest() if knows_sum or data is plain else None,
                    unpack="." if name.endswith(".zip") else None,
                )
                for name, data in (("set.zip", archive), ("table.csv", plain))
            )
            wanted = content | {"table.csv": plain}
            outcome = _ended(files, root, wanted)
            if outcome == "refused":
                server.plan = lambda path: None
                assert _ended(files, root, wanted) == "whole", "a sound network did not mend it"
            return outcome
    finally:
        shutil.rmtree(root)


def _ended(files, root, wanted) -> str:
    place = root / "drawn set"
    try:
        with redirect_stdout(io.StringIO()):
            download_set(entry(files=files), root)
    except DataError as error:
        assert not place.exists(), "an incomplete set is in place"
        assert any(file.name in str(error) for file in files), f"names no file: {error}"
        return "refused"
    assert tree(place) == wanted, "a wrong file is in place"
    left = {path.name for path in (root / ".medrobust").iterdir()}
    assert left == {"busy", "placed.json"}, "what was under way is still there"
    return "whole"


def soak(seeds: Iterable[int]) -> Counter:
    """How the downloads of all ``seeds`` ended: ``whole`` or ``refused`` with a clear error."""
    return Counter(one(seed) for seed in seeds)
