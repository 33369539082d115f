"""MT-Bench: two-turn questions in eight categories, graded from 1 to 10 by a judge (Zheng et al. 2023, arXiv
2306.05685).

    questions = load(folder)                        question.jsonl, in the form in which it was published
    turns = converse(engine, endpoint, ...)         both turns of every question, `repeats` times
    ratings = rate(judge, ...)                      each turn of each answer, some with references
    summary(ratings)                                means by turn and category, and what could not be read
    compare(judge, ...)                             base against candidate, in both orders

The operator stages the questions (`<data>/mt_bench/`): `question.jsonl`, references in it or in
`reference_answer/*.jsonl`, and, to stay comparable with published numbers, the `judge_prompts.jsonl` that
belongs to them; without it our own prompts serve (`mt_bench_prompts.py`). A rating that cannot be read counts
as 1, the lowest; the mean without such ratings and the one with 10 for each of them are told beside it, so
that a model which breaks the judge's form can never score better by it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from gpu_runner.benchmark.judging import Judge, Message
from gpu_runner.benchmark.model import BenchmarkError
from gpu_runner.benchmark.mt_bench_prompts import PROMPTS, Prompt, filled
from lab.contracts import digest, read_lines
from lab.synthesis.endpoints import Endpoint
from lab.synthesis.engine import Engine, RequestError

Made = TypeVar("Made")

LOWEST, HIGHEST = 1.0, 10.0
JUDGE_TOKENS = 2048
"""Limit of a judgement, in tokens, as in the published code."""

TEMPERATURES: Mapping[str, float] = {
    "writing": 0.7,
    "roleplay": 0.7,
    "stem": 0.1,
    "humanities": 0.1,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
}
"""Of the answers, by category, as in the published code."""

WITH_REFERENCE = frozenset({"math", "coding", "reasoning"})


@dataclass(frozen=True)
class Question:
    """`references` has one text a turn, where the category needs them."""

    id: str
    category: str
    turns: tuple[str, str]
    references: tuple[str, ...]


Talks = Mapping[str, tuple[tuple[str, str] | None, ...]]
"""Question id -> for each repeat both answers, None where the model's endpoint gave none."""


@dataclass(frozen=True)
class Rating:
    """One turn of one answer; `rating` is None when the judge's words held no single mark from 1 to 10."""

    question: str
    category: str
    repeat: int
    turn: int
    rating: float | None
    judgement: str


@dataclass(frozen=True)
class Comparison:
    """One turn, judged twice; `outcome` is from the candidate's side."""

    question: str
    category: str
    turn: int
    outcome: str
    judgements: tuple[str, str]


@dataclass(frozen=True)
class Set:
    """The staged questions, the judge's prompts, and the digest of both."""

    questions: tuple[Question, ...]
    prompts: Mapping[str, Prompt]
    digest: str


def load(folder: Path) -> Set:
    """The questions in `folder`; BenchmarkError that says what is missing."""
    path = folder / "question.jsonl"
    if not path.is_file():
        raise BenchmarkError(
            f"{path} is not there: benchmark.mt_bench needs the questions in `mt_bench/` of the folder that "
            "TREEWRIGHT_BENCHMARK_DATA names (examples/mt_bench has a small file of the same form)"
        )
    references = _references(folder)
    questions = _rows(path, lambda row: _question(row, references))
    if not questions or len({question.id for question in questions}) != len(questions):
        raise BenchmarkError(f"{path}: no question, or a question_id twice")
    prompts = _prompts(folder)
    return Set(
        tuple(questions),
        prompts,
        digest([[asdict(q) for q in questions], {name: asdict(p) for name, p in sorted(prompts.items())}]),
    )


def _rows(path: Path, made_of: Callable[[Any], Made]) -> list[Made]:
    """What the file's lines are made into; BenchmarkError names the line of which nothing can be made."""
    found: list[Made] = []
    try:
        for row in read_lines(path):
            found.append(made_of(row))  # noqa: PERF401 (the count so far is the line of an error)
    except (LookupError, TypeError, ValueError) as error:
        told = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise BenchmarkError(f"{path}:{len(found) + 1}: {told}") from error
    return found


def _question(row: Mapping[str, Any], references: Mapping[str, Sequence[str]]) -> Question:
    name, category, turns = str(row["question_id"]), row["category"], row["turns"]
    if category not in TEMPERATURES:
        raise ValueError(f"category {category!r} is none of {', '.join(TEMPERATURES)}")
    if len(turns) != 2 or not all(isinstance(turn, str) and turn.strip() for turn in turns):
        raise ValueError("`turns` holds two texts")
    found = tuple(map(str, row.get("reference") or references.get(name, ())))
    if category in WITH_REFERENCE and len(found) != 2:
        raise ValueError(f"question {name}: {category} needs a reference answer for each of the two turns")
    return Question(name, category, (turns[0], turns[1]), found)


def _references(folder: Path) -> dict[str, Sequence[str]]:
    return {
        name: turns
        for path in sorted((folder / "reference_answer").glob("*.jsonl"))
        for name, turns in _rows(path, lambda row: (str(row["question_id"]), row["choices"][0]["turns"]))
    }


def _prompts(folder: Path) -> Mapping[str, Prompt]:
    path = folder / "judge_prompts.jsonl"
    if not path.is_file():
        return PROMPTS
    staged = dict(
        _rows(path, lambda row: (row["name"], Prompt(row["system_prompt"], row["prompt_template"])))
    )
    lacking = sorted(PROMPTS.keys() - staged.keys())
    if lacking:
        raise BenchmarkError(f"{path} lacks the prompt {lacking[0]!r}")
    return {name: staged[name] for name in PROMPTS}


async def converse(
    engine: Engine, endpoint: Endpoint, questions: Sequence[Question], repeats: int, max_tokens: int
) -> dict[str, tuple[tuple[str, str] | None, ...]]:
    """Both turns of every question. Repeats differ by seed; where an answer is greedy they are one answer,
    asked for once."""

    async def talk(question: Question, repeat: int) -> tuple[str, str] | None:
        temperature = TEMPERATURES[question.category]
        seed = repeat + 1 if temperature else 0
        params = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
        messages: list[Message] = []
        said = []
        for turn in question.turns:
            messages.append({"role": "user", "content": turn})
            try:
                said.append((await engine.chat(endpoint, messages, params)).text)
            except RequestError:
                return None
            messages = [*messages, {"role": "assistant", "content": said[-1]}]
        return said[0], said[1]

    keys = [(question, repeat) for question in questions for repeat in range(repeats)]
    found = await asyncio.gather(*(talk(question, repeat) for question, repeat in keys))
    talks: dict[str, tuple[tuple[str, str] | None, ...]] = {}
    for (question, _), one in zip(keys, found, strict=True):
        talks[question.id] = (*talks.get(question.id, ()), one)
    return talks


_RATING = re.compile(r"\[\[\s*(\d{1,2}(?:\.\d{1,3})?)\s*\]\]")
_CHOICE = re.compile(r"\[\[\s*([ABC])\s*\]\]")


def read_rating(text: str) -> float | None:
    """The one rating in double brackets. Two different ones are none: a judge may quote `[[10]]` from the
    answer that it grades."""
    found = {float(one) for one in _RATING.findall(text)}
    only = found.pop() if len(found) == 1 else None
    return only if only is not None and LOWEST <= only <= HIGHEST else None


def read_choice(text: str) -> str | None:
    """A, B or C (a tie) in double brackets; None when there is none, or more than one."""
    found = set(_CHOICE.findall(text))
    return found.pop() if len(found) == 1 else None


def _single(data: Set, question: Question, said: tuple[str, str], turn: int) -> list[Message]:
    """The judge sees the turns up to the one that it grades."""
    kind = "single-math-v1" if question.references else "single-v1"
    if turn == 1:
        values = {"question": question.turns[0], "answer": said[0]}
    else:
        kind += "-multi-turn"
        values = {f"question_{n + 1}": text for n, text in enumerate(question.turns)}
        values |= {f"answer_{n + 1}": text for n, text in enumerate(said)}
    values |= {f"ref_answer_{n + 1}": text for n, text in enumerate(question.references)}
    return filled(data.prompts[kind], values)


def _pair(
    data: Set, question: Question, first: tuple[str, str], second: tuple[str, str], turn: int
) -> list[Message]:
    kind = "pair-math-v1" if question.references else "pair-v2"
    if turn == 1:
        values = {"question": question.turns[0], "answer_a": first[0], "answer_b": second[0]}
    else:
        kind += "-multi-turn"
        values = {f"question_{n + 1}": text for n, text in enumerate(question.turns)}
        values |= {f"answer_a_{n + 1}": text for n, text in enumerate(first)}
        values |= {f"answer_b_{n + 1}": text for n, text in enumerate(second)}
    values |= {f"ref_answer_{n + 1}": text for n, text in enumerate(question.references)}
    return filled(data.prompts[kind], values)


def rate(judge: Judge, data: Set, talks: Talks, max_tokens: int = JUDGE_TOKENS) -> list[Rating]:
    """A rating of every turn of every answer; an answer that never came is one that cannot be read."""
    keys = [
        (question, repeat, turn, said)
        for question in data.questions
        for repeat, said in enumerate(talks[question.id])
        for turn in (1, 2)
    ]
    asked = [(_single(data, q, said, turn), read_rating) for q, _, turn, said in keys if said is not None]
    found = iter(judge.ask(asked, max_tokens))
    ratings = []
    for question, repeat, turn, said in keys:
        rating, words = (None, "the model gave no answer") if said is None else next(found)
        ratings.append(Rating(question.id, question.category, repeat, turn, rating, words))
    return ratings


def compare(judge: Judge, data: Set, base: Talks, candidate: Talks) -> list[Comparison]:
    """The first answers of both models side by side, each turn in both orders. Orders that disagree are a
    tie, `inconsistent`: a judge's liking for a place must not decide (arXiv 2306.05685, section 3.4)."""
    keys, asked = [], []
    found: list[Comparison] = []
    for question in data.questions:
        before, after = base[question.id][0], candidate[question.id][0]
        for turn in (1, 2):
            if before is None or after is None:
                found.append(_comparison(question, turn, "unread", "no answer", "no answer"))
            elif before[:turn] == after[:turn]:
                found.append(_comparison(question, turn, "tie", "the same answer", "the same answer"))
            else:
                keys.append((question, turn))
                asked.append((_pair(data, question, before, after, turn), read_choice))
                asked.append((_pair(data, question, after, before, turn), read_choice))
    words = judge.ask(asked, JUDGE_TOKENS)
    for (question, turn), (there, one), (back, other) in zip(keys, words[::2], words[1::2], strict=True):
        found.append(_comparison(question, turn, outcome(there, back), one, other))
    place = {question.id: number for number, question in enumerate(data.questions)}
    return sorted(found, key=lambda each: (place[each.question], each.turn))


def _comparison(question: Question, turn: int, result: str, one: str, other: str) -> Comparison:
    return Comparison(question.id, question.category, turn, result, (one, other))


def outcome(base_first: str | None, candidate_first: str | None) -> str:
    """win, loss, tie, inconsistent or unread, from the choices with the base first and with it second."""
    if base_first is None or candidate_first is None:
        return "unread"
    told = {("B", "A"): "win", ("A", "B"): "loss", ("C", "C"): "tie"}
    return told.get((base_first, candidate_first), "inconsistent")


def per_question(ratings: Iterable[Rating]) -> dict[str, tuple[float, bool]]:
    """Question -> (mean rating with unread ones at the lowest, whether all of them were read)."""
    grouped: dict[str, list[Rating]] = {}
    for one in ratings:
        grouped.setdefault(one.question, []).append(one)
    return {
        name: (_mean(rows, LOWEST), all(row.rating is not None for row in rows))
        for name, rows in grouped.items()
    }


def _mean(ratings: Sequence[Rating], unread: float) -> float:
    return fmean(unread if one.rating is None else one.rating for one in ratings)


def _bounds(ratings: Sequence[Rating]) -> dict[str, Any]:
    read = [one for one in ratings if one.rating is not None]
    return {
        "mean": round(_mean(ratings, LOWEST), 4),
        "mean_of_read": round(_mean(read, LOWEST), 4) if read else None,
        "mean_at_most": round(_mean(ratings, HIGHEST), 4),
        "judged": len(ratings),
        "unread": len(ratings) - len(read),
    }


def summary(ratings: Sequence[Rating]) -> dict[str, Any]:
    """`mean` counts what could not be read as 1, `mean_at_most` as 10, `mean_of_read` leaves it out; the
    first is the score."""
    categories = dict.fromkeys(one.category for one in ratings)
    return {
        **_bounds(ratings),
        "turns": [_bounds([one for one in ratings if one.turn == turn]) for turn in (1, 2)],
        "categories": {
            name: _bounds([one for one in ratings if one.category == name]) for name in categories
        },
    }


def tally(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """The candidate's wins; ties count half, and what could not be read is a loss in the lower share and a
    win in the upper one."""
    counted = dict.fromkeys(("win", "loss", "tie", "inconsistent", "unread"), 0)
    for one in comparisons:
        counted[one.outcome] += 1
    sure = counted["win"] + (counted["tie"] + counted["inconsistent"]) / 2
    total = len(comparisons)
    return {
        **counted,
        "share": round(sure / total, 4),
        "share_at_most": round((sure + counted["unread"]) / total, 4),
    }
