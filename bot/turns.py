"""A lock that is handed on in the order of asking.

SQLite lets one connection write at a time, and those who wait look again after pauses of up to a tenth of a
second, in no order; a plain lock may be taken again by the thread that just gave it back. Both let an
acknowledgement wait for seconds while a job writes much. Here nobody is overtaken.
"""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType


class Turns:
    """Use as a context manager. Not re-entrant."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._taken = False

    def __enter__(self) -> None:
        with self._guard:
            if not self._taken:
                self._taken = True
                return
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append(mine)
        mine.acquire()  # until the one before us opens it

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._taken = False
