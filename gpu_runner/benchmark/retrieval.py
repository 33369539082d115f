"""Passages for a question, found by their words: what a reader would get without any tuning.

    best("Who built the lighthouse?", chunks)

BM25 (Robertson & Zaragoza 2009, "The probabilistic relevance framework", section 3.4) with the usual
constants k1 = 1.2 and b = 0.75, and Lucene's idf, which is never negative. A leaf has tens of passages: an
index would be more code than speed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

from gpu_runner.benchmark.scoring import words

K1, B = 1.2, 0.75
PASSAGES = 3
"""Passages before a question: 540 words, about 720 tokens, a third of a context of 2,048."""


class Passage(Protocol):
    @property
    def text(self) -> str: ...
    @property
    def heading(self) -> str: ...


def rank(question: str, texts: Sequence[str]) -> list[tuple[float, int]]:
    """(score, index) of the texts that share a word with the question, best first; ties by index."""
    counted = [Counter(words(text)) for text in texts]
    lengths = [sum(counts.values()) for counts in counted]
    if not any(lengths):
        return []
    usual = sum(lengths) / len(lengths)
    scores = [0.0] * len(texts)
    for word in sorted(set(words(question))):
        holding = sum(word in counts for counts in counted)
        weight = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
        for index, counts in enumerate(counted):
            count = counts[word]
            scores[index] += weight * count * (K1 + 1) / (count + K1 * (1 - B + B * lengths[index] / usual))
    return sorted(((score, index) for index, score in enumerate(scores) if score > 0), key=_best_first)


def _best_first(entry: tuple[float, int]) -> tuple[float, int]:
    return -entry[0], entry[1]


def best(question: str, passages: Sequence[Passage], count: int = PASSAGES) -> list[Passage]:
    """At most `count` passages, the best first."""
    texts = [f"{passage.heading}\n{passage.text}" for passage in passages]
    return [passages[index] for _, index in rank(question, texts)[:count]]


def prompt(question: str, found: Sequence[Passage]) -> str:
    """The question with its passages before it; the question alone where nothing was found."""
    if not found:
        return question
    shown = "\n\n".join(passage.text.strip() for passage in found)
    return f"Use these passages to answer the question.\n\n{shown}\n\nQuestion: {question}"


def by_leaf(rows: Sequence[Mapping[str, str]], make: type) -> dict[str, list[Passage]]:
    """The chunks of `plan/chunks.jsonl` by their leaf, as `make(heading, text)`."""
    found: dict[str, list[Passage]] = {}
    for row in rows:
        found.setdefault(row["leaf"], []).append(make(heading=row["heading"], text=row["text"]))
    return found
