"""The parts of a benchmark: what is asked of a model, in which order, and what each part's answers depend on.

A part is asked alone and kept alone: a new leaf makes new held-out questions and asks nothing of the public
benchmarks again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gpu_runner.benchmark import contributed, general, mt_bench, retrieval, standard
from gpu_runner.benchmark.answering import answering
from gpu_runner.benchmark.judging import Judge
from gpu_runner.benchmark.model import BenchmarkError, LoadedModel, load
from gpu_runner.benchmark.results import CHOICE, GENERAL, MT_BENCH, Answers, Item
from gpu_runner.benchmark.scoring import MAX_NEW_TOKENS, Scored
from gpu_runner.benchmark.staging import Staged, staged_sets
from lab.config import BenchmarkSettings
from lab.contracts import digest, read_lines
from lab.synthesis.engine import Engine
from lab.synthesis.items import HeldOut

CONTRIBUTED, RETRIEVAL, WRITTEN, JUDGED = "contributed", "retrieval", "written", "judged"

__all__ = ["MT_BENCH", "Part", "Session", "Sources", "read_sources", "wanted_parts"]


class Session:
    """One model's folder; the weights come into memory when a part first asks for them. `digest` names the
    model with the code, device and versions that answer for it: answers are kept under it."""

    def __init__(self, folder: Path, digest_: str) -> None:
        self.folder, self.digest = folder, digest_

    @cached_property
    def model(self) -> LoadedModel:
        return load(self.folder)

    @staticmethod
    @contextmanager
    def over(folder: Path, digest_: str) -> Iterator[Session]:
        session = Session(folder, digest_)
        try:
            yield session
        finally:
            if session.__dict__.pop("model", None) is not None:
                _release()


def _release() -> None:
    """Two models of 8B do not fit side by side: the first one goes before the second one comes."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class Sources:
    """Everything that can be asked, read from the plan and the staged folder."""

    settings: BenchmarkSettings
    general: tuple[general.ChoiceItem, ...]
    questions: Mapping[str, str]
    held_out: tuple[HeldOut, ...]
    kinds: Mapping[str, str]
    passages: Mapping[str, Sequence[retrieval.Passage]]
    staged: tuple[Staged, ...]
    mt_bench: mt_bench.Set | None

    @property
    def judged_rubrics(self) -> list[str]:
        """The rubrics that the held-out items need, where they are judged."""
        if not self.settings.judge:
            return []
        return contributed.rubrics({self.kinds[item.leaf] for item in self.held_out})

    def describe(self) -> str:
        told = [f"{len(self.general)} general and {len(self.held_out)} held-out items"]
        told += [staged.source.name for staged in self.staged]
        told += ["MT-Bench"] if self.mt_bench else []
        return ", ".join(told)


def read_sources(
    folder: Path, plan: Mapping[str, Any], settings: BenchmarkSettings, data: Path | None
) -> Sources:
    """Raises BenchmarkError with what is missing, before any model is loaded."""
    path = folder / "general.jsonl"
    rows = list(read_lines(path)) if path.is_file() else []
    changed = {leaf["path"]: leaf["kind"] for leaf in plan["leaves"] if leaf["changed"]}
    held_out = contributed.held_out(list(read_lines(folder / "heldout.jsonl", "heldout")), changed)
    staged = staged_sets(settings.standard, data)
    questions = None
    if settings.mt_bench.enabled:
        if data is None:
            raise BenchmarkError("benchmark.mt_bench needs staged questions: set TREEWRIGHT_BENCHMARK_DATA")
        questions = mt_bench.load(data / "mt_bench")
    if not rows and not held_out and not staged and questions is None:
        raise BenchmarkError(
            f"{folder}: neither general nor held-out items; add `benchmark.general` to the configuration"
        )
    passages: dict[str, Sequence[retrieval.Passage]] = {}
    if settings.retrieval:
        chunks = [row for row in read_lines(folder / "chunks.jsonl") if row["leaf"] in changed]
        passages = dict(retrieval.by_leaf(chunks, contributed.Passage))
    return Sources(
        settings,
        tuple(general.general_items(rows)),
        {row["id"]: row["question"] for row in rows},
        tuple(held_out),
        changed,
        passages,
        tuple(staged),
        questions,
    )


@dataclass(frozen=True)
class Part:
    """`identity` is the digest of everything but model and machine that the answers depend on; `ask` may use
    the folder that it is given for files of its own. `judged`: it speaks to an endpoint."""

    name: str
    title: str
    identity: str
    ask: Callable[[Session, Path], Answers]
    judged: bool = False


def wanted_parts(sources: Sources, judge: Judge | None) -> list[Part]:
    """The parts in the order in which they run: what is cheap and decides most comes first."""
    parts = []
    if sources.general:
        parts.append(_general(sources))
    if sources.held_out:
        parts.append(_contributed(sources))
    if any(sources.passages.get(item.leaf) for item in sources.held_out):
        parts.append(_retrieval(sources))
    if sources.settings.judge and sources.held_out and judge:
        parts.append(_judged(sources, judge))
    parts += [_standard(staged, sources.settings.limit) for staged in sources.staged]
    if sources.mt_bench and judge:
        parts.append(_mt_bench(sources, sources.mt_bench, judge))
    return parts


def _general(sources: Sources) -> Part:
    def ask(session: Session, folder: Path) -> Answers:
        scores, prompts = general.choose(session.model, sources.general, GENERAL, chat=False, folder=folder)
        items = tuple(
            Item(i.id, GENERAL, None, sources.questions[i.id], i.choices[i.key], i.id)
            for i in sources.general
        )
        return Answers(items, {CHOICE: scores}, prompts)

    identity = digest([asdict(item) for item in sources.general])
    return Part(GENERAL, "general questions", identity, ask)


def _contributed(sources: Sources) -> Part:
    def ask(session: Session, folder: Path) -> Answers:
        return contributed.ask(session.model, sources.held_out, folder)

    identity = digest([[asdict(item) for item in sources.held_out], MAX_NEW_TOKENS])
    return Part(CONTRIBUTED, "held-out questions", identity, ask)


def _retrieval(sources: Sources) -> Part:
    def ask(session: Session, folder: Path) -> Answers:
        return contributed.ask_with_retrieval(session.model, sources.held_out, sources.passages, folder)

    shown = {leaf: [[p.heading, p.text] for p in found] for leaf, found in sorted(sources.passages.items())}
    identity = digest([[asdict(item) for item in sources.held_out], shown])
    return Part(RETRIEVAL, "held-out questions, with passages of the documents", identity, ask)


def _judged(sources: Sources, judge: Judge) -> Part:
    def ask(session: Session, folder: Path) -> Answers:
        texts = contributed.write(session.model, sources.held_out)
        return contributed.judge(judge, sources.held_out, sources.kinds, texts)

    kinds = {item.leaf: sources.kinds[item.leaf] for item in sources.held_out}
    identity = digest(
        [[asdict(item) for item in sources.held_out], kinds, judge.identity, contributed.JUDGED_TOKENS]
    )
    return Part(JUDGED, "held-out questions, graded by the judge", identity, ask, judged=True)


def _standard(staged: Staged, limit: int) -> Part:
    def ask(session: Session, folder: Path) -> Answers:
        return standard.ask(session.model, staged, limit, folder)

    identity = digest([staged.identity, staged.source.shots, limit, standard.SEED])
    return Part(staged.source.name, f"{staged.source.name}, {staged.source.shots} shots", identity, ask)


def _mt_bench(sources: Sources, data: mt_bench.Set, judge: Judge) -> Part:
    settings = sources.settings.mt_bench

    async def talk(session: Session, store: Path) -> mt_bench.Talks:
        with answering(session.model, session.digest) as endpoint:
            async with Engine(store, session.model.batch) as engine:
                return await mt_bench.converse(
                    engine, endpoint, data.questions, settings.repeats, settings.max_tokens
                )

    def ask(session: Session, folder: Path) -> Answers:
        talks = asyncio.run(talk(session, judge.store))
        ratings = mt_bench.rate(judge, data, talks)
        scores = {
            f"{MT_BENCH}/{name}": Scored(mean / mt_bench.HIGHEST, "\n\n".join(talks[name][0] or ()), read)
            for name, (mean, read) in mt_bench.per_question(ratings).items()
        }
        items = tuple(
            Item(f"{MT_BENCH}/{q.id}", MT_BENCH, None, "\n\n".join(q.turns), "\n\n".join(q.references), q.id)
            for q in data.questions
        )
        extra = {
            "ratings": [asdict(rating) for rating in ratings],
            "talks": {name: [list(one) if one else None for one in said] for name, said in talks.items()},
        }
        return Answers(items, {MT_BENCH: scores}, data.digest, extra)

    identity = digest([data.digest, settings.repeats, settings.max_tokens, judge.identity])
    return Part(MT_BENCH, "MT-Bench", identity, ask, judged=True)


def ratings_of(answers: Answers) -> list[mt_bench.Rating]:
    return [mt_bench.Rating(**row) for row in answers.extra["ratings"]]


def talks_of(answers: Answers) -> mt_bench.Talks:
    return {
        name: tuple((one[0], one[1]) if one else None for one in said)
        for name, said in answers.extra["talks"].items()
    }
