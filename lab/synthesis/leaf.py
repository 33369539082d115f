"""One leaf from its plan to its samples: the same path for the full run and for a preview."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lab.synthesis.checks import Values, clear_of_heldout
from lab.synthesis.endpoints import Endpoint
from lab.synthesis.engine import Engine
from lab.synthesis.flow import Flow, load_flow
from lab.synthesis.heldout import Split
from lab.synthesis.items import Made, Rejection, Task
from lab.synthesis.run import Tick, run_flow
from lab.synthesis.samples import Sample, choose, samples
from lab.synthesis.units import units
from lab.taxonomy.benchmarks import Items as Benchmark
from lab.taxonomy.chunks import Chunk
from lab.taxonomy.model import Leaf


@dataclass(frozen=True)
class LeafResult:
    """`kept` are the finished rows, `samples` the training rows made of them (and of the seeds). `why` says
    why there are fewer rows than were asked for, where there are fewer.
    """

    task: Task
    flow: Flow
    kept: tuple[Made, ...]
    rejected: tuple[Rejection, ...]
    samples: tuple[Sample, ...]
    asked: int
    rounds: int = 1
    why: str | None = None

    @property
    def delivered(self) -> int:
        """Questions or tasks that are trained on, of the `task.rows` asked for: a row counts once,
        whether it is in one training set or in several; a rephrased one counts too. Seeds come on top.
        """
        generated = [one for one in self.samples if one["lineage"]["flow"] == self.flow.name]
        # Rows of knowledge come with several contexts or none; a skill's context is part of the task.
        grounded = self.task.kind == "grounded_skill"
        taught = {(one["question"], one["context"] if grounded else None) for one in generated}
        rephrased = sum(grade["check"] == "rephrased" for one in generated for grade in one["grades"])
        own = sum((row.question, row.context if grounded else None) in taught for row in self.kept)
        return int(own + rephrased)


def make_task(
    leaf: Leaf,
    parted: Split,
    chunks: Sequence[Chunk],
    rows: int,
    tries: int | None = None,
    commit: str = "",
    pull_requests: Sequence[int] = (),
    benchmark: Benchmark | None = None,
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
        benchmark=benchmark,
    )


async def synthesize(
    task: Task,
    engine: Engine,
    endpoints: Mapping[str, Endpoint],
    tick: Tick = lambda leaf, what: None,
    gate: asyncio.Semaphore | None = None,
    flow: Flow | None = None,
) -> LeafResult:
    """Run the flow (default: the compact one of the leaf's kind), again while rows are wanted and the yield
    allows it. Raises `EndpointError` when an endpoint is down; rows fail by themselves.

    A round is decided by what all rows of the one before came to, never by which answer came first, so the
    same answers give the same rows. Other leaves keep the endpoints busy meanwhile.
    """
    flow = flow or load_flow(task.kind)
    made: list[Made] = []
    rejected: list[Rejection] = []
    asked = tried = rounds = 0
    kept: list[Made] = []
    late: list[Rejection] = []
    why: str | None = None
    tries: int | None = None
    while task.rows > 0 and (tries is None or tries > 0):
        chosen = units(flow, task, tried, tries)
        if not chosen:
            why = "there is nothing to ask about: its documents or seeds gave no text"
            break
        outcome = await run_flow(flow, task, engine, endpoints, tick, gate, chosen)
        rounds += 1
        tried += sum(len(unit.values["ways"]) for unit in chosen)
        asked += outcome.asked
        made += outcome.made
        rejected += outcome.rejected
        before = _counted(kept)
        kept, late = choose(flow, task, made)
        missing = task.rows - _counted(kept)
        gained = _counted(kept) - before
        if missing <= 0:
            break
        if rounds >= flow.rounds or task.tries is not None:
            why = f"after {rounds} of {flow.rounds} rounds"
            break
        if gained < flow.give_up_below * max(outcome.asked, 1):
            why = f"stopped early: of {outcome.asked} rows of round {rounds}, {gained} were kept"
            break
        # As many tries as the yield so far says that the missing rows take, and never a flood.
        tries = min(math.ceil(missing * tried / max(_counted(kept), 1)), 2 * tried)
    rows, contaminated = samples(flow, task, kept, endpoints)
    rows, leaked = _clear(task, kept, rows)
    result = LeafResult(
        task,
        flow,
        tuple(row for row in kept if row.output is None),
        (*rejected, *late, *contaminated, *leaked),
        tuple(rows),
        asked + len(contaminated) + len(leaked),
        rounds,
    )
    short = task.rows - result.delivered
    return replace(result, why=_why(result, why) if short > 0 else None)


def _clear(task: Task, kept: Sequence[Made], rows: Sequence[Sample]) -> tuple[list[Sample], list[Rejection]]:
    """The training rows that hold no held-out item, whatever question or context a flow made them of on the
    way; of two that are the same row the last, which is the one that a person wrote."""
    known = {(row.question, row.context) for row in kept if row.output is None}  # the rows' own floor
    last = {row["id"]: number for number, row in enumerate(rows)}
    clear: list[Sample] = []
    leaked: list[Rejection] = []
    for number, row in enumerate(rows):
        source = row["lineage"]
        if last[row["id"]] != number:
            continue
        grade = None
        if source["teacher"] is not None and (row["question"], row["context"]) not in known:
            grade = clear_of_heldout(
                Values(row["question"], row["answer"], context=row["context"], heldout=task.heldout)
            )
        if grade is None or grade.passed:
            clear.append(row)
            continue
        text = f"{row['question']} → {row['answer']} [{grade.detail}]"
        entry = (task.leaf, source["seed"], source["chunk"], "floor", grade.check, grade.score, text)
        leaked.append(Rejection(*entry, tuple(source["requests"])))
    return clear, leaked


def _counted(kept: Sequence[Made]) -> int:
    return sum(row.output is None for row in kept)


def _why(result: LeafResult, why: str | None) -> str:
    """The reasons, the commonest first."""
    reasons = Counter(one.reason for one in result.rejected).most_common(3)
    told = ", ".join(f"{count} {reason}" for reason, count in reasons)
    said = f"{result.delivered} of {result.task.rows} rows, {why or 'the rest was rejected'}"
    return f"{said} ({told})" if told else said
