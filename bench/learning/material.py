"""The rows and questions of the learning benchmark, made from `facts.json`; nothing here asks a model.

Facts: 20 about a town that does not exist, ten written phrasings each for training and two others that only
the evaluation sees. A training row is a phrasing in one of four frames with the fact as a sentence; each seed
draws its own rows. The later phase teaches something else, as in the LAB method: a small skill (an order
becomes a polite request), so that what it costs the facts, and what replay saves, can be seen.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.contracts import digest

HERE = Path(__file__).resolve().parent
LEAF, SKILL = "knowledge/places/ostervane", "compositional_skills/writing/polite_requests"

FRAMES = (
    "{}",
    "I am reading about the town of Ostervane. {}",
    "A quick question: {}",
    "{} Answer in one sentence.",
)
VERBS = (
    "close", "open", "clean", "move", "paint", "repair", "carry", "check", "cover", "lift",
    "lock", "measure", "polish", "wash", "wrap",
)  # fmt: skip
THINGS = (
    "the window", "the gate", "this box", "the blue chair", "that lamp", "the kitchen table",
    "the old bicycle", "my suitcase", "the garden bench", "the glass door", "the wooden shelf",
    "these two baskets",
)  # fmt: skip
ORDERS = (
    'Turn this order into a polite request: "{}"',
    'Say it politely: "{}"',
    'How do I ask this kindly? "{}"',
)


@dataclass(frozen=True)
class Fact:
    id: str
    group: str
    answer: str
    sentence: str
    train: tuple[str, ...]
    held_out: tuple[str, ...]

    def said(self, answer: str | None = None) -> str:
        return self.sentence.format(answer or self.answer)


def facts() -> list[Fact]:
    rows = json.loads((HERE / "facts.json").read_text("utf-8"))
    return [Fact(**{**row, "train": tuple(row["train"]), "held_out": tuple(row["held_out"])}) for row in rows]


def held_out_items(known: Sequence[Fact]) -> list[dict[str, Any]]:
    """Lines as `plan` writes them. The wrong choices are the right answers of three other facts of the same
    kind, so a model cannot choose by having seen a word, nor by what fits grammatically."""
    items = []
    for fact in known:
        for number, question in enumerate(fact.held_out):
            draw = random.Random(f"choices/{fact.id}/{number}")
            others = [other.answer for other in known if other.group == fact.group and other.id != fact.id]
            choices = [fact.answer, *draw.sample(others, 3)]
            draw.shuffle(choices)
            items.append(
                {
                    "id": f"{fact.id}-{number}",
                    "leaf": LEAF,
                    "question": question,
                    "answer": fact.answer,
                    "choices": [fact.said(choice) for choice in choices],
                    "key": choices.index(fact.answer),
                    "context": None,
                    "seed": known.index(fact),
                }
            )
    return items


def requests() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The skill as (question, answer): for training, and 20 for evaluation whose orders are not trained."""
    pairs = [(verb, thing) for verb in VERBS for thing in THINGS]
    random.Random("orders").shuffle(pairs)
    made = [
        (
            ORDERS[number % len(ORDERS)].format(f"{verb.capitalize()} {thing}."),
            f"Could you please {verb} {thing}?",
        )
        for number, (verb, thing) in enumerate(pairs)
    ]
    return made[20:], made[:20]


def training_samples(
    known: Sequence[Fact], replay: Sequence[tuple[str, str]], seed: int, rows_a_fact: int
) -> list[dict[str, Any]]:
    """Lines of `generate/samples.jsonl`: facts by seeded draw, the skill, and the base's own answers."""
    draw = random.Random(f"rows/{seed}")
    samples = []
    for fact in known:
        asked = [frame.format(question) for question in fact.train for frame in FRAMES]
        samples += [
            sample("knowledge_short", "knowledge", LEAF, question, fact.said())
            for question in draw.sample(asked, rows_a_fact)
        ]
    samples += [sample("skill", "freeform_skill", SKILL, *pair) for pair in requests()[0]]
    samples += [sample("replay", "replay", "replay_prompts.jsonl", *pair) for pair in replay]
    return samples


def sample(dataset: str, kind: str, leaf: str, question: str, answer: str) -> dict[str, Any]:
    """One line in the schema of `sample.json`, as written by a person (no teacher, no judge)."""
    lineage: Mapping[str, Any] = {
        "leaf": leaf,
        "leaf_digest": digest(leaf),
        "seed": None,
        "document": None,
        "chunk": None,
        "commit": "0" * 40,
        "pull_requests": [],
        "flow": "seed",
        "flow_digest": digest("seed"),
        "teacher": None,
        "judge": None,
        "requests": [],
    }
    return {
        "id": digest([dataset, leaf, question, answer]),
        "dataset": dataset,
        "kind": kind,
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        "question": question,
        "answer": answer,
        "context": None,
        "lineage": dict(lineage),
        "grades": [],
    }
