"""Near-duplicates of short texts, found without comparing every pair.

The measure is `text.likeness` (Dice over words and word pairs). Two sets that overlap enough for a threshold
share an element among the first few of each in any fixed order (prefix filtering: Chaudhuri et al. 2006, "A
primitive operator for similarity joins in data cleaning"), so only texts that meet there are compared, and
nothing above the threshold is missed. A fixed order by digest, so that equal texts give equal results
anywhere.
"""

from __future__ import annotations

import math
import zlib
from collections import defaultdict

from lab.synthesis.text import grams

_Gram = tuple[str, ...]


class NearDuplicates:
    """Texts added so far; `threshold` is above 0 and at most 1."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._kept: list[frozenset[_Gram]] = []
        self._index: dict[_Gram, list[int]] = defaultdict(list)

    def add(self, text: str) -> None:
        found = grams(text)
        for gram in self._prefix(found):
            self._index[gram].append(len(self._kept))
        self._kept.append(found)

    def nearest(self, text: str) -> float | None:
        """The likeness of the nearest text added, when it reaches the threshold."""
        found = grams(text)
        near = {number for gram in self._prefix(found) for number in self._index.get(gram, ())}
        best = max(
            (2 * len(found & self._kept[one]) / (len(found) + len(self._kept[one])) for one in near),
            default=0.0,
        )
        return best if near and best >= self._threshold else None

    def _prefix(self, found: frozenset[_Gram]) -> list[_Gram]:
        """Dice >= t with any other set means an overlap of at least |found| * t / (2 - t)."""
        least = math.ceil(len(found) * self._threshold / (2 - self._threshold) - 1e-9)
        return sorted(found, key=_rank)[: len(found) - least + 1]


def _rank(gram: _Gram) -> tuple[int, _Gram]:
    return zlib.crc32(" ".join(gram).encode("utf-8", "surrogatepass")), gram
