"""Data: real sets in their publishers' layouts, phantoms, honest splits, batches.

Importing this imports nothing: sets can be listed and fetched before torch is installed.
"""

from importlib import import_module
from typing import Any

_SPLITS = (
    "Split",
    "ThreeWay",
    "split_by_group",
    "split_by_image",
    "split_like_datta",
    "split_official",
    "split_three_ways",
)
_HOME = dict.fromkeys(("batches", "lesson", "load"), "loading") | {
    "READERS": "readers",
    "ImageSet": "imageset",
    "phantom_set": "phantoms",
    "to_float": "imageset",
    **dict.fromkeys(_SPLITS, "splits"),
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """A public name, from the module that it lives in."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
