"""Deterministic checks: what a rule can see is never left to a judge, least of all to a small one.

A check is a pure function of a row's values and gives a `Grade`; its name is the reason of the rejection.
They make a weak teacher usable: asked freely, a 135M model wrote grounded pairs 22 % of the time; asked for
one question per sentence, with the document's own sentence as the answer and these filters, its rows took a
tuned student from 0 of 20 to 19 of 20 held-out questions (measured on a prototype; README has the
product's).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from lab.synthesis.items import Example, Grade, HeldOut
from lab.synthesis.text import (
    content_words,
    dice,
    grams,
    likeness,
    names,
    ngrams,
    normal,
    shared,
    stem,
    words,
)
from lab.taxonomy.benchmarks import Items as Benchmark
from lab.taxonomy.passages import words as benchmark_words

QUESTION_WORDS = (4, 30)
TASK_WORDS = (3, 120)
ANSWER_WORDS = (1, 200)
COPY_LIKENESS = 0.9
HELD_OUT_LIKENESS = 0.75
HELD_OUT_NGRAM = 13
ON_TOPIC_SHARE = 0.5
GROUNDED_SHARE = 0.7
GROUNDED_IN_CONTEXT_SHARE = 0.5
LEFT_TO_ANSWER = 2
REPEATED_RUN = 4
NEW_RUNS_SHARE = 0.8
_ASKING_WORDS = """
call name kind type sort many long far old tall high big year day time person people place thing describe tell
know one two first way part word use make
"""
_ASKING = frozenset(stem(word) for word in _ASKING_WORDS.split())
"""Words that ask for something without being about anything: they may appear in a question about any
sentence.
"""


@dataclass(frozen=True)
class Values:
    """What the checks may look at. `source` is the sentence (or context) that must hold the answer,
    `siblings` the other sentences of the leaf's documents."""

    question: str
    answer: str = ""
    source: str = ""
    passage: str = ""
    context: str | None = None
    siblings: Sequence[str] = ()
    examples: Sequence[Example] = ()
    heldout: Sequence[HeldOut] = ()
    benchmark: Benchmark | None = None


Check = Callable[[Values], Grade]


def _grade(name: str, passed: bool, detail: str, score: float | None = None) -> Grade:
    return Grade(name, None if score is None else round(score, 4), passed, detail)


def question_mark(row: Values) -> Grade:
    passed = row.question.endswith("?") and row.question.count("?") == 1
    return _grade("one-question", passed, "is one question" if passed else "is not exactly one question")


def question_length(row: Values) -> Grade:
    return _length("question-length", row.question, QUESTION_WORDS)


def task_length(row: Values) -> Grade:
    return _length("task-length", row.question, TASK_WORDS)


def answer_length(row: Values) -> Grade:
    return _length("answer-length", row.answer, ANSWER_WORDS)


def _length(name: str, text: str, bounds: tuple[int, int]) -> Grade:
    count = len(words(text))
    passed = bounds[0] <= count <= bounds[1]
    return _grade(name, passed, f"{count} words; {bounds[0]} to {bounds[1]} are allowed", count)


def names_subject(row: Values) -> Grade:
    """A question is asked without its source later, so it has to say by itself what it is about."""
    wanted = names(row.source)
    if wanted:
        found = wanted & frozenset(words(row.question))
        kind = "name"
    else:
        wanted, kind = content_words(row.source), "word"
        found = wanted & content_words(row.question)
    detail = (
        f"names {', '.join(sorted(found)[:4])}" if found else f"no {kind} of its sentence is in the question"
    )
    return _grade("names-its-subject", bool(found), detail)


def known_names(row: Values) -> Grade:
    """A name that neither the document nor the examples know is invented or misspelt."""
    known = frozenset(words(row.passage)) | frozenset(words(row.source))
    for example in row.examples:
        known |= frozenset(words(example.question)) | frozenset(words(example.context or ""))
    strange = sorted(names(row.question) - known)
    detail = f"unknown: {', '.join(strange[:4])}" if strange else "every name is in the document"
    return _grade("known-names", not strange, detail, len(strange))


def points_at_source(row: Values) -> Grade:
    """The question's words fit its own sentence better than any other sentence, counting only words that tell
    sentences apart. A question that fits two sentences teaches the student to mix them up."""
    asked = content_words(row.question)
    own = content_words(row.source)
    others = [content_words(sibling) for sibling in row.siblings if sibling != row.source]
    count = len(others) + 1

    def weight(word: str) -> float:
        holders = 1 + sum(word in other for other in others)
        return 1.0 - holders / (count + 1)

    def fit(sentence: frozenset[str]) -> float:
        return sum(weight(word) for word in sorted(asked & sentence))

    mine, best = fit(own), max((fit(other) for other in others), default=0.0)
    special = any(sum(word in other for other in others) <= count // 4 for word in asked & own)
    passed = mine > best and special
    detail = f"fits its sentence {mine:.2f}, the next best {best:.2f}"
    return _grade("points-at-its-sentence", passed, detail, mine - best)


def on_topic(row: Values) -> Grade:
    """At least half of what the question talks about is in its sentence."""
    score = shared(content_words(row.question) - _ASKING, content_words(row.source))
    detail = f"{score:.0%} of its words are in the sentence; {ON_TOPIC_SHARE:.0%} are needed"
    return _grade("on-topic", score >= ON_TOPIC_SHARE, detail, score)


def keeps_answer_back(row: Values) -> Grade:
    """Something is left to say: the sentence holds words that the question does not already give away."""
    left = content_words(row.source) - content_words(row.question)
    detail = f"{len(left)} words of the sentence are left to answer; {LEFT_TO_ANSWER} are needed"
    return _grade("keeps-the-answer-back", len(left) >= LEFT_TO_ANSWER, detail, len(left))


def not_a_copy(row: Values) -> Grade:
    score = max((likeness(row.question, example.question) for example in row.examples), default=0.0)
    if row.context is not None:
        other = max((likeness(row.context, example.context or "") for example in row.examples), default=0.0)
        score = other if score >= COPY_LIKENESS else 0.0
    detail = f"likeness to the nearest seed question {score:.2f}; below {COPY_LIKENESS} is needed"
    return _grade("copies-a-seed", score < COPY_LIKENESS, detail, score)


@lru_cache(maxsize=512)
def _marks(text: str) -> tuple[str, frozenset[tuple[str, ...]], frozenset[tuple[str, ...]]]:
    """What is compared of a held-out text; remembered, for every row of a leaf is held against each."""
    return normal(text), grams(text), ngrams(text, HELD_OUT_NGRAM)


def clear_of_heldout(row: Values) -> Grade:
    """Not the same as, not nearly the same as, and no run of 13 words in common with a held-out question.

    Answers are not compared: a held-out question asks about the very facts that are to be taught.
    """
    text = f"{row.context}\n{row.question}" if row.context else row.question
    runs, asked, told = ngrams(text, HELD_OUT_NGRAM), grams(row.question), grams(row.context or "")
    plain = normal(row.question)
    score = 0.0
    for item in row.heldout:
        whole = f"{item.context}\n{item.question}" if item.context else item.question
        if item.context is not None:
            # Grounded skills ask the same of every context, so there the context is what must not leak.
            near, same = dice(told, _marks(item.context)[1]), False
        else:
            near, same = dice(asked, _marks(item.question)[1]), _marks(item.question)[0] == plain
        score = max(score, 1.0 if same or runs & _marks(whole)[2] else near)
    detail = f"likeness to the nearest held-out question {score:.2f}; below {HELD_OUT_LIKENESS} is needed"
    return _grade("held-out", score < HELD_OUT_LIKENESS, detail, score)


def clear_of_benchmark(row: Values) -> Grade:
    """Not the question of a benchmark's item, and no run of 13 words in common with one: the rule that lint
    applies to seeds (`lab.taxonomy.benchmarks`), applied to what a model wrote."""
    texts = [benchmark_words(text) for text in (row.question, row.answer, row.context or "")]
    hit = row.benchmark.hit(texts[0], texts) if row.benchmark else None
    detail = f"shares words with the benchmark item {hit}" if hit else "no words of a benchmark item"
    return _grade("benchmark", hit is None, detail)


_POINTING = re.compile(
    r"\b(?:the|this|that) (?:document|text|passage|article|paragraph|section|context|excerpt|author)\b"
    r"|\b(?:above|below|aforementioned|mentioned|provided|given) (?:text|passage|document|context)\b"
    r"|\baccording to (?:it|him|her|them)\b",
    re.IGNORECASE,
)


def stands_alone(row: Values) -> Grade:
    """A question that says "the passage" cannot be understood by who does not see one."""
    found = _POINTING.search(row.question)
    detail = f"points at a text that is not there: {found.group()}" if found else "points at no text"
    return _grade("stands-alone", found is None, detail)


def grounded(row: Values) -> Grade:
    """The answer's words are in the document: the rule against invented facts."""
    score = shared(content_words(row.answer), content_words(f"{row.source}\n{row.passage}"))
    detail = f"{score:.0%} of the answer's words are in the document; {GROUNDED_SHARE:.0%} are needed"
    return _grade("grounded", score >= GROUNDED_SHARE, detail, score)


def grounded_in_context(row: Values) -> Grade:
    """Looser than `grounded`: a skill may say what is in its context in words of its own."""
    score = shared(content_words(row.answer), content_words(f"{row.context}\n{row.question}"))
    needed = GROUNDED_IN_CONTEXT_SHARE
    detail = f"{score:.0%} of the answer's words are in the context; {needed:.0%} are needed"
    return _grade("grounded-in-context", score >= needed, detail, score)


def not_an_echo(row: Values) -> Grade:
    score = likeness(row.answer, row.question)
    detail = f"likeness of answer and question {score:.2f}; below {COPY_LIKENESS} is needed"
    return _grade("answer-echoes", score < COPY_LIKENESS and normal(row.answer) != "", detail, score)


def not_repeating(row: Values) -> Grade:
    """A model that lost its thread says the same words over and over."""
    runs = max(len(words(row.answer)) - REPEATED_RUN + 1, 0)
    score = len(ngrams(row.answer, REPEATED_RUN)) / runs if runs else 1.0
    detail = f"{score:.0%} of its runs of {REPEATED_RUN} words are new; {NEW_RUNS_SHARE:.0%} are needed"
    return _grade("answer-repeats", score >= NEW_RUNS_SHARE, detail, score)


CHECKS: Mapping[str, Check] = {
    "question_mark": question_mark,
    "question_length": question_length,
    "task_length": task_length,
    "answer_length": answer_length,
    "names_subject": names_subject,
    "known_names": known_names,
    "points_at_source": points_at_source,
    "on_topic": on_topic,
    "keeps_answer_back": keeps_answer_back,
    "not_a_copy": not_a_copy,
    "clear_of_heldout": clear_of_heldout,
    "clear_of_benchmark": clear_of_benchmark,
    "stands_alone": stands_alone,
    "grounded": grounded,
    "grounded_in_context": grounded_in_context,
    "not_an_echo": not_an_echo,
    "not_repeating": not_repeating,
}

FLOOR: Sequence[Check] = (clear_of_heldout, clear_of_benchmark)
"""What holds for every row, whatever its flow asks for: no contribution's flow can switch it off."""
