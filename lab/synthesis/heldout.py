"""The split between what the teacher may see and what the benchmark asks, made before anything is generated.

Seeded by the leaf's own path, so that adding a leaf never moves another leaf's split. Knowledge: the last
pairs of every context. Skills: whole seeds. Four-way choices are the answer and three other answers of the
same leaf, so that knowing the leaf's subject is not enough.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from lab.contracts import digest
from lab.synthesis.items import Example, HeldOut
from lab.synthesis.text import normal
from lab.taxonomy.model import Leaf

CHOICES = 4


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
    stays: list[Example] = []
    items: list[HeldOut] = []
    position = 0
    for index, entry in enumerate(leaf.seeds):
        for number, _ in enumerate(entry.pairs):
            example = every[position]
            position += 1
            if (index, number) in taken:
                items.append(_item(leaf, example, answers, seed))
            else:
                stays.append(example)
    return Split(tuple(stays), tuple(items), None if items else "no context has a pair to spare")


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
