"""Where leaves are synthesized: in this process, or wherever an executor of another kind sends them.

A shard is a run of leaves with everything that its rows depend on (tasks, flows, endpoints), so its rows are
a function of the shard and of the models' answers, whoever runs it and however often. Answers go into one
store, so a shard that is run again asks only for what was never answered.

Rows of one leaf share the beginning of their prompts and, mostly, their documents. Therefore leaves start in
the order of the plan, and a leaf starts only when the started ones have fewer rows left than keep the
endpoints busy: prefix caches stay warm, and memory holds a few leaves, not the plan.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from lab.synthesis.endpoints import Endpoint
from lab.synthesis.engine import Engine, EngineSettings
from lab.synthesis.flow import Flow
from lab.synthesis.items import Task
from lab.synthesis.leaf import LeafResult, synthesize
from lab.synthesis.run import Tick, first_error

READY_ROWS = 2
"""Rows of started leaves that wait for their turn, as a multiple of the rows in progress: enough that no turn
is left empty when a leaf has its last rows under way."""


@dataclass(frozen=True)
class Job:
    """One leaf of the plan. `index` is its place in the plan, `size` the rows that it will try at first."""

    index: int
    task: Task
    flow: Flow
    size: int


@dataclass(frozen=True)
class Drive:
    """How hard the endpoints are driven. None of it changes a row."""

    in_flight: int = 8
    rows_in_progress: int = 32
    engine: EngineSettings = field(default_factory=EngineSettings)


@dataclass(frozen=True)
class LeafRows:
    """What a leaf came to, as it is written: training rows, rejections and numbers, all plain JSON."""

    samples: list[Any]
    rejections: list[Any]
    numbers: Mapping[str, Any]


Summary = Callable[[LeafResult], LeafRows]
Take = Callable[[int, LeafRows], None]
"""Called with (index of the leaf, its rows) when a leaf is done, in any order."""


class Executor(Protocol):
    """Runs every job once. Raises `EndpointError` when the endpoints cannot be used."""

    async def run(
        self,
        jobs: Iterable[Job],
        engine: Engine,
        endpoints: Mapping[str, Endpoint],
        drive: Drive,
        take: Take,
        tick: Tick,
    ) -> None: ...


class InProcess:
    """Every leaf in this process, over the one engine."""

    def __init__(self, summary: Summary) -> None:
        self._summary = summary

    async def run(
        self,
        jobs: Iterable[Job],
        engine: Engine,
        endpoints: Mapping[str, Endpoint],
        drive: Drive,
        take: Take,
        tick: Tick,
    ) -> None:
        gate = asyncio.Semaphore(drive.rows_in_progress)
        left: dict[int, int] = {}
        changed = asyncio.Event()
        enough = READY_ROWS * drive.rows_in_progress

        async def one(job: Job) -> None:
            def counted(leaf: str, what: str) -> None:
                if left.get(job.index, 0) > 0:
                    left[job.index] -= 1
                changed.set()
                tick(leaf, what)

            try:
                result = await synthesize(job.task, engine, endpoints, counted, gate, job.flow)
                take(job.index, self._summary(result))
            finally:
                del left[job.index]
                changed.set()

        try:
            async with asyncio.TaskGroup() as group:
                for job in jobs:
                    while sum(left.values()) >= enough:
                        changed.clear()
                        await changed.wait()
                    left[job.index] = job.size
                    group.create_task(one(job))
        except BaseExceptionGroup as errors:
            raise first_error(errors) from None
