"""Mixing: from samples to the rows of each tuning phase, by explicit budgets.

Nothing is drawn with replacement and nothing is repeated in a phase: when fewer rows are there than a
budget asks for, fewer are taken and the report says so. (The predecessor drew 30 rows of each skill with
replacement, so that a leaf with three good rows was seen ten times.) Rows are ordered by a digest of (seed,
phase, id), so equal samples and seeds give equal bytes whatever order they come in, and one more sample
does not move the others.

Phases with replay are the LAB method's (arXiv 2403.01081, section 3): a later phase sees again a share of
what earlier phases taught, and rows of a replay buffer, so that it is not forgotten.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Literal

from lab.contracts import canonical

Origin = Literal["new", "phase_replay", "buffer"]
REPLAY_DATASET = "replay"


TOKENS_A_WORD = 1.4
"""As `lab.taxonomy.cost` counts: English prose in a byte-pair vocabulary of about 50,000, with chat marks."""


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
class Limits:
    """What one leaf, and one source (a data set such as `knowledge_long`, or `seed`, or `replay`), may give
    to a phase at most, in rows or in tokens; None and absent are without limit. They hold for new, replayed
    and buffer rows together.
    """

    leaf_rows: int | None = None
    leaf_tokens: int | None = None
    source_rows: Mapping[str, int] = field(default_factory=dict)
    source_tokens: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = [self.leaf_rows, self.leaf_tokens, *self.source_rows.values(), *self.source_tokens.values()]
        if any(one is not None and one < 0 for one in given):
            raise ValueError("a budget of rows or tokens is 0 or more")

    def of(self, leaf: str, sources: Sequence[str]) -> list[tuple[str, int | None, int | None]]:
        """(what is counted, rows, tokens) for each limit that a sample comes under."""
        made = [(f"leaf {leaf}", self.leaf_rows, self.leaf_tokens)]
        made += [(f"source {one}", self.source_rows.get(one), self.source_tokens.get(one)) for one in sources]
        return [one for one in made if one[1] is not None or one[2] is not None]


Count = Callable[[Mapping[str, Any]], int]


def estimated_tokens(sample: Mapping[str, Any]) -> int:
    """Tokens of a sample's messages, by its words: no tokenizer is at hand in this room."""
    return ceil(sum(len(message["content"].split()) for message in sample["messages"]) * TOKENS_A_WORD)


def sources_of(sample: Mapping[str, Any]) -> tuple[str, ...]:
    """A sample's data set, and `seed` when a person wrote it."""
    seed = sample.get("lineage", {}).get("flow") == "seed"
    return (str(sample["dataset"]), "seed") if seed else (str(sample["dataset"]),)


@dataclass(frozen=True)
class MixedPhase:
    """One phase's training rows (schema `training_row.json`) and where they came from."""

    number: int
    rows: tuple[dict[str, Any], ...]
    counts: Mapping[str, int]
    by_leaf: Mapping[str, int]
    by_source: Mapping[str, int]
    notes: tuple[str, ...]

    @property
    def worth_training(self) -> bool:
        """Replaying earlier phases alone would only be more epochs of them."""
        return self.counts["new"] + self.counts["buffer"] > 0


def mix(
    samples: Iterable[Mapping[str, Any]],
    budgets: Sequence[Budget],
    seed: int,
    limits: Limits = Limits(),
    tokens: Count = estimated_tokens,
) -> list[MixedPhase]:
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
        ledger = _Ledger(limits, tokens)
        everything = len(offered) if budget.max_rows is None else budget.max_rows
        new = _fair(offered, everything, seed, number, ledger)
        if budget.max_rows is not None and len(offered) < budget.max_rows:
            notes.append(f"budget of {budget.max_rows} new rows, {len(offered)} there")
        again = [
            sample
            for earlier in taught
            for sample in _fair(earlier, ceil(len(earlier) * budget.replay_share), seed, number, ledger)
        ]
        buffer = _fair(pool[REPLAY_DATASET], budget.buffer_rows, seed, number, ledger)
        if len(pool[REPLAY_DATASET]) < budget.buffer_rows:
            there = len(pool[REPLAY_DATASET])
            notes.append(f"budget of {budget.buffer_rows} rows of the replay buffer, {there} there")
        notes += ledger.notes()
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
    sources: Counter[str] = Counter()
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
            sources.update(sources_of(sample))
    if counts["duplicates"]:
        notes.append(f"{counts['duplicates']} rows left out: another row of the phase has the same messages")
    ordered = sorted(rows.values(), key=lambda row: _rank(seed, number, str(row["id"])))
    return MixedPhase(
        number,
        tuple(ordered),
        dict(counts),
        dict(sorted(leaves.items())),
        dict(sorted(sources.items())),
        tuple(notes),
    )


class _Ledger:
    """What a phase has taken of each leaf and source, and what a limit kept out of it."""

    def __init__(self, limits: Limits, tokens: Count) -> None:
        self._limits, self._tokens = limits, tokens
        self._rows: Counter[str] = Counter()
        self._spent: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()

    def takes(self, sample: Mapping[str, Any]) -> bool:
        """Whether the sample fits every limit; if so it is counted against them."""
        under = self._limits.of(str(sample.get("lineage", {}).get("leaf")), sources_of(sample))
        if not under:
            return True
        size = self._tokens(sample) if any(tokens is not None for _, _, tokens in under) else 0
        for name, rows, tokens in under:
            if (rows is not None and self._rows[name] >= rows) or (
                tokens is not None and self._spent[name] + size > tokens
            ):
                self._left_out[name] += 1
                return False
        for name, _, _ in under:
            self._rows[name] += 1
            self._spent[name] += size
        return True

    def notes(self) -> list[str]:
        return [f"budget of {name}: {count} rows left out" for name, count in sorted(self._left_out.items())]


def _fair(
    samples: Sequence[Mapping[str, Any]], limit: int, seed: int, phase: int, ledger: _Ledger
) -> list[Mapping[str, Any]]:
    """At most `limit` samples, leaves in turn, so that a large leaf cannot crowd out a small one. A sample
    that a limit keeps out makes room for the next one.
    """
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
    chosen: list[Mapping[str, Any]] = []
    for _, _, sample in turns:
        if len(chosen) == limit:
            break
        if ledger.takes(sample):
            chosen.append(sample)
    return chosen


def _rank(seed: int, phase: int, sample_id: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{phase}\0{sample_id}".encode()).digest()
