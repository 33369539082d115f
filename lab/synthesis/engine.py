"""The request engine: every question to a model goes through here, once.

Answers are stored under a digest of (model, revision, messages, parameters with the seed; see `answers.py`),
so that a second run, or a run after `kill -9`, sends only what was never answered. Retries live here and
nowhere else (two layers of retries double the requests under load). `aiohttp`, because it costs 0.2 ms a
request where httpx costs 12 ms at 256 in flight (measured).

Errors come in two sizes. `RequestError`: this one request cannot be answered; its row is lost and no other.
`EndpointError`: the endpoint is down or refuses us; going on would lose every row, so the run stops at once.
An endpoint with several addresses is down when all of them are.

    async with Engine(Path("answers.sqlite"), in_flight=64) as engine:
        answer = await engine.chat(endpoint, messages, {"max_tokens": 64, "n": 4}, affinity=document)
        async for number, answer in engine.stream(requests): ...
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

from lab.synthesis.answers import Answer, AnswerStore, Store, StoreError
from lab.synthesis.endpoints import Endpoint, EndpointError
from lab.synthesis.gates import Gate, pick, preference
from lab.synthesis.telemetry import Counters, Telemetry
from lab.synthesis.wire import (
    OPTIONAL,
    AgainError,
    Messages,
    RequestError,
    body,
    check_status,
    droppable,
    read_answer,
    request_key,
)

__all__ = [
    "Answer",
    "Counters",
    "Engine",
    "EngineSettings",
    "Messages",
    "Request",
    "RequestError",
    "StoreError",
    "request_key",
]

_ANSWER_LIMIT = 8 * 1024 * 1024
_READ_AHEAD = 512
"""Requests that `stream` looks up in the store at once."""
_SAMPLE_STEP = 100_003
"""Distance between the seeds of samples that are asked for one by one: a prime, far from other steps."""
_HEADERS = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "treewright"}


@dataclass(frozen=True)
class EngineSettings:
    """`service_seconds` runs from sending to the last byte, never while a request waits for its turn: a
    slow but healthy endpoint must not lose rows (a 300 s queue timeout did exactly that in
    DataDesigner#551). `attempts` counts failures; an endpoint that says "too many" (429, 503) is not
    failing, and is given up on when it has answered nobody for `patience_seconds`.
    """

    attempts: int = 5
    backoff_seconds: float = 0.5
    backoff_limit_seconds: float = 20.0
    retry_after_limit_seconds: float = 120.0
    patience_seconds: float = 600.0
    connect_seconds: float = 10.0
    service_seconds: float = 300.0
    down_seconds: float = 30.0


@dataclass(frozen=True)
class Request:
    """One chat request. Requests of one `affinity` (a document) go to one address while it has room."""

    endpoint: Endpoint
    messages: Messages
    params: Mapping[str, Any]
    affinity: str | None = None


@dataclass
class _Address:
    url: str
    gate: Gate
    down_since: float = 0.0
    down: EndpointError | None = None
    answered: float = field(default_factory=time.monotonic)
    unknown: set[tuple[str, str]] = field(default_factory=set)

    def lacks(self, params: Mapping[str, Any]) -> frozenset[str]:
        """The parameters of this request that the server is known not to take."""
        if not self.unknown:
            return frozenset()
        return frozenset(name for name in OPTIONAL if (name, _label(params, name)) in self.unknown)

    def learn(self, params: Mapping[str, Any], names: frozenset[str]) -> None:
        self.unknown.update((name, _label(params, name)) for name in names)


def _label(params: Mapping[str, Any], name: str) -> str:
    """A server may know JSON Schema and not this one schema, so what is learnt is learnt by its name."""
    value = params.get(name)
    schema = value.get("json_schema") if isinstance(value, Mapping) else None
    return str(schema.get("name", "")) if isinstance(schema, Mapping) else ""


class Engine:
    """Asks models, at most `in_flight` requests per address at a time. Use as an async context manager."""

    def __init__(
        self, store: Path | Store, in_flight: int = 8, settings: EngineSettings = EngineSettings()
    ) -> None:
        self.counters = Counters()
        self.telemetry = Telemetry()
        self._in_flight = in_flight
        self._settings = settings
        self._store: Store = AnswerStore(store) if isinstance(store, Path) else store
        self._addresses: dict[str, _Address] = {}
        self._gates: dict[str, Gate] = {}
        self._pending: dict[str, asyncio.Future[Answer]] = {}
        self._session: aiohttp.ClientSession | None = None
        self._jitter = random.Random()  # noqa: S311 (spreads retries; enters no result)

    async def __aenter__(self) -> Engine:
        # One session for the engine's life. Connections are bounded by the gates, so the pool is not.
        connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, keepalive_timeout=60)
        timeout = aiohttp.ClientTimeout(
            total=self._settings.service_seconds, sock_connect=self._settings.connect_seconds
        )
        # trust_env stays off: an operator's proxy must not see prompts meant for a local endpoint.
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=timeout, headers=_HEADERS, cookie_jar=aiohttp.DummyCookieJar()
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
        await self._store.close()

    async def chat(
        self,
        endpoint: Endpoint,
        messages: Messages,
        params: Mapping[str, Any],
        affinity: str | None = None,
    ) -> Answer:
        """The answer to one chat request, from the store when it is known.

        `params["n"]` asks for several samples at once (`Answer.texts`); a server that gives fewer is asked
        for the rest one by one. A server that refuses `response_format` is asked without it from then on.
        Two rows that ask the same at the same time share one request. Raises `RequestError`,
        `EndpointError`, `StoreError`.
        """
        key = request_key(endpoint, messages, params)
        stored = await self._store.get(key)
        if stored is not None:
            self.counters.cached += 1
            return stored
        return await self._fresh(endpoint, messages, params, key, affinity)

    async def stream(
        self, requests: Iterable[Request], window: int | None = None
    ) -> AsyncIterator[tuple[int, Answer | RequestError]]:
        """Every request with its number and its outcome, as they come. Reads `requests` as it goes and holds
        at most `window` (default: twice what may be in flight) unanswered ones, so any number of them takes
        the same memory. Raises `EndpointError`, `StoreError`.
        """
        window = window or 2 * self._in_flight
        numbered = enumerate(requests)
        under_way: set[asyncio.Task[None]] = set()
        ready: asyncio.Queue[tuple[int, Answer | RequestError | BaseException]] = asyncio.Queue()

        async def ask(number: int, one: Request, key: str, again: bool) -> None:
            try:
                if again:  # the same request came before it, and may be answered by now
                    made = await self.chat(one.endpoint, one.messages, one.params, one.affinity)
                else:
                    made = await self._fresh(one.endpoint, one.messages, one.params, key, one.affinity)
                ready.put_nowait((number, made))
            except BaseException as error:
                ready.put_nowait((number, error))

        outstanding = 0

        async def wait() -> tuple[int, Answer | RequestError]:
            nonlocal outstanding
            number, found = await ready.get()
            outstanding -= 1
            if isinstance(found, BaseException) and not isinstance(found, RequestError):
                raise found
            return number, found

        try:
            while block := [
                (number, one, request_key(one.endpoint, one.messages, one.params))
                for number, one in islice(numbered, _READ_AHEAD)
            ]:
                known = await self._store.get_many([key for _, _, key in block])
                begun: set[str] = set()
                for number, one, key in block:
                    answer = known.get(key)
                    if answer is not None:
                        self.counters.cached += 1
                        yield number, answer
                        continue
                    while outstanding >= window:
                        yield await wait()
                    task = asyncio.create_task(ask(number, one, key, key in begun))
                    begun.add(key)
                    outstanding += 1
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
            while outstanding:
                yield await wait()
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _fresh(
        self,
        endpoint: Endpoint,
        messages: Messages,
        params: Mapping[str, Any],
        key: str,
        affinity: str | None,
    ) -> Answer:
        """Ask for what is not in the store, unless somebody is asking for it already."""
        while (pending := self._pending.get(key)) is not None:
            try:
                return await asyncio.shield(pending)
            except asyncio.CancelledError:
                me = asyncio.current_task()
                if not pending.cancelled() or (me is not None and me.cancelling()):
                    raise
                # Whoever was asking was cancelled, and not this row: it asks for itself.
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._pending[key] = future
        try:
            answer = await self._ask(endpoint, messages, params, key, affinity)
            wanted = params.get("n", 1)
            if len(answer.texts) < wanted:
                answer = await self._complete(endpoint, messages, params, answer, wanted, affinity)
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

    async def _complete(
        self,
        endpoint: Endpoint,
        messages: Messages,
        params: Mapping[str, Any],
        first: Answer,
        wanted: int,
        affinity: str | None,
    ) -> Answer:
        """The missing samples of a server without `n`, each at a seed of its own and stored by itself."""
        alone = {name: value for name, value in params.items() if name != "n"}
        have = len(first.texts)

        def at(step: int) -> dict[str, Any]:
            return {**alone, "seed": int(alone.get("seed", 0)) + _SAMPLE_STEP * step}

        asked = (self.chat(endpoint, messages, at(step), affinity) for step in range(have, wanted))
        others = await asyncio.gather(*asked, return_exceptions=True)
        errors = [one for one in others if isinstance(one, BaseException)]
        if errors:  # the graver one; what was answered is stored under its own seed
            raise next((one for one in errors if not isinstance(one, RequestError)), errors[0])
        more = [one for one in others if isinstance(one, Answer)]
        return replace(
            first,
            more=first.more + tuple(one.text for one in more),
            tokens=first.tokens + sum(one.tokens for one in more),
        )

    async def _ask(
        self,
        endpoint: Endpoint,
        messages: Messages,
        params: Mapping[str, Any],
        key: str,
        affinity: str | None,
    ) -> Answer:
        settings = self._settings
        attempt = overloads = 0
        patient_since = 0.0
        while True:
            address = self._choose(endpoint, affinity if affinity is not None else key)
            await address.gate.enter()
            sent = time.monotonic()
            try:
                if address.down is not None and sent - address.down_since < settings.down_seconds:
                    continue  # found dead while this row waited: choose again, or share the error
                answer = await self._reach(address, endpoint, messages, params, key)
                address.gate.succeeded()
                address.answered = time.monotonic()
                return answer
            except EndpointError as error:
                address.down_since, address.down = time.monotonic(), error
                if len(endpoint.addresses) == 1 or not isinstance(error, _UnreachableError):
                    raise
                continue  # fail over
            except AgainError as error:
                last = error
                if error.overloaded:
                    self.counters.overloaded += 1
                    address.gate.overloaded(sent, self._polite(error.after))
            finally:
                address.gate.leave()
            if last.overloaded:
                overloads += 1
                patient_since = patient_since or sent
                if time.monotonic() - max(address.answered, patient_since) >= settings.patience_seconds:
                    raise EndpointError(self._gave_up(endpoint, address, last))
                pause = self._pause(overloads, self._polite(last.after))
            else:
                attempt += 1
                if attempt >= settings.attempts:
                    break
                pause = self._pause(attempt, self._polite(last.after))
            self.counters.retried += 1
            await asyncio.sleep(pause)
        self.counters.failed += 1
        raise RequestError(f"{address.url}: {last} (after {settings.attempts} attempts)")

    def _choose(self, endpoint: Endpoint, affinity: str) -> _Address:
        """The address for this request. Raises the endpoint's error when no address is up; a later try
        finds out for itself.
        """
        addresses = endpoint.addresses
        now = time.monotonic()
        for url in addresses:
            if url not in self._addresses:
                self._gates[url] = Gate(self._in_flight)
                self._addresses[url] = _Address(url, self._gates[url])
        if len(addresses) == 1:
            found = self._addresses[addresses[0]]
            if found.down is not None and now - found.down_since < self._settings.down_seconds:
                raise EndpointError(str(found.down))
            return found
        up = [
            url
            for url in preference(affinity, addresses)
            if (one := self._addresses[url]).down is None
            or now - one.down_since >= self._settings.down_seconds
        ]
        if not up:
            raise EndpointError("\n".join(str(self._addresses[url].down) for url in addresses))
        return self._addresses[pick(up, self._gates)]

    async def _reach(
        self,
        address: _Address,
        endpoint: Endpoint,
        messages: Messages,
        params: Mapping[str, Any],
        key: str,
    ) -> Answer:
        """One attempt; where nobody answers at all, all of them at once, in the caller's turn: while an
        endpoint is away, the other rows must not start tries of their own. What a server refuses because
        it does not know an optional parameter is asked again without it, and that is remembered once it
        helped.
        """
        settings = self._settings
        without = known_without = address.lacks(params)
        refused: RequestError | None = None
        attempt = 1
        while True:
            try:
                answer = await self._send(address.url, endpoint, messages, params, key, without)
                address.down = None
                address.learn(params, without - known_without)
                if len(answer.texts) < params.get("n", 1):
                    address.learn(params, frozenset({"n"}))
                return answer
            except RequestError as error:
                refused = refused or error
                unknown = droppable(error.status, params, without)
                if unknown is None:
                    raise refused from None
                without = without | {unknown}
            except EndpointError as error:
                if refused is not None:
                    raise refused from error
                raise
            except AgainError as error:
                if not error.unreachable:
                    raise
                if attempt >= settings.attempts:
                    self.counters.failed += 1
                    raise _UnreachableError(
                        f"The {endpoint.role}'s endpoint {address.url} cannot be reached ({error}). "
                        f"Start it, or set {endpoint.variable} to one that runs (see `treewright serve`)."
                    ) from error
                self.counters.retried += 1
                await asyncio.sleep(self._pause(attempt, None))
                attempt += 1

    def _gave_up(self, endpoint: Endpoint, address: _Address, last: AgainError) -> str:
        return (
            f"The {endpoint.role}'s endpoint {address.url} has answered nothing but {last} for "
            f"{self._settings.patience_seconds:.0f} s. See to its load, or run again later: what was "
            "answered is kept."
        )

    def _polite(self, asked: float | None) -> float | None:
        return None if asked is None else min(asked, self._settings.retry_after_limit_seconds)

    def _pause(self, attempt: int, asked: float | None) -> float:
        wait = self._settings.backoff_seconds * 2.0 ** min(attempt - 1, 16) * self._jitter.uniform(0.75, 1.25)
        return max(min(wait, self._settings.backoff_limit_seconds), asked or 0.0)

    async def _send(
        self,
        url: str,
        endpoint: Endpoint,
        messages: Messages,
        params: Mapping[str, Any],
        key: str,
        without: frozenset[str],
    ) -> Answer:
        assert self._session is not None, "use `async with Engine(...)`"  # noqa: S101 (a programmer's slip)
        headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else None
        counters, series = self.counters, self.telemetry.of(endpoint.model, url)
        counters.sent += 1
        counters.in_flight += 1
        counters.peak_in_flight = max(counters.peak_in_flight, counters.in_flight)
        started = time.monotonic()
        try:
            async with self._session.post(
                f"{url}/chat/completions",
                data=body(endpoint, messages, params, without),
                headers=headers,
                allow_redirects=False,
            ) as response:
                raw = await _limited(response)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            series.error("unreachable")
            why = getattr(error, "os_error", None) or error
            raise AgainError(str(why), unreachable=True) from error
        except TimeoutError as error:
            series.error("timeout")
            raise AgainError(f"no answer within {time.monotonic() - started:.0f} s") from error
        except aiohttp.ClientError as error:
            series.error("connection_lost")
            raise AgainError(f"connection lost: {type(error).__name__}") from error
        finally:
            counters.in_flight -= 1
        if response.status != 200:
            series.error(str(response.status))
        check_status(endpoint, url, response.status, response.headers.get("Retry-After"), raw)
        answer = read_answer(raw, key)
        counters.tokens += answer.tokens
        counters.prompt_tokens += answer.prompt_tokens
        series.seconds.add(time.monotonic() - started)
        series.completion.add(answer.tokens)
        series.prompt.add(answer.prompt_tokens)
        return answer


class _UnreachableError(EndpointError):
    """Nobody listens at this address; another address of the endpoint may answer."""


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
