"""Held-out questions of the changed leaves, asked in two ways: pick the answer, and write it.

Choice: the likelihood of each choice's text through the chat template. Short answer: a greedy answer,
matched by the rule of `scoring.py` and kept for people to read. Knowledge is asked without its source, as a
user would ask; a grounded skill gets its context. The held-out file is written by `plan` before anything is
generated.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_runner.benchmark.general import ChoiceItem, choose
from gpu_runner.benchmark.model import LoadedModel, answer_all
from gpu_runner.benchmark.scoring import Scored, is_right, readable


@dataclass(frozen=True)
class HeldOut:
    """One line of `heldout.jsonl`; `cluster` names its passage, on which its fate hangs."""

    id: str
    leaf: str
    question: str
    answer: str
    choices: tuple[str, ...]
    key: int
    context: str | None
    seed: int

    @property
    def prompt(self) -> str:
        return f"{self.context}\n\n{self.question}" if self.context else self.question

    @property
    def cluster(self) -> str:
        return f"{self.leaf}#{self.seed}"


def held_out(rows: Sequence[Mapping[str, Any]], changed: Collection[str]) -> list[HeldOut]:
    """The held-out items of the changed leaves."""
    return [
        HeldOut(
            id=row["id"],
            leaf=row["leaf"],
            question=row["question"],
            answer=row["answer"],
            choices=tuple(row["choices"]),
            key=row["key"],
            context=row["context"],
            seed=row["seed"],
        )
        for row in rows
        if row["leaf"] in changed
    ]


def choose_held_out(
    model: LoadedModel, items: Sequence[HeldOut], folder: Path
) -> tuple[dict[str, Scored], str]:
    """Choice scores by item id, and the digest of the prompts."""
    asked = [ChoiceItem(item.id, item.prompt, item.choices, item.key) for item in items]
    return choose(model, asked, name="contributed", chat=True, folder=folder)


def answer_held_out(model: LoadedModel, items: Sequence[HeldOut]) -> dict[str, Scored]:
    """Short-answer scores by item id, with the answers themselves."""
    answers = answer_all(model, [item.prompt for item in items]) if items else []
    return {
        item.id: Scored(
            right=is_right(item.question, item.answer, answer), text=answer, readable=readable(answer)
        )
        for item, answer in zip(items, answers, strict=True)
    }
