"""One leaf from its plan to its samples: the same path for the full run and for a preview."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lab.synthesis.endpoints import Endpoint
from lab.synthesis.engine import Engine
from lab.synthesis.flow import Flow, load_flow
from lab.synthesis.heldout import Split
from lab.synthesis.items import Made, Rejection, Task
from lab.synthesis.run import Tick, run_flow
from lab.synthesis.samples import Sample, choose, samples
from lab.taxonomy.chunks import Chunk
from lab.taxonomy.model import Leaf


@dataclass(frozen=True)
class LeafResult:
    """`kept` are the finished rows, `samples` the training rows made of them (and of the seeds)."""

    task: Task
    flow: Flow
    kept: tuple[Made, ...]
    rejected: tuple[Rejection, ...]
    samples: tuple[Sample, ...]
    asked: int


def make_task(
    leaf: Leaf,
    parted: Split,
    chunks: Sequence[Chunk],
    rows: int,
    tries: int | None = None,
    commit: str = "",
    pull_requests: Sequence[int] = (),
) -> Task:
    """What the flows need of a leaf: the examples that the teacher may see, and the held-out items to keep
    clear of.
    """
    return Task(
        leaf=leaf.path,
        kind=leaf.kind,
        leaf_digest=leaf.digest,
        description=leaf.task_description or leaf.document_outline or leaf.domain,
        examples=parted.examples,
        passages=tuple(chunks),
        heldout=parted.heldout,
        rows=rows,
        tries=tries,
        commit=commit,
        pull_requests=tuple(pull_requests),
    )


async def synthesize(
    task: Task,
    engine: Engine,
    endpoints: Mapping[str, Endpoint],
    tick: Tick = lambda leaf, what: None,
    gate: asyncio.Semaphore | None = None,
) -> LeafResult:
    """Run the flow of the leaf's kind. Raises `EndpointError` when an endpoint is down; rows fail by
    themselves.
    """
    flow = load_flow(task.kind)
    outcome = await run_flow(flow, task, engine, endpoints, tick, gate)
    kept, late = choose(flow, task, outcome.made)
    rows = samples(flow, task, kept, endpoints)
    return LeafResult(task, flow, tuple(kept), (*outcome.rejected, *late), tuple(rows), outcome.asked)
