"""A teacher and judge by rule for the LAB flows: they follow each prompt's form, told apart by its system
message.

What they write is dull and right, so that a test can make one thing of it wrong and see what becomes of it.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

from lab.taxonomy.sentences import sentences
from tests.lab.synthesis.helpers import asked


def part(body: dict[str, Any]) -> str:
    """Which prompt this is, by a few of its own words."""
    system = body["messages"][0]["content"]
    for name, words in {
        "summary": "You retell documents",
        "facts": "You take documents apart",
        "extract": "You choose the sentences",
        "pairs": "You write questions and answers",
        "long": "You answer questions at length",
        "faithful": "faithful to a document",
        "relevant": "gives what its question asks for",
        "alone": "whether a question stands alone",
        "instruction": "You write new tasks of one kind",
        "judge_instruction": "You check whether a task",
        "context": "You write texts that tasks",
        "grounded_instruction": "You set tasks about texts",
        "pair": "You mark the answer",
    }.items():
        if words in system:
            return name
    return "respond"


def verdict(word: str, reason: str = "As the rubric says.") -> str:
    return json.dumps({"reason": reason, "verdict": word})


def pairs_of(text: str) -> list[dict[str, str]]:
    """A question for each of the first sentences of a document, about its first words."""
    made = []
    for line in sentences(text)[:3]:
        subject = " ".join(line.rstrip(".").split()[:6])
        made.append({"question": f"What is there to know of {subject}?", "answer": line})
    return made


def scholar(body: dict[str, Any]) -> str | int | list[str]:
    said = asked(body)
    # Other examples or another seed, another text: as with a real teacher.
    seed = zlib.crc32(json.dumps([body["messages"], body.get("seed")]).encode()) % 9973
    document = said.split("Document:\n")[-1].split("\n\nWrite the pairs.")[0].split("\n\nQuestion:")[0]
    match part(body):
        case "summary" | "facts" | "extract":
            return " ".join(sentences(said.split("\n\n", 1)[-1])[1:])
        case "pairs":
            return json.dumps({"pairs": pairs_of(document)})
        case "long":
            return " ".join(sentences(document)[:3])
        case "faithful":
            return verdict("YES")
        case "relevant":
            return verdict("2")
        case "alone" | "judge_instruction":
            return verdict("1")
        case "pair":
            return verdict("3")
        case "instruction":
            return [
                json.dumps({"task": f"Rewrite plainly: order {seed}{number} {_word(seed + number)} is late."})
                for number in range(body.get("n", 1))
            ]
        case "context":
            return [
                f"The {_word(seed + number)} list: {_word(number + 3)} {seed}, {_word(seed * 3 + number)}."
                for number in range(body.get("n", 1))
            ]
        case "grounded_instruction":
            return [
                json.dumps({"task": f"Name item {number + 1} of this {_word(seed)} list."})
                for number in range(body.get("n", 1))
            ]
        case _:
            return f"It is the {_word(len(said))} one, and it will come a little later."


def _word(number: int) -> str:
    words = ("amber", "birch", "cedar", "dune", "ember", "fjord", "grove", "heath", "inlet", "jetty", "knoll")
    return words[number % len(words)]
