"""What a row starts from: the sentences of a leaf's documents, or its seeds, each with the ways to ask
about it.

Pure functions. Tries are spread evenly: first every sentence once, then every sentence again in another
way, so that no fact is left out when few rows are wanted and no fact is drilled when many are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab.synthesis.calibration import PAIRS
from lab.synthesis.flow import SHOTS, Flow
from lab.synthesis.items import Example, Task
from lab.synthesis.text import content_words, normal, shared, words
from lab.taxonomy.sentences import sentences

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


def units(flow: Flow, task: Task, asked: int = 0, tries: int | None = None) -> list[Unit]:
    """Every unit that gets at least one of the tries from number `asked` on, with its tries in
    `values["ways"]`. Later rounds go on where the earlier ones stopped, so no try is made twice.
    """
    found = _UNITS[flow.unit](task)
    if not found:
        return []
    if tries is None:
        tries = task.tries if task.tries is not None else math.ceil(task.rows * flow.asks_per_row)
    found = _spread(found, min(asked or tries, len(found)))
    made = []
    for position, unit in enumerate(found):
        first, last = (_share(number, position, len(found)) for number in (asked, asked + tries))
        # A preview shows a few rows, so each sentence starts at another wording. The whole run asks every
        # sentence in the flow's own order, the plainest wordings first.
        start = position if task.tries is not None else 0
        ways = _ways(flow, str(unit.values.get("fact", "")), first, last, start)
        if flow.unit == "passage":
            ways = [{**way, **_passage_shots(task, position + way["index"])} for way in ways]
        if ways:
            made.append(Unit(unit.order, {**unit.values, "ways": ways}, unit.seed, unit.chunk, unit.document))
    return made


def _share(tries: int, position: int, count: int) -> int:
    """How many of `tries`, dealt out in turn, fall to the unit at `position` of `count`."""
    return tries // count + (position < tries % count)


def _spread(found: list[Unit], first: int) -> list[Unit]:
    """The units in the order of their turns: `first` of them from all over the documents, not only from their
    start, then the others.
    """
    if first == len(found):
        return found
    early = [index * len(found) // first for index in range(first)]
    late = sorted(set(range(len(found))) - set(early))
    return [found[index] for index in (*early, *late)]


def _ways(flow: Flow, fact: str, first: int, last: int, start: int) -> list[dict[str, Any]]:
    """Tries `first` to `last` of a unit: the flow's ways that suit the sentence, from `start` on, again and
    again, at a new seed each time.
    """
    suited = [way for way in flow.ways if "when" not in way or _FEATURES[way["when"]].search(fact)]
    made = []
    for index in range(first, last):
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


def _passage_units(task: Task) -> list[Unit]:
    """One unit per chunk; which seeds it is shown as examples is its tries' affair (`_passage_shots`). So the
    cost grows with the chunks, not with chunks times seeds."""
    siblings = tuple(passage.text for passage in task.passages)
    made = []
    for number, passage in enumerate(task.passages):
        values = {"passage": passage.text, "heading": passage.heading, "siblings": siblings}
        made.append(Unit(number, values, None, passage.id, passage.document))
    return made


def _passage_shots(task: Task, turn: int) -> dict[str, Any]:
    """The pairs of one seed, with its context, as the example of a try: seeds in turn."""
    by_seed: dict[int, list[Example]] = {}
    for example in task.examples:
        by_seed.setdefault(example.seed, []).append(example)
    if not by_seed:
        return {"shots": []}
    pairs = by_seed[sorted(by_seed)[turn % len(by_seed)]][:SHOTS]
    listed = [{"question": one.question, "answer": one.answer} for one in pairs]
    return {"shots": [{"context": pairs[0].context or "", "pairs": listed}]}


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
        values = {
            "description": task.description,
            "shots": shots,
            "example": example,
            "siblings": (),
            "persona": persona(task),
        }
        made.append(Unit(position, values, example.seed))
    return made


def persona(task: Task) -> dict[str, Any]:
    """Who answers a skill's tasks. LAB asks one of two teachers by the task: a precise one for what has a
    right answer, a creative one for what is written to be read (arXiv 2403.01081, section 3.2). What the leaf
    calls itself decides, by a rule, so that equal leaves are answered alike; foundational skills are always
    precise.
    """
    told = frozenset(words(f"{task.leaf.replace('/', ' ').replace('_', ' ')} {task.description}"))
    return dict(CREATIVE if told & _CREATIVE_WORDS and not task.foundational else PRECISE)


PRECISE: Mapping[str, Any] = {
    "name": "precise",
    "text": "You are exact and careful. You follow the task to the letter, keep to what is known, and say no "
    "more than the task asks for.",
    "temperature": 0.1,
}
CREATIVE: Mapping[str, Any] = {
    "name": "creative",
    "text": "You are a gifted writer. You follow the task, and what you write is vivid and your own.",
    "temperature": 0.7,
}
_WRITTEN_TO_BE_READ = """
creative poem poems poetry haiku limerick sonnet rhyme rhymes lyrics song songs story stories fiction tale
tales novel scene dialogue dialogues roleplay joke jokes humour humor pun puns slogan slogans blog essay
essays speech speeches letter letters toast brainstorm brainstorming invent imaginative
"""
_CREATIVE_WORDS = frozenset(_WRITTEN_TO_BE_READ.split())

_UNITS: Mapping[str, Callable[[Task], list[Unit]]] = {
    "sentence": _sentence_units,
    "passage": _passage_units,
    "seed": _seed_units,
}


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
