"""Finds seeds that say nearly the same, in one leaf and across the tree, in time linear in the words.

A text becomes the set of its word pairs, kept as the smallest 128 of their checksums (a bottom-k sketch:
Broder, "On the resemblance and containment of documents", 1997), which is exact up to 128 word pairs. Two
texts of likeness 0.8 share two of their four smallest checksums in about nine of ten cases, and likelier
ones almost always, so a look into four small buckets finds the partner; a bucket that everybody shares
costs no more than its cap. Texts whose numbers differ are not alike: `12 + 5` and `12 + 6` are two
exercises.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from zlib import crc32

LIKENESS = 0.8
_ASKED = 0.7  # of the questions alone
_SKETCH = 128
_PROBES = 4
_NEEDED = 2  # of the four
_BUCKET = 16
_LEAST_WORDS = 8  # shorter texts are alike by chance


@dataclass(frozen=True)
class Entry:
    """A text's sketch, and the place that a finding names."""

    file: str
    line: int
    column: int
    sketch: array[int]
    numbers: int  # a checksum of the numbers in their order
    size: int  # how many word pairs it has
    asked: array[int]  # the sketch of the question alone


def entry(file: str, line: int, column: int, found: Sequence[str], asked: Sequence[str] = ()) -> Entry | None:
    """None when the text is too short to compare. `asked` is the part of it that must be alike as well:
    two questions may well have one answer.
    """
    if len(found) < _LEAST_WORDS:
        return None
    sketch, size = _sketch(found)
    numbers = crc32(" ".join(word for word in found if word[0].isdigit()).encode("utf-8", "replace"))
    return Entry(file, line, column, sketch, numbers, size, _sketch(asked)[0])


def _sketch(found: Sequence[str]) -> tuple[array[int], int]:
    coded = [word.encode("utf-8", "replace") for word in found]
    grams = {crc32(second, crc32(first)) for first, second in pairwise(coded)} or set(map(crc32, coded))
    kept = sorted(grams) if len(grams) <= _SKETCH else heapq.nsmallest(_SKETCH, grams)
    return array("I", kept), len(grams)


def likeness(left: Entry, right: Entry) -> float:
    """The share of word pairs that both have (Jaccard); estimated when one has more than the sketch."""
    small, large = sorted((left.size, right.size))
    if small < LIKENESS * large:  # the larger has too much that the smaller lacks
        return small / large if large else 0.0
    return _overlap(left.sketch, right.sketch)


def _overlap(left: array[int], right: array[int]) -> float:
    first, second = set(left), set(right)
    union = first | second
    if len(first) >= _SKETCH or len(second) >= _SKETCH:
        union = set(heapq.nsmallest(_SKETCH, union))
    return len(first & second & union) / len(union) if union else 1.0


class Index:
    """Texts seen so far, by their smallest checksums."""

    def __init__(self) -> None:
        self._buckets: dict[int, list[int]] = {}
        self._entries: list[Entry] = []

    def nearest(self, sought: Entry) -> tuple[Entry, float] | None:
        """The likest text seen so far, when it is alike at all."""
        shared: dict[int, int] = {}
        for probe in sought.sketch[:_PROBES]:
            for number in self._buckets.get(probe, ()):
                shared[number] = shared.get(number, 0) + 1
        best: tuple[Entry, float] | None = None
        for number, count in shared.items():
            other = self._entries[number]
            if count >= _NEEDED and other.numbers == sought.numbers:
                score = likeness(other, sought)
                if score < LIKENESS or (best is not None and score <= best[1]):
                    continue
                if _overlap(other.asked, sought.asked) >= _ASKED:
                    best = (other, score)
        return best

    def add(self, seen: Entry) -> None:
        self._entries.append(seen)
        for probe in seen.sketch[:_PROBES]:
            bucket = self._buckets.setdefault(probe, [])
            if len(bucket) < _BUCKET:
                bucket.append(len(self._entries) - 1)
