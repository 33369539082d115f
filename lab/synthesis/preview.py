"""A leaf's preview: what the base model answers today, what the teacher would write, and what would be
rejected.

The same flows, checks and judge as the full run, at a few rows, so that everybody sees on the pull request
whether there is anything to teach and whether the documents yield good questions. The digest covers
everything but the time it took: an approval binds to it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lab.config import RepositoryConfig
from lab.contracts import digest, require
from lab.synthesis.endpoints import Endpoint
from lab.synthesis.engine import Engine, RequestError
from lab.synthesis.flow import Flow
from lab.synthesis.flow_files import flows_of
from lab.synthesis.heldout import split
from lab.synthesis.items import Grade, Made, Rejection, Task
from lab.synthesis.leaf import make_task, synthesize
from lab.synthesis.text import content_words, harmless, shared
from lab.taxonomy.benchmarks import Items as Benchmark
from lab.taxonomy.chunks import Chunk
from lab.taxonomy.model import Kind, Leaf

CORRECT_SHARE = 0.6
RULE = (
    f"An answer counts as correct when it holds at least {CORRECT_SHARE:.0%} of the expected answer's "
    "content words that are not already in the question."
)

Progress = Callable[[str, str], None]


@dataclass(frozen=True)
class PreviewSample:
    leaf: str
    question: str
    answer: str
    grade: float | None
    passed: bool
    source: str
    checks: tuple[Grade, ...]


@dataclass(frozen=True)
class BaseAnswer:
    leaf: str
    question: str
    expected: str
    answered: str
    correct: bool


@dataclass(frozen=True)
class LeafPreview:
    """`requested` counts the tries; every one of them is in `samples` or in `rejected`."""

    leaf: str
    kind: str
    base: tuple[BaseAnswer, ...]
    samples: tuple[PreviewSample, ...]
    rejected: tuple[Rejection, ...]
    requested: int
    seconds: float


@dataclass(frozen=True)
class Preview:
    """`teacher`, `judge` and `base` are model@revision."""

    leaves: tuple[LeafPreview, ...]
    digest: str
    teacher: str
    judge: str
    base: str

    def to_json(self) -> dict[str, Any]:
        """The value that `schemas/preview.json` describes."""
        return {
            **_content(self.leaves, self.teacher, self.judge, self.base),
            "digest": self.digest,
            "rule": RULE,
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Preview:
        """Raises `ContractError` when the value does not fit the schema."""
        require("preview", value, "preview")
        leaves = tuple(
            LeafPreview(
                leaf=leaf["leaf"],
                kind=leaf["kind"],
                base=tuple(BaseAnswer(**answer) for answer in leaf["base"]),
                samples=tuple(
                    PreviewSample(**{**one, "checks": tuple(Grade(**check) for check in one["checks"])})
                    for one in leaf["samples"]
                ),
                rejected=tuple(Rejection.from_json(one) for one in leaf["rejected"]),
                requested=leaf["requested"],
                seconds=leaf["seconds"],
            )
            for leaf in value["leaves"]
        )
        return Preview(leaves, value["digest"], value["teacher"], value["judge"], value["base"])


def _content(leaves: Sequence[LeafPreview], teacher: str, judge: str, base: str) -> dict[str, Any]:
    return {
        "leaves": [
            {
                **asdict(leaf),
                "base": [asdict(answer) for answer in leaf.base],
                "samples": [
                    {**asdict(one), "checks": [check.to_json() for check in one.checks]}
                    for one in leaf.samples
                ],
                "rejected": [one.to_json() for one in leaf.rejected],
            }
            for leaf in leaves
        ],
        "teacher": teacher,
        "judge": judge,
        "base": base,
    }


def content_digest(leaves: Sequence[LeafPreview], teacher: str, judge: str, base: str) -> str:
    """The digest of what a preview shows; how long it took is not part of it."""
    value = _content(leaves, teacher, judge, base)
    for leaf in value["leaves"]:
        del leaf["seconds"]
    return digest(value)


def is_correct(question: str, expected: str, answered: str) -> bool:
    """The rule stated in `RULE`. An expected answer with nothing new in it has to come whole."""
    wanted = content_words(expected) - content_words(question)
    return shared(wanted or content_words(expected), content_words(answered)) >= CORRECT_SHARE


async def preview(
    leaves: Sequence[Leaf],
    documents: Mapping[str, Sequence[Chunk]],
    config: RepositoryConfig,
    engine: Engine,
    endpoints: Mapping[str, Endpoint],
    progress: Progress = lambda leaf, what: None,
    flows: Mapping[Kind, Flow] | None = None,
    benchmark: Benchmark | None = None,
) -> Preview:
    """Preview the leaves, with `documents[leaf.path]` as their chunks, by the `flows` of the repository's
    default branch (default: those that ship), clear of its `benchmark`. Raises `EndpointError`, `FlowError`.
    """
    flows = flows or flows_of(config, None)
    made: list[LeafPreview] = []
    for leaf in leaves:
        started = time.monotonic()
        parted = split(leaf, config.generate.heldout_share, config.generate.seed)
        tries = config.preview.samples
        flow = flows[leaf.kind]
        # A flow whose tries branch needs fewer of them for as many rows, but not all from one place.
        few = max(math.ceil(tries / flow.branches), min(tries, 2))
        chunks = documents.get(leaf.path, ())
        task = make_task(leaf, parted, chunks, rows=tries, tries=few, benchmark=benchmark)
        base, result = await asyncio.gather(
            _base_answers(task, config.preview.seeds, engine, endpoints["student"], progress),
            synthesize(task, engine, endpoints, progress, flow=flow),
        )
        made.append(
            LeafPreview(
                leaf=leaf.path,
                kind=leaf.kind,
                base=tuple(base),
                samples=tuple(_sample(row) for row in result.kept),
                rejected=result.rejected,
                requested=result.asked,
                seconds=round(time.monotonic() - started, 2),
            )
        )
    labels = [endpoints[role].label for role in ("teacher", "judge", "student")]
    return Preview(tuple(made), content_digest(made, *labels), *labels)


def _sample(row: Made) -> PreviewSample:
    return PreviewSample(row.leaf, row.question, row.answer, row.judged, True, row.source, row.grades)


async def _base_answers(
    task: Task, count: int, engine: Engine, student: Endpoint, progress: Progress
) -> list[BaseAnswer]:
    """What the base model says to questions from as many different seeds as can be. Temperature 0; a
    request that fails leaves its question out."""
    by_seed = sorted(
        range(len(task.examples)),
        key=lambda index: (
            sum(one.seed == task.examples[index].seed for one in task.examples[:index]),
            index,
        ),
    )

    async def one(index: int) -> BaseAnswer | None:
        example = task.examples[index]
        grounded = task.kind == "grounded_skill" and example.context
        asked = f"{example.context}\n\n{example.question}" if grounded else example.question
        try:
            answer = await engine.chat(
                student,
                [{"role": "user", "content": harmless(asked)}],
                {"max_tokens": 48, "temperature": 0, "seed": 1},
            )
        except RequestError:
            progress(task.leaf, "base-failed")
            return None
        progress(task.leaf, "base")
        text = harmless(answer.text)
        correct = is_correct(example.question, example.answer, text)
        return BaseAnswer(task.leaf, example.question, example.answer, text, correct)

    found = await asyncio.gather(*(one(index) for index in by_seed[:count]))
    return [answer for answer in found if answer is not None]
