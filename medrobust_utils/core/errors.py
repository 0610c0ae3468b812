"""The errors a user can meet. Each message names the thing at fault and the remedy."""

import errno


class MedrobustError(Exception):
    """Base class: catch this to catch everything the kit raises on purpose."""


class DataError(MedrobustError):
    """A data set, an image or a label file is missing, unreadable or contradictory."""


class ContractError(MedrobustError):
    """Images, a model or its outputs break the contract that all rooms of the kit rely on."""


class ProtocolError(MedrobustError):
    """A protocol file, a notebook parameter or an override is unknown or has the wrong type."""


class RunError(MedrobustError):
    """A notebook run failed, or its record cannot be read."""


class Stopped(Exception):
    """Work that nobody waits for any more ends here; no fault of what it passes through."""


# Errors of the place (disk, mount, rights, handles): no file is to blame, so none is to be deleted.
PLACE_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "Make room, then call again"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Get the right to read and write"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "Close programs, or raise `ulimit -n`"),
    **dict.fromkeys(
        (errno.EIO, errno.ENOTCONN, errno.ESTALE, errno.ENODEV, errno.ENXIO),
        "The disk or mount is lost: bring it back, then call again",
    ),
}


def in_words(error: Exception) -> str:
    """An error in a sentence, also one of the system: a full disk, a folder that is none."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename else "")
    return f"{type(error).__name__}: {error}"
