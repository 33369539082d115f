"""How many requests an address gets at a time, and which address a request goes to.

`Gate` bounds requests in flight and adapts when the server says that it has too many (HTTP 429 or 503): the
bound is halved at most once for each round of requests and grows by one for each full round of answers
(additive increase, multiplicative decrease: Chiu and Jain 1989, the rule of TCP). `Retry-After` closes the
gate for everybody.

`preference` and `pick` send requests of one document to one address, so that its prefix cache stays warm:
rendezvous hashing (Thaler and Ravishankar 1998), where losing an address moves only its own documents. An
address with a queue well over the average passes work on (consistent hashing with bounded loads, Mirrokni
et al. 2018, whose c = 1.25 is used), so that one large document does not leave the others idle.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import Sequence
from functools import lru_cache

LOAD_FACTOR = 1.25


class Gate:
    """A bound that moves between 1 and `most`. First come, first served."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(most)
        self.active = 0
        self.cuts = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._closed_until = 0.0
        self._cut_at = 0.0

    @property
    def load(self) -> int:
        """Requests under way and waiting."""
        return self.active + len(self._waiting)

    @property
    def closed(self) -> bool:
        """Whether the server asked everybody to wait."""
        return time.monotonic() < self._closed_until

    def _is_open(self) -> bool:
        return self.active < int(self.limit) and not self.closed

    async def enter(self) -> None:
        if not self._waiting and self._is_open():
            self.active += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # its turn came in the moment of its cancelling
                self.leave()
            raise

    def leave(self) -> None:
        self.active -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._is_open():
            turn = self._waiting.popleft()
            if not turn.done():
                self.active += 1
                turn.set_result(None)

    def succeeded(self) -> None:
        if self.limit < self.most:
            self.limit = min(float(self.most), self.limit + 1 / self.limit)
            self._admit()

    def overloaded(self, sent: float, after: float | None) -> None:
        """The request sent at `sent` (monotonic) came back with 429 or 503, asking for `after` seconds."""
        now = time.monotonic()
        if sent >= self._cut_at:  # those sent before the last cut tell nothing about the new bound
            self.limit = max(1.0, self.limit / 2)
            self._cut_at = now
            self.cuts += 1
        if after and now + after > self._closed_until:
            self._closed_until = now + after
            asyncio.get_running_loop().call_later(after + 0.001, self._admit)


@lru_cache(maxsize=1024)
def preference(affinity: str, addresses: tuple[str, ...]) -> tuple[str, ...]:
    """The addresses in the order in which they should get what belongs to `affinity`."""

    def weight(address: str) -> bytes:
        return hashlib.blake2b(f"{affinity}\0{address}".encode(), digest_size=8).digest()

    return tuple(sorted(addresses, key=weight, reverse=True))


def pick(order: Sequence[str], gates: dict[str, Gate]) -> str:
    """The first address of `order` that has room or no more than its fair share of the queue."""
    if len(order) == 1:
        return order[0]
    order = [address for address in order if not gates[address].closed] or order
    fair = LOAD_FACTOR * (1 + sum(gates[address].load for address in order)) / len(order)
    for address in order:
        gate = gates[address]
        if gate.load < int(gate.limit) or gate.load < fair:
            return address
    return order[0]
