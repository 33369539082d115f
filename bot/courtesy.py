"""What GitHub asks of its clients: wait out rate limits, and ask conditionally for what was asked before.

Source: GitHub's REST documentation, "Best practices for using the REST API" and "Rate limits for the REST
API": honour Retry-After; at 0 requests left wait until X-RateLimit-Reset; otherwise a minute at least,
doubling. A 304 answer to If-None-Match costs nothing of the primary limit.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from github import GithubException

_A_MINUTE = 60.0
_LONGEST = 3900.0  # the primary limit is reset hourly; what is longer is a broken clock
_SLICE = 1.0


class StoppingError(BaseException):
    """The bot stops while a request waits. Not an `Exception`: no job may take it for its own failure; the
    job stays in flight and is taken up at the next start.
    """


def seconds_to_wait(
    status: int, headers: Mapping[str, Any], message: str, now: float, times: int = 0
) -> float | None:
    """How long GitHub wants us to wait after this answer; None when it is no rate limit. `times`: how often
    in a row it refused without saying for how long.
    """
    if status not in {403, 429}:
        return None
    given = {str(name).lower(): str(value) for name, value in headers.items()}
    after = given.get("retry-after", "")
    if after.isdigit():
        return min(float(after), _LONGEST)
    limited = status == 429 or "rate limit" in message.lower() or "abuse" in message.lower()
    reset = given.get("x-ratelimit-reset", "")
    if given.get("x-ratelimit-remaining") == "0" and reset.isdigit() and limited:
        return min(max(float(reset) - now, 0.0) + 1.0, _LONGEST)
    return min(_A_MINUTE * 2.0**times, _LONGEST) if limited else None


def limited_for(error: GithubException, now: float, times: int = 0) -> float | None:
    data = error.data
    message = str(data.get("message", "")) if isinstance(data, Mapping) else str(data or "")
    return seconds_to_wait(int(error.status), error.headers or {}, message, now, times)


class Gate:
    """Holds every request of one installation back while GitHub wants us to wait."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._until = 0.0

    @property
    def seconds_left(self) -> float:
        return max(0.0, self._until - time.time())

    def close_for(self, seconds: float) -> None:
        self._until = max(self._until, time.time() + seconds)

    def wait(self) -> None:
        while (left := self.seconds_left) > 0:
            if self._stop.wait(min(left, _SLICE)):
                raise StoppingError


@dataclass(frozen=True)
class Known:
    etag: str
    data: Any


class Answers:
    """Earlier answers with their ETags, the least used forgotten first. Not safe for threads by itself."""

    def __init__(self, most: int = 500) -> None:
        self._most = most
        self._known: OrderedDict[str, Known] = OrderedDict()

    @staticmethod
    def key(url: str, parameters: Mapping[str, Any] | None) -> str:
        return f"{url}?{sorted((parameters or {}).items())}"

    def get(self, key: str) -> Known | None:
        found = self._known.get(key)
        if found is not None:
            self._known.move_to_end(key)
        return found

    def put(self, key: str, headers: Mapping[str, Any], data: Any) -> None:
        etag = next((str(value) for name, value in headers.items() if str(name).lower() == "etag"), "")
        if not etag or data is None:
            return
        self._known[key] = Known(etag, data)
        self._known.move_to_end(key)
        if len(self._known) > self._most:
            self._known.popitem(last=False)
