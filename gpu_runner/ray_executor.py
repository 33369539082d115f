"""The executor that spreads leaves over the nodes of a Ray cluster (extra `scale`; Ray Core only).

    treewright generate --executor ray --shards 32        # RAY_ADDRESS=auto joins a running cluster

The driver cuts the plan into shards: runs of neighbouring leaves of about the same number of rows. A shard
is a Ray task; it gets everything that its rows depend on and returns them. All answers go to one keeper, an
actor on the driver's own node, which owns `work/.answers.sqlite`: nodes need no shared disk, and whether a
run was local or on Ray before, nothing is asked twice.

A node that dies takes its running shards with it; Ray starts them elsewhere and the keeper knows what they
had been answered, so only what was in flight is asked again. A shard that kills its worker again and again is
given up with the names of its leaves. Requests in flight are bounded for each address over all shards
together (`in_flight` is divided among the shards that run at once).

Ray's usage statistics and its dashboard stay off. An endpoint's key travels to the workers with the shard: a
cluster is as trusted as the machine that holds the key.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lab.synthesis.answers import Answer, AnswerFile, Row, StoreError, from_row, to_row
from lab.synthesis.endpoints import Endpoint, EndpointError
from lab.synthesis.engine import Engine
from lab.synthesis.executor import Drive, InProcess, Job, LeafRows, Summary, Take
from lab.synthesis.run import Tick

RESTARTS = 4
"""Times that a shard is started again when its node or its worker dies: enough for nodes that are taken away,
few enough for a shard that is itself the cause."""
_POLL_SECONDS = 0.25


class RayMissingError(RuntimeError):
    """The extra `scale` is not installed."""


@dataclass(frozen=True)
class Shard:
    """Everything that a worker needs. `version` is the driver's: rows of two versions are never mixed."""

    jobs: tuple[Job, ...]
    endpoints: Mapping[str, Endpoint]
    drive: Drive
    summary: Summary
    version: str


@dataclass(frozen=True)
class Done:
    """A shard's rows by leaf, and what its engine counted. `error`: the endpoints cannot be used."""

    rows: tuple[tuple[int, LeafRows], ...]
    counters: Mapping[str, int]
    series: Sequence[Mapping[str, Any]]
    error: str = ""


def version() -> str:
    return f"treewright {importlib.metadata.version('treewright')}, python {platform.python_version()}"


def cut(jobs: Sequence[Job], shards: int) -> list[tuple[Job, ...]]:
    """At most `shards` runs of neighbouring jobs with about the same number of rows."""
    wanted = max(1, min(shards, len(jobs)))
    total = sum(max(job.size, 1) for job in jobs)
    made: list[list[Job]] = [[] for _ in range(wanted)]
    before = 0
    for job in jobs:
        made[min(before * wanted // total, wanted - 1)].append(job)
        before += max(job.size, 1)
    return [tuple(part) for part in made if part]


class RayExecutor:
    """Raises `RayMissingError` at once where Ray is not installed."""

    def __init__(self, summary: Summary, store: Path, shards: int = 0) -> None:
        # Ray reads these when it is imported; an operator's own setting wins.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError:
            raise RayMissingError(
                "`--executor ray` needs the extra `scale`: pip install 'treewright[scale]'"
            ) from None
        self._ray = ray
        self._summary, self._store, self._shards = summary, store, shards

    async def run(
        self,
        jobs: Iterable[Job],
        engine: Engine,
        endpoints: Mapping[str, Endpoint],
        drive: Drive,
        take: Take,
        tick: Tick,
    ) -> None:
        every = list(jobs)
        if not every:
            return
        started = not self._ray.is_initialized()
        if started:
            self._ray.init(include_dashboard=False, log_to_driver=False, namespace="treewright")
        try:
            await self._run(every, engine, endpoints, drive, take, tick)
        finally:
            if started:
                self._ray.shutdown()

    async def _run(
        self,
        jobs: list[Job],
        engine: Engine,
        endpoints: Mapping[str, Endpoint],
        drive: Drive,
        take: Take,
        tick: Tick,
    ) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        ray = self._ray
        processors = max(int(ray.cluster_resources().get("CPU", 1)), 1)
        parts = cut(jobs, self._shards or 2 * processors)
        at_once = max(min(len(parts), processors), 1)
        share = replace(
            drive,
            in_flight=max(drive.in_flight // at_once, 1),
            rows_in_progress=max(drive.rows_in_progress // at_once, 1),
        )
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        place = str(self._store.resolve())
        keeper = ray.remote(Keeper).options(num_cpus=0, scheduling_strategy=here).remote(place)
        work = ray.remote(run_shard).options(num_cpus=1, max_retries=RESTARTS, scheduling_strategy="SPREAD")
        shards = [Shard(part, endpoints, share, self._summary, version()) for part in parts]
        waiting = {work.remote(shard, keeper): shard for shard in shards}
        try:
            while waiting:
                ready, _ = await asyncio.to_thread(
                    ray.wait, list(waiting), num_returns=1, timeout=_POLL_SECONDS
                )
                for leaf, what in await keeper.told.remote():
                    tick(leaf, what)
                for ref in ready:
                    shard = waiting.pop(ref)
                    self._take(await _result(ray, ref, shard), engine, take)
            for leaf, what in await keeper.told.remote():
                tick(leaf, what)
        finally:
            for ref in waiting:
                ray.cancel(ref, force=True)
            ray.kill(keeper)

    def _take(self, done: Done, engine: Engine, take: Take) -> None:
        engine.counters.add(done.counters)
        engine.telemetry.merge(done.series)
        for index, rows in done.rows:
            take(index, rows)
        if done.error:
            raise EndpointError(done.error)


async def _result(ray: Any, ref: Any, shard: Shard) -> Done:
    try:
        found = await ref
    except ray.exceptions.RayTaskError as error:
        raise error.as_instanceof_cause() from None
    except ray.exceptions.RayError as error:
        leaves = ", ".join(job.task.leaf for job in shard.jobs[:5])
        more = f" and {len(shard.jobs) - 5} more" if len(shard.jobs) > 5 else ""
        raise StoreError(
            f"the shard with {leaves}{more} died {RESTARTS + 1} times ({type(error).__name__}). See Ray's "
            "logs for its worker; what was answered is kept."
        ) from error
    assert isinstance(found, Done)  # noqa: S101 (our own function returned it)
    return found


class Keeper:
    """The actor that owns the store and passes progress on to the driver."""

    def __init__(self, path: str) -> None:
        self._file = AnswerFile(Path(path))
        self._told: list[tuple[str, str]] = []

    def many(self, keys: Sequence[str]) -> list[Row]:
        return self._file.many(keys)

    def add(self, rows: Sequence[Row]) -> None:
        self._file.add(rows)

    def tell(self, events: Sequence[tuple[str, str]]) -> None:
        self._told += events

    def told(self) -> list[tuple[str, str]]:
        events, self._told = self._told, []
        return events


def run_shard(shard: Shard, keeper: Any) -> Done:
    """In a worker of any node: the shard's rows. `EndpointError` comes back as a value."""
    if shard.version != version():
        raise StoreError(
            f"the driver runs {shard.version} and this node {version()}: install the same on every node"
        )
    return asyncio.run(_shard(shard, keeper))


async def _shard(shard: Shard, keeper: Any) -> Done:
    rows: list[tuple[int, LeafRows]] = []
    store = KeptStore(keeper)
    error = ""
    engine = Engine(store, shard.drive.in_flight, shard.drive.engine)
    try:
        async with engine:
            await InProcess(shard.summary).run(
                shard.jobs,
                engine,
                shard.endpoints,
                shard.drive,
                lambda index, made: rows.append((index, made)),
                store.tell,
            )
    except EndpointError as found:
        error = str(found)
    counters = {name: value for name, value in vars(engine.counters).items() if isinstance(value, int)}
    return Done(tuple(rows), counters, engine.telemetry.to_json(), error)


class KeptStore:
    """The keeper as an engine's store: one call for everything that a turn of the event loop looks up, and
    one for everything that it brings.
    """

    def __init__(self, keeper: Any) -> None:
        self._keeper = keeper
        self._asked: dict[str, asyncio.Future[Answer | None]] = {}
        self._fresh: dict[str, Answer] = {}
        self._events: list[tuple[str, str]] = []
        self._sent: list[Any] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def get(self, key: str) -> Answer | None:
        found = self._asked.get(key)
        if found is None:
            loop = asyncio.get_running_loop()
            if not self._asked:
                loop.call_soon(self._start)
            found = self._asked[key] = loop.create_future()
        return await asyncio.shield(found)

    def _start(self) -> None:
        asked, self._asked = self._asked, {}
        task = asyncio.create_task(self._look_up(asked))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look_up(self, asked: Mapping[str, asyncio.Future[Answer | None]]) -> None:
        try:
            known = {row[0]: from_row(row) for row in await self._keeper.many.remote(list(asked))}
        except Exception as error:
            for future in asked.values():
                if not future.done():
                    future.set_exception(StoreError(f"the keeper of the answers is gone: {error}"))
            return
        for key, future in asked.items():
            if not future.done():
                future.set_result(known.get(key))

    async def get_many(self, keys: Sequence[str]) -> dict[str, Answer]:
        return {row[0]: from_row(row) for row in await self._keeper.many.remote(list(keys))}

    def put(self, answer: Answer) -> None:
        self._later()
        self._fresh[answer.key] = answer

    def tell(self, leaf: str, what: str) -> None:
        self._later()
        self._events.append((leaf, what))

    def _later(self) -> None:
        if not self._fresh and not self._events:
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        if self._fresh:
            self._sent.append(self._keeper.add.remote([to_row(answer) for answer in self._fresh.values()]))
            self._fresh.clear()
        if self._events:
            self._keeper.tell.remote(self._events)
            self._events = []
        del self._sent[:-100]  # calls of one actor are done in order: the last ones tell of all

    async def close(self) -> None:
        self._flush()
        try:
            await asyncio.gather(*self._sent)
        except Exception as error:
            raise StoreError(f"answers could not be kept: {error}") from error
