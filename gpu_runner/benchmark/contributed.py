"""Held-out questions of the changed leaves: pick the answer, write it, and have it judged.

Choice: the likelihood of each choice's text through the chat template. Short answer: a greedy answer,
matched by the rule of `scoring.py` and kept for people to read. Judged: a longer greedy answer, graded by the
rubric of its leaf's kind (`judging.py`), where the configuration asks for a judge. With retrieval: choice and
short answer once more, with passages of the leaf's documents before the question.

Knowledge is asked without its source, as a user would ask; a grounded skill gets its context. The held-out
file is written by `plan` before anything is generated.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_runner.benchmark import retrieval
from gpu_runner.benchmark.general import ChoiceItem, choose
from gpu_runner.benchmark.judging import RUBRICS, Judge, rubric_of
from gpu_runner.benchmark.model import LoadedModel, answer_all
from gpu_runner.benchmark.results import CHOICE, JUDGED, SHORT_ANSWER, WITH_RETRIEVAL, Answers, Item
from gpu_runner.benchmark.scoring import Scored, is_right, readable
from lab.contracts import digest
from lab.synthesis.items import HeldOut

JUDGED_TOKENS = 256
"""Limit of an answer that a judge reads, in tokens: a skill's answer may be a short text."""


@dataclass(frozen=True)
class Passage:
    """A chunk of a leaf's documents, as far as retrieval needs it."""

    heading: str
    text: str


def held_out(rows: Sequence[Mapping[str, Any]], changed: Collection[str]) -> list[HeldOut]:
    """The held-out items of the changed leaves."""
    return [HeldOut.from_json(row) for row in rows if row["leaf"] in changed]


def prompt(item: HeldOut) -> str:
    return f"{item.context}\n\n{item.question}" if item.context else item.question


def cluster(item: HeldOut) -> str:
    """The item's passage (seed example), on which its fate hangs."""
    return f"{item.leaf}#{item.seed}"


def listed(items: Sequence[HeldOut]) -> tuple[Item, ...]:
    return tuple(
        Item(item.id, item.leaf, item.leaf, item.question, item.answer, cluster(item)) for item in items
    )


def ask(model: LoadedModel, items: Sequence[HeldOut], folder: Path) -> Answers:
    """Choice and short answer of every item."""
    return _ask(model, items, [prompt(item) for item in items], "", folder)


def ask_with_retrieval(
    model: LoadedModel,
    items: Sequence[HeldOut],
    passages: Mapping[str, Sequence[retrieval.Passage]],
    folder: Path,
) -> Answers:
    """The same for the items whose leaf has documents, with the best passages before each question."""
    chosen = [item for item in items if passages.get(item.leaf)]
    prompts = [
        retrieval.prompt(prompt(item), retrieval.best(item.question, passages[item.leaf])) for item in chosen
    ]
    return _ask(model, chosen, prompts, WITH_RETRIEVAL, folder)


def _ask(
    model: LoadedModel, items: Sequence[HeldOut], prompts: Sequence[str], ending: str, folder: Path
) -> Answers:
    asked = [
        ChoiceItem(item.id, text, item.choices, item.key) for item, text in zip(items, prompts, strict=True)
    ]
    picked, shown = choose(model, asked, name=f"contributed{ending}", chat=True, folder=folder)
    answers = answer_all(model, prompts) if items else []
    written = {
        item.id: Scored(float(is_right(item.question, item.answer, text)), text, readable(text))
        for item, text in zip(items, answers, strict=True)
    }
    return Answers(listed(items), {CHOICE + ending: picked, SHORT_ANSWER + ending: written}, shown)


def write(model: LoadedModel, items: Sequence[HeldOut]) -> list[str]:
    """The answers that a judge is to read."""
    return answer_all(model, [prompt(item) for item in items], JUDGED_TOKENS) if items else []


def judge(
    judge: Judge, items: Sequence[HeldOut], kinds: Mapping[str, str], answers: Sequence[str]
) -> Answers:
    """Each written answer's mark as a share of the full mark, by the rubric of its leaf's kind. An answer
    that got no readable mark counts as the lowest and is told as unreadable."""
    cases = [
        (rubric_of(kinds[item.leaf]), item.question, item.context, item.answer, text)
        for item, text in zip(items, answers, strict=True)
    ]
    marks = judge.marks(cases)
    scores = {
        item.id: Scored(0.0 if mark is None else mark, text, mark is not None)
        for item, text, mark in zip(items, answers, marks, strict=True)
    }
    used = {rubric_of(kinds[item.leaf]).name for item in items}
    shown = digest([[item.id, prompt(item)] for item in items])
    return Answers(listed(items), {JUDGED: scores}, shown, {"rubrics": sorted(used)})


def rubrics(kinds: Collection[str]) -> list[str]:
    """The rubrics that leaves of these kinds need, in the order of RUBRICS."""
    needed = {rubric_of(kind).name for kind in kinds}
    return [name for name in RUBRICS if name in needed]
