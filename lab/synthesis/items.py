"""The values that synthesis passes around: what is asked for, what was made, what was rejected and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from lab.contracts import digest
from lab.taxonomy.benchmarks import Items as Benchmark
from lab.taxonomy.chunks import Chunk
from lab.taxonomy.model import Kind

if TYPE_CHECKING:
    from lab.synthesis.flow import Output


@dataclass(frozen=True)
class Example:
    """A seed pair that the teacher may see. `seed` is the index of its seed example in the leaf."""

    seed: int
    question: str
    answer: str
    context: str | None = None


@dataclass(frozen=True)
class HeldOut:
    """An item of the benchmark (schema `heldout.json`): the teacher never sees it, the student is never tuned
    on it. `key` is the index of the answer among all four choices, whichever letters occur elsewhere."""

    leaf: str
    question: str
    answer: str
    choices: tuple[str, ...]
    key: int
    context: str | None
    seed: int

    @property
    def id(self) -> str:
        """Grounded skills may ask the same of several contexts and want the same answer."""
        told = [self.leaf, self.question, self.answer]
        return digest(told if self.context is None else [*told, self.context])

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, **asdict(self), "choices": list(self.choices)}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> HeldOut:
        names = ("leaf", "question", "answer", "key", "context", "seed")
        return HeldOut(choices=tuple(value["choices"]), **{name: value[name] for name in names})


@dataclass(frozen=True)
class Task:
    """One leaf to synthesize for: `rows` rows, written in the style of `examples`, never near `heldout`.

    `tries` sets how often the teacher is asked (a preview); by default the flow says how many tries a row
    takes. `strangers` are chunks of other leaves, for distractors; `benchmark` the items that no row may
    hold.
    """

    leaf: str
    kind: Kind
    leaf_digest: str
    description: str
    examples: tuple[Example, ...]
    passages: tuple[Chunk, ...]
    heldout: tuple[HeldOut, ...]
    rows: int
    tries: int | None = None
    commit: str = ""
    pull_requests: tuple[int, ...] = ()
    strangers: tuple[Chunk, ...] = ()
    benchmark: Benchmark | None = field(default=None, compare=False, repr=False)

    @property
    def foundational(self) -> bool:
        """Whether the leaf is a foundational skill (mathematics, coding, language, reasoning), which the
        method teaches together with long knowledge, before the compositional skills (LAB, section 3).
        """
        return self.kind != "knowledge" and self.leaf.startswith("foundational_skills/")


@dataclass(frozen=True)
class Grade:
    """The outcome of one check or judge. `score` is a judge's number between 0 and 1, or a check's
    measure.
    """

    check: str
    score: float | None
    passed: bool
    detail: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Rejection:
    """A row that was made and not kept (schema `rejection.json`)."""

    leaf: str
    seed: int | None
    chunk: str | None
    stage: str
    reason: str
    score: float | None
    text: str
    requests: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "requests": list(self.requests)}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Rejection:
        return Rejection(**{**value, "requests": tuple(value["requests"])})


@dataclass(frozen=True)
class Made:
    """A row that ran through its whole flow; with an `output`, a row made on the way (an auxiliary task).
    `source` is the sentence, chunk or context that the answer rests on; `extra` every text that the row held.
    """

    leaf: str
    seed: int | None
    chunk: str | None
    document: str | None
    question: str
    answer: str
    context: str | None
    source: str
    grades: tuple[Grade, ...]
    requests: tuple[str, ...]
    order: tuple[int, ...]
    extra: Mapping[str, str] = field(default_factory=dict)
    output: Output | None = None

    @property
    def judged(self) -> float | None:
        """The judge's grade, where the flow has a judge."""
        found = [
            grade.score
            for grade in self.grades
            if grade.check.startswith("judge") and grade.score is not None
        ]
        return min(found) if found else None
