"""How results reach the disk: strict JSON types, small figures, whole files or none."""

import hashlib
import io
import json
import math
import os
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from .errors import RunError

FIGURE_BYTES = 200_000


def plain(value: Any, place: str = "") -> tuple[Any, list[str]]:
    """``value`` in types that strict JSON knows, and the places of numbers that are not finite."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, dict):
        pairs = {str(k): plain(v, f"{place}.{k}".lstrip(".")) for k, v in value.items()}
        return {k: v[0] for k, v in pairs.items()}, [p for v in pairs.values() for p in v[1]]
    if isinstance(value, list | tuple | np.ndarray):
        items = [plain(item, f"{place}.{i}") for i, item in enumerate(value)]
        return [item[0] for item in items], [p for item in items for p in item[1]]
    if isinstance(value, float) and not math.isfinite(value):
        return None, [f"{place} ({value})"]
    return (str(value) if isinstance(value, Path) else value), []


def fingerprint(*parts: object) -> str:
    """Ten hex digits that change with any of the JSON-able ``parts``."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:10]


def write_atomic(path: Path, data: bytes | memoryview) -> None:
    """Write beside the target, then rename: the rename is atomic, the writing is not."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # where power fails, too
        os.chmod(temporary, 0o644)  # mkstemp makes files only their owner can read
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def cached_arrays(
    path: Path, compute: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Arrays of an earlier run, or computed now and kept in ``path``, an npz file.

    Raises:
        RunError: if what was kept cannot be read.
    """
    if not path.exists():
        write_arrays(path, compute())
    return read_arrays(path)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Keep arrays in ``path``, an npz file, whole or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file.

    Raises:
        RunError: if it cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("holds other files than arrays")
        return arrays
    except Exception as error:  # zip, zlib and numpy raise many types for a damaged archive
        raise RunError(
            f"{path}: cannot be read ({error}). Delete it to compute it again."
        ) from error


def png(figure: Any) -> tuple[bytes, str]:
    """A figure as PNG, made smaller only as far as needed, and what was done to it."""
    from PIL import Image

    for dpi in (110, 80, 60):
        plain = io.BytesIO()
        figure.savefig(plain, format="png", dpi=dpi, bbox_inches="tight")
        small = f"at {dpi} dots per inch" if dpi < 110 else ""
        if plain.tell() <= FIGURE_BYTES:
            return plain.getvalue(), small
        palette = io.BytesIO()
        Image.open(plain).convert("RGB").quantize(256).save(palette, "png", optimize=True)
        if palette.tell() <= FIGURE_BYTES:
            return palette.getvalue(), f"in 256 colours {small}".rstrip()
    return palette.getvalue(), f"in 256 colours {small} (still {palette.tell() // 1000} kB)"


class Lease:
    """A lock that a file is, for machines that share a folder: it needs no flock.

    One not renewed for ``seconds``, by the clock of the machine that keeps the files, or held by a
    process of this machine that is no more, is taken away. ``lost`` is called if ours is.
    """

    def __init__(self, path: Path, lost: Callable[[], None], seconds: float = 300):
        self.path, self.lost, self.seconds = path, lost, seconds
        self.token = f"{_process(os.getpid())} {uuid.uuid4().hex}"
        self.held = threading.Event()

    def acquire(self) -> None:
        """Wait until nobody else holds the lease, and hold it."""
        while True:
            with suppress(FileExistsError), self.path.open("x") as file:
                self.held.set()
                file.write(self.token)
                break
            if not self._take_away():
                time.sleep(1)
        threading.Thread(target=self._renew, daemon=True).start()

    def release(self) -> None:
        """Let go, if the lease is held and still ours, or empty since the disk is full."""
        held = self.held.is_set()
        self.held.clear()
        with suppress(OSError):
            if held and self.path.read_text() in (self.token, ""):
                self.path.unlink()

    def _take_away(self) -> bool:
        """Move a lease away that nobody holds any more; False if somebody does."""
        with suppress(OSError):  # it was released, or another was quicker
            with tempfile.NamedTemporaryFile(dir=self.path.parent) as new:
                age = os.stat(new.name).st_mtime - self.path.stat().st_mtime
            holder = self.path.read_text()
            host, pid, *_ = holder.split() or ("", "0")
            gone = host == socket.gethostname() and not holder.startswith(_process(int(pid)))
            if age > self.seconds or gone:
                stale = self.path.rename(self.path.with_name(f".stale-{uuid.uuid4().hex}"))
                if stale.read_text() != holder:  # another was quicker, and holds its own
                    stale.rename(self.path)
                stale.unlink(missing_ok=True)
        return not self.path.exists()

    def _renew(self) -> None:
        while time.sleep(self.seconds / 10) or self.held.is_set():
            with suppress(OSError):  # the server is away; the lease may outlive that
                if self.path.read_text() != self.token and self.held.is_set():
                    self.lost()
                os.utime(self.path)


def _process(pid: int) -> str:
    """Host, number and start of a process."""
    with suppress(psutil.NoSuchProcess):
        return f"{socket.gethostname()} {pid} {psutil.Process(pid).create_time()}"
    return "gone"
