"""Data: real sets in their publishers' layouts, phantoms, honest splits, batches."""

from importlib import import_module

__all__ = [
    "ImageSet",
    "READERS",
    "Split",
    "ThreeWay",
    "batches",
    "load",
    "phantom_set",
    "split_by_group",
    "split_by_image",
    "split_like_datta",
    "split_official",
    "split_three_ways",
    "to_float",
]


def __getattr__(name: str) -> object:
    """What is asked for first brings the readers and torch; `data --list` waits for neither."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.loading"), name)
