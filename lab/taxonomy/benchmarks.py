"""Seeds that a benchmark already asks: training on them would make its score worthless.

The items are the file that the repository's config names (`benchmark.general`, JSON Lines). A run of 13
words in common counts, as in GPT-3's filter (arXiv 2005.14165, appendix C); a shorter item counts when the
question is the same word for word. The items are read once a run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lab.taxonomy.passages import words

RUN = 13
LEAST = 4  # words of a short item that can be the same by more than chance
LIMIT = 8 << 20  # bytes of the items' file


@dataclass(frozen=True)
class Item:
    """A benchmark's item: what it is called, the question's words, and all of its words."""

    name: str
    question: tuple[str, ...]
    whole: tuple[str, ...]


def items(data: bytes) -> Iterator[Item]:
    """The items of a JSON Lines file. A line that is no item is passed over: `treewright doctor` and the
    benchmark stage report those."""
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(value, dict) or not isinstance(value.get("question"), str):
            continue
        parts = [value["question"]]
        parts += [each for key in ("context", "answer") if isinstance(each := value.get(key), str)]
        choices = value.get("choices")
        parts += [each for each in choices if isinstance(each, str)] if isinstance(choices, list) else []
        name = value.get("id")
        shown = name if isinstance(name, str) and name else f"line {number}"
        yield Item(shown, tuple(words(value["question"])), tuple(words("\n".join(parts))))


class Items:
    """The items' runs of words, as hashes: the 8 MiB that are read at most need about 150 MB."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._names: list[str] = []
        self._runs: dict[int, int] = {}
        self._questions: dict[int, int] = {}
        for item in items(data):
            number = len(self._names)
            self._names.append(item.name)
            if len(item.question) >= LEAST:
                self._questions.setdefault(hash(item.question), number)
            for run in _runs(item.whole):
                self._runs.setdefault(run, number)

    def __reduce__(self) -> tuple[type[Items], tuple[bytes]]:
        """Rebuilt where it is unpickled: another process hashes words differently and would miss all."""
        return Items, (self._data,)

    def hit(self, question: Sequence[str], texts: Iterable[Sequence[str]]) -> str | None:
        """The name of the first item that the seed shares words with. `texts` are each looked at alone."""
        number = self._questions.get(hash(tuple(question)))
        if number is None:
            found = (self._runs.get(run) for text in texts for run in _runs(text))
            number = next((each for each in found if each is not None), None)
        return None if number is None else self._names[number]


def _runs(text: Sequence[str]) -> Iterator[int]:
    for start in range(len(text) - RUN + 1):
        yield hash(tuple(text[start : start + RUN]))
