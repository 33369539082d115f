"""The request engine: every question to a model goes through here, once.

Answers are stored on disk under a digest of (model, revision, messages, parameters with the seed), so that a
second run, or a run after `kill -9`, sends only what was never answered. Retries live here and nowhere else
(two layers of retries double the requests under load). `aiohttp`, because it costs 0.2 ms a request where
httpx costs 12 ms at 256 in flight (measured).

Errors come in two sizes. `RequestError`: this one request cannot be answered; its row is lost and no other.
`EndpointError`: the endpoint is down or refuses us; going on would lose every row, so the run stops at once.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

from lab.contracts import canonical, digest
from lab.synthesis.endpoints import Endpoint, EndpointError

Messages = Sequence[Mapping[str, str]]

_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_REFUSED = frozenset({401, 402, 403, 404, 405})
_ANSWER_LIMIT = 8 * 1024 * 1024


class RequestError(RuntimeError):
    """One request cannot be answered: refused as invalid, or failed at every attempt."""


@dataclass(frozen=True)
class EngineSettings:
    """`service_seconds` runs from sending to the last byte, never while a request waits for its turn: a
    slow but healthy endpoint must not lose rows (a 300 s queue timeout did exactly that in
    DataDesigner#551)."""

    attempts: int = 5
    backoff_seconds: float = 0.5
    backoff_limit_seconds: float = 20.0
    connect_seconds: float = 10.0
    service_seconds: float = 300.0
    down_seconds: float = 30.0


@dataclass(frozen=True)
class Answer:
    """`likelihoods` maps the most likely first tokens (stripped, lower case) to probabilities, when asked
    for by `logprobs`; empty otherwise. `tokens` are completion tokens as the server counts them."""

    text: str
    key: str
    cached: bool
    tokens: int
    likelihoods: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Counters:
    """What this engine did: requests sent over the wire, answers from the store, attempts that were
    repeated.
    """

    sent: int = 0
    cached: int = 0
    retried: int = 0
    failed: int = 0
    tokens: int = 0
    in_flight: int = 0
    peak_in_flight: int = 0


class _AgainError(Exception):
    """This attempt failed in a way that another may not. `after`: seconds that the server asked us to
    wait.
    """

    def __init__(self, why: str, after: float | None = None, unreachable: bool = False) -> None:
        super().__init__(why)
        self.after = after
        self.unreachable = unreachable


class AnswerStore:
    """Answers by key in one SQLite file (WAL): each is durable against a killed process once `put`
    returns.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None, timeout=30)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS answers"
            " (key TEXT PRIMARY KEY, text TEXT NOT NULL, tokens INTEGER NOT NULL, likelihoods TEXT NOT NULL)"
        )

    def get(self, key: str) -> Answer | None:
        query = "SELECT text, tokens, likelihoods FROM answers WHERE key = ?"
        row = self._db.execute(query, (key,)).fetchone()
        return Answer(row[0], key, True, row[1], json.loads(row[2])) if row else None

    def put(self, answer: Answer) -> None:
        values = (answer.key, answer.text, answer.tokens, canonical(dict(answer.likelihoods)).decode())
        self._db.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?)", values)

    def close(self) -> None:
        self._db.close()


def request_key(endpoint: Endpoint, messages: Messages, params: Mapping[str, Any]) -> str:
    """The identity of a request. The address is not part of it: the same model may move."""
    return digest(
        {
            "model": endpoint.model,
            "revision": endpoint.revision,
            "messages": [dict(message) for message in messages],
            "params": dict(params),
        }
    )


class Engine:
    """Asks models, at most `in_flight` requests per endpoint address at a time. Use as an async context
    manager.
    """

    def __init__(self, store: Path, in_flight: int = 8, settings: EngineSettings = EngineSettings()) -> None:
        self.counters = Counters()
        self._in_flight = in_flight
        self._settings = settings
        self._store = AnswerStore(store)
        self._gates: dict[str, asyncio.Semaphore] = {}
        self._down: dict[str, tuple[float, EndpointError]] = {}
        self._pending: dict[str, asyncio.Future[Answer]] = {}
        self._session: aiohttp.ClientSession | None = None
        self._jitter = random.Random()  # noqa: S311 (spreads retries; enters no result)

    async def __aenter__(self) -> Engine:
        connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=60)
        # trust_env stays off: an operator's proxy must not see prompts meant for a local endpoint.
        self._session = aiohttp.ClientSession(connector=connector)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
        self._store.close()

    async def chat(self, endpoint: Endpoint, messages: Messages, params: Mapping[str, Any]) -> Answer:
        """The answer to one chat request, from the store when it is known.

        Two rows that ask the same at the same time share one request. Raises `RequestError`, `EndpointError`.
        """
        key = request_key(endpoint, messages, params)
        stored = self._store.get(key)
        if stored is not None:
            self.counters.cached += 1
            return stored
        pending = self._pending.get(key)
        if pending is not None:
            return await asyncio.shield(pending)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._pending[key] = future
        try:
            answer = await self._ask(endpoint, messages, params, key)
            self._store.put(answer)
            future.set_result(answer)
            return answer
        except BaseException as error:
            if isinstance(error, Exception):
                future.set_exception(error)
                future.exception()  # marked as seen: nobody may be waiting for it
            else:
                future.cancel()
            raise
        finally:
            del self._pending[key]

    async def _ask(
        self, endpoint: Endpoint, messages: Messages, params: Mapping[str, Any], key: str
    ) -> Answer:
        gate = self._gates.setdefault(endpoint.url, asyncio.Semaphore(self._in_flight))
        settings = self._settings
        for attempt in range(1, settings.attempts + 1):
            async with gate:
                self._raise_if_down(endpoint)
                try:
                    return await self._reach(endpoint, messages, params, key)
                except EndpointError as error:
                    self._down[endpoint.url] = (time.monotonic(), error)
                    raise
                except _AgainError as error:
                    last = error
            if attempt < settings.attempts:
                self.counters.retried += 1
                await asyncio.sleep(self._pause(attempt, last.after))
        self.counters.failed += 1
        raise RequestError(f"{endpoint.url}: {last} (after {settings.attempts} attempts)")

    async def _reach(
        self, endpoint: Endpoint, messages: Messages, params: Mapping[str, Any], key: str
    ) -> Answer:
        """One attempt; where nobody answers at all, all of them at once, in the caller's turn: while an
        endpoint is away, the other rows must not start tries of their own."""
        for attempt in range(1, self._settings.attempts + 1):
            try:
                return await self._send(endpoint, messages, params, key)
            except _AgainError as error:
                if not error.unreachable:
                    raise
                last = error
            if attempt < self._settings.attempts:
                self.counters.retried += 1
                await asyncio.sleep(self._pause(attempt, None))
        self.counters.failed += 1
        raise EndpointError(
            f"The {endpoint.role}'s endpoint {endpoint.url} cannot be reached ({last}). "
            f"Start it, or set {endpoint.variable} to one that runs (see `treewright serve`)."
        )

    def _raise_if_down(self, endpoint: Endpoint) -> None:
        """Rows that waited while the endpoint was found dead share its error; a later run finds out for
        itself.
        """
        since, error = self._down.get(endpoint.url, (0.0, None))
        if error is not None and time.monotonic() - since < self._settings.down_seconds:
            raise EndpointError(str(error))

    def _pause(self, attempt: int, asked: float | None) -> float:
        wait = self._settings.backoff_seconds * 2 ** (attempt - 1) * self._jitter.uniform(0.75, 1.25)
        return float(min(max(wait, asked or 0.0), self._settings.backoff_limit_seconds))

    async def _send(
        self, endpoint: Endpoint, messages: Messages, params: Mapping[str, Any], key: str
    ) -> Answer:
        assert self._session is not None, "use `async with Engine(...)`"  # noqa: S101 (a programmer's slip)
        settings = self._settings
        body = {"model": endpoint.model, "messages": [dict(message) for message in messages], **params}
        headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_seconds)
        counters = self.counters
        counters.sent += 1
        counters.in_flight += 1
        counters.peak_in_flight = max(counters.peak_in_flight, counters.in_flight)
        started = time.monotonic()
        try:
            async with (
                asyncio.timeout(settings.service_seconds),
                self._session.post(
                    f"{endpoint.url}/chat/completions",
                    json=body,
                    headers=headers,
                    timeout=timeout,
                    allow_redirects=False,
                ) as response,
            ):
                raw = await _limited(response)
        except TimeoutError as error:
            elapsed = time.monotonic() - started
            raise _AgainError(f"no answer within {elapsed:.0f} s") from error
        except aiohttp.ClientConnectorError as error:
            raise _AgainError(str(error.os_error or error), unreachable=True) from error
        except aiohttp.ClientError as error:
            raise _AgainError(f"connection lost: {type(error).__name__}") from error
        finally:
            counters.in_flight -= 1
        _check_status(endpoint, response.status, response.headers.get("Retry-After"), raw)
        answer = _read_answer(raw, key)
        counters.tokens += answer.tokens
        return answer


async def _limited(response: aiohttp.ClientResponse) -> bytes:
    """The body, refused beyond the limit: a broken endpoint must not fill the memory."""
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > _ANSWER_LIMIT:
            raise RequestError(f"the answer is longer than {_ANSWER_LIMIT} bytes")
        parts.append(part)
    return b"".join(parts)


def _check_status(endpoint: Endpoint, status: int, retry_after: str | None, raw: bytes) -> None:
    if status == 200:
        return
    said = raw[:300].decode("utf-8", "replace").strip()
    if status in _RETRIED:
        try:
            after = float(retry_after) if retry_after else None
        except ValueError:  # the HTTP-date form, which no model server sends
            after = None
        raise _AgainError(f"HTTP {status}: {said}", after)
    if status in _REFUSED or 300 <= status < 400:
        prefix = endpoint.variable.removesuffix("_URL")
        raise EndpointError(
            f"The {endpoint.role}'s endpoint {endpoint.url} answers HTTP {status} for the model "
            f"{endpoint.model!r}: {said} (check {prefix}_URL, {prefix}_MODEL and {prefix}_KEY)"
        )
    raise RequestError(f"{endpoint.url}: HTTP {status}: {said}")


def _read_answer(raw: bytes, key: str) -> Answer:
    """A malformed body is a failed attempt like any other: it is asked for again."""
    try:
        value = json.loads(raw)
        choice = value["choices"][0]
        text = choice["message"]["content"]
        tokens = int((value.get("usage") or {}).get("completion_tokens") or 0)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise _AgainError(f"malformed answer: {raw[:120]!r}") from error
    if not isinstance(text, str):
        raise _AgainError("malformed answer: the message has no text")
    return Answer(text, key, False, tokens, _first_token(choice))


def _first_token(choice: Mapping[str, Any]) -> dict[str, float]:
    """Probabilities of the first token's alternatives; variants of one word (`Yes`, ` yes`) are added up."""
    found: dict[str, float] = {}
    try:
        for entry in choice["logprobs"]["content"][0]["top_logprobs"]:
            word = str(entry["token"]).strip().lower()
            found[word] = round(found.get(word, 0.0) + math.exp(min(float(entry["logprob"]), 0.0)), 6)
    except (KeyError, IndexError, TypeError, ValueError):
        return {}
    return found
