"""What a row starts from: the sentences of a leaf's documents, or its seeds, each with the ways to ask
about it.

Pure functions. Tries are spread evenly: first every sentence once, then every sentence again in another
way, so that no fact is left out when few rows are wanted and no fact is drilled when many are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab.synthesis.calibration import PAIRS
from lab.synthesis.flow import Flow
from lab.synthesis.items import Example, Task
from lab.synthesis.text import content_words, normal, shared, words
from lab.taxonomy.sentences import sentences

SHOTS = 5
SHOT_SETS = 3
SENTENCE_WORDS = (5, 60)
_NUMBERS = (
    "one two three four five six seven eight nine ten eleven twelve fifteen twenty thirty forty fifty hundred"
)
_FEATURES: Mapping[str, re.Pattern[str]] = {
    "year": re.compile(r"\b(?:1\d{3}|20\d\d)\b"),
    "number": re.compile(rf"\b(?:\d+|\w*(?:{'|'.join(_NUMBERS.split())}|teen))\b", re.IGNORECASE),
    "place": re.compile(r"\b(?:in|at|near|on|under|beside|north|south|east|west|island|town|street)\b"),
    "person": re.compile(
        r"\b(?:by|who|people|families|engineer|leader|king|queen|captain|founder|writer|teacher)\b"
    ),
}


@dataclass(frozen=True)
class Unit:
    """`order` sorts units as they appear; `values` is what prompts and checks of its rows see."""

    order: int
    values: Mapping[str, Any]
    seed: int | None = None
    chunk: str | None = None
    document: str | None = None


def units(flow: Flow, task: Task) -> list[Unit]:
    """Every unit that gets at least one try, with its tries in `values["ways"]`."""
    found = _sentence_units(task) if flow.unit == "sentence" else _seed_units(task)
    if not found:
        return []
    tries = task.tries if task.tries is not None else math.ceil(task.rows * flow.asks_per_row)
    if tries < len(found):  # a preview: sentences from all over the documents, not only from their start
        found = [found[index * len(found) // tries] for index in range(tries)]
    made = []
    for position, unit in enumerate(found):
        count = tries // len(found) + (position < tries % len(found))
        # A preview shows a few rows, so each sentence starts at another wording. The whole run asks every
        # sentence in the flow's own order, the plainest wordings first.
        start = position if task.tries is not None else 0
        ways = _ways(flow, str(unit.values.get("fact", "")), count, start)
        made.append(Unit(unit.order, {**unit.values, "ways": ways}, unit.seed, unit.chunk, unit.document))
    return made


def _ways(flow: Flow, fact: str, count: int, start: int) -> list[dict[str, Any]]:
    """`count` of the flow's ways that suit the sentence, from `start` on, again and again, at a new seed each
    time.
    """
    suited = [way for way in flow.ways if "when" not in way or _FEATURES[way["when"]].search(fact)]
    made = []
    for index in range(count):
        way = dict(suited[(start + index) % len(suited)])
        way.pop("when", None)
        made.append({**way, "seed": 1 + index, "index": index})
    return made


def _sentence_units(task: Task) -> list[Unit]:
    all_sentences = [[line for line in sentences(passage.text) if _usable(line)] for passage in task.passages]
    siblings = tuple(dict.fromkeys(line for lines in all_sentences for line in lines))
    sets = _shot_sets(task)
    made: list[Unit] = []
    seen: set[str] = set()
    for passage, lines in zip(task.passages, all_sentences, strict=True):
        for index, fact in enumerate(lines):
            if normal(fact) in seen:
                continue
            seen.add(normal(fact))
            near = lines[index + 1 : index + 2] or lines[max(index - 1, 0) : index]
            values = {
                "fact": fact,
                "neighbour": near[0] if near else "",
                "passage": passage.text,
                "heading": passage.heading,
                "siblings": siblings,
                "shots": _shots_for(fact, sets),
            }
            made.append(Unit(len(made), values, None, passage.id, passage.document))
    return made


def _usable(line: str) -> bool:
    return SENTENCE_WORDS[0] <= len(words(line)) <= SENTENCE_WORDS[1] and line.rstrip()[-1:] in '.!?"'


def _shot_sets(task: Task) -> list[list[dict[str, str]]]:
    """A few constant sets of few-shot turns: a constant beginning is read once by the server and then
    reused.
    """
    shots = [{"fact": _fact_of(example), "question": example.question} for example in task.examples]
    made = [shots[start::SHOT_SETS][:SHOTS] for start in range(SHOT_SETS)]
    return [chosen for chosen in made if chosen] or [[]]


def _fact_of(example: Example) -> str:
    """What the teacher is shown as the fact behind a seed question: the answer when it is a sentence, else
    the sentence of the context that fits question and answer best."""
    if len(words(example.answer)) >= SENTENCE_WORDS[0] or not example.context:
        return example.answer
    wanted = content_words(f"{example.question} {example.answer}")
    lines = sentences(example.context) or [example.answer]
    return max(lines, key=lambda line: (shared(content_words(line), wanted), -len(line)))


def _shots_for(fact: str, sets: Sequence[list[dict[str, str]]]) -> list[dict[str, str]]:
    """A set that does not hold this very fact: a teacher that sees its question already answered copies
    it.
    """
    plain = normal(fact)

    def own(shots: list[dict[str, str]]) -> int:
        return sum(normal(shot["fact"]) == plain for shot in shots)

    chosen = min(sets, key=own)
    return [shot for shot in chosen if normal(shot["fact"]) != plain]


def _seed_units(task: Task) -> list[Unit]:
    """One unit per seed that the teacher may see; the seed's own example comes last among the shots, where a
    model looks hardest."""
    made = []
    for position, example in enumerate(task.examples):
        others = task.examples[position + 1 :] + task.examples[:position]
        chosen = (*others[: SHOTS - 1], example)
        shots = [
            {"question": shot.question, "answer": shot.answer, "context": shot.context or ""}
            for shot in chosen
        ]
        values = {"description": task.description, "shots": shots, "example": example, "siblings": ()}
        made.append(Unit(position, values, example.seed))
    return made


def known_pairs(examples: Sequence[Example]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What a judge is calibrated on: seed pairs as they are, and the same questions with another seed's
    answer.
    """
    chosen = examples[:: max(1, len(examples) // PAIRS)][:PAIRS]
    facts = [_fact_of(example) for example in chosen]
    right: list[dict[str, Any]] = []
    wrong: list[dict[str, Any]] = []
    for index, example in enumerate(chosen):
        base = {"question": example.question, "context": example.context or ""}
        right.append({**base, "fact": facts[index], "answer": example.answer})
        for step in range(1, len(chosen)):
            other = (index + step) % len(chosen)
            if normal(facts[other]) != normal(facts[index]) and normal(chosen[other].answer) != normal(
                example.answer
            ):
                wrong.append({**base, "fact": facts[other], "answer": chosen[other].answer})
                break
    return right, wrong
