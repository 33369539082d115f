"""Chat rows for the tuning bench, seeded: a question of 10 to 40 words, an answer of 5 to 160.

The words mean nothing; speed and memory depend on lengths alone. Two thirds of the rows are short, as in
knowledge with short answers, one third long.
"""

from __future__ import annotations

import random

_WORDS = [
    "the",
    "of",
    "a",
    "in",
    "and",
    "is",
    "was",
    "river",
    "harbour",
    "island",
    "light",
    "stone",
    "winter",
    "boat",
    "bridge",
    "council",
    "market",
    "year",
    "ferry",
    "school",
    "north",
    "wall",
    "garden",
    "letter",
    "tower",
    "salt",
    "wind",
    "copper",
    "road",
    "fishing",
    "island's",
    "keeper",
    "founded",
    "carries",
]


def rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    chance = random.Random(seed)

    def text(low: int, high: int) -> str:
        return " ".join(chance.choices(_WORDS, k=chance.randint(low, high)))

    return [
        {
            "id": f"row-{index}",
            "question": text(10, 40) + "?",
            "answer": text(60, 160) + "." if index % 3 == 0 else text(5, 30) + ".",
        }
        for index in range(count)
    ]
