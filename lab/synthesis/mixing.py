"""Mixing: from samples to the rows of each tuning phase, by explicit budgets.

Nothing is drawn with replacement and nothing is repeated in a phase: when fewer rows are there than a
budget asks for, fewer are taken and the report says so. Rows are ordered by a digest of (seed, phase, id),
so equal samples and seeds give equal bytes whatever order they come in, and one more sample does not move
the others.

Phases with replay are the LAB method's (arXiv 2403.01081, section 3): a later phase sees again a share of
what earlier phases taught, and rows of a replay buffer, so that it is not forgotten.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

from lab.contracts import canonical

Origin = Literal["new", "phase_replay", "buffer"]
REPLAY_DATASET = "replay"


class MixError(ValueError):
    """The samples cannot be mixed as they are; the message names the sample."""


@dataclass(frozen=True)
class Budget:
    """What one phase takes. `max_rows` bounds the new rows (None: all), shared fairly among leaves.

    `replay_share` is the share (0 to 1) of the new rows of every earlier phase to see again; `buffer_rows`
    the number of rows of the replay buffer (samples whose dataset is `replay`).
    """

    datasets: tuple[str, ...]
    max_rows: int | None = None
    replay_share: float = 0.0
    buffer_rows: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.replay_share <= 1.0:
            raise ValueError(f"replay_share is a share from 0 to 1, not {self.replay_share}")
        if self.buffer_rows < 0 or (self.max_rows is not None and self.max_rows < 0):
            raise ValueError("a budget of rows is 0 or more")


@dataclass(frozen=True)
class MixedPhase:
    """One phase's training rows (schema `training_row.json`) and where they came from."""

    number: int
    rows: tuple[dict[str, Any], ...]
    counts: Mapping[str, int]
    by_leaf: Mapping[str, int]
    notes: tuple[str, ...]

    @property
    def worth_training(self) -> bool:
        """Replaying earlier phases alone would only be more epochs of them."""
        return self.counts["new"] + self.counts["buffer"] > 0


def mix(samples: Iterable[Mapping[str, Any]], budgets: Sequence[Budget], seed: int) -> list[MixedPhase]:
    """One `MixedPhase` per budget, numbered from 1. Raises MixError when two samples share an id."""
    pool: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    seen: set[str] = set()
    for sample in samples:
        if sample["id"] in seen:
            raise MixError(f"two samples have the id {sample['id']}")
        seen.add(sample["id"])
        pool[sample["dataset"]].append(sample)

    phases: list[MixedPhase] = []
    taught: list[list[Mapping[str, Any]]] = []  # the new samples of each earlier phase
    for number, budget in enumerate(budgets, start=1):
        notes: list[str] = []
        offered = [sample for dataset in budget.datasets for sample in pool[dataset]]
        new = _fair(offered, len(offered) if budget.max_rows is None else budget.max_rows, seed, number)
        if budget.max_rows is not None and len(offered) < budget.max_rows:
            notes.append(f"budget of {budget.max_rows} new rows, {len(offered)} there")
        again = [
            sample
            for earlier in taught
            for sample in _fair(earlier, ceil(len(earlier) * budget.replay_share), seed, number)
        ]
        buffer = _fair(pool[REPLAY_DATASET], budget.buffer_rows, seed, number)
        if len(buffer) < budget.buffer_rows:
            notes.append(f"budget of {budget.buffer_rows} rows of the replay buffer, {len(buffer)} there")
        origins: list[tuple[Origin, list[Mapping[str, Any]]]] = [
            ("new", new),
            ("phase_replay", again),
            ("buffer", buffer),
        ]
        phases.append(_phase(number, origins, seed, notes))
        taught.append(new)
    return phases


def _phase(
    number: int, origins: Sequence[tuple[Origin, list[Mapping[str, Any]]]], seed: int, notes: list[str]
) -> MixedPhase:
    rows: dict[bytes, dict[str, Any]] = {}
    counts: Counter[str] = Counter({"new": 0, "phase_replay": 0, "buffer": 0, "duplicates": 0})
    leaves: Counter[str] = Counter()
    for origin, chosen in origins:
        for sample in sorted(chosen, key=lambda sample: str(sample["id"])):
            text = canonical(sample["messages"])
            if text in rows:
                counts["duplicates"] += 1
                continue
            leaf = sample.get("lineage", {}).get("leaf")
            rows[text] = {
                "id": sample["id"],
                "phase": number,
                "origin": origin,
                "dataset": sample["dataset"],
                "leaf": leaf,
                "messages": [
                    {"role": message["role"], "content": message["content"]} for message in sample["messages"]
                ],
            }
            counts[origin] += 1
            leaves[leaf or "(no leaf)"] += 1
    if counts["duplicates"]:
        notes.append(f"{counts['duplicates']} rows left out: another row of the phase has the same messages")
    ordered = sorted(rows.values(), key=lambda row: _rank(seed, number, str(row["id"])))
    return MixedPhase(number, tuple(ordered), dict(counts), dict(sorted(leaves.items())), tuple(notes))


def _fair(samples: Sequence[Mapping[str, Any]], limit: int, seed: int, phase: int) -> list[Mapping[str, Any]]:
    """At most `limit` samples, leaves in turn, so that a large leaf cannot crowd out a small one."""
    by_leaf: dict[str, list[tuple[bytes, Mapping[str, Any]]]] = defaultdict(list)
    for sample in samples:
        leaf = str(sample.get("lineage", {}).get("leaf"))
        by_leaf[leaf].append((_rank(seed, phase, str(sample["id"])), sample))
    turns = [
        (turn, rank, sample)
        for ranked in by_leaf.values()
        for turn, (rank, sample) in enumerate(sorted(ranked, key=lambda pair: pair[0]))
    ]
    turns.sort(key=lambda entry: entry[:2])
    return [sample for _, _, sample in turns[:limit]]


def _rank(seed: int, phase: int, sample_id: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{phase}\0{sample_id}".encode()).digest()
