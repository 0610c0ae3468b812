"""The errors a user can meet. Each message names the thing at fault and the remedy."""


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


def in_words(error: Exception) -> str:
    """An error in a sentence, also one of the system: a full disk, a folder that is none."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename else "")
    return f"{type(error).__name__}: {error}"
