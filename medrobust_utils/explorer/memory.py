"""What was computed already, as long as it fits."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import fields, is_dataclass
from threading import Lock
from typing import Any, TypeVar

T = TypeVar("T")


class Memory:
    """Values by key; what was used least recently goes when there is no room.

    A value that alone is larger than all the room is returned, not kept, and drives out none.
    Threads may share one; two that ask for the same at once may both compute it.

    Args:
        room: bytes; see ``size``.
    """

    def __init__(self, room: int = 64_000_000) -> None:
        self.room, self.used = room, 0
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._kept

    def get(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The value of ``key``, computed if it is not at hand."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        value = compute()
        with self._lock:
            if key not in self._kept and size(value) <= self.room:
                self._kept[key] = value
                self.used += size(value)
            while self.used > self.room:
                _, old = self._kept.popitem(last=False)
                self.used -= size(old)
        return value


def size(value: object) -> int:
    """Bytes of the arrays, tensors and bytes in a value, and a little for everything else."""
    if isinstance(value, bytes | str):
        return len(value) + 50
    if isinstance(value, dict):
        return 200 + sum(size(part) for part in (*value, *value.values()))
    if isinstance(value, list | tuple):
        return 50 + sum(map(size, value))
    if is_dataclass(value):
        return 50 + sum(size(getattr(value, field.name)) for field in fields(value))
    return getattr(value, "nbytes", 0) + 50
