"""Which seed of an old version of a leaf is which seed of a new one, and how alike two lists of seeds are.

Pure functions over `Seed`. Two seeds are versions of each other when they have a context, a question or an
answer in common, or at least half of their words (Jaccard).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from lab.taxonomy.model import Seed

_PAIRS = 2_500  # comparing words is quadratic; larger rewrites count as added and removed
_ALIKE = 0.5
_POSTINGS = 8  # seeds with the same answer that are tried as twins


@dataclass(frozen=True)
class SeedChange:
    """`line` is in head's `qna.yaml`, `old_line` in base's. `other` is the leaf that the seed came from
    (added) or went to (removed), when it moved between leaves unchanged.
    """

    change: Literal["added", "changed", "removed"]
    line: int | None
    old_line: int | None
    question: str
    seed: Seed = field(repr=False)
    other: str | None = None

    def to_json(self) -> dict[str, str | int | None]:
        return {
            "change": self.change,
            "line": self.line,
            "old_line": self.old_line,
            "question": self.question,
            "other": self.other,
        }


@dataclass(frozen=True)
class Match:
    """Old and new seeds sorted apart; `changed` are (old, new)."""

    changed: tuple[tuple[Seed, Seed], ...]
    added: tuple[Seed, ...]
    removed: tuple[Seed, ...]


def content(seed: Seed) -> tuple[str | None, tuple[tuple[str, str], ...]]:
    """What a seed says, without its place."""
    return seed.context, tuple((pair.question, pair.answer) for pair in seed.pairs)


def marks(seed: Seed) -> list[tuple[str, str]]:
    """The texts by which a seed is known again."""
    found = [("context", seed.context)] if seed.context is not None else []
    found += [("question", pair.question) for pair in seed.pairs]
    return found + [("answer", pair.answer) for pair in seed.pairs]


def match(before: Sequence[Seed], after: Sequence[Seed]) -> Match:
    """Pairs each seed of `after` with the seed of `before` that it is a version of, if there is one."""
    left = dict(enumerate(before))
    changed: list[tuple[Seed, Seed]] = []
    alone: list[Seed] = []
    places: dict[tuple[str, str], list[int]] = {}
    for number, seed in left.items():
        for mark in marks(seed):
            places.setdefault(mark, []).append(number)
    for seed in after:
        near = (n for mark in marks(seed) for n in places.get(mark, ())[:_POSTINGS])
        twin = next((n for n in near if n in left), None)
        if twin is None:
            alone.append(seed)
        else:
            changed.append((left.pop(twin), seed))
    added = alone
    if len(alone) * len(left) <= _PAIRS:
        added = []
        for seed in alone:
            words = _words(seed)
            shares = {number: _share(words, _words(other)) for number, other in left.items()}
            best = max(shares, key=lambda number: (shares[number], -number), default=None)
            if best is not None and shares[best] >= _ALIKE:
                changed.append((left.pop(best), seed))
            else:
                added.append(seed)
    return Match(tuple(changed), tuple(added), tuple(left.values()))


def likeness(before: Sequence[Seed], after: Sequence[Seed]) -> float:
    """How much of the seeds is in both lists, from 0 to 1: an equal seed counts as one, a seed that shares a
    context, question or answer with one of the other list by the share of its words.
    """
    if not before or not after:
        return 0.0
    old = {content(seed): seed for seed in before}
    new = {content(seed): seed for seed in after}
    total = float(len(old.keys() & new.keys()))
    free = dict(enumerate(seed for key, seed in old.items() if key not in new))
    places: dict[tuple[str, str], list[int]] = {}
    for number, seed in free.items():
        for mark in marks(seed):
            places.setdefault(mark, []).append(number)
    for key, seed in new.items():
        if key in old:
            continue
        words = _words(seed)
        near = {n for mark in marks(seed) for n in places.get(mark, ())[:_POSTINGS] if n in free}
        share, best = max(((_share(words, _words(free[n])), -n) for n in near), default=(0.0, 1))
        if best <= 0:
            total += share
            del free[-best]
    return total / max(len(old), len(new))


def _words(seed: Seed) -> Counter[str]:
    texts = [seed.context or "", *(text for pair in seed.pairs for text in (pair.question, pair.answer))]
    return Counter(word for text in texts for word in text.casefold().split())


def _share(left: Counter[str], right: Counter[str]) -> float:
    return (left & right).total() / max(1, (left | right).total())
