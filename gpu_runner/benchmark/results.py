"""What a benchmark found, as plain values, and the rows and sets written from it. No model, no files.

One `Answers` is what one model did in one part (a general set, the held-out questions, MT-Bench). Two of
them, item by item, make the rows of `items.jsonl`; `sets` adds those up. Every score lies between 0 and 1: a
choice or a match is 0 or 1, a judge's mark is its share of the full mark, MT-Bench is in tenths.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gpu_runner.benchmark.scoring import Scored

GENERAL, POOLED = "general", "changed leaves"
CHOICE, SHORT_ANSWER, JUDGED = "choice", "short_answer", "judged"
ACCURACY, MT_BENCH = "accuracy", "mt_bench"
WITH_RETRIEVAL = "_with_retrieval"
"""Ending of the metrics that are asked with passages of the leaf's documents; they are shown, never gated."""


@dataclass(frozen=True)
class Item:
    """One question of one set, however it is asked. `cluster` names what its fate hangs on."""

    id: str
    set: str
    leaf: str | None
    question: str
    expected: str
    cluster: str


@dataclass(frozen=True)
class Answers:
    """`scores`: metric -> item id -> score. `prompts`: digest of everything that the model was shown.
    `extra`: what a part reports beside its items."""

    items: tuple[Item, ...]
    scores: Mapping[str, Mapping[str, Scored]]
    prompts: str
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        scores = {
            name: {key: asdict(score) for key, score in rows.items()} for name, rows in self.scores.items()
        }
        items = [asdict(item) for item in self.items]
        return {"items": items, "scores": scores, "prompts": self.prompts, "extra": dict(self.extra)}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Answers:
        scores = {
            name: {key: Scored(**score) for key, score in rows.items()}
            for name, rows in value["scores"].items()
        }
        items = tuple(Item(**item) for item in value["items"])
        return Answers(items, scores, value["prompts"], value["extra"])


def item_rows(base: Answers, candidate: Answers) -> list[dict[str, Any]]:
    """One row an item and metric, with both models' scores and answers; ValueError when one model was asked
    other items than the other, for then nothing can be paired."""
    rows = []
    for metric, before in base.scores.items():
        after = candidate.scores.get(metric, {})
        if before.keys() != after.keys() or base.items != candidate.items:
            raise ValueError(f"{metric}: base and candidate were asked different items")
        asked = (item for item in base.items if item.id in before)
        rows += [_row(metric, item, before[item.id], after[item.id]) for item in asked]
    return rows


def _row(metric: str, item: Item, before: Scored, after: Scored) -> dict[str, Any]:
    return {
        "id": item.id,
        "set": item.set,
        "leaf": item.leaf,
        "metric": metric,
        "cluster": item.cluster,
        "question": item.question,
        "expected": item.expected,
        "base": _plain(before.score),
        "candidate": _plain(after.score),
        "base_text": before.text,
        "candidate_text": after.text,
        "base_readable": before.readable,
        "candidate_readable": after.readable,
    }


def _plain(score: float) -> float | int:
    return int(score) if score == int(score) else round(score, 6)


def sets(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The scores of every set: general, each leaf, and all changed leaves together, by metric."""
    grouped: dict[tuple[str, str | None, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        grouped.setdefault((row["set"], row["leaf"], row["metric"]), []).append(row)
        if row["leaf"] is not None:
            grouped.setdefault((POOLED, None, row["metric"]), []).append(row)
    order = {"general": 0, "leaf": 1, "pooled": 2}
    found = [
        _set(name, "leaf" if leaf else "pooled" if name == POOLED else "general", leaf, metric, chosen)
        for (name, leaf, metric), chosen in grouped.items()
    ]
    return sorted(found, key=lambda entry: order[entry["kind"]])


def _set(
    name: str, kind: str, leaf: str | None, metric: str, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    def mean(values: Iterable[float]) -> float:
        return round(sum(values) / len(rows), 6)

    return {
        "name": name,
        "kind": kind,
        "leaf": leaf,
        "metric": metric,
        "items": len(rows),
        "base": mean(row["base"] for row in rows),
        "candidate": mean(row["candidate"] for row in rows),
        "parse_failures": {
            "base": sum(not row["base_readable"] for row in rows),
            "candidate": sum(not row["candidate_readable"] for row in rows),
        },
    }
