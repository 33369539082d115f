"""Which checkpoint of the last phase is released: the earliest that no later one is shown to beat.

    held = hold_back(samples, share=0.02, seed=0)          # before mixing: rows that are never trained on
    choice = choose(measures, clusters)                    # a row of measures an epoch, one an item

The best-measured of several checkpoints is the luckiest among equals, so a later one takes the place of an
earlier one only where it is shown to be better: the paired difference over the same items, by whole
documents, has its lower bound above `MARGIN`. Among checkpoints that cannot be told apart the earliest has
learned least by heart and moved least from the student (the thought of the one-standard-error rule:
Breiman, Friedman, Olshen & Stone, "Classification and regression trees", 1984, section 3.4.3).

One candidate is compared with the one kept before it, so no more than that one is ever needed on the disk.
Everything here is pure; `candidates.py` measures and keeps.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gpu_runner.statistics import DRAWS, SEED, Floats, bootstrap_differences, flipped
from lab.contracts import canonical
from lab.synthesis.mixing import REPLAY_DATASET

ALPHA = 0.05
"""Of ever leaving an earlier checkpoint for a later one that is no better, over all comparisons of a run."""
MARGIN = 0.01
"""Nats a target token: a difference of one percent in the likelihood of a token is none. Ours."""
MOST_ITEMS = 64
"""Bounds what an epoch's measurement costs. Ours."""
LEAST_ITEMS = 16
LEAST_CLUSTERS = 12
"""Documents below which the flip test would hardly ever show a difference over several epochs, so that the
first epoch would be taken for want of evidence: of ten coins eight or more fall alike in 1 of 18, of twelve
in 1 of 52 ten or more."""


@dataclass(frozen=True)
class Held:
    """Samples kept out of training, and those left for it. `why` says why none is held back."""

    validation: tuple[Mapping[str, Any], ...]
    training: tuple[Mapping[str, Any], ...]
    why: str | None


@dataclass(frozen=True)
class Compared:
    """One candidate: its mean measure and its difference to the chosen one, each with a 95 % interval."""

    mean: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float

    def to_json(self) -> dict[str, float]:
        return {name: round(value, 6) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Choice:
    """`chosen` counts from 0."""

    chosen: int
    why: str


def cluster_of(sample: Mapping[str, Any]) -> str:
    """What a row's fate hangs on: its document, or its leaf where it has none."""
    lineage = sample.get("lineage", {})
    return f"{lineage.get('leaf')}\0{lineage.get('document') or ''}"


def hold_back(samples: Iterable[Mapping[str, Any]], share: float, seed: int, datasets: Sequence[str]) -> Held:
    """Take `share` of the generated rows of `datasets` out of training, at most MOST_ITEMS, documents in
    turn, with every other row that has the same messages. What a person wrote and the replay buffer stay."""
    every = tuple(samples)
    if share <= 0:
        return Held((), every, "tune.overrides.validation_share is 0")
    alike: dict[bytes, list[Mapping[str, Any]]] = defaultdict(list)
    for sample in every:
        alike[canonical(sample["messages"])].append(sample)
    turns: dict[str, list[tuple[bytes, bytes]]] = defaultdict(list)
    for text, group in alike.items():
        if all(_generated(sample, datasets) for sample in group):
            rank = hashlib.sha256(f"{seed}\0validation\0".encode() + text).digest()
            turns[cluster_of(group[0])].append((rank, text))
    possible = sum(len(ranked) for ranked in turns.values())
    wanted = min(MOST_ITEMS, int(share * possible))
    why = not_enough(wanted, min(wanted, len(turns)))
    if why:
        return Held((), every, f"{why}; {share:.3g} of {possible} generated rows would be held back")
    order = sorted(
        (turn, rank, text) for ranked in turns.values() for turn, (rank, text) in enumerate(sorted(ranked))
    )
    texts = {text for _, _, text in order[:wanted]}
    return Held(
        tuple(alike[text][0] for _, _, text in order[:wanted]),
        tuple(sample for text, group in alike.items() if text not in texts for sample in group),
        None,
    )


def _generated(sample: Mapping[str, Any], datasets: Sequence[str]) -> bool:
    written = sample.get("lineage", {}).get("flow") == "seed"
    return sample["dataset"] in datasets and sample["dataset"] != REPLAY_DATASET and not written


def not_enough(items: int, clusters: int) -> str | None:
    if items < LEAST_ITEMS:
        return f"{items} validation rows, {LEAST_ITEMS} are needed"
    if clusters < LEAST_CLUSTERS:
        return f"validation rows of {clusters} documents or leaves, {LEAST_CLUSTERS} are needed"
    return None


def choose(
    measures: Sequence[Sequence[float]],
    clusters: Sequence[Hashable],
    *,
    planned: int | None = None,
    margin: float = MARGIN,
    seed: int = SEED,
    draws: int = DRAWS,
) -> Choice:
    """`measures[candidate][item]`, higher is better, earliest candidate first; `planned` candidates are
    there at the end. With one more candidate the choice stays or moves to that one."""
    last = len(measures) - 1
    if last < 0:
        raise ValueError("no candidate was measured")
    why = "there is one candidate" if max(planned or 0, last + 1) == 1 else None
    why = why or not_enough(len(clusters), len(set(clusters)))
    if why:
        return Choice(last, f"the last one, without a choice: {why}")
    alpha = ALPHA / max(1, (planned or last + 1) - 1)  # Bonferroni: one comparison a later candidate
    kept = 0
    for index in range(1, last + 1):
        if shown_better(measures[kept], measures[index], clusters, margin, alpha, seed, draws):
            kept = index
    if kept == last:
        return Choice(last, "the last one is shown to be better than the one kept before it")
    why = f"no later one is shown to be better by more than {margin:g} nats a token"
    return Choice(kept, why)


def shown_better(
    base: Sequence[float],
    candidate: Sequence[float],
    clusters: Sequence[Hashable],
    margin: float,
    alpha: float,
    seed: int = SEED,
    draws: int = DRAWS,
) -> bool:
    """The clustered bootstrap and, since it errs where documents are few, the flip test must both say so."""
    beyond = np.asarray(candidate, np.float64) - np.asarray(base, np.float64) - margin
    if beyond.sum() <= 0:
        return False
    low = _bounds(bootstrap_differences(beyond, clusters, draws, seed), alpha)[0]
    return low > 0 and flipped(_sums(beyond, clusters), draws, seed) <= alpha


def compared(
    measures: Sequence[Sequence[float]], clusters: Sequence[Hashable], chosen: int, seed: int = SEED
) -> list[Compared]:
    made = []
    kept = np.asarray(measures[chosen], np.float64)
    for row in measures:
        values = np.asarray(row, np.float64)
        spread = [
            _bounds(bootstrap_differences(one, clusters, seed=seed), 0.025) for one in (values, values - kept)
        ]
        made.append(Compared(float(values.mean()), *spread[0], float((values - kept).mean()), *spread[1]))
    return made


def _bounds(draws: Floats, alpha: float) -> tuple[float, float]:
    rank = max(0, int(alpha * (len(draws) + 1)) - 1)
    return float(draws[rank]), float(draws[len(draws) - 1 - rank])


def _sums(values: Floats, clusters: Sequence[Hashable]) -> Floats:
    sums: dict[Hashable, float] = defaultdict(float)
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] += float(value)
    return np.asarray(list(sums.values()), np.float64)
