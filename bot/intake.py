"""Keeps deliveries that arrive together in one transaction: one wait for the disk, however many there are.

A delivery is answered only when it is kept for good, and with SQLite that waits for the disk. So one thread
takes all that came while the disk was busy and writes them at once (a group commit, as databases do it in
their logs).
"""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field

from bot.store import Arrival, Store

_MOST = 100


@dataclass(frozen=True)
class _Waiting:
    arrival: Arrival
    fresh: Future[bool] = field(default_factory=Future)


class Intake:
    """`accept` may be called by many threads; each waits for its own answer."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queue: queue.SimpleQueue[_Waiting] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="intake", daemon=True).start()

    def accept(self, delivery: str, body_digest: str, event: str, body: bytes) -> bool:
        """As `Store.accept`."""
        waiting = _Waiting(Arrival(delivery, body_digest, event, body))
        self._queue.put(waiting)
        return waiting.fresh.result()

    def _work(self) -> None:
        while True:
            batch = [self._queue.get()]
            while len(batch) < _MOST and not self._queue.empty():
                batch.append(self._queue.get())
            try:
                answers = self._store.accept_all([one.arrival for one in batch])
            except Exception as error:  # each caller hears it, answers 500, and GitHub counts it as failed
                for one in batch:
                    one.fresh.set_exception(error)
            else:
                for one, fresh in zip(batch, answers, strict=True):
                    one.fresh.set_result(fresh)
