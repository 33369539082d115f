"""Whether a benchmark question is in the training rows: a model that saw the question shows memory, not
learning.

A question counts as seen when a row asks it in the same words (as the whole user message or as one line of
it), or when a run of 13 words of it (8 to 13 in GPT-3's analysis: Brown et al. 2020, arXiv 2005.14165,
appendix C) occurs anywhere in a row. Case, punctuation and spacing are ignored. The benchmark is indexed,
since it is small; the rows are streamed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpu_runner.benchmark.scoring import folded

RUN = 13
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Hit:
    """Item `item` of the benchmark was found in row `row`."""

    item: str
    row: str
    how: str


def normal(text: str) -> tuple[str, ...]:
    """The words of a text without case, punctuation and spacing."""
    return tuple(_WORD.findall(folded(text)))


def contaminated(items: Iterable[tuple[str, str]], rows: Iterable[Mapping[str, Any]]) -> list[Hit]:
    """The (id, text) items that occur in samples (schema `sample.json`), the first row of each."""
    whole: dict[tuple[str, ...], list[str]] = {}
    runs: dict[tuple[str, ...], Sequence[str]] = {}
    for name, text in items:
        found = normal(text)
        if not found:
            continue
        alike = whole.setdefault(found, [])
        alike.append(name)
        # Three questions about one context are seen together or not at all.
        for run in _runs(found, RUN):
            runs.setdefault(run, alike)
    hits: dict[str, Hit] = {}
    for row in rows:
        for name, how in _in_row(row, whole, runs):
            hits.setdefault(name, Hit(name, str(row.get("id", "")), how))
    return list(hits.values())


def _in_row(
    row: Mapping[str, Any],
    whole: Mapping[tuple[str, ...], Sequence[str]],
    runs: Mapping[tuple[str, ...], Sequence[str]],
) -> Iterator[tuple[str, str]]:
    messages = [(str(m["role"]), str(m["content"])) for m in row.get("messages", ())]
    asked = [text for role, text in messages if role == "user"]
    asked.append(str(row.get("question") or ""))
    for text in asked:
        for part in (text, *text.splitlines()):
            for name in whole.get(normal(part), ()):
                yield name, "the same question"
    others = (text for role, text in messages if role != "user")
    for text in (*asked, *others, str(row.get("context") or "")):
        for run in _runs(normal(text), RUN):
            for name in runs.get(run, ()):
                yield name, f"{RUN} words in a row"


def _runs(words: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    for start in range(len(words) - length + 1):
        yield tuple(words[start : start + length])
