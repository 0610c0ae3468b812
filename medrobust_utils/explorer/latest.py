"""Only the newest wish counts: a worker for people who drag a slider."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Request = TypeVar("Request")
PAUSE = 0.06  # seconds: a drag over ten values arrives within less, and is one wish


class Latest(Generic[Request]):
    """One background thread that does what was asked for last.

    A request that still waits when a newer one comes is never begun; one that is being worked on
    is told by its ``go_on``, which then returns False for good. So however fast somebody asks, at
    most one piece of work is under way and one waits.

    Args:
        work: called in the thread with a request and ``go_on``. Whether it heeds ``go_on`` is its
            own affair: nothing is killed.
        trouble: called in the thread with the newest request and what its work raised. Nobody
            hears of errors in outdated work. The thread lives on, even where ``trouble`` fails.
    """

    def __init__(
        self,
        work: Callable[[Request, Callable[[], bool]], None],
        trouble: Callable[[Request, Exception], None],
    ) -> None:
        self._work, self._trouble = work, trouble
        self._changed = threading.Condition()
        self._turn = 0  # grows with every request: a number names one
        self._waiting: list[Request] = []  # the newest, or nothing
        self._working = False
        self._thread: threading.Thread | None = None

    def ask(self, request: Request) -> None:
        """Do ``request`` next, in place of everything asked for before. Returns at once."""
        with self._changed:
            self._turn += 1
            self._waiting = [request]
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="explorer")
                self._thread.start()
            self._changed.notify_all()

    def drop(self) -> None:
        """Nothing asked for so far is wanted any more."""
        with self._changed:
            self._turn += 1
            self._waiting = []
            self._changed.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is left to do; False if that takes more than ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._waiting and not self._working, timeout=timeout
            )

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
            time.sleep(PAUSE)
            with self._changed:
                if not self._waiting:  # dropped meanwhile
                    continue
                request, self._waiting = self._waiting.pop(), []
                turn, self._working = self._turn, True
            try:
                self._do(request, turn)
            finally:
                with self._changed:
                    self._working = False
                    self._changed.notify_all()

    def _do(self, request: Request, turn: int) -> None:
        def newest() -> bool:
            return turn == self._turn

        try:
            self._work(request, newest)
        except Exception as error:
            if newest():
                with contextlib.suppress(Exception):  # there is nobody left to tell
                    self._trouble(request, error)
