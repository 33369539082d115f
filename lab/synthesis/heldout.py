"""The split between what the teacher may see and what the benchmark asks, made before anything is generated.

Seeded by the leaf's own path, so that adding a leaf never moves another leaf's split. Knowledge: the last
pairs of every context. Skills: whole seeds. Four-way choices are the answer and three other answers of the
same leaf, so that knowing the leaf's subject is not enough.

A pair that is taught nearly as it would be asked is no test of anything: it is not held out (`_repeats`; for
the seeds of other leaves, `apart`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lab.contracts import digest
from lab.synthesis.items import Example, HeldOut
from lab.synthesis.text import likeness, normal
from lab.taxonomy.model import Leaf

CHOICES = 4
LIKENESS = 0.75
"""As `checks.HELD_OUT_LIKENESS`, of the question and of the answer. Knowledge only: tasks of one skill are
alike by nature, and their answers may be a word."""


@dataclass(frozen=True)
class Split:
    """`left_out` says why a leaf has no held-out items, when it has none."""

    examples: tuple[Example, ...]
    heldout: tuple[HeldOut, ...]
    left_out: str | None = None


def split(leaf: Leaf, share: float, seed: int) -> Split:
    """Part the leaf's pairs. At least one pair of every context (skills: one seed) stays with the teacher."""
    every = [
        Example(index, pair.question, pair.answer, entry.context)
        for index, entry in enumerate(leaf.seeds)
        for pair in entry.pairs
    ]
    answers = list({normal(example.answer): example.answer for example in every}.values())
    if share <= 0:
        return Split(tuple(every), (), "heldout_share is 0")
    if len(answers) < CHOICES:
        reason = f"only {len(answers)} different answers, and {CHOICES} are needed for a four-way choice"
        return Split(tuple(every), (), reason)
    taken = _taken_knowledge(leaf, share) if leaf.kind == "knowledge" else _taken_seeds(leaf, share, seed)
    places = [(index, number) for index, entry in enumerate(leaf.seeds) for number in range(len(entry.pairs))]
    stays = [example for place, example in zip(places, every, strict=True) if place not in taken]
    items: list[HeldOut] = []
    for place, example in zip(places, every, strict=True):
        if place in taken:
            if leaf.kind == "knowledge" and any(_repeats(example, other) for other in stays):
                stays.append(example)
            else:
                items.append(_item(leaf, example, answers, seed))
    why = "every pair that could be is nearly another one" if taken else "no context has a pair to spare"
    return Split(tuple(sorted(stays, key=every.index)), tuple(items), None if items else why)


def _repeats(one: Example, other: Example) -> bool:
    """Whether the two ask and answer nearly the same."""
    return all(
        normal(left) == normal(right) or likeness(left, right) >= LIKENESS
        for left, right in ((one.question, other.question), (one.answer, other.answer))
    )


def apart(splits: Mapping[str, Split]) -> dict[str, Split]:
    """The splits of all leaves, without held-out items that another leaf's seed teaches word for word."""
    taught = {
        _identity(example.question, example.context if context else None)
        for part in splits.values()
        for example in part.examples
        for context in (False, True)
    }
    made = {}
    for path, part in splits.items():
        items = tuple(one for one in part.heldout if _identity(one.question, one.context) not in taught)
        gone = len(items) < len(part.heldout) and not items
        why = "other leaves teach every item by a seed" if gone else part.left_out
        made[path] = replace(part, heldout=items, left_out=why)
    return made


def _identity(question: str, context: str | None) -> tuple[str, str]:
    return normal(question), normal(context or "")


def _taken_knowledge(leaf: Leaf, share: float) -> set[tuple[int, int]]:
    taken: set[tuple[int, int]] = set()
    for index, entry in enumerate(leaf.seeds):
        count = _count(len(entry.pairs), share)
        taken |= {(index, number) for number in range(len(entry.pairs) - count, len(entry.pairs))}
    return taken


def _taken_seeds(leaf: Leaf, share: float, seed: int) -> set[tuple[int, int]]:
    order = list(range(len(leaf.seeds)))
    _random(seed, leaf.path).shuffle(order)
    chosen = order[: _count(len(order), share)]
    return {(index, number) for index in chosen for number in range(len(leaf.seeds[index].pairs))}


def _count(size: int, share: float) -> int:
    """How many of `size` are held out: the nearest whole number, at least one if one can be spared."""
    return min(max(1, int(size * share + 0.5)), size - 1)


def _item(leaf: Leaf, example: Example, answers: Sequence[str], seed: int) -> HeldOut:
    draw = _random(seed, leaf.path, example.question, example.answer)
    own = normal(example.answer)
    choices = [example.answer, *draw.sample([one for one in answers if normal(one) != own], CHOICES - 1)]
    draw.shuffle(choices)
    return HeldOut(
        leaf=leaf.path,
        question=example.question,
        answer=example.answer,
        choices=tuple(choices),
        key=choices.index(example.answer),
        context=example.context if leaf.kind == "grounded_skill" else None,
        seed=example.seed,
    )


def _random(seed: int, *parts: str) -> random.Random:
    return random.Random(digest([seed, *parts]))  # noqa: S311 (a split, not a secret)
