"""A web server that fails in seeded ways, and downloads from it that must come out right."""

from __future__ import annotations

import hashlib
import io
import random
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
FAULTS = ["cut", "short", "delay", "corrupt", "busy", "gone", "forbidden", "reset", "no ranges"]
FAULTS += ["wrong range", "changed", "page", "page untold", "circle", "packed", "no length"]
FAULTS += ["too long", "too many", "broken"]
ANSWERS = {  # what is no file: status, content, headers
    "gone": (404, b"not here", {}),
    "busy": (503, b"try later", {}),
    "too many": (429, b"slowly", {}),
    "broken": (500, b"", {}),
    "forbidden": (403, b"accept the terms", {}),
    "circle": (302, b"", {"Location": "/circle"}),
    "page": (200, b"<!DOCTYPE html><p>log in</p>" * 9, {"Content-Type": "text/html"}),
    "page untold": (200, b"<!DOCTYPE html><p>log in</p>" * 9, {"Content-Type": "application/zip"}),
}


class Handler(BaseHTTPRequestHandler):
    """Serves ``server.files``; ``server.plan(path)`` names the fault of each request, or None."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Silence."""

    def do_GET(self):
        path = self.path.partition("?")[0]
        body, fault = self.server.files.get(path), self.server.plan(path)
        self.close_connection = True
        if fault == "reset":
            self.connection.close()
        elif body is None or fault in ANSWERS:
            self._send(*ANSWERS["gone" if body is None and fault != "circle" else fault])
        else:
            self._send_file(body, fault, self.server.draw)

    def _send_file(self, body, fault, draw):
        tag = f'"{draw.random() if fault == "changed" else hashlib.md5(body).hexdigest()}"'
        status, start, headers = 200, 0, {"ETag": tag}
        wanted = self.headers.get("Range", "")
        if wanted and self.headers.get("If-Range") == tag and fault != "no ranges":
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            if start >= len(body):
                return self._send(416, b"", {})
            status, first = 206, start + 7 * (fault == "wrong range")
            headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
        rest = bytearray(body[start:])
        if fault == "packed":
            headers["Content-Encoding"] = "gzip"
        if fault == "corrupt":
            rest[draw.randrange(len(rest))] ^= draw.randrange(1, 256)
        if fault == "short":  # says that what it sends is all there is
            del rest[draw.randrange(len(rest)) :]
        if fault != "no length":
            headers["Content-Length"] = str(len(rest) + 5 * (fault == "too long"))
        self._send(status, None, headers)
        cut = draw.randrange(len(rest)) if fault in ("cut", "delay") else len(rest)
        step = 4096 if self.server.pause else max(1, cut)
        for place in range(0, cut, step):
            self.wfile.write(rest[place : min(cut, place + step)])
            time.sleep(self.server.pause)
        self.server.sent.append(cut)
        if fault == "delay":
            time.sleep(draw.choice((0.01, 0.4)))
            self.wfile.write(rest[cut:])

    def _send(self, status, body, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if body is not None:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body or b"")


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
    names = [f"class {k}/{i}.png" for k in range(2) for i in range(3)]
    content = {name: draw.randbytes(draw.randrange(1, 30_000)) for name in names}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return buffer.getvalue(), content


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    files = filter(Path.is_file, folder.rglob("*"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def one(seed: int) -> str:
    """One download through seeded faults, repeated once when it gave up; says how it ended.

    Raises:
        AssertionError: if a wrong or a partial set is in place, or an error is not a clear one.
    """
    draw = random.Random(seed)
    archive, content = packed(draw)
    table = draw.randbytes(draw.randrange(1, 60_000))
    knows_sum, hosts = draw.random() < 0.5, "ab"[: draw.randrange(1, 3)]
    chance, faults = draw.choice((0.3, 0.6, 0.9)), draw.sample(FAULTS, draw.randrange(1, 5))

    def plan(path):
        return draw.choice(faults) if draw.random() < chance else None

    sent = {"set.zip": archive, "table.csv": table}
    served = {f"/{host}/{name}": data for host in hosts for name, data in sent.items()}
    with serving(served, plan, seed) as (at, server), tempfile.TemporaryDirectory() as root:
        files = []
        for name, data in sent.items():
            # Of a table nothing but a checksum tells whether a byte is another.
            md5 = hashlib.md5(data).hexdigest() if knows_sum or data is table else None
            urls = tuple(f"{at}/{host}/{name}" for host in hosts)
            files.append(RemoteFile(name, urls, md5=md5, unpack="." if data is archive else None))
        outcome = _ended(tuple(files), Path(root), content | {"table.csv": table})
        if outcome == "refused":
            server.plan = lambda path: None
            again = _ended(tuple(files), Path(root), content | {"table.csv": table})
            assert again == "whole", "a sound network did not mend it"
        return outcome


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
