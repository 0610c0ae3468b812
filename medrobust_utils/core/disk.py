"""What is the disk's fault and not the file's, and arrays that fit on it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from .errors import DataError

# What is wrong with a name or with the bytes of one file; every other number is the system's.
OF_THE_FILE = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EINVAL,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EILSEQ,
    errno.EEXIST,
    errno.ENOTEMPTY,
    errno.EPIPE,
}
NO_ROOM = "its disk has no room left. Make room, or set MEDROBUST_HOME (caches) to another disk."
DENIED = "this user has no permission. Correct the permissions of the file and its folders."
BUSY = "the system has no handles left. Close other programs, or raise the limit (ulimit -n)."
READ_ONLY = "its disk is mounted read-only. Mount it for writing, or set MEDROBUST_HOME elsewhere."
LOST = "its drive or share does not answer. Connect (mount) it again, then run again."
# Errors of the place (disk, mount, rights, handles): no file is to blame, so none is to be deleted.
SENTENCES = {
    errno.ENOSPC: NO_ROOM,
    errno.EDQUOT: NO_ROOM,
    errno.EFBIG: NO_ROOM,
    errno.EACCES: DENIED,
    errno.EPERM: DENIED,
    errno.EMFILE: BUSY,
    errno.ENFILE: BUSY,
    errno.ENOMEM: "the system has no memory left. Close other programs and run again.",
    errno.EROFS: READ_ONLY,
    **dict.fromkeys((errno.EIO, errno.ENOTCONN, errno.ESTALE, errno.ENODEV, errno.ENXIO), LOST),
}


def blame(path: object, error: BaseException, damaged: str) -> DataError:
    """The error to raise for ``error``, met at ``path``: the place's where the place is at fault.

    Args:
        damaged: what to say, with the remedy, where the file is at fault.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            return DataError(f"{path}: {SENTENCES[errno.ENOMEM]} The file is not to blame.")
        number = cause.errno if isinstance(cause, OSError) else None
        if number is not None and number not in OF_THE_FILE:
            about = f"{os.strerror(number)} ({errno.errorcode.get(number, number)})"
            sentence = SENTENCES.get(number, LOST)
            return DataError(f"{path}: {about}: {sentence} The file is not to blame.")
        cause = cause.__cause__ or cause.__context__
    return DataError(f"{path}: {damaged}")


@contextmanager
def blamed(path: object, damaged: str) -> Iterator[None]:
    """What goes wrong inside, in any of the many ways of a damaged file, is raised as ``blame``.

    A DataError goes through: it has words of its own.

    Args:
        damaged: see ``blame``; ``{error}`` and ``{kind}`` stand for the error and its type.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        words = damaged.replace("{error}", str(error)).replace("{kind}", type(error).__name__)
        raise blame(path, error, words) from error


def reserve(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A new uint8 array in the file ``path``, mapped for writing, with its room on disk taken.

    Without the room a write to the map would end the process (SIGBUS).

    Raises:
        DataError: if the disk cannot hold it, with what is needed and free.
    """
    needed, free = int(np.prod(shape)) + 4096, shutil.disk_usage(path.parent).free
    try:
        with path.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            file.flush()
            if needed > free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if hasattr(os, "posix_fallocate"):
                try:
                    os.posix_fallocate(file.fileno(), 0, file.tell() + needed - 4096)
                except OSError as error:
                    if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENODEV):
                        raise  # these file systems cannot reserve; what is free was asked above
    except OSError as error:
        path.unlink(missing_ok=True)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise DataError(
            f"{path.parent.parent}: {needed / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are "
            "free. Free some, or set MEDROBUST_HOME to another disk."
        ) from error
    return np.lib.format.open_memmap(path, "r+")
