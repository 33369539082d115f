"""Row lengths in tokens as LAB's phases have them, seeded: three mixes of log-normal parts.

The parts follow what the flows write: a short question with a one-sentence answer; a question with an answer
of one or more paragraphs; a grounded row that carries its passage. Log-normal, because lengths of chat rows
are: most near the middle, a long tail to the right. No row is longer than 4,096 tokens, the paper's context
length in its last phase (arXiv 2403.01081, table 2).
"""

from __future__ import annotations

import random

CAPACITY = 4096

# Median tokens, spread (sigma of the logarithm), share of the rows.
MIXES: dict[str, tuple[tuple[float, float, float], ...]] = {
    "short answers": ((90, 0.35, 0.9), (260, 0.5, 0.1)),
    "long answers with replay": ((420, 0.6, 0.6), (90, 0.35, 0.25), (1100, 0.5, 0.15)),
    "skills with passages": ((350, 0.8, 0.5), (1500, 0.45, 0.3), (120, 0.5, 0.2)),
}


def lengths(mix: str, rows: int, seed: int) -> list[int]:
    chance = random.Random(f"{mix}/{rows}/{seed}")
    parts = MIXES[mix]
    chosen = chance.choices(parts, weights=[share for _, _, share in parts], k=rows)
    return [
        max(16, min(CAPACITY, round(median * 2.718281828 ** chance.gauss(0, sigma))))
        for median, sigma, _ in chosen
    ]
